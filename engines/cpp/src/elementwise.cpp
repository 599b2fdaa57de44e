#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ptq_export/error.h"
#include "settings.h"

namespace ptq_export {

Prediction::Prediction(Tensor const& output, Tensor const& sample) : output_(&output) {
  Shape const& made = output.shape();
  Shape const& given = sample.shape();
  bool const fits = given.size() >= 2 && made.size() == given.size() && made[0] == given[0] && made[1] >= given[1] &&
                    std::equal(made.begin() + 2, made.end(), given.begin() + 2);
  if (!fits) throw InputError("a prediction " + shown(made) + " is none of samples " + shown(given));
  rows_ = static_cast<std::size_t>(given[0]);
  numbers_ = rows_ == 0 ? 0 : sample.size() / rows_;
  stride_ = rows_ == 0 ? 0 : output.size() / rows_;
}

Limit Limit::clip(double range) {
  Limit limit;
  limit.kind_ = Kind::clip;
  limit.range_ = static_cast<float>(range);
  return limit;
}

Limit Limit::thresholding(NoiseSchedule const& schedule) {
  Settings const settings(schedule);
  Limit limit;
  if (!settings.flag("thresholding", false)) return limit;
  limit.kind_ = Kind::threshold;
  limit.ratio_ = static_cast<float>(settings.number("dynamic_thresholding_ratio", 0.995));
  limit.most_ = static_cast<float>(settings.number("sample_max_value", 1.0));
  if (!(limit.ratio_ >= 0 && limit.ratio_ <= 1))
    throw InputError("dynamic_thresholding_ratio is no share of a sample's numbers", "it lies in 0..1");
  return limit;
}

void Limit::apply(float* x0, std::size_t numbers) const {
  if (kind_ == Kind::clip) {
    for (std::size_t i = 0; i < numbers; ++i) x0[i] = std::min(std::max(x0[i], -range_), range_);
    return;
  }
  if (kind_ == Kind::none || numbers == 0) return;
  std::vector<float> sizes(numbers);
  std::transform(x0, x0 + numbers, sizes.begin(), [](float value) { return std::fabs(value); });
  std::sort(sizes.begin(), sizes.end());
  float const rank = ratio_ * static_cast<float>(numbers - 1);
  auto const below = static_cast<std::size_t>(rank);
  std::size_t const above = std::min(below + 1, numbers - 1);
  float const weight = rank - static_cast<float>(below);
  float const gap = sizes[above] - sizes[below];
  float const quantile = weight < 0.5F ? sizes[below] + weight * gap : sizes[above] - gap * (1.0F - weight);
  float const most = std::min(std::max(quantile, 1.0F), most_);
  for (std::size_t i = 0; i < numbers; ++i) x0[i] = std::min(std::max(x0[i], -most), most) / most;
}

}  // namespace ptq_export
