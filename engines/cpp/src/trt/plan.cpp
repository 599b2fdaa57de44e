#include "trt/plan.h"

#include <NvInferPlugin.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace ptq_export::trt {

namespace {

nvinfer1::Dims shape_of(Shape const& sizes) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<decltype(dims.nbDims)>(sizes.size());
  for (std::size_t axis = 0; axis < sizes.size(); ++axis)
    dims.d[axis] = static_cast<std::decay_t<decltype(dims.d[0])>>(sizes[axis]);
  return dims;
}

bool is_float(nvinfer1::DataType type) { return type == nvinfer1::DataType::kFLOAT; }

// kINT64, which the headers of TensorRT 8 have not got: it has 32-bit integers only.
bool is_int64(nvinfer1::DataType type) { return type == static_cast<nvinfer1::DataType>(8); }

}  // namespace

std::string version() {
  int const number = getInferLibVersion();  // 8502, and from TensorRT 10 on 100300
  int const unit = number >= 100000 ? 100 : 10;
  int const major = number >= 100000 ? number / 10000 : number / 1000;
  return std::to_string(major) + "." + std::to_string(number / 100 % unit) + "." + std::to_string(number % 100);
}

std::string gpu_label() {
  cudaDeviceProp gpu{};
  check(cudaGetDeviceProperties(&gpu, 0), "CUDA offers no GPU");
  return std::string(static_cast<char const*>(gpu.name)) + ", sm" + std::to_string(gpu.major) +
         std::to_string(gpu.minor);
}

void Logger::log(Severity severity, char const* text) noexcept {
  if (severity <= Severity::kERROR) heard_ = text;
}

Plan::Plan(std::string const& bytes, std::string name, std::vector<Input> const& inputs)
    : name_(std::move(name)), inputs_(inputs), blocks_(inputs.size() + 1), staged_(inputs.size()) {
  if (!initLibNvInferPlugins(&logger_, "")) throw EnvironmentMissing("TensorRT's plugins cannot be registered");
  runtime_.reset(nvinfer1::createInferRuntime(logger_));
  if (runtime_ != nullptr) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
  if (engine_ != nullptr) context_.reset(engine_->createExecutionContext());
  if (context_ == nullptr)
    throw EnvironmentMissing(name_ + " cannot be loaded: " + logger_.heard(), "remove it, and build it again");
  std::size_t found = 0;
  for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
    std::string const tensor = engine_->getIOTensorName(index);
    auto const same = [&](Input const& input) { return input.name == tensor; };
    bool const is_input = engine_->getTensorIOMode(tensor.c_str()) == nvinfer1::TensorIOMode::kINPUT;
    if (is_input && std::any_of(inputs_.begin(), inputs_.end(), same))
      ++found;
    else if (!is_input && output_.empty())
      output_ = tensor;
    else
      throw InputError(name_ + " has a tensor " + tensor + " that the run does not know", "build it again");
  }
  if (found != inputs_.size() || output_.empty() || !is_float(engine_->getTensorDataType(output_.c_str())))
    throw InputError(name_ + " is not a plan of this run's network", "build it again");
  char const* sample = inputs_.front().name.c_str();
  least_ = engine_->getProfileShape(sample, 0, nvinfer1::OptProfileSelector::kMIN).d[0];
  most_ = engine_->getProfileShape(sample, 0, nvinfer1::OptProfileSelector::kMAX).d[0];
  if (least_ < 1 || most_ < least_) throw InputError(name_ + " serves no batch", "build it again");
}

std::int64_t Plan::channels() const { return engine_->getTensorShape(output_.c_str()).d[1]; }

void Plan::stage(std::size_t index, TensorView const& feed, std::int64_t first, std::int64_t rows) {
  char const* name = inputs_[index].name.c_str();
  nvinfer1::DataType const type = engine_->getTensorDataType(name);
  bool const narrow = feed.dtype() == DType::int64 && !is_int64(type);
  if (feed.dtype() == DType::float32 ? !is_float(type) : narrow && type != nvinfer1::DataType::kINT32)
    throw InputError(name_ + " takes " + name + " of another type than the run says", "build it again");
  Shape shape = feed.shape();
  std::int64_t const given = shape.front();
  shape.front() = 1;
  std::size_t const numbers = count(shape);
  std::size_t const width = feed.dtype() == DType::float32 || narrow ? 4 : 8;
  std::vector<char>& staged = staged_[index];
  staged.resize(static_cast<std::size_t>(rows) * numbers * width);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::size_t const from = static_cast<std::size_t>(first + row < given ? first + row : 0) * numbers;
    char* to = staged.data() + static_cast<std::size_t>(row) * numbers * width;
    if (!narrow) std::memcpy(to, static_cast<char const*>(feed.data()) + from * width, numbers * width);
    for (std::size_t i = 0; narrow && i < numbers; ++i) {
      auto const value = static_cast<std::int32_t>(feed.integers()[from + i]);
      std::memcpy(to + i * width, &value, width);
    }
  }
  shape.front() = rows;
  if (!context_->setInputShape(name, shape_of(shape)) ||
      !context_->setTensorAddress(name, blocks_[index].require(staged.size())))
    throw InputError(name_ + " was not built for " + name + " " + shown(shape), "build it for this batch");
  check(cudaMemcpyAsync(blocks_[index].get(), staged.data(), staged.size(), cudaMemcpyHostToDevice, stream_.get()),
        "the feeds cannot be copied to the GPU");
}

void Plan::run(std::vector<TensorView> const& feeds, std::int64_t first, std::int64_t rows, Tensor& prediction) {
  for (std::size_t index = 0; index < feeds.size(); ++index) stage(index, feeds[index], first, rows);
  auto const batch = static_cast<std::size_t>(prediction.shape().front());
  std::size_t const numbers = prediction.size() / batch;
  std::size_t const kept = std::min(static_cast<std::size_t>(rows), batch - static_cast<std::size_t>(first));
  void* made = blocks_.back().require(static_cast<std::size_t>(rows) * numbers * sizeof(float));
  if (!context_->setTensorAddress(output_.c_str(), made) || !context_->enqueueV3(stream_.get()))
    throw EnvironmentMissing("TensorRT cannot execute " + name_ + ": " + logger_.heard());
  check(cudaMemcpyAsync(prediction.data() + static_cast<std::size_t>(first) * numbers, made,
                        kept * numbers * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
        "the prediction cannot be copied from the GPU");
  check(cudaStreamSynchronize(stream_.get()), "the GPU failed in a step");
}

}  // namespace ptq_export::trt
