#include "ort/denoiser.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "files.h"
#include "identity.h"
#include "machine.h"
#include "ort/graph.h"
#include "ort/prompt.h"
#include "ort/session.h"
#include "ptq_export/error.h"
#include "sha256.h"

namespace ptq_export::ort {

namespace fs = std::filesystem;

namespace {

// Which file is opened, and how.
struct Served {
  fs::path file;
  SessionSettings settings;
};

Json text(std::string const& value) { return Json(Json::Value(value)); }

// The optimised graph of `source` in `cache`, if it was built for this machine by this account with operators that are
// here; else `source` itself.
Served served(fs::path const& source, fs::path const& cache, std::string const& sha256, EngineOptions const& options) {
  int const threads = options.threads > 0 ? options.threads : physical_cores();
  fs::path const optimised = cache / (source.stem().string() + ".optimised.onnx");
  Identity wanted = identity_here("ort", sha256);
  wanted.options = {{"optimisation", text("all")}, {"batch", Json()}};
  fs::path operators = options.operators;
  std::string operators_sha256 = operators.empty() ? "none" : sha256_file(operators);
  if (operators.empty() && fs::is_regular_file(optimised)) {
    try {
      for (auto const& [name, digest] : read_identity(optimised).first.versions)
        if (name == "operators") operators = known_operators(digest);
      if (!operators.empty()) operators_sha256 = sha256_file(operators);
    } catch (InputError const&) {  // `stale_reasons` tells what is wrong with the sidecar
      operators.clear();
    }
  }
  wanted.versions = {{"onnxruntime", version()}, {"operators", operators_sha256}};
  std::vector<std::string> const reasons = stale_reasons(optimised, wanted, options.trusted);
  if (reasons.empty()) return {optimised, {threads, false, operators}};
  std::string why;
  for (std::string const& reason : reasons) why += (why.empty() ? "" : "; ") + reason;
  if (options.log) options.log("optimising " + source.filename().string() + ": " + why);
  return {source, {threads, true, {}}};
}

// Weights beside a large graph are those whose digest it states.
void check_data(Session const& session, fs::path const& file) {
  fs::path const data = data_beside(file);
  std::optional<std::string> const stated = session.metadata("ptq_export.data_sha256");
  if (!stated && !fs::exists(data)) return;
  if (!stated || fs::is_symlink(data) || sha256_file(data) != *stated)
    throw InputError(
        data.string() + " is damaged, or another model's: its sha256 is not the one in " + file.filename().string(),
        "copy both files again, or export it again");
}

class OrtDenoiser final : public Denoiser {
 public:
  OrtDenoiser(std::unique_ptr<Session> session, Described described, std::unique_ptr<PromptGraph> prompt)
      : Denoiser(std::move(described.signature)), session_(std::move(session)), prompt_(std::move(prompt)) {
    std::vector<std::string> const none;
    auto const& replaced = described.prompt ? described.prompt->instead_of : none;
    for (std::size_t index = 0; index < signature().inputs.size(); ++index) {
      std::string const& name = signature().inputs[index].name;
      if (std::find(replaced.begin(), replaced.end(), name) != replaced.end()) continue;
      direct_.push_back(index);
      names_.push_back(name.c_str());
    }
    if (prompt_ != nullptr)
      for (std::string const& name : prompt_->names()) names_.push_back(name.c_str());
  }

 protected:
  void compute(std::vector<TensorView> const& feeds, Tensor& prediction) override {
    given_.clear();
    for (std::size_t const index : direct_) given_.push_back(feeds[index]);
    if (prompt_ != nullptr)
      for (Tensor const& value : prompt_->values(feeds)) given_.emplace_back(value);
    session_->run(names_, given_, session_->outputs().front().name.c_str(), prediction);
  }

 private:
  std::unique_ptr<Session> session_;
  std::unique_ptr<PromptGraph> prompt_;
  std::vector<std::size_t> direct_;  // of the signature's inputs, those that the step graph takes
  std::vector<char const*> names_;
  std::vector<TensorView> given_;
};

}  // namespace

std::unique_ptr<Denoiser> open(fs::path const& source, fs::path const& cache, std::string const& sha256,
                               EngineOptions const& options) {
  Served const which = served(source, cache, sha256, options);
  auto session = std::make_unique<Session>(which.file, which.settings);
  check_data(*session, which.file);
  Described described = describe(*session, source.filename().string());
  std::unique_ptr<PromptGraph> prompt;
  if (described.prompt)
    prompt = std::make_unique<PromptGraph>(source, *described.prompt, described.signature, which.settings.threads);
  return std::make_unique<OrtDenoiser>(std::move(session), std::move(described), std::move(prompt));
}

}  // namespace ptq_export::ort
