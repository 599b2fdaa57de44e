// DDIM (arXiv:2010.02502) without noise: formulas 12 and 16, with sigma = 0.
#include <cmath>
#include <utility>

#include "elementwise.h"
#include "forward.h"
#include "ptq_export/error.h"
#include "samplers.h"
#include "settings.h"
#include "spacing.h"
#include "utf8.h"

namespace ptq_export {

namespace {

enum class Predicts { noise, x0, v };

Predicts predicts(NoiseSchedule const& schedule) {
  if (schedule.prediction_type == "epsilon") return Predicts::noise;
  if (schedule.prediction_type == "sample") return Predicts::x0;
  if (schedule.prediction_type == "v_prediction") return Predicts::v;
  throw InputError("the network predicts '" + shortened(schedule.prediction_type) + "', which nothing here can sample",
                   "known: epsilon, v_prediction, sample, flow");
}

// The share of x_0's variance before and after one step.
struct Alphas {
  float before, after;
};

class Ddim final : public Sampler {
 public:
  Ddim(Predicts predicted, Limit limit, bool clipped_eps, std::vector<Alphas> steps, std::vector<double> timesteps)
      : predicted_(predicted), limit_(limit), clipped_eps_(clipped_eps), steps_(std::move(steps)) {
    timesteps_ = std::move(timesteps);
  }

  void step(Tensor const& output, Tensor& sample) override {
    Prediction const prediction(output, sample);
    Alphas const& now = steps_.at(done_++);
    x0_.resize(prediction.numbers());
    eps_.resize(prediction.numbers());
    for (std::size_t row = 0; row < prediction.rows(); ++row)
      advance(now, prediction.row(row), sample.data() + row * prediction.numbers());
  }

 private:
  // One sample x `[C, ...]`.
  void advance(Alphas const& now, float const* output, float* x) {
    float const a = std::sqrt(now.before);
    float const b = std::sqrt(1.0F - now.before);
    std::size_t const numbers = x0_.size();
    switch (predicted_) {
      case Predicts::noise:
        for (std::size_t i = 0; i < numbers; ++i) x0_[i] = (x[i] - b * output[i]) / a, eps_[i] = output[i];
        break;
      case Predicts::x0:
        for (std::size_t i = 0; i < numbers; ++i) x0_[i] = output[i], eps_[i] = (x[i] - a * output[i]) / b;
        break;
      case Predicts::v:
        for (std::size_t i = 0; i < numbers; ++i) x0_[i] = a * x[i] - b * output[i], eps_[i] = a * output[i] + b * x[i];
        break;
    }
    limit_.apply(x0_.data(), numbers);
    if (clipped_eps_)
      for (std::size_t i = 0; i < numbers; ++i) eps_[i] = (x[i] - a * x0_[i]) / b;
    float const a_after = std::sqrt(now.after);
    float const b_after = std::sqrt(1.0F - now.after);
    for (std::size_t i = 0; i < numbers; ++i) x[i] = a_after * x0_[i] + b_after * eps_[i];
  }

  Predicts predicted_;
  Limit limit_;
  bool clipped_eps_;
  std::vector<Alphas> steps_;
  std::size_t done_ = 0;
  std::vector<float> x0_, eps_;
};

// The authors' own steps: the betas between the kept time-steps are taken again from their alphas (arXiv:2102.09672,
// equation 19), and alpha before the first is 1.
std::vector<Alphas> respaced(Forward const& forward, std::vector<double> const& descending) {
  std::vector<float> betas;
  double before = 1.0;
  for (auto t = descending.rbegin(); t != descending.rend(); ++t) {
    double const alpha = forward.alphas.at(static_cast<std::size_t>(*t));
    betas.push_back(static_cast<float>(1 - alpha / before));
    before = alpha;
  }
  std::vector<float> const alphas = cumulative_alphas(betas);
  std::vector<Alphas> steps;
  for (std::size_t i = alphas.size(); i-- > 0;) steps.push_back({alphas[i], i > 0 ? alphas[i - 1] : 1.0F});
  return steps;
}

}  // namespace

Track ddim_track(NoiseSchedule const& schedule, Forward const&, std::int64_t steps) {
  std::int64_t const total = schedule.num_train_timesteps;
  Settings const settings(schedule);
  Track track;
  track.steps = steps;
  if (Convention const* convention = schedule.convention("ddim")) {
    std::vector<std::int64_t> const kept = kept_timesteps(convention->timesteps, total, steps);
    track.timesteps.assign(kept.rbegin(), kept.rend());
    return track;
  }
  std::string const spacing = settings.text("timestep_spacing", "leading");
  if (spacing == "linspace") {
    track.timesteps = linspace_timesteps(total, steps);
    for (double& t : track.timesteps) t = std::nearbyint(t);
  } else if (spacing == "leading") {
    track.timesteps = leading_timesteps(total / steps, steps, settings.whole("steps_offset", 0));
  } else if (spacing == "trailing") {
    track.timesteps = trailing_timesteps(total, static_cast<double>(total) / static_cast<double>(steps));
  } else {
    settings.require("timestep_spacing", "leading, linspace or trailing", "ddim");
  }
  return track;
}

std::unique_ptr<Sampler> make_ddim(NoiseSchedule const& schedule, Forward const& forward, Track track) {
  Convention const* convention = schedule.convention("ddim");
  if (convention != nullptr)
    return std::make_unique<Ddim>(predicts(schedule), convention->clip_sample ? Limit::clip(1.0) : Limit::none(),
                                  convention->clipped_eps, respaced(forward, track.timesteps), track.timesteps);
  Limit limit = Limit::thresholding(schedule);
  if (limit.is_none() && schedule.clip_sample) limit = Limit::clip(schedule.clip_sample_range);
  float const final_alpha = Settings(schedule).flag("set_alpha_to_one", true) ? 1.0F : forward.alphas.front();
  std::int64_t const whole = schedule.num_train_timesteps / track.steps;
  auto const stride = static_cast<double>(whole);
  std::vector<Alphas> steps;
  for (double const t : track.timesteps)
    steps.push_back({forward.alphas.at(static_cast<std::size_t>(t)),
                     t < stride ? final_alpha : forward.alphas.at(static_cast<std::size_t>(t - stride))});
  return std::make_unique<Ddim>(predicts(schedule), limit, false, std::move(steps), std::move(track.timesteps));
}

}  // namespace ptq_export
