#include "machine.h"

#include <pwd.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

namespace ptq_export {

namespace {

// `RELEVANT` of ptq_export/processor.py.
constexpr std::array<char const*, 21> kRelevant{
    "sse4_1",   "avx",         "fma",      "avx2",          "avx512f",     "avx512bw", "avx512dq",
    "avx512vl", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_tile", "amx_int8",
    "amx_bf16", "asimd",       "asimddp",  "i8mm",          "bf16",        "sve",      "sve2"};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

utsname told_by_system() {
  utsname names{};
  uname(&names);
  return names;
}

// The name and the value of a line `name : value` of /proc/cpuinfo.
std::pair<std::string, std::string> split(std::string const& line) {
  std::size_t const colon = line.find(':');
  if (colon == std::string::npos) return {line, ""};
  std::string const name = line.substr(0, colon);
  return {name.substr(0, name.find_last_not_of(" \t") + 1), line.substr(colon + 1)};
}

}  // namespace

std::string system_name() { return lower(static_cast<char const*>(told_by_system().sysname)); }

std::string machine_name() { return lower(static_cast<char const*>(told_by_system().machine)); }

std::vector<std::string> instruction_sets() {
  std::ifstream processors("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; flags.empty() && std::getline(processors, line);) {
    auto const [name, value] = split(line);
    if (name != "flags" && name != "Features") continue;
    std::istringstream words(value);
    for (std::string word; words >> word;) flags.insert(word);
  }
  std::vector<std::string> found;
  for (char const* name : kRelevant)
    if (flags.count(name) > 0) found.emplace_back(name);
  return found;
}

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  bool const told = sched_getaffinity(0, sizeof allowed, &allowed) == 0;
  int const logical = told ? CPU_COUNT(&allowed) : static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream processors("/proc/cpuinfo");
  std::set<std::pair<std::string, std::string>> cores;
  std::string package;
  for (std::string line; std::getline(processors, line);) {
    auto const [name, value] = split(line);
    if (name == "physical id") package = value;
    if (name == "core id") cores.emplace(package, value);
  }
  int const physical = cores.empty() ? logical : static_cast<int>(cores.size());
  return std::max(1, std::min(physical, logical));
}

std::filesystem::path user_cache() {
  char const* given = std::getenv("XDG_CACHE_HOME");
  if (given != nullptr && *given != '\0') return std::filesystem::path(given) / "ptq-export";
  char const* home = std::getenv("HOME");
  passwd const* user = home == nullptr ? getpwuid(getuid()) : nullptr;
  std::filesystem::path const base = home != nullptr ? home : user != nullptr ? user->pw_dir : "";
  return base.empty() ? base : base / ".cache" / "ptq-export";
}

}  // namespace ptq_export
