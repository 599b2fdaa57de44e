// The loops, written for the compiler to vectorise and to inline into functions for one instruction set (kernels.cpp).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))

namespace channels_last {

// e^x for x in [-87, 0], to 2e-7 of itself: 2^n times a polynomial of the rest (Cephes' coefficients).
INLINE float exp_negative(float x) {
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
INLINE float silu(float x) {
  float negative = -std::fabs(x);
  negative = negative > -87.0f ? negative : -87.0f;  // NaN too.
  const float e = exp_negative(negative);
  return (x < 0.0f ? negative * e : x) / (1.0f + e);
}

// Rounded before the zero point is added, as ONNX's QuantizeLinear does: ties are those of the scaled value. NaN is 0.
INLINE std::uint8_t code_of(float scaled, float zero_point) {
  float value = std::rint(scaled) + zero_point;
  value = value > 0.0f ? value : 0.0f;
  value = value < 255.0f ? value : 255.0f;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(value));
}

template <class Number, class Sum>
INLINE void moments(const Number* __restrict x, std::size_t rows, std::size_t channels, Sum* __restrict sums,
                    Sum* __restrict squares) {
  for (std::size_t row = 0; row < rows; ++row, x += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const Sum value = x[c];
      sums[c] += value;
      squares[c] += value * value;
    }
  }
}

template <class Number>
INLINE void affine_quantise(const Number* __restrict x, std::size_t rows, std::size_t channels, const Affine& affine,
                            std::uint8_t* __restrict y) {
  const float *slope = affine.slope, *intercept = affine.intercept, *gain = affine.gain;
  const float zero_point = affine.zero_point;
  for (std::size_t row = 0; row < rows; ++row, x += channels, y += channels) {
    if (affine.silu) {
      for (std::size_t c = 0; c < channels; ++c) {
        y[c] = code_of(silu(static_cast<float>(x[c]) * slope[c] + intercept[c]) * gain[c], zero_point);
      }
    } else {
      for (std::size_t c = 0; c < channels; ++c) {
        y[c] = code_of((static_cast<float>(x[c]) * slope[c] + intercept[c]) * gain[c], zero_point);
      }
    }
  }
}

INLINE void dequantise_codes(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
                             const float* __restrict gain, const float* __restrict offset, float* __restrict y) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, y += channels) {
    for (std::size_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]) * gain[c] + offset[c];
  }
}

INLINE void add_numbers(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
                        const float* __restrict gain, const float* __restrict offset,
                        const float* __restrict summand, float* __restrict y) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, summand += channels, y += channels) {
    for (std::size_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]) * gain[c] + offset[c] + summand[c];
  }
}

INLINE void add_codes(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
                      const float* __restrict gain, const float* __restrict offset,
                      const std::uint8_t* __restrict summand, const float* __restrict summand_gain,
                      float* __restrict y) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, summand += channels, y += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      y[c] = static_cast<float>(x[c]) * gain[c] + static_cast<float>(summand[c]) * summand_gain[c] + offset[c];
    }
  }
}

}  // namespace channels_last
