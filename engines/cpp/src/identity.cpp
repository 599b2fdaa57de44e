#include "identity.h"

#include <algorithm>

#include "canonical.h"
#include "files.h"
#include "machine.h"
#include "ptq_export/error.h"
#include "sha256.h"

namespace ptq_export {

namespace fs = std::filesystem;

namespace {

std::string nothing_or(std::string const& text) { return text.empty() ? "nothing" : text; }

// As Python prints it: `None`, `all`, `[1, 4, 64]`.
std::string plain(Json const& value) {
  if (value.is_null()) return "None";
  if (auto const* text = value.get_if<std::string>()) return *text;
  auto const* items = value.get_if<Json::Array>();
  if (items == nullptr) return value.shown();
  std::string shown;
  for (Json const& item : *items) shown += (shown.empty() ? "" : ", ") + item.shown();
  return "[" + shown + "]";
}

std::string plain(std::vector<std::pair<std::string, std::string>> const& named) {
  std::string shown;
  for (auto const& [name, value] : named) {
    shown += shown.empty() ? "" : ", ";
    shown.append(name).append(" ").append(value);
  }
  return nothing_or(shown);
}

std::string plain(std::vector<std::pair<std::string, Json>> const& named) {
  std::string shown;
  for (auto const& [name, value] : named) shown += (shown.empty() ? "" : ", ") + name + " " + plain(value);
  return nothing_or(shown);
}

std::string plain(std::vector<std::string> const& words) {
  std::string shown;
  for (std::string const& word : words) shown += (shown.empty() ? "" : " ") + word;
  return nothing_or(shown);
}

std::string plain(std::string const& text) { return nothing_or(text); }

template <class Named>
Named sorted(Named named) {
  std::sort(named.begin(), named.end(), [](auto const& one, auto const& two) { return one.first < two.first; });
  return named;
}

bool same(std::vector<std::pair<std::string, Json>> const& one, std::vector<std::pair<std::string, Json>> const& two) {
  return canonical(sorted(one)) == canonical(sorted(two));
}
bool same(std::vector<std::pair<std::string, std::string>> const& one,
          std::vector<std::pair<std::string, std::string>> const& two) {
  return sorted(one) == sorted(two);
}
template <class Value>
bool same(Value const& one, Value const& two) {
  return one == two;
}

fs::path sidecar_of(fs::path const& engine_file) {
  return engine_file.parent_path() / (fs::path(engine_file.stem()).stem().string() + ".identity.json");
}

std::string sha256_with_data(fs::path const& file) {
  fs::path const data = data_beside(file);
  if (!fs::is_regular_file(data)) return sha256_file(file);
  return sha256("[\"" + sha256_file(file) + "\",\"" + sha256_file(data) + "\"]");
}

std::vector<std::string> texts(Fields const& fields, char const* name) {
  std::vector<std::string> found;
  for (Json const& item : fields.list(name)) {
    auto const* text = item.get_if<std::string>();
    if (text == nullptr) fields.refuse(name, "a list of texts");
    found.push_back(*text);
  }
  return found;
}

}  // namespace

Identity identity_here(std::string const& engine, std::string const& onnx_sha256) {
  return {engine, {}, onnx_sha256, {}, system_name(), machine_name(), instruction_sets(), ""};
}

std::pair<Identity, std::string> read_identity(fs::path const& engine_file) {
  fs::path const file = sidecar_of(engine_file);
  Json const json = Json::read(inside(file.parent_path(), file.filename().string()));
  Fields const fields(json, file.string());
  Identity found;
  found.engine = fields.text("engine");
  Fields const versions = fields.object("versions");
  for (Json::Member const& member : *versions.json().get_if<Json::Object>())
    found.versions.emplace_back(member.name, versions.text(member.name));
  found.onnx_sha256 = fields.text("onnx_sha256");
  for (Json::Member const& member : *fields.object("options").json().get_if<Json::Object>())
    found.options.emplace_back(member.name, member.value);
  found.os = fields.text("os");
  found.arch = fields.text("arch");
  found.isa = texts(fields, "isa");
  found.device = fields.has("device") ? fields.text("device") : "";
  return {found, fields.text("file_sha256")};
}

std::vector<std::string> differences(Identity const& found, Identity const& wanted) {
  std::vector<std::string> sentences;
  auto const compare = [&](char const* name, auto const& old, auto const& now) {
    if (!same(old, now)) sentences.push_back(std::string(name) + ": " + plain(old) + " instead of " + plain(now));
  };
  compare("engine", found.engine, wanted.engine);
  compare("versions", found.versions, wanted.versions);
  compare("onnx_sha256", found.onnx_sha256, wanted.onnx_sha256);
  compare("options", found.options, wanted.options);
  compare("os", found.os, wanted.os);
  compare("arch", found.arch, wanted.arch);
  compare("isa", found.isa, wanted.isa);
  compare("device", found.device, wanted.device);
  return sentences;
}

bool was_built_here(Identity const& identity, std::string const& file_sha256) {
  std::string const note = sha256("[" + canonical(identity) + "," + json_text(file_sha256) + "]");
  std::error_code error;
  fs::path const cache = user_cache();
  return cache.is_absolute() && fs::is_regular_file(cache / "built" / note, error);
}

std::vector<std::string> stale_reasons(fs::path const& engine_file, Identity const& wanted, bool trusted) {
  std::string const name = engine_file.filename().string();
  if (!fs::exists(engine_file)) return {name + " is not there"};
  try {
    regular_size(engine_file);
    auto const [found, file_sha256] = read_identity(engine_file);
    if (sha256_with_data(engine_file) != file_sha256)
      return {name + " is damaged: its sha256 is not the one in " + sidecar_of(engine_file).filename().string()};
    std::vector<std::string> reasons = differences(found, wanted);
    if (reasons.empty() && !trusted && !was_built_here(wanted, file_sha256))
      reasons.push_back(name + " was not built by this account on this machine");
    return reasons;
  } catch (InputError const& error) {
    std::string const words = error.what();
    return {words.substr(0, words.find('\n'))};
  }
}

fs::path known_operators(std::string const& sha256) {
  bool const is_digest = sha256.size() == 64 && sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!is_digest || !user_cache().is_absolute()) return {};  // `none`, or what somebody wrote there
  try {
    fs::path const library = read_bytes(user_cache() / "operators" / sha256, 4096);
    return library.is_absolute() && fs::is_regular_file(library) && sha256_file(library) == sha256 ? library
                                                                                                   : fs::path();
  } catch (InputError const&) {
    return {};
  }
}

}  // namespace ptq_export
