// Euler's method along the probability flow (arXiv:2206.00364, algorithm 1 without noise), at whole time-steps; and
// along the velocity of a flow (arXiv:2210.02747), at continuous ones.
#include <algorithm>
#include <cmath>
#include <utility>

#include "elementwise.h"
#include "forward.h"
#include "ptq_export/error.h"
#include "samplers.h"
#include "settings.h"
#include "spacing.h"

namespace ptq_export {

namespace {

class Euler final : public Sampler {
 public:
  Euler(std::string prediction_type, float initial, Track track)
      : prediction_type_(std::move(prediction_type)), initial_(initial), sigmas_(std::move(track.sigmas)) {
    timesteps_ = std::move(track.timesteps);
  }

  [[nodiscard]] float initial_sigma() const override { return initial_; }

  void scale(Tensor const& sample, Tensor& seen) const override {
    seen.resize(sample.shape());
    float const sigma = sigmas_.at(done_);
    float const norm = std::sqrt(sigma * sigma + 1.0F);
    for (std::size_t i = 0; i < sample.size(); ++i) seen[i] = sample[i] / norm;
  }

  void step(Tensor const& output, Tensor& sample) override {
    Prediction const prediction(output, sample);
    float const sigma = sigmas_.at(done_);
    float const dt = sigmas_.at(done_ + 1) - sigma;
    ++done_;
    float const square = sigma * sigma + 1.0F;
    float const of_v = -sigma / std::sqrt(square);
    for (std::size_t row = 0; row < prediction.rows(); ++row) {
      float const* out = prediction.row(row);
      float* x = sample.data() + row * prediction.numbers();
      for (std::size_t i = 0; i < prediction.numbers(); ++i) {
        float const x0 = prediction_type_ == "epsilon"  ? x[i] - sigma * out[i]
                         : prediction_type_ == "sample" ? out[i]
                                                        : out[i] * of_v + x[i] / square;
        x[i] += (x[i] - x0) / sigma * dt;
      }
    }
  }

 private:
  std::string prediction_type_;
  float initial_;
  std::vector<float> sigmas_;
  std::size_t done_ = 0;
};

class FlowEuler final : public Sampler {
 public:
  explicit FlowEuler(Track track) : sigmas_(std::move(track.sigmas)) { timesteps_ = std::move(track.timesteps); }

  void step(Tensor const& output, Tensor& sample) override {
    Prediction const prediction(output, sample);
    float const dt = sigmas_.at(done_ + 1) - sigmas_.at(done_);
    ++done_;
    for (std::size_t row = 0; row < prediction.rows(); ++row) {
      float const* velocity = prediction.row(row);
      float* x = sample.data() + row * prediction.numbers();
      for (std::size_t i = 0; i < prediction.numbers(); ++i) x[i] += dt * velocity[i];
    }
  }

