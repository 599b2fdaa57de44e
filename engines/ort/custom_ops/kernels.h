// Loops over channels-last data: `rows` pixels of `channels` values each. Vectors are indexed by channel.
//
// A code c stands for the number c * gain + offset. Compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace channels_last {

// The most rows that `add_moments` takes at once: beyond, the sum of squares would leave 32 bits.
inline constexpr std::size_t kMaxRows = 65536;

// y = round(f(x * slope + intercept) * gain) + zero_point, f = SiLU or nothing; ties to even, clamped to 0 .. 255.
// What is not a number becomes 0, as in ONNX Runtime's QuantizeLinear.
struct Affine {
  const float* slope;
  const float* intercept;
  const float* gain;
  float zero_point;
  bool silu;
};

// The loops, compiled for one instruction set.
class Kernels {
 public:
  // Add each channel's sum and sum of squares to `sums` and `squares`, exactly.
  virtual void add_moments(const std::uint8_t* codes, std::size_t rows, std::size_t channels, std::uint32_t* sums,
                           std::uint32_t* squares) const = 0;
  virtual void add_moments(const float* values, std::size_t rows, std::size_t channels, float* sums,
                           float* squares) const = 0;

  virtual void quantise(const std::uint8_t* x, std::size_t rows, std::size_t channels, const Affine& affine,
                        std::uint8_t* y) const = 0;
  virtual void quantise(const float* x, std::size_t rows, std::size_t channels, const Affine& affine,
                        std::uint8_t* y) const = 0;

  // y = x * gain + offset, plus a second summand: numbers, or codes with a gain of their own.
  virtual void dequantise(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                          const float* offset, float* y) const = 0;
  virtual void dequantise_add(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                              const float* offset, const float* summand, float* y) const = 0;
  virtual void dequantise_add(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                              const float* offset, const std::uint8_t* summand, const float* summand_gain,
                              float* y) const = 0;

 protected:
  ~Kernels() = default;
};

// Those for this processor, or those that the environment variable names when the library is loaded; null where this
// processor has no such instruction set.
inline constexpr const char* kIsaVariable = "PTQ_EXPORT_ISA";
extern const Kernels* const kernels;

// The names of the instruction sets that this processor has.
std::string isa_names();

}  // namespace channels_last
