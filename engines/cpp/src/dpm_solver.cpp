// DPM-Solver++ (arXiv:2211.01095) of order 1 and 2, multistep: its algorithm 2 (2M), in diffusers' two forms of it.
#include <algorithm>
#include <cmath>
#include <utility>

#include "elementwise.h"
#include "ptq_export/error.h"
#include "samplers.h"
#include "settings.h"
#include "spacing.h"

namespace ptq_export {

namespace {

constexpr double kWhole = 1e-6;  // 998.9999999 is 999: diffusers cuts what numpy's logarithms make of it

// A point of the path, of its sigma.
struct Point {
  float alpha, sigma, lambda;

  explicit Point(float ratio) : alpha(1.0F / std::sqrt(ratio * ratio + 1.0F)), sigma(ratio * alpha) {
    // The logarithms are rounded once: torch's are, too, and their difference has few digits.
    lambda = static_cast<float>(std::log(static_cast<double>(alpha))) -
             static_cast<float>(std::log(static_cast<double>(sigma)));
  }
};

float exp32(float value) { return static_cast<float>(std::exp(static_cast<double>(value))); }

struct Solver {
  std::int64_t order = 2;
  bool heun = false, first_order_last = true;
};

class DpmSolver final : public Sampler {
 public:
  DpmSolver(std::string prediction_type, Limit limit, Solver solver, Track track)
      : prediction_type_(std::move(prediction_type)), limit_(limit), solver_(solver), sigmas_(std::move(track.sigmas)) {
    timesteps_ = std::move(track.timesteps);
  }

  void step(Tensor const& output, Tensor& sample) override {
    std::swap(x0_, before_);
    estimate(output, sample);
    Point const now(sigmas_.at(done_));
    Point const next(sigmas_.at(done_ + 1));
    bool const last = done_ + 1 == timesteps_.size() && solver_.first_order_last;
    if (solver_.order == 1 || done_ == 0 || last)
      first_order(now, next, sample);
    else
      second_order(Point(sigmas_.at(done_ - 1)), now, next, sample);
    ++done_;
  }

 private:
  void estimate(Tensor const& output, Tensor const& sample) {
    Prediction const prediction(output, sample);
    Point const now(sigmas_.at(done_));
    x0_.resize(sample.size());
    for (std::size_t row = 0; row < prediction.rows(); ++row) {
      float const* out = prediction.row(row);
      float const* x = sample.data() + row * prediction.numbers();
      float* x0 = x0_.data() + row * prediction.numbers();
      for (std::size_t i = 0; i < prediction.numbers(); ++i)
        x0[i] = prediction_type_ == "epsilon"  ? (x[i] - now.sigma * out[i]) / now.alpha
                : prediction_type_ == "sample" ? out[i]
                                               : now.alpha * x[i] - now.sigma * out[i];
      limit_.apply(x0, prediction.numbers());
    }
  }

  void first_order(Point const& now, Point const& next, Tensor& sample) const {
    float const kept = next.sigma / now.sigma;
    float const added = next.alpha * (exp32(-(next.lambda - now.lambda)) - 1.0F);
    for (std::size_t i = 0; i < sample.size(); ++i) sample[i] = kept * sample[i] - added * x0_[i];
  }

  void second_order(Point const& before, Point const& now, Point const& next, Tensor& sample) const {
    float const h = next.lambda - now.lambda;
    float const r = (now.lambda - before.lambda) / h;
    float const kept = next.sigma / now.sigma;
    float const grown = exp32(-h) - 1.0F;
    float const added = next.alpha * grown;
    float const bent = solver_.heun ? next.alpha * (grown / h + 1.0F) : -(0.5F * added);
    float const slope = 1.0F / r;
    for (std::size_t i = 0; i < sample.size(); ++i)
      sample[i] = kept * sample[i] - added * x0_[i] + bent * (slope * (x0_[i] - before_[i]));
  }

