// Loops over channels-last data: `rows` pixels of `channels` values each. Vectors are indexed by channel.
//
// A code c stands for the number c * gain + offset. Written for the compiler to vectorise, once per instruction set;
// the processor's own is chosen when the library is loaded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace channels_last {

// The most rows that `add_moments` takes at once: beyond, the sum of squares would leave 32 bits.
inline constexpr std::size_t kMaxRows = 65536;

// Add each channel's sum and sum of squares to `sums` and `squares`, exactly.
void add_moments(const std::uint8_t* codes, std::size_t rows, std::size_t channels, std::uint32_t* sums,
                 std::uint32_t* squares);
void add_moments(const float* values, std::size_t rows, std::size_t channels, float* sums, float* squares);

// y = round(f(x * slope + intercept) * gain) + zero_point, f = SiLU or nothing; ties to even, clamped to 0 .. 255.
struct Affine {
  const float* slope;
  const float* intercept;
  const float* gain;
  float zero_point;
  bool silu;
};
void quantise(const std::uint8_t* x, std::size_t rows, std::size_t channels, const Affine& affine, std::uint8_t* y);
void quantise(const float* x, std::size_t rows, std::size_t channels, const Affine& affine, std::uint8_t* y);

// y = x * gain + offset, plus a second summand: numbers, or codes with a gain of their own.
void dequantise(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain, const float* offset,
                float* y);
void dequantise_add(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                    const float* offset, const float* summand, float* y);
void dequantise_add(const std::uint8_t* x, std::size_t rows, std::size_t channels, const float* gain,
                    const float* offset, const std::uint8_t* summand, const float* summand_gain, float* y);

}  // namespace channels_last
