// torch's normal numbers: a Mersenne twister, 24 of its bits a uniform number, pairs of them by Box and Muller, eight
// apart in blocks of sixteen (aten/src/ATen/native/cpu/DistributionTemplates.h).
#include <cmath>
#include <random>
#include <vector>

#include "ptq_export/sampling.h"

namespace ptq_export {

namespace {

constexpr std::size_t kBlock = 16;
constexpr double kTwoPi = 6.28318530717958647692;

float uniform24(std::mt19937& generator) { return static_cast<float>(generator() & 0xFFFFFFU) * std::ldexp(1.0F, -24); }

double uniform53(std::mt19937& generator) {
  std::uint64_t const high = generator();
  std::uint64_t const bits = (high << 32) | generator();
  return std::ldexp(static_cast<double>(bits & ((std::uint64_t{1} << 53) - 1)), -53);
}

void to_normal(float* block) {
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    double const radius = std::sqrt(-2.0 * std::log(static_cast<double>(1.0F - block[i])));
    double const angle = kTwoPi * static_cast<double>(block[i + kBlock / 2]);
    block[i] = static_cast<float>(radius * std::cos(angle));
    block[i + kBlock / 2] = static_cast<float>(radius * std::sin(angle));
  }
}

// Fewer than a block: one by one, in float64.
void fill_few(Tensor& noise, std::mt19937& generator) {
  for (std::size_t i = 0; i < noise.size(); i += 2) {
    double const first = uniform53(generator);
    double const radius = std::sqrt(-2.0 * std::log1p(-uniform53(generator)));
    noise[i] = static_cast<float>(radius * std::cos(kTwoPi * first));
    if (i + 1 < noise.size()) noise[i + 1] = static_cast<float>(radius * std::sin(kTwoPi * first));
  }
}

}  // namespace

Tensor initial_noise(Shape const& shape, std::uint64_t seed) {
  Tensor noise(shape);
  std::mt19937 generator(static_cast<std::uint32_t>(seed));
  if (noise.size() < kBlock) {
    fill_few(noise, generator);
    return noise;
  }
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = uniform24(generator);
  std::size_t const whole = noise.size() / kBlock * kBlock;
  for (std::size_t i = 0; i < whole; i += kBlock) to_normal(noise.data() + i);
  if (whole == noise.size()) return noise;
  float* last = noise.data() + noise.size() - kBlock;  // the last block is drawn anew, and overlaps
  for (std::size_t i = 0; i < kBlock; ++i) last[i] = uniform24(generator);
  to_normal(last);
  return noise;
}

}  // namespace ptq_export
