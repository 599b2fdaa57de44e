// The samplers behind `make_sampler`: where each goes (a track), and then the object that goes there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ptq_export/sampler.h"

namespace ptq_export {

// The forward process as samplers ask for it.
struct Forward {
  std::vector<float> alphas;              // cumulative products, `[T]`
  std::vector<float> sigmas, log_sigmas;  // sqrt((1 - alpha) / alpha); where the last alpha is 0, that of 2^-24
};

Forward make_forward(NoiseSchedule const& schedule);

// Where a sampler calls the network, and at which sigmas, one more of them; DDIM has none.
struct Track {
  std::vector<double> timesteps;
  std::vector<float> sigmas;
  std::int64_t steps = 0;     // that were asked for
  bool rounded = false;       // the network knows whole time-steps only
  bool begins_twice = false;  // diffusers would lose its way: it looks for the first time-step, and takes the second
};

// InputError: a setting of the schedule that is not known here, or a number of steps that cannot be taken.
Track ddim_track(NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps);
Track dpm_solver_track(NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps);
Track euler_track(NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps);
Track flow_euler_track(NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps);

std::unique_ptr<Sampler> make_ddim(NoiseSchedule const& schedule, Forward const& forward, Track track);
std::unique_ptr<Sampler> make_dpm_solver(NoiseSchedule const& schedule, Forward const& forward, Track track);
std::unique_ptr<Sampler> make_euler(NoiseSchedule const& schedule, Forward const& forward, Track track);
std::unique_ptr<Sampler> make_flow_euler(NoiseSchedule const& schedule, Forward const& forward, Track track);

// The sigmas of whole time-steps, with the last one: 0, or the least of the schedule (`final_sigmas_type`).
std::vector<float> with_final_sigma(NoiseSchedule const& schedule, Forward const& forward, std::vector<double> sigmas);

}  // namespace ptq_export
