// Loops over channels-last data, `rows` pixels of `channels` values each, written for the compiler to vectorise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace channels_last {

// e^x for x in [-87, 0], to 2e-7 of itself: 2^n times a polynomial of the rest (Cephes' coefficients).
INLINED inline float exp_negative(float x) {
  const float n = std::rint(x * 1.44269504088896341f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float fraction = p * r * r + r + 1.0f;
  const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return fraction * power;
}

// x * sigmoid(x); 0 for minus infinity, NaN for NaN.
INLINED inline float silu(float x) {
  float negative = -std::fabs(x);
  negative = negative > -87.0f ? negative : -87.0f;  // NaN too.
  const float e = exp_negative(negative);
  return (x < 0.0f ? negative * e : x) / (1.0f + e);
}

// Rounded before the zero point is added, as ONNX's QuantizeLinear does: ties are those of the scaled value. NaN is 0.
//
// 1.5 * 2^23 moves the code into the low bits of a float. It is clamped there, as an integer: floats from 0 on are in
// the order of their bits, those below 0 are negative integers, and kNaNBelow makes one of NaN, whose bits are above
// infinity's. Where floats are compared, GCC vectorises masks and narrows each of them to bytes: twice the time.
INLINED inline std::uint8_t code_of(float scaled, float zero_point) {
  constexpr float kToLowBits = 12582912.0f;
  constexpr std::uint32_t kNaNBelow = 0x00700000, kZero = 0x4B400000 + kNaNBelow;
  const float shifted = std::rint(scaled) + (zero_point + kToLowBits);
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const auto number = static_cast<std::int32_t>(bits + kNaNBelow);
  return static_cast<std::uint8_t>(std::min(std::max(number, std::int32_t{kZero}), std::int32_t{kZero + 255}));
}

// The most rows of codes that `add_moments` takes at once: beyond, a sum of squares would leave 32 bits.
inline constexpr std::size_t kMaxRows = 65536;

// Add each channel's sum and sum of squares to `sums` and `squares`; sums of codes are exact.
template <class Number, class Sum>
INLINED inline void add_moments(const Number* __restrict x, std::size_t rows, std::size_t channels,
                                Sum* __restrict sums, Sum* __restrict squares) {
  for (std::size_t row = 0; row < rows; ++row, x += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const Sum value = x[c];
      sums[c] += value;
      squares[c] += value * value;
    }
  }
}

// y[c] = of(x, c) for the values x of `rows` pixels, whose channels c begin with `first` of the `stride` that y has.
template <class Number, class Code, class Of>
INLINED inline void map_rows(const Number* __restrict x, std::size_t rows, std::size_t channels, std::size_t first,
                             Code* __restrict y, std::size_t stride, Of of) {
  y += first;
  for (std::size_t row = 0; row < rows; ++row, x += channels, y += stride) {
    for (std::size_t c = 0; c < channels; ++c) y[c] = of(x[c], first + c);
  }
}

// y[i] = of(i, c) for the values i of `rows` pixels, the first of them `i`; c is their channel.
template <class Number, class Of>
INLINED inline void fill_rows(std::size_t i, std::size_t rows, std::size_t channels, Number* __restrict y, Of of) {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t c = 0; c < channels; ++c, ++i) y[i] = of(i, c);
  }
}

}  // namespace channels_last
