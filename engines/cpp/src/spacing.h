// At which of the T time-steps a sampler calls the network.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ptq_export {

// Table 2 of arXiv:2305.08891, as numpy computes it in diffusers' schedulers.
std::vector<double> linspace_timesteps(std::int64_t total, std::int64_t steps);  // T - 1 to 0, not rounded
std::vector<double> leading_timesteps(std::int64_t stride, std::int64_t steps, std::int64_t offset);
std::vector<double> trailing_timesteps(std::int64_t last, double stride);

// `KEPT` of ptq_export/schedulers.py: the authors' rules, ascending.
// InputError: an unknown rule, or one that cannot keep so many.
std::vector<std::int64_t> kept_timesteps(std::string const& rule, std::int64_t total, std::int64_t steps);

// `_sigma_to_t` of diffusers: the fractional time-step whose log sigma is interpolated to this sigma.
double timestep_of_sigma(double sigma, std::vector<float> const& log_sigmas);

// Sigmas from `largest` to `smallest`: arXiv:2206.00364 equation 5 with rho = 7, and evenly in the logarithm.
std::vector<double> karras_sigmas(double largest, double smallest, std::size_t steps);
std::vector<double> exponential_sigmas(double largest, double smallest, std::size_t steps);

}  // namespace ptq_export
