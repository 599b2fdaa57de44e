#include "spacing.h"

#include <algorithm>
#include <cmath>

#include "forward.h"
#include "ptq_export/error.h"
#include "utf8.h"

namespace ptq_export {

namespace {

using Kept = std::vector<std::int64_t>;

Kept strided(std::int64_t total, std::int64_t stride) {
  Kept kept;
  for (std::int64_t t = 0; t < total; t += stride) kept.push_back(t);
  return kept;
}

// OpenAI's `ddimN`.
Kept exact_stride(std::int64_t total, std::int64_t steps) {
  Kept kept = strided(total, (total + steps - 1) / steps);
  if (static_cast<std::int64_t>(kept.size()) != steps)
    throw InputError("no integer stride keeps exactly " + std::to_string(steps) + " of " + std::to_string(total) +
                     " time-steps");
  return kept;
}

// OpenAI's `N`: from 0 to T - 1 at a fractional stride, rounded.
Kept inclusive(std::int64_t total, std::int64_t steps) {
  double const stride = steps > 1 ? static_cast<double>(total - 1) / static_cast<double>(steps - 1) : 0.0;
  Kept kept;
  double time = 0.0;
  for (std::int64_t step = 0; step < steps; ++step, time += stride) kept.push_back(std::llrint(time));
  return kept;
}

// lucidrains: S time-steps that end with T - 1, cut to whole ones.
Kept downwards(std::int64_t total, std::int64_t steps) {
  std::vector<float> const times = linspace32(-1, static_cast<double>(total - 1), static_cast<std::size_t>(steps + 1));
  return {times.begin() + 1, times.end()};
}

}  // namespace

std::vector<double> linspace_timesteps(std::int64_t total, std::int64_t steps) {
  std::vector<double> times = linspace64(0, static_cast<double>(total - 1), static_cast<std::size_t>(steps));
  std::reverse(times.begin(), times.end());
  return times;
}

std::vector<double> leading_timesteps(std::int64_t stride, std::int64_t steps, std::int64_t offset) {
  std::vector<double> times;
  for (std::int64_t step = steps - 1; step >= 0; --step) times.push_back(static_cast<double>(step * stride + offset));
  return times;
}

// numpy's arange: each is start + i * delta, where delta is the difference of the first two.
std::vector<double> trailing_timesteps(std::int64_t last, double stride) {
  auto const start = static_cast<double>(last);
  double const delta = (start - stride) - start;
  auto const steps = static_cast<std::size_t>(std::max(0.0, std::ceil(start / stride)));
  std::vector<double> times;
  for (std::size_t i = 0; i < steps; ++i) times.push_back(std::nearbyint(start + static_cast<double>(i) * delta) - 1);
  return times;
}

std::vector<std::int64_t> kept_timesteps(std::string const& rule, std::int64_t total, std::int64_t steps) {
  if (rule == "floor-stride") return strided(total, total / steps);
  if (rule == "exact-stride") return exact_stride(total, steps);
  if (rule == "inclusive") return inclusive(total, steps);
  if (rule == "downwards") return downwards(total, steps);
  throw InputError("the authors' time-steps '" + shortened(rule) + "' are not known here", "update ptq-export");
}

double timestep_of_sigma(double sigma, std::vector<float> const& log_sigmas) {
  double const log_sigma = std::log(std::max(sigma, 1e-10));
  std::size_t low = 0;
  for (std::size_t t = 0; t < log_sigmas.size(); ++t)
    if (log_sigma - log_sigmas[t] >= 0) low = t;
  low = std::min(low, log_sigmas.size() - 2);
  float const gap = log_sigmas[low] - log_sigmas[low + 1];
  double const weight = std::min(std::max((log_sigmas[low] - log_sigma) / gap, 0.0), 1.0);
  return (1 - weight) * static_cast<double>(low) + weight * static_cast<double>(low + 1);
}

std::vector<double> karras_sigmas(double largest, double smallest, std::size_t steps) {
  double const rho = 7.0;
  double const least = std::pow(smallest, 1 / rho);
  double const most = std::pow(largest, 1 / rho);
  std::vector<double> sigmas = linspace64(0, 1, steps);
  for (double& sigma : sigmas) sigma = std::pow(most + sigma * (least - most), rho);
  return sigmas;
}

std::vector<double> exponential_sigmas(double largest, double smallest, std::size_t steps) {
  std::vector<double> sigmas = linspace64(std::log(largest), std::log(smallest), steps);
  for (double& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

}  // namespace ptq_export
