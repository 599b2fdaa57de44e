// A denoiser of a run folder: named feeds in, its prediction out, whatever engine computes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ptq_export/tensor.h"

namespace ptq_export {

// One input: sizes behind the batch, a name in place of a size that stays open; integers are 0..limit-1.
struct Input {
  using Size = std::variant<std::int64_t, std::string>;

  std::string name;
  DType dtype = DType::float32;
  std::vector<Size> shape;
  std::optional<std::int64_t> limit;

  // `label [N] int64`
  [[nodiscard]] std::string shown() const;
};

// What a denoiser takes and makes.
struct Signature {
  std::vector<Input> inputs;                        // the sample, the time-step, then the conditions
  std::int64_t channels = 0;                        // of the prediction: C, or 2 C where a learned variance follows
  std::optional<std::int64_t> batch;                // the only batch of a graph that was compiled for one
  std::optional<std::int64_t> num_train_timesteps;  // T: time-steps are 0..T-1, continuous ones 0..T

  // `(C, H, W)`, or `(C, L)`.
  [[nodiscard]] Shape sample_shape() const;
  [[nodiscard]] Shape output_shape(std::int64_t batch_size) const;
};

// Every input by its name; a time-step or label may be one number for the whole batch.
using Feeds = std::map<std::string, TensorView, std::less<>>;

// Not to be called from two threads at once: a denoiser per thread.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  Denoiser(Denoiser const&) = delete;
  Denoiser& operator=(Denoiser const&) = delete;

  [[nodiscard]] Signature const& signature() const noexcept { return signature_; }
  // The prediction `[N, C, ...]`; InputError where a feed is missing, unknown, of another type or shape, out of range,
  // or not finite.
  [[nodiscard]] Tensor run(Feeds const& feeds);
  // The same into memory that is kept: nothing is allocated when shapes stay.
  void run(Feeds const& feeds, Tensor& prediction);

 protected:
  explicit Denoiser(Signature signature);
  // `feeds` are checked, in the order of the signature's inputs; `prediction` has its shape.
  virtual void compute(std::vector<TensorView> const& feeds, Tensor& prediction) = 0;

 private:
  Signature signature_;
  std::vector<TensorView> checked_;
  std::vector<std::vector<std::int64_t>> integers_;
  std::vector<std::vector<float>> floats_;
};

struct EngineOptions {
  std::string which;     // a baseline of the run, e.g. `ort-fp32`; the run's own target where it is empty
  int threads = 0;       // of an engine on the CPU; 0 takes all physical cores
  bool trusted = false;  // use engine files in the folder that this account did not build on this machine
  // This package's compiled operators for ONNX Runtime; those that the engine file was built with where it is empty.
  std::filesystem::path operators;
  // Told why an engine file is not used; silent by default.
  std::function<void(std::string_view)> log;
};

// The engine of a finished run. Its ONNX file must have the manifest's digest.
//
// ONNX Runtime: the optimised graph that Python kept in `engine/` is used where its identity is the one of this machine
// and this account built it; else the ONNX file, with standard operators, optimised in memory. TensorRT: the plan that
// lies in the folder; it is not built here.
//
// InputError: no finished run, a false digest, no such engine. EnvironmentMissing: this build or machine cannot run it.
std::unique_ptr<Denoiser> open_run(std::filesystem::path const& folder, EngineOptions const& options = {});

}  // namespace ptq_export
