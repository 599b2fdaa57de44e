// A TensorRT plan on the first GPU that this process sees.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptq_export/denoiser.h"
#include "trt/cuda.h"

namespace ptq_export::trt {

// The version of the library at hand, e.g. `10.13.3`; and the GPU that a plan is bound to, e.g. `NVIDIA L4, sm89`.
std::string version();
std::string gpu_label();

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, char const* text) noexcept override;
  [[nodiscard]] std::string const& heard() const noexcept { return heard_; }

 private:
  std::string heard_;
};

class Plan {
 public:
  // EnvironmentMissing: TensorRT on this GPU refuses it. InputError: it is no denoiser of these inputs.
  Plan(std::string const& bytes, std::string name, std::vector<Input> const& inputs);

  [[nodiscard]] std::int64_t least_batch() const noexcept { return least_; }
  [[nodiscard]] std::int64_t most_batch() const noexcept { return most_; }
  // Channels of the prediction.
  [[nodiscard]] std::int64_t channels() const;
  // Computes rows `first`, `first + 1`, ... of the feeds, as many as `rows`, into the same rows of the prediction. Rows
  // past the last of the feeds are row 0 again, and are dropped.
  void run(std::vector<TensorView> const& feeds, std::int64_t first, std::int64_t rows, Tensor& prediction);

 private:
  void stage(std::size_t index, TensorView const& feed, std::int64_t first, std::int64_t rows);

  std::string name_, output_;
  std::vector<Input> inputs_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::int64_t least_ = 1, most_ = 1;
  Stream stream_;
  std::vector<Block> blocks_;  // one per input, then the output's
  std::vector<std::vector<char>> staged_;
};

}  // namespace ptq_export::trt
