// A loop compiled for several instruction sets, and run for the best that the processor has.
//
// What a set has is listed and asked for piece by piece: GCC 11 (Ubuntu 22.04) cannot dispatch on x86-64-v4.
#pragma once

#include <string>

// Of functions, and of lambdas between their parameters and their body: inlined, so compiled for the caller's set.
#define INLINED __attribute__((always_inline))

namespace channels_last {

enum class Isa { kNone, kBaseline, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni };

// The environment variable that names the instruction set to take, read when the library is loaded.
inline constexpr const char* kIsaVariable = "PTQ_EXPORT_ISA";

// The best that this processor has, or what the variable names: kNone where this processor has no such set.
extern const Isa isa;

// The names of the instruction sets that this processor has.
std::string isa_names();

#if defined(__x86_64__)
template <class Loop>
__attribute__((target("avx2,fma"))) void run_for_avx2(const Loop& loop) {
  loop();
}

template <class Loop>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) void run_for_avx512(const Loop& loop) {
  loop();
}
#endif

// Run a loop that is INLINED.
template <class Loop>
void vectorised(const Loop& loop) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return run_for_avx512(loop);
  if (isa >= Isa::kAvx2) return run_for_avx2(loop);
#endif
  loop();
}

}  // namespace channels_last
