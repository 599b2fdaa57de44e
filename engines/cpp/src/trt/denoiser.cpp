#include "trt/denoiser.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "files.h"
#include "identity.h"
#include "inputs.h"
#include "ptq_export/error.h"
#include "trt/plan.h"

namespace ptq_export::trt {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 36;

class TrtDenoiser final : public Denoiser {
 public:
  TrtDenoiser(Signature signature, std::unique_ptr<Plan> plan)
      : Denoiser(std::move(signature)), plan_(std::move(plan)) {}

 protected:
  // More samples than the plan's largest batch are computed in parts of one size, the last of which may overlap; fewer
  // than its least are made as many.
  void compute(std::vector<TensorView> const& feeds, Tensor& prediction) override {
    std::int64_t const batch = prediction.shape().front();
    std::int64_t const rows = std::max(plan_->least_batch(), std::min(batch, plan_->most_batch()));
    for (std::int64_t first = 0; first < batch; first += rows)
      plan_->run(feeds, std::max<std::int64_t>(0, std::min(first, batch - rows)), rows, prediction);
  }

 private:
  std::unique_ptr<Plan> plan_;
};

bool is_plan_of(fs::path const& source, std::string const& name) {
  std::string const stem = source.stem().string();
  auto const begins = [&](std::string const& text) { return name.rfind(text, 0) == 0; };
  return fs::path(name).extension() == ".plan" && (begins(stem + ".batch") || begins(stem + ".tensorrt-batch"));
}

std::vector<fs::path> plans_of(fs::path const& source, fs::path const& cache) {
  std::vector<fs::path> found;
  for (fs::path const& folder : {source.parent_path(), cache}) {
    std::error_code error;
    for (fs::directory_entry const& entry : fs::directory_iterator(folder, error))
      if (std::string const name = entry.path().filename().string(); is_plan_of(source, name))
        found.push_back(inside(folder, name));
  }
  std::sort(found.begin(), found.end());
  return found;
}

// What a plan of `onnx_sha256` here would say of itself, where the builder was told what `found` was: the batches and
// its search are the user's choice. A plan is bound to TensorRT and the GPU, not to the CUDA runtime that a program is
// linked with; the library at hand does not tell the fourth number of its version.
Identity wanted_here(Identity const& found, std::string const& onnx_sha256) {
  Identity wanted = identity_here("trt", onnx_sha256);
  wanted.isa.clear();
  wanted.options = found.options;
  wanted.device = gpu_label();
  for (auto const& [name, told] : found.versions) {
    bool const same = name == "cuda" || told == version() || told.rfind(version() + ".", 0) == 0;
    wanted.versions.emplace_back(name, same ? told : version());
  }
  return wanted;
}

fs::path ready_plan(fs::path const& source, fs::path const& cache, std::string const& sha256,
                    EngineOptions const& options) {
  std::string why;
  for (fs::path const& plan : plans_of(source, cache)) {
    std::vector<std::string> reasons;
    try {
      reasons = stale_reasons(plan, wanted_here(read_identity(plan).first, sha256), options.trusted);
    } catch (InputError const& error) {
      reasons = {error.what()};
    }
    if (reasons.empty()) return plan;
    for (std::string const& reason : reasons) why += (why.empty() ? "" : "; ") + reason;
  }
  std::string const was = why.empty() ? "it has no plan yet" : "its plan is not of this machine (" + why + ")";
  throw EnvironmentMissing(source.filename().string() + ": " + was + ", and none can be built here",
                           "build it where tensorrt and its GPU are: load the run once in Python");
}

Signature signature_of(Manifest const& manifest) {
  Fields const denoiser = manifest.fields().object("denoiser");
  Signature signature;
  signature.inputs = inputs_of(denoiser.any("inputs"), denoiser.file());
  require_denoiser(signature.inputs, denoiser.file());
  for (Input const& input : signature.inputs)
    for (Input::Size const& size : input.shape)
      if (std::holds_alternative<std::string>(size))
        throw InputError("a TensorRT plan is for numbers: " + input.shown() + " has an open size");
  if (denoiser.has("schedule"))
    signature.num_train_timesteps = denoiser.object("schedule").whole("num_train_timesteps", 1, 10'000'000);
  return signature;
}

}  // namespace

std::unique_ptr<Denoiser> open(fs::path const& source, fs::path const& cache, Manifest const& manifest,
                               std::string const& onnx, EngineOptions const& options) {
  Signature signature = signature_of(manifest);
  fs::path const file = ready_plan(source, cache, manifest.sha256(onnx), options);
  auto plan = std::make_unique<Plan>(read_bytes(file, kMostBytes), file.filename().string(), signature.inputs);
  signature.channels = plan->channels();
  return std::make_unique<TrtDenoiser>(std::move(signature), std::move(plan));
}

}  // namespace ptq_export::trt
