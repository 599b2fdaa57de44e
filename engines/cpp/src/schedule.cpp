#include "ptq_export/schedule.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "manifest.h"
#include "ptq_export/error.h"
#include "settings.h"

namespace ptq_export {

namespace {

constexpr std::int64_t kMostTimesteps = 10'000;
constexpr double kLargest = 1e15;
constexpr std::array<std::string_view, 14> kKnown{
    "num_train_timesteps", "beta_schedule", "beta_start",        "beta_end",      "prediction_type",
    "clip_sample",         "variance_type", "clip_sample_range", "trained_betas", "rescale_betas_zero_snr",
    "dropped_variance",    "scheduler",     "settings",          "conventions"};

std::vector<double> numbers(Fields const& fields, char const* name) {
  std::vector<double> found;
  if (!fields.has(name) || fields.any(name).is_null()) return found;
  for (Json const& item : fields.list(name)) {
    auto const* real = item.get_if<double>();
    auto const* whole = item.get_if<std::int64_t>();
    if (real == nullptr && whole == nullptr) fields.refuse(name, "a list of numbers");
    found.push_back(real != nullptr ? *real : static_cast<double>(*whole));
  }
  return found;
}

std::vector<std::pair<std::string, Convention>> conventions_of(Fields const& fields) {
  std::vector<std::pair<std::string, Convention>> found;
  if (!fields.has("conventions")) return found;
  Fields const all = fields.object("conventions");
  for (Json::Member const& member : *all.json().get_if<Json::Object>()) {
    Fields const each = all.object(member.name);
    found.push_back({member.name,
                     {each.text("timesteps"), each.has("clip_sample") ? each.flag("clip_sample") : true,
                      each.has("clipped_eps") && each.flag("clipped_eps")}});
  }
  return found;
}

}  // namespace

NoiseSchedule NoiseSchedule::from_json(Json const& value, std::string const& file) {
  Fields const fields(value, file, "denoiser.schedule");
  for (Json::Member const& member : *value.get_if<Json::Object>())
    if (std::find(kKnown.begin(), kKnown.end(), member.name) == kKnown.end())
      throw InputError(
          file + ": the noise schedule has a field " + fields.place(member.name) + " that is not known here",
          "update ptq-export");
  NoiseSchedule schedule;
  auto const text = [&](char const* name, std::string& into) {
    if (fields.has(name)) into = fields.text(name);
  };
  auto const flag = [&](char const* name, bool& into) {
    if (fields.has(name)) into = fields.flag(name);
  };
  auto const number = [&](char const* name, double& into) {
    if (fields.has(name)) into = fields.number(name, -kLargest, kLargest);
  };
  if (fields.has("num_train_timesteps"))
    schedule.num_train_timesteps = fields.whole("num_train_timesteps", 1, kMostTimesteps);
  text("beta_schedule", schedule.beta_schedule);
  number("beta_start", schedule.beta_start);
  number("beta_end", schedule.beta_end);
  text("prediction_type", schedule.prediction_type);
  flag("clip_sample", schedule.clip_sample);
  number("clip_sample_range", schedule.clip_sample_range);
  text("variance_type", schedule.variance_type);
  flag("rescale_betas_zero_snr", schedule.rescale_betas_zero_snr);
  schedule.trained_betas = numbers(fields, "trained_betas");
  if (fields.has("settings")) schedule.settings = fields.object("settings").json();
  schedule.conventions = conventions_of(fields);
  return schedule;
}

NoiseSchedule NoiseSchedule::of_run(std::filesystem::path const& run) {
  Manifest const manifest(run);
  Fields const fields = manifest.fields();
  return from_json(fields.object("denoiser").any("schedule"), fields.file());
}

std::optional<std::pair<double, double>> NoiseSchedule::sample_range() const {
  if (Settings(*this).flag("thresholding", false)) return std::pair{-1.0, 1.0};
  if (!clip_sample) return std::nullopt;
  return std::pair{-clip_sample_range, clip_sample_range};
}

Convention const* NoiseSchedule::convention(std::string const& sampler) const {
  for (auto const& [name, convention] : conventions)
    if (name == sampler) return &convention;
  return nullptr;
}

}  // namespace ptq_export
