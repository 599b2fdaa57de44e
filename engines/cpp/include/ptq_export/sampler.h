// Samplers by name, set as the run's configuration or its authors' code says; the arithmetic is that of diffusers'
// schedulers, in float32 and in its order.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ptq_export/schedule.h"
#include "ptq_export/tensor.h"

namespace ptq_export {

// One pass along its time-steps; begin another one with another sampler.
class Sampler {
 public:
  virtual ~Sampler() = default;
  Sampler(Sampler const&) = delete;
  Sampler& operator=(Sampler const&) = delete;

  // At which the network is called, in this order; whole, but for a flow.
  [[nodiscard]] std::vector<double> const& timesteps() const noexcept { return timesteps_; }
  // The standard deviation of the sample before the first step.
  [[nodiscard]] virtual float initial_sigma() const { return 1.0F; }
  // What the network sees of the sample at the coming step.
  virtual void scale(Tensor const& sample, Tensor& seen) const { seen = sample; }
  // `sample` becomes the next one. Of `output` `[N, C or 2 C, ...]` the first C channels are the prediction.
  virtual void step(Tensor const& output, Tensor& sample) = 0;

 protected:
  Sampler() = default;
  std::vector<double> timesteps_;
};

// `ddim`, `dpm-solver++`, `euler`, or `flow-euler` for a flow; the schedule's own where `name` is empty.
// InputError: no such sampler here, a setting of the schedule that it does not know, or a number of steps that it
// cannot take: with the nearest that it can.
std::unique_ptr<Sampler> make_sampler(NoiseSchedule const& schedule, std::string const& name, std::int64_t steps);

// What the user should know before so many steps: other time-steps than one expects.
std::vector<std::string> sampler_notes(NoiseSchedule const& schedule, std::string const& name, std::int64_t steps);

}  // namespace ptq_export
