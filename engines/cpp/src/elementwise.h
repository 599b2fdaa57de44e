// What samplers do with each number of a sample, and with the prediction in a network's output.
#pragma once

#include <cstddef>

#include "ptq_export/schedule.h"
#include "ptq_export/tensor.h"

namespace ptq_export {

// The first C channels of an output `[N, C or more, ...]` for samples `[N, C, ...]`.
class Prediction {
 public:
  // InputError: it has other shapes.
  Prediction(Tensor const& output, Tensor const& sample);
  // Of sample `row`, as many numbers as one sample has.
  [[nodiscard]] float const* row(std::size_t row) const { return output_->data() + row * stride_; }
  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t numbers() const noexcept { return numbers_; }

 private:
  Tensor const* output_;
  std::size_t rows_, numbers_, stride_;
};

// x_0 as the schedule limits it: clipped, thresholded (arXiv:2205.11487) or left as it is.
class Limit {
 public:
  static Limit none() { return Limit(); }
  static Limit clip(double range);
  // `thresholding`, `dynamic_thresholding_ratio` and `sample_max_value` of the settings; none where it is off.
  static Limit thresholding(NoiseSchedule const& schedule);

  void apply(float* x0, std::size_t numbers) const;
  [[nodiscard]] bool is_none() const noexcept { return kind_ == Kind::none; }

 private:
  enum class Kind { none, clip, threshold };
  Kind kind_ = Kind::none;
  float range_ = 1.0F, ratio_ = 0.0F, most_ = 1.0F;
};

}  // namespace ptq_export
