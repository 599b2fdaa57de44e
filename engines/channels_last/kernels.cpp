#include "kernels.h"

#include <cmath>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#define EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

namespace channels_last {
namespace {

// e^x for x <= 0, to 2e-7 of itself: 2^n times a polynomial of the rest (Cephes' coefficients).
INLINE float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
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

INLINE float silu(float x) {
  const float e = exp_negative(-std::fabs(x));
  return x * (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// Rounded before the zero point is added, as ONNX's QuantizeLinear does: ties are those of the scaled value.
INLINE std::uint8_t code_of(float scaled, float zero_point) {
  float value = std::rint(scaled) + zero_point;
  value = value < 0.0f ? 0.0f : value;
  value = value > 255.0f ? 255.0f : value;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(value));
}

template <class Number, class Sum>
INLINE void moments(const Number* x, std::size_t rows, std::size_t channels, Sum* sums, Sum* squares) {
  for (std::size_t row = 0; row < rows; ++row, x += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const Sum value = x[c];
      sums[c] += value;
      squares[c] += value * value;
    }
  }
}

template <class Number>
INLINE void affine_quantise(const Number* x, std::size_t rows, std::size_t channels, const Affine& affine,
                            std::uint8_t* y) {
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

}  // namespace

EVERY_CPU void add_moments(const std::uint8_t* __restrict codes, std::size_t rows, std::size_t channels,
                           std::uint32_t* __restrict sums, std::uint32_t* __restrict squares) {
  moments(codes, rows, channels, sums, squares);
}

EVERY_CPU void add_moments(const float* __restrict values, std::size_t rows, std::size_t channels,
                           float* __restrict sums, float* __restrict squares) {
  moments(values, rows, channels, sums, squares);
}

EVERY_CPU void quantise(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
                        const Affine& affine, std::uint8_t* __restrict y) {
  affine_quantise(x, rows, channels, affine, y);
}

EVERY_CPU void quantise(const float* __restrict x, std::size_t rows, std::size_t channels, const Affine& affine,
                        std::uint8_t* __restrict y) {
  affine_quantise(x, rows, channels, affine, y);
}

EVERY_CPU void dequantise(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
                          const float* __restrict gain, const float* __restrict offset, float* __restrict y) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, y += channels) {
    for (std::size_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]) * gain[c] + offset[c];
  }
}

EVERY_CPU void dequantise_add(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
                              const float* __restrict gain, const float* __restrict offset,
                              const float* __restrict summand, float* __restrict y) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, summand += channels, y += channels) {
    for (std::size_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]) * gain[c] + offset[c] + summand[c];
  }
}

EVERY_CPU void dequantise_add(const std::uint8_t* __restrict x, std::size_t rows, std::size_t channels,
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
