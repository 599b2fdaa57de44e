// The sampling loop, guidance, and the noise that a loop begins with.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "ptq_export/denoiser.h"
#include "ptq_export/sampler.h"

namespace ptq_export {

// A denoiser, or what wraps one: the prediction for these feeds.
using Model = std::function<void(Feeds const& feeds, Tensor& prediction)>;

// A model that calls `denoiser`, which must outlive it.
Model model_of(Denoiser& denoiser);

// Classifier-free guidance (arXiv:2207.12598): eps_u + scale (eps_c - eps_u), of a model that is called once with two
// rows per sample. `unconditional` holds one row `[1, ...]` of every condition that is taken away; the others are kept
// on both sides. What its views refer to must outlive the model.
Model guided(Model model, float scale, Feeds unconditional);

// What one iteration saw and made.
struct Step {
  std::size_t index;
  double timestep;
  Tensor const& seen;        // what the network was given: x_t, scaled where the sampler scales it
  Tensor const& prediction;  // its output
  Tensor const& sample;      // x_{t-1}
};

// x_0 of `noise` `[N, C, ...]`. `conditions` go to the model at every step. `whole_timesteps`: of a network that takes
// them as int64; a flow's takes float32.
Tensor sample_loop(Model const& model, Sampler& sampler, Tensor const& noise, Feeds const& conditions = {},
                   bool whole_timesteps = true, std::function<void(Step const&)> const& callback = {});

// Standard normal numbers: those of `torch.randn` from a CPU generator with that seed, to some 1e-6.
Tensor initial_noise(Shape const& shape, std::uint64_t seed);

}  // namespace ptq_export
