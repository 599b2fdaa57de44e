// A group norm as one multiplication and one addition per channel of an image.
//
// Sums over codes are exact integers; all that is computed from sums is computed in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "call.h"
#include "kernels.h"
#include "layout.h"

namespace channels_last {

// The sums of every image's channels, from those of its blocks.
struct Moments {
  std::vector<double> sums, squares;
};

template <class Number, class Sum>
Moments moments_of(const Call& call, const Layout& layout, const Number* x) {
  const size_t channels = layout.channels;
  std::vector<Sum> partial(layout.tasks() * 2 * channels);
  call.parallel(layout.tasks(), [&](size_t task) {
    Sum* sums = partial.data() + task * 2 * channels;
    kernels->add_moments(x + layout.first(task), layout.task_rows(task), channels, sums, sums + channels);
  });
  Moments total{std::vector<double>(layout.images * channels), std::vector<double>(layout.images * channels)};
  for (size_t task = 0; task < layout.tasks(); ++task) {
    const Sum* sums = partial.data() + task * 2 * channels;
    const size_t first = layout.image(task) * channels;
    for (size_t c = 0; c < channels; ++c) {
      total.sums[first + c] += static_cast<double>(sums[c]);
      total.squares[first + c] += static_cast<double>(sums[channels + c]);
    }
  }
  return total;
}

// A number per channel, or per image and channel; without data, zero for all.
class Vector {
 public:
  Vector(const Call& call, size_t index, const Layout& layout) : channels_(layout.channels) {
    if (!call.has_input(index)) return;
    const auto vector = call.input<float>(index);
    per_image_ = vector.size != channels_;
    if (per_image_ && vector.size != layout.images * channels_) call.fail("a vector fits neither channels nor images");
    data_ = vector.data;
  }

  // The number of image i / channels, channel i % channels.
  double operator[](size_t i) const { return data_ == nullptr ? 0.0 : data_[per_image_ ? i : i % channels_]; }

 private:
  size_t channels_;
  bool per_image_ = false;
  const float* data_ = nullptr;
};

// x is normalised by one multiplication and one addition per channel of an image: x * slope + intercept.
struct Normalisation {
  std::vector<float> slope, intercept;
};

struct GroupNorm {
  explicit GroupNorm(const Node& node)
      : groups(static_cast<size_t>(node.integer("groups", 1, std::numeric_limits<std::int32_t>::max()))),
        epsilon(node.number("epsilon")),
        zero_point(static_cast<float>(node.integer("zero_point", 0, 255))),
        silu(node.integer("silu", 0, 1) != 0) {}

  // What is normalised is x * gain(i) + offset(i), i counting the channels of all images.
  template <class Gain, class Offset>
  Normalisation normalisation(const Call& call, const Layout& layout, const Moments& moments, const Gain& gain,
                              const Offset& offset, const Vector& gamma, const Vector& beta) const {
    if (layout.channels % groups != 0) call.fail("the groups do not divide the channels");
    const size_t width = layout.channels / groups, vectors = layout.images * layout.channels;
    const double rows = static_cast<double>(layout.rows), count = rows * static_cast<double>(width);
    Normalisation result{std::vector<float>(vectors), std::vector<float>(vectors)};
    for (size_t first = 0; first < vectors; first += width) {
      double sum = 0.0, square = 0.0;
      for (size_t i = first; i < first + width; ++i) {
        const double g = gain(i), o = offset(i);
        sum += g * moments.sums[i] + rows * o;
        square += g * g * moments.squares[i] + 2.0 * g * o * moments.sums[i] + rows * o * o;
      }
      const double mean = sum / count, variance = std::max(0.0, square / count - mean * mean);
      const double inverse = 1.0 / std::sqrt(variance + epsilon);
      for (size_t i = first; i < first + width; ++i) {
        const double scale = inverse * gamma[i];
        result.slope[i] = static_cast<float>(scale * gain(i));
        result.intercept[i] = static_cast<float>((offset(i) - mean) * scale + beta[i]);
      }
    }
    return result;
  }

  template <class Number>
  void quantise(const Call& call, const Layout& layout, const Number* x, const Normalisation& normalised,
                const float* gain, uint8_t* y) const {
    call.parallel(layout.tasks(), [&](size_t task) {
      const size_t vector = layout.image(task) * layout.channels, first = layout.first(task);
      const Affine affine{normalised.slope.data() + vector, normalised.intercept.data() + vector, gain, zero_point,
                          silu};
      kernels->quantise(x + first, layout.task_rows(task), layout.channels, affine, y + first);
    });
  }

  size_t groups;
  double epsilon;
  float zero_point;
  bool silu;
};

}  // namespace channels_last
