#include "kernels.h"

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
#endif

// The best first.
constexpr Named kNamed[] = {
#if defined(__x86_64__)
    {"avx512", Isa::kAvx512, has_avx512},
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