 private:
  std::vector<float> sigmas_;
  std::size_t done_ = 0;
};

std::vector<double> euler_timesteps(NoiseSchedule const& schedule, std::int64_t steps) {
  std::int64_t const total = schedule.num_train_timesteps;
  Settings const settings(schedule);
  std::string const spacing = settings.text("timestep_spacing", "linspace");
  if (spacing == "leading") return leading_timesteps(total / steps, steps, settings.whole("steps_offset", 0));
  if (spacing == "trailing") return trailing_timesteps(total, static_cast<double>(total) / static_cast<double>(steps));
  if (spacing != "linspace") settings.require("timestep_spacing", "linspace, leading or trailing", "euler");
  std::vector<double> times = linspace_timesteps(total, steps);
  for (double& t : times) t = static_cast<float>(t);
  return times;
}

// Sigmas that the configuration chooses itself, and their fractional time-steps; none where it does not.
std::vector<double> chosen_sigmas(Settings const& settings, std::vector<double> const& plain) {
  bool const karras = settings.flag("use_karras_sigmas", false);
  if (!karras && !settings.flag("use_exponential_sigmas", false)) return {};
  double const least = settings.number("sigma_min", plain.back());
  double const most = settings.number("sigma_max", plain.front());
  return karras ? karras_sigmas(most, least, plain.size()) : exponential_sigmas(most, least, plain.size());
}

// `np.interp` of the sigmas `[T]` at time-steps that may be fractional.
double interpolated(std::vector<float> const& sigmas, double t) {
  double const within = std::min(std::max(t, 0.0), static_cast<double>(sigmas.size() - 1));
  auto const low = static_cast<std::size_t>(within);
  if (low + 1 >= sigmas.size()) return sigmas.back();
  double const slope = static_cast<double>(sigmas[low + 1]) - sigmas[low];
  return slope * (within - static_cast<double>(low)) + sigmas[low];
}

}  // namespace

Track euler_track(NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps) {
  Settings const settings(schedule);
  settings.require_off("use_beta_sigmas", "euler");
  settings.require("interpolation_type", "linear", "euler");
  settings.require("timestep_type", "discrete", "euler");
  Track track;
  track.steps = steps;
  track.timesteps = euler_timesteps(schedule, steps);
  std::vector<double> sigmas;
  for (double const t : track.timesteps) sigmas.push_back(interpolated(forward.sigmas, t));
  std::vector<double> const chosen = chosen_sigmas(settings, sigmas);
  for (std::size_t i = 0; i < track.timesteps.size(); ++i) {
    double& t = track.timesteps[i];
    if (!chosen.empty()) t = static_cast<float>(timestep_of_sigma(chosen[i], forward.log_sigmas));
    track.rounded = track.rounded || t != std::nearbyint(t);
    t = std::nearbyint(t);
    sigmas[i] = chosen.empty() ? interpolated(forward.sigmas, t) : chosen[i];
  }
  track.sigmas = with_final_sigma(schedule, forward, std::move(sigmas));
  return track;
}

std::unique_ptr<Sampler> make_euler(NoiseSchedule const& schedule, Forward const&, Track track) {
  float const most = *std::max_element(track.sigmas.begin(), track.sigmas.end());
  bool const leading = Settings(schedule).text("timestep_spacing", "linspace") == "leading";
  return std::make_unique<Euler>(schedule.prediction_type, leading ? std::sqrt(most * most + 1.0F) : most,
                                 std::move(track));
}

Track flow_euler_track(NoiseSchedule const& schedule, Forward const&, std::int64_t steps) {
  Settings const settings(schedule);
  for (char const* name : {"use_dynamic_shifting", "invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas",
                           "use_beta_sigmas", "stochastic_sampling"})
    settings.require_off(name, "flow-euler");
  if (settings.has("shift_terminal") && settings.number("shift_terminal", 0) != 0)
    throw InputError("flow-euler with shift_terminal is not sampled from C++", "take Python");
  auto const total = static_cast<float>(schedule.num_train_timesteps);
  double const shift = settings.number("shift", 1.0);
  auto const shift32 = static_cast<float>(shift);
  auto const end_of = [&](float sigma) {
    return static_cast<double>(shift32 * sigma / (1.0F + static_cast<float>(shift - 1) * sigma));
  };
  Track track;
  track.steps = steps;
  for (double const t :
       linspace64(end_of(1.0F) * total, end_of(1.0F / total) * total, static_cast<std::size_t>(steps))) {
    double const sigma = t / static_cast<double>(total);
    track.sigmas.push_back(static_cast<float>(shift * sigma / (1 + (shift - 1) * sigma)));
    track.timesteps.push_back(track.sigmas.back() * total);
  }
  track.sigmas.push_back(0.0F);
  return track;
}

std::unique_ptr<Sampler> make_flow_euler(NoiseSchedule const&, Forward const&, Track track) {
  return std::make_unique<FlowEuler>(std::move(track));
}

}  // namespace ptq_export