  std::string prediction_type_;
  Limit limit_;
  Solver solver_;
  std::vector<float> sigmas_;
  std::size_t done_ = 0;
  std::vector<float> x0_, before_;
};

// Time-steps from here on are left out: where log(alpha / sigma) is below `lambda_min_clipped`.
std::int64_t last_timestep(NoiseSchedule const& schedule, Forward const& forward) {
  Settings const settings(schedule);
  std::int64_t last = schedule.num_train_timesteps;
  if (!settings.has("lambda_min_clipped")) return last;
  double const least = settings.number("lambda_min_clipped", 0);
  for (; last > 0; --last) {  // lambda rises from the last time-step to the first
    float const alpha = 1.0F / (forward.sigmas.at(static_cast<std::size_t>(last - 1)) *
                                    forward.sigmas.at(static_cast<std::size_t>(last - 1)) +
                                1.0F);
    if (std::log(std::sqrt(alpha)) - std::log(std::sqrt(1.0F - alpha)) >= static_cast<float>(least)) break;
  }
  return last;
}

std::vector<double> solver_timesteps(NoiseSchedule const& schedule, std::int64_t last, std::int64_t steps) {
  Settings const settings(schedule);
  std::string const spacing = settings.text("timestep_spacing", "linspace");
  std::vector<double> times;
  if (spacing == "trailing") {
    auto const total = static_cast<double>(schedule.num_train_timesteps);
    return trailing_timesteps(last, total / static_cast<double>(steps));
  }
  if (spacing == "linspace")
    times = linspace_timesteps(last, steps + 1);
  else if (spacing == "leading")
    times = leading_timesteps(last / (steps + 1), steps + 1, settings.whole("steps_offset", 0));
  else
    settings.require("timestep_spacing", "linspace, leading or trailing", "dpm-solver++");
  times.pop_back();
  for (double& t : times) t = std::nearbyint(t);
  return times;
}

Solver solver_of(NoiseSchedule const& schedule) {
  Settings const settings(schedule);
  std::string const algorithm = settings.text("algorithm_type", "dpmsolver++");
  if (algorithm != "deis") settings.require("algorithm_type", "dpmsolver++", "dpm-solver++");
  std::string const type = settings.text("solver_type", "midpoint");
  bool const midpoint =
      type == "logrho" || type == "bh1" || type == "bh2";  // what diffusers makes of UniPC's and DEIS'
  if (type != "heun" && !midpoint) settings.require("solver_type", "midpoint", "dpm-solver++");
  Solver solver;
  solver.order = settings.whole("solver_order", 2);
  solver.heun = type == "heun";
  if (solver.order < 1 || solver.order > 2)
    throw InputError("dpm-solver++ of order " + std::to_string(solver.order) + " is not sampled from C++",
                     "take another sampler, or Python");
  return solver;
}

}  // namespace

Track dpm_solver_track(NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps) {
  Settings const settings(schedule);
  for (char const* name : {"use_lu_lambdas", "use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"})
    settings.require_off(name, "dpm-solver++");
  static_cast<void>(solver_of(schedule));
  Track track;
  track.steps = steps;
  track.timesteps = solver_timesteps(schedule, last_timestep(schedule, forward), steps);
  bool const karras = settings.flag("use_karras_sigmas", false);
  bool const exponential = settings.flag("use_exponential_sigmas", false);
  std::vector<double> sigmas;
  if (karras || exponential) {
    auto const many = static_cast<std::size_t>(steps);
    double const most = forward.sigmas.back();
    double const least = forward.sigmas.front();
    sigmas = karras ? karras_sigmas(most, least, many) : exponential_sigmas(most, least, many);
    track.timesteps.clear();
    for (double const sigma : sigmas) {
      double const t = timestep_of_sigma(sigma, forward.log_sigmas);
      bool const rounds = karras && schedule.beta_schedule != "squaredcos_cap_v2";
      track.timesteps.push_back(rounds ? std::nearbyint(t) : std::trunc(t + kWhole));
    }
  } else {
    auto const most = static_cast<double>(forward.sigmas.size() - 1);
    for (double const t : track.timesteps)
      sigmas.push_back(forward.sigmas.at(static_cast<std::size_t>(std::min(std::max(t, 0.0), most))));
  }
  track.begins_twice = track.timesteps.size() > 1 && track.timesteps[0] == track.timesteps[1];
  track.sigmas = with_final_sigma(schedule, forward, std::move(sigmas));
  return track;
}

std::unique_ptr<Sampler> make_dpm_solver(NoiseSchedule const& schedule, Forward const&, Track track) {
  Settings const settings(schedule);
  Solver solver = solver_of(schedule);
  bool const few = track.timesteps.size() < 15;
  solver.first_order_last = settings.flag("euler_at_final", false) ||
                            (settings.flag("lower_order_final", true) && few) ||
                            settings.text("final_sigmas_type", "zero") == "zero";
  return std::make_unique<DpmSolver>(schedule.prediction_type, Limit::thresholding(schedule), solver, std::move(track));
}

}  // namespace ptq_export
