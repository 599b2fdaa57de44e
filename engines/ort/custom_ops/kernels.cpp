#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string_view>

namespace channels_last {
namespace {

struct Named {
  std::string_view name;
  Isa isa;
  bool (*is_here)();
};

bool has_baseline() { return true; }

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1) != 0;
}
#endif

// The best first.
constexpr Named kNamed[] = {
#if defined(__x86_64__)
    {"avx512vnni", Isa::kAvx512Vnni, has_avx512_vnni},
    {"avx512", Isa::kAvx512, has_avx512},
    {"avxvnni", Isa::kAvxVnni, has_avx_vnni},
    {"avx2", Isa::kAvx2, has_avx2},
#endif
    {"baseline", Isa::kBaseline, has_baseline},
};

Isa chosen() {
  const char* variable = std::getenv(kIsaVariable);
  const std::string_view wanted = variable == nullptr ? "" : variable;
  for (const Named& named : kNamed) {
    if (named.is_here() && (wanted.empty() || wanted == named.name)) return named.isa;
  }
  return Isa::kNone;
}

}  // namespace

const Isa isa = chosen();

std::string isa_names() {
  std::string names;
  for (const Named& named : kNamed) {
    if (named.is_here()) names.append(names.empty() ? "" : ", ").append(named.name);
  }
  return names;
}

}  // namespace channels_last
