#include "kernels.h"

#include <cstdlib>
#include <string_view>

#include "loops.h"

namespace channels_last {
namespace {

// A loop is inlined into the function `run` of an instruction set, and so compiled for it.
#define LOOP [&]() __attribute__((always_inline))

struct Baseline {
  static bool is_here() { return true; }

  template <class Loop>
  static void run(const Loop& loop) {
    loop();
  }
};

#if defined(__x86_64__)
struct Avx2 {
  static bool is_here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

  template <class Loop>
  __attribute__((target("avx2,fma"))) static void run(const Loop& loop) {
    loop();
  }
};

struct Avx512 {
  static bool is_here() {
    return Avx2::is_here() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }

  template <class Loop>
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) static void run(const Loop& loop) {
    loop();
  }
};
#endif

template <class Isa>
class KernelsFor final : public Kernels {
 public:
  void add_moments(const std::uint8_t* codes, std::size_t rows, std::size_t channels, std::uint32_t* sums,
                   std::uint32_t* squares) const override {
    Isa::run(LOOP { moments(codes, rows, channels, sums, squares); });
  }

  void add_moments(const float* values, std::size_t rows, std::size_t channels, float* sums,
                   float* squares) const override {
    Isa::run(LOOP { moments(values, rows, channels, sums, squares); });
  }

  void quantise(const std::uint8_t* x, std::size_t rows, std::size_t channels, const Affine& affine,
                std::uint8_t* y) const override {
    Isa::run(LOOP { affine_quantise(x, rows, channels, affine, y); });
  }

  void quantise(const float* x, std::size_t rows, std::size_t channels, const Affine& affine,
                std::uint8_t* y) const override {
    Isa::run(LOOP { affine_quantise(x, rows, channels, affine, y); });
  }

  void dequantise(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                  const float* offset, float* y) const override {
    Isa::run(LOOP { dequantise_codes(x, rows, channels, gain, offset, y); });
  }

  void dequantise_add(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                      const float* offset, const float* summand, float* y) const override {
    Isa::run(LOOP { add_numbers(x, rows, channels, gain, offset, summand, y); });
  }

  void dequantise_add(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                      const float* offset, const std::uint8_t* summand, const float* summand_gain,
                      float* y) const override {
    Isa::run(LOOP { add_codes(x, rows, channels, gain, offset, summand, summand_gain, y); });
  }
};

template <class Isa>
const KernelsFor<Isa> kKernels{};

struct Named {
  std::string_view name;
  bool (*is_here)();
  const Kernels* kernels;
};

// The best first.
const Named kNamed[] = {
#if defined(__x86_64__)
    {"avx512", Avx512::is_here, &kKernels<Avx512>},
    {"avx2", Avx2::is_here, &kKernels<Avx2>},
#endif
    {"baseline", Baseline::is_here, &kKernels<Baseline>},
};

const Kernels* chosen() {
  const char* variable = std::getenv(kIsaVariable);
  const std::string_view wanted = variable == nullptr ? "" : variable;
  for (const Named& named : kNamed) {
    if (named.is_here() && (wanted.empty() || wanted == named.name)) return named.kernels;
  }
  return nullptr;
}

}  // namespace

const Kernels* const kernels = chosen();

std::string isa_names() {
  std::string names;
  for (const Named& named : kNamed) {
    if (named.is_here()) names.append(names.empty() ? "" : ", ").append(named.name);
  }
  return names;
}

}  // namespace channels_last
