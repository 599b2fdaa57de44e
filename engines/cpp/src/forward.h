// The forward process q(x_t | x_0) in float32, as torch computes it.
#pragma once

#include <cstdint>
#include <vector>

#include "ptq_export/schedule.h"

namespace ptq_export {

// Of each of the T time-steps, after the rescaling to zero terminal SNR where the schedule asks for it
// (arXiv:2305.08891, algorithm 1).
// InputError: a schedule of betas that is not known here.
std::vector<float> make_betas(NoiseSchedule const& schedule);

// The share of x_0's variance in x_t.
std::vector<float> cumulative_alphas(std::vector<float> const& betas);

// `torch.linspace` in float32, and numpy's in float64.
std::vector<float> linspace32(double start, double end, std::size_t count);
std::vector<double> linspace64(double start, double end, std::size_t count);

}  // namespace ptq_export
