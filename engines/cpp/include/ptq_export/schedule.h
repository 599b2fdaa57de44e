// The forward process of a run's network and how it is sampled, from `denoiser.schedule` of its manifest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ptq_export/json.h"

namespace ptq_export {

// How one sampler runs in the code of a family's authors, where diffusers' scheduler of that name runs otherwise.
struct Convention {
  std::string timesteps;  // the rule by which S of the T time-steps are kept
  bool clip_sample = true;
  bool clipped_eps = false;  // take eps again from the clipped x_0
};

// In diffusers' vocabulary; see `NoiseSchedule` in ptq_export/denoiser.py.
struct NoiseSchedule {
  std::int64_t num_train_timesteps = 1000;
  std::string beta_schedule = "linear";
  double beta_start = 1e-4, beta_end = 0.02;
  std::string prediction_type = "epsilon";  // epsilon, v_prediction, sample or flow
  bool clip_sample = true;
  double clip_sample_range = 1.0;
  std::vector<double> trained_betas;  // empty where there are none
  bool rescale_betas_zero_snr = false;
  std::string variance_type = "fixed_small";
  Json settings;  // what scheduler_config.json says further
  std::vector<std::pair<std::string, Convention>> conventions;

  // InputError: a field is not what it must be; `file` names where it stands.
  static NoiseSchedule from_json(Json const& value, std::string const& file);
  // InputError: `run` is not a finished run, or its schedule cannot be read.
  static NoiseSchedule of_run(std::filesystem::path const& run);

  [[nodiscard]] bool is_flow() const { return prediction_type == "flow"; }
  // The sampler whose trajectories were calibrated.
  [[nodiscard]] std::string sampler() const { return is_flow() ? "flow-euler" : "ddim"; }
  // The range in which final samples lie, where they are images.
  [[nodiscard]] std::optional<std::pair<double, double>> sample_range() const;
  // Of a `sampler`; nullptr where diffusers' own rule holds.
  [[nodiscard]] Convention const* convention(std::string const& sampler) const;
};

}  // namespace ptq_export
