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
#include "loops.h"

namespace channels_last {

// The sums of every image's channels, from those of its blocks.
struct Moments {
  std::vector<double> sums, squares;
};

template <class Sum, class Number>
Moments moments_of(const Call& call, const Layout& layout, const Parts<Number>& parts) {
  const size_t channels = layout.channels;
  std::vector<Sum> partial(layout.tasks() * 2 * channels);
  const auto add = [&](size_t task) {
    for (const Part<Number>& part : parts) {
      const Number* x = part.x + layout.first_row(task) * part.channels;
      Sum* sums = partial.data() + task * 2 * channels + part.first;
      vectorised([&]() INLINED { add_moments(x, layout.task_rows(task), part.channels, sums, sums + channels); });
    }
  };
  call.parallel(layout.tasks(), add, kLight);
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

// A number per channel, or per image and channel, or one for all.
class Vector {
 public:
  explicit Vector(double number) : number_(number) {}

  // An input; 0 for all where it is left out.
  Vector(const Call& call, size_t index, const Layout& layout) : channels_(layout.channels) {
    if (!call.has_input(index)) return;
    const auto vector = call.input<float>(index);
    per_image_ = vector.size != channels_;
    if (per_image_ && vector.size != layout.images * channels_) call.fail("a vector fits neither channels nor images");
    data_ = vector.data;
  }

  double at(size_t image, size_t channel) const {
    return data_ == nullptr ? number_ : data_[channel + (per_image_ ? image * channels_ : 0)];
  }

 private:
  double number_ = 0.0;
  size_t channels_ = 0;
  bool per_image_ = false;
  const float* data_ = nullptr;
};

// What is normalised, per image and channel: x * gain + offset + shift.
struct Numbers {
  Vector gain, offset, shift;
};

// x is normalised by one multiplication and one addition per channel of an image: x * slope + intercept.
struct Normalisation {
  std::vector<float> slope, intercept;
};

class GroupNorm {
 public:
  explicit GroupNorm(const Node& node)
      : groups_(static_cast<size_t>(node.integer("groups", 1, std::numeric_limits<std::int32_t>::max()))),
        epsilon_(node.number("epsilon")),
        zero_point_(static_cast<float>(node.integer("zero_point", 0, 255))),
        silu_(node.integer("silu", 0, 1) != 0) {}

  // The codes of x normalised; inputs `first` to `first` + 2 are gamma, beta and the gain of what is quantised.
  template <class Sum, class Number>
  void compute(const Call& call, const Layout& layout, const Parts<Number>& x, const Numbers& numbers, size_t first,
               uint8_t* y) const {
    if (layout.tasks() == 0) return;
    const Vector gamma(call, first, layout), beta(call, first + 1, layout);
    const float* gain = call.channel_input(first + 2, layout.channels);
    const auto moments = moments_of<Sum>(call, layout, x);
    const auto normalised = normalisation(call, layout, moments, numbers, gamma, beta);
    if (silu_) return quantise<true>(call, layout, x, normalised, gain, y);
    quantise<false>(call, layout, x, normalised, gain, y);
  }

 private:
  Normalisation normalisation(const Call& call, const Layout& layout, const Moments& moments, const Numbers& numbers,
                              const Vector& gamma, const Vector& beta) const {
    if (layout.channels % groups_ != 0) call.fail("the groups do not divide the channels");
    const size_t channels = layout.channels, width = channels / groups_;
    const double rows = static_cast<double>(layout.rows), count = rows * static_cast<double>(width);
    Normalisation result{std::vector<float>(layout.images * channels), std::vector<float>(layout.images * channels)};
    for (size_t image = 0; image < layout.images; ++image) {
      const auto gain = [&](size_t c) { return numbers.gain.at(image, c); };
      const auto offset = [&](size_t c) { return numbers.offset.at(image, c) + numbers.shift.at(image, c); };
      const double* sums = moments.sums.data() + image * channels;
      const double* squares = moments.squares.data() + image * channels;
      for (size_t first = 0; first < channels; first += width) {
        double sum = 0.0, square = 0.0;
        for (size_t c = first; c < first + width; ++c) {
          const double g = gain(c), o = offset(c);
          sum += g * sums[c] + rows * o;
          square += g * g * squares[c] + 2.0 * g * o * sums[c] + rows * o * o;
        }
        const double mean = sum / count, variance = std::max(0.0, square / count - mean * mean);
        const double inverse = 1.0 / std::sqrt(variance + epsilon_);
        for (size_t c = first; c < first + width; ++c) {
          const double scale = inverse * gamma.at(image, c);
          result.slope[image * channels + c] = static_cast<float>(scale * gain(c));
          result.intercept[image * channels + c] =
              static_cast<float>((offset(c) - mean) * scale + beta.at(image, c));
        }
      }
    }
    return result;
  }

  template <bool kSilu, class Number>
  void quantise(const Call& call, const Layout& layout, const Parts<Number>& x, const Normalisation& normalised,
                const float* gain, uint8_t* y) const {
    const auto of_image = [&](size_t image) {
      const float* slope = normalised.slope.data() + image * layout.channels;
      const float* intercept = normalised.intercept.data() + image * layout.channels;
      return [=, zero_point = zero_point_](Number x, size_t c) INLINED {
        const float value = static_cast<float>(x) * slope[c] + intercept[c];
        return code_of((kSilu ? silu(value) : value) * gain[c], zero_point);
      };
    };
    map_images(call, layout, x, y, of_image, kSilu ? 1 : kLight);
  }

  size_t groups_;
  double epsilon_;
  float zero_point_;
  bool silu_;
};

}  // namespace channels_last
