#include "ptq_export/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "forward.h"
#include "ptq_export/error.h"
#include "samplers.h"
#include "settings.h"
#include "utf8.h"

namespace ptq_export {

namespace {

struct Entry {
  char const* name;
  bool of_flows;
  Track (*track)(NoiseSchedule const&, Forward const&, std::int64_t);
  std::unique_ptr<Sampler> (*make)(NoiseSchedule const&, Forward const&, Track);
};

constexpr std::array<Entry, 4> kSamplers{{
    {"ddim", false, ddim_track, make_ddim},
    {"dpm-solver++", false, dpm_solver_track, make_dpm_solver},
    {"euler", false, euler_track, make_euler},
    {"flow-euler", true, flow_euler_track, make_flow_euler},
}};
constexpr std::array<char const*, 3> kPythonOnly{"ddpm", "pndm", "unipc"};
constexpr std::array<char const*, 4> kPredictions{"epsilon", "v_prediction", "sample", "flow"};
constexpr double kMostSkipped = 1.0 / 20;  // of T, beyond the stride
constexpr std::int64_t kSearch = 20'000'000;

Entry const& find_sampler(NoiseSchedule const& schedule, std::string const& asked) {
  std::string const name = asked.empty() ? schedule.sampler() : asked;
  std::string const known = "known: ddim, dpm-solver++, euler, flow-euler";
  if (std::find(kPythonOnly.begin(), kPythonOnly.end(), name) != kPythonOnly.end())
    throw InputError(name + " is not sampled from C++", known + "; or take Python");
  auto const* const found =
      std::find_if(kSamplers.begin(), kSamplers.end(), [&](Entry const& entry) { return name == entry.name; });
  if (found == kSamplers.end()) throw InputError("unknown sampler '" + shortened(name) + "'", known);
  auto const same = [&](char const* kind) { return schedule.prediction_type == kind; };
  if (std::none_of(kPredictions.begin(), kPredictions.end(), same))
    throw InputError(
        "the network predicts '" + shortened(schedule.prediction_type) + "', which nothing here can sample",
        "known: epsilon, v_prediction, sample, flow");
  if (found->of_flows != schedule.is_flow())
    throw InputError(name + " cannot sample " + (schedule.is_flow() ? "a flow" : "a diffusion with betas"),
                     "take --sampler " + schedule.sampler());
  if (name != "ddim" && schedule.convention(name) != nullptr)
    throw InputError("the authors' own " + name + " is not sampled from C++", known);
  return *found;
}

std::string told(double timestep) { return std::to_string(std::llrint(timestep)); }

// Why so many steps cannot be taken, as `_refusal` of ptq_export/schedulers.py tells it; empty where they can.
std::string refusal(Entry const& entry, NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps,
                    Track& track) {
  std::int64_t const total = schedule.num_train_timesteps;
  if (steps > total) return "there are fewer training steps";
  if (steps < 1) return "at least one is needed";
  track = entry.track(schedule, forward, steps);
  if (schedule.is_flow()) return "";
  auto const [least, most] = std::minmax_element(track.timesteps.begin(), track.timesteps.end());
  if (track.timesteps.empty()) return "none would be left";
  if (*most >= static_cast<double>(total))
    return "t = " + told(*most) + " is past the last, " + std::to_string(total - 1);
  if (*least < 0) return "the last would be t = -1";
  bool const falls = std::adjacent_find(track.sigmas.begin(), track.sigmas.end(),
                                        [](float one, float two) { return !(two < one); }) == track.sigmas.end();
  if (!falls || track.begins_twice) return "two of them would be the same";
  std::int64_t const stride = total / steps;
  double const skipped = static_cast<double>(total - stride) - track.timesteps.front();
  if (skipped > static_cast<double>(total) * kMostSkipped)
    return "the first would be t = " + told(track.timesteps.front()) + ", and the noisier ones skipped";
  return "";
}

// The next number of steps in that direction that can be taken; 0 where none is found.
std::int64_t nearest(Entry const& entry, NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps,
                     std::int64_t direction) {
  std::int64_t const total = schedule.num_train_timesteps;
  bool const chosen =
      Settings(schedule).flag("use_karras_sigmas", false) || Settings(schedule).flag("use_exponential_sigmas", false);
  std::int64_t budget = kSearch;
  Track track;
  for (std::int64_t tried = direction < 0 ? std::min(steps - 1, total) : steps + 1;
       tried >= 1 && tried <= total && budget > 0; tried += direction) {
    budget -= tried * (chosen ? total : 1);
    try {
      if (refusal(entry, schedule, forward, tried, track).empty()) return tried;
    } catch (InputError const&) {  // an authors' rule that knows some numbers only
      continue;
    }
  }
  return 0;
}

Track checked_track(Entry const& entry, NoiseSchedule const& schedule, Forward const& forward, std::int64_t steps) {
  Track track;
  std::string reason;
  try {
    reason = refusal(entry, schedule, forward, steps, track);
  } catch (InputError const& error) {
    std::string const cause = error.what();
    if (cause.rfind("no integer stride", 0) != 0) throw;
    reason = cause;
  }
  if (reason.empty()) return track;
  std::string near;
  for (std::int64_t const direction : {-1, 1})
    if (std::int64_t const found = nearest(entry, schedule, forward, steps, direction))
      near += (near.empty() ? "" : ", ") + std::to_string(found);
  throw InputError(std::to_string(steps) + " " + entry.name + " steps of the " +
                       std::to_string(schedule.num_train_timesteps) + " training steps: " + reason,
                   near.empty() ? "take another --sampler" : "nearest that can be taken: " + near);
}

}  // namespace

Forward make_forward(NoiseSchedule const& schedule) {
  Forward forward;
  if (schedule.is_flow()) return forward;
  forward.alphas = cumulative_alphas(make_betas(schedule));
  for (float const alpha : forward.alphas) forward.sigmas.push_back(std::sqrt((1.0F - alpha) / alpha));
  if (schedule.rescale_betas_zero_snr) {
    float const least = std::ldexp(1.0F, -24);  // diffusers': the first sigma is finite
    forward.sigmas.back() = std::sqrt((1.0F - least) / least);
  }
  for (float const sigma : forward.sigmas) forward.log_sigmas.push_back(std::log(sigma));
  return forward;
}

std::vector<float> with_final_sigma(NoiseSchedule const& schedule, Forward const& forward, std::vector<double> sigmas) {
  std::string const type = Settings(schedule).text("final_sigmas_type", "zero");
  if (type != "zero") Settings(schedule).require("final_sigmas_type", "sigma_min", "a sampler");
  sigmas.push_back(type == "zero" ? 0.0 : static_cast<double>(forward.sigmas.front()));
  return {sigmas.begin(), sigmas.end()};
}

std::unique_ptr<Sampler> make_sampler(NoiseSchedule const& schedule, std::string const& name, std::int64_t steps) {
  Entry const& entry = find_sampler(schedule, name);
  Forward const forward = make_forward(schedule);
  return entry.make(schedule, forward, checked_track(entry, schedule, forward, steps));
}

std::vector<std::string> sampler_notes(NoiseSchedule const& schedule, std::string const& name, std::int64_t steps) {
  Entry const& entry = find_sampler(schedule, name);
  Track const track = checked_track(entry, schedule, make_forward(schedule), steps);
  std::int64_t const total = schedule.num_train_timesteps;
  std::vector<double> const& times = track.timesteps;
  std::vector<std::string> notes;
  std::string const asked = std::to_string(steps);
  if (static_cast<std::int64_t>(times.size()) != steps)
    notes.push_back(asked + " " + entry.name + " steps call the network " + std::to_string(times.size()) +
                    " times, at t = " + told(times.front()) + " to " + told(times.back()));
  else if (total % steps != 0 && !schedule.is_flow())
    notes.push_back(asked + " steps do not divide " + std::to_string(total) + ": " + entry.name +
                    " takes t = " + told(times[0]) + ", " + told(times[1]) + ", ... " + told(times.back()));
  if (track.rounded)
    notes.push_back(std::string(entry.name) + "'s fractional time-steps are rounded: the engine knows whole ones");
  return notes;
}

}  // namespace ptq_export
