#include "ort/session.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "ort/api.h"
#include "ptq_export/error.h"

namespace ptq_export::ort {

namespace {

OrtEnv const& environment() {
  // Fatal messages alone: errors are thrown as well, and a graph's names in them should not reach a terminal.
  static Owned<OrtEnv> const kept =
      made<OrtEnv>("ONNX Runtime does not start", api().CreateEnv, ORT_LOGGING_LEVEL_FATAL, "ptq_export");
  return *kept;
}

OrtMemoryInfo const& host_memory() {
  static Owned<OrtMemoryInfo> const kept = made<OrtMemoryInfo>("ONNX Runtime does not start", api().CreateCpuMemoryInfo,
                                                               OrtDeviceAllocator, OrtMemTypeDefault);
  return *kept;
}

Owned<OrtSessionOptions> options_of(SessionSettings const& settings, std::string const& doing) {
  auto options = made<OrtSessionOptions>(doing, api().CreateSessionOptions);
  check(api().SetIntraOpNumThreads(options.get(), settings.threads), doing);
  check(api().SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL), doing);
  check(api().SetSessionGraphOptimizationLevel(options.get(), settings.optimise ? ORT_ENABLE_ALL : ORT_DISABLE_ALL),
        doing);
  // Between two calls the sampler works on the same cores: threads that spin there make it many times slower.
  check(api().AddSessionConfigEntry(options.get(), "session.force_spinning_stop", "1"), doing);
  if (!settings.operators.empty())
    check(api().RegisterCustomOpsLibrary_V2(options.get(), settings.operators.c_str()), doing);
  return options;
}

std::optional<DType> dtype_of(ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return DType::float32;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) return DType::int64;
  return std::nullopt;
}

GraphValue described(std::string name, OrtTypeInfo const& info, std::string const& doing) {
  GraphValue value{std::move(name), std::nullopt, {}};
  OrtTensorTypeAndShapeInfo const* tensor = nullptr;
  check(api().CastTypeInfoToTensorInfo(&info, &tensor), doing);
  if (tensor == nullptr) return value;  // a sequence or a map: of no type that is known here
  ONNXTensorElementDataType type{};
  std::size_t axes = 0;
  check(api().GetTensorElementType(tensor, &type), doing);
  check(api().GetDimensionsCount(tensor, &axes), doing);
  Shape sizes(axes);
  std::vector<char const*> names(axes);
  check(api().GetDimensions(tensor, sizes.data(), axes), doing);
  check(api().GetSymbolicDimensions(tensor, names.data(), axes), doing);
  value.dtype = dtype_of(type);
  for (std::size_t axis = 0; axis < axes; ++axis)
    value.shape.push_back(sizes[axis] > 0 ? Input::Size(sizes[axis]) : Input::Size(std::string(names[axis])));
  return value;
}

template <class Count, class Name, class Type>
std::vector<GraphValue> described_all(OrtSession const* session, Count counts, Name names, Type types,
                                      std::string const& doing) {
  std::size_t total = 0;
  check(counts(session, &total), doing);
  OrtAllocator* allocator = nullptr;
  check(api().GetAllocatorWithDefaultOptions(&allocator), doing);
  std::vector<GraphValue> values;
  for (std::size_t index = 0; index < total; ++index) {
    char* text = nullptr;
    check(names(session, index, allocator, &text), doing);
    std::string name(text);
    check(api().AllocatorFree(allocator, text), doing);
    values.push_back(described(std::move(name), *made<OrtTypeInfo>(doing, types, session, index), doing));
  }
  return values;
}

// A value over memory that lies elsewhere. ONNX Runtime writes to outputs alone.
Owned<OrtValue> over(void const* data, Shape const& shape, DType dtype) {
  bool const is_float = dtype == DType::float32;
  return made<OrtValue>("ONNX Runtime does not take a feed", api().CreateTensorWithDataAsOrtValue, &host_memory(),
                        const_cast<void*>(data), count(shape) * (is_float ? sizeof(float) : sizeof(std::int64_t)),
                        shape.data(), shape.size(),
                        is_float ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
}

std::vector<Owned<OrtValue>> over(std::vector<TensorView> const& feeds) {
  std::vector<Owned<OrtValue>> values;
  values.reserve(feeds.size());
  for (TensorView const& feed : feeds) values.push_back(over(feed.data(), feed.shape(), feed.dtype()));
  return values;
}

std::vector<OrtValue const*> pointers(std::vector<Owned<OrtValue>> const& values) {
  std::vector<OrtValue const*> found;
  found.reserve(values.size());
  for (auto const& value : values) found.push_back(value.get());
  return found;
}

Tensor copied(OrtValue* value, std::string const& doing) {
  auto const info = made<OrtTensorTypeAndShapeInfo>(doing, api().GetTensorTypeAndShape, value);
  std::size_t axes = 0;
  void* data = nullptr;
  check(api().GetDimensionsCount(info.get(), &axes), doing);
  Shape shape(axes);
  check(api().GetDimensions(info.get(), shape.data(), axes), doing);
  check(api().GetTensorMutableData(value, &data), doing);
  Tensor tensor(shape);
  std::memcpy(tensor.data(), data, tensor.size() * sizeof(float));
  return tensor;
}

}  // namespace

void Session::Release::operator()(OrtSession* session) const noexcept { api().ReleaseSession(session); }

Session::Session(std::filesystem::path const& model, SessionSettings const& settings)
    : name_(model.filename().string()) {
  std::string const doing = "ONNX Runtime cannot load " + name_;
  auto const options = options_of(settings, doing);
  OrtSession* opened = nullptr;
  check(api().CreateSession(&environment(), model.c_str(), options.get(), &opened), doing);
  session_.reset(opened);
  inputs_ = described_all(opened, api().SessionGetInputCount, api().SessionGetInputName, api().SessionGetInputTypeInfo,
                          doing);
  outputs_ = described_all(opened, api().SessionGetOutputCount, api().SessionGetOutputName,
                           api().SessionGetOutputTypeInfo, doing);
}

std::optional<std::string> Session::metadata(std::string const& key) const {
  std::string const doing = "ONNX Runtime cannot read the metadata of " + name_;
  auto const all = made<OrtModelMetadata>(doing, api().SessionGetModelMetadata, session_.get());
  OrtAllocator* allocator = nullptr;
  char* text = nullptr;
  check(api().GetAllocatorWithDefaultOptions(&allocator), doing);
  check(api().ModelMetadataLookupCustomMetadataMap(all.get(), allocator, key.c_str(), &text), doing);
  if (text == nullptr) return std::nullopt;
  std::string found(text);
  check(api().AllocatorFree(allocator, text), doing);
  return found;
}

void Session::run(std::vector<char const*> const& names, std::vector<TensorView> const& feeds, char const* made_name,
                  Tensor& output) const {
  auto const values = over(feeds);
  auto const target = over(output.data(), output.shape(), DType::float32);
  OrtValue* out = target.get();
  check(api().Run(session_.get(), nullptr, names.data(), pointers(values).data(), values.size(), &made_name, 1, &out),
        name_ + " cannot be computed");
}

std::vector<Tensor> Session::run(std::vector<char const*> const& names, std::vector<TensorView> const& feeds,
                                 std::vector<char const*> const& made_names) const {
  auto const values = over(feeds);
  std::vector<OrtValue*> outs(made_names.size(), nullptr);
  std::string const failure = message_of(api().Run(session_.get(), nullptr, names.data(), pointers(values).data(),
                                                   values.size(), made_names.data(), outs.size(), outs.data()));
  std::vector<Owned<OrtValue>> kept;
  kept.reserve(outs.size());
  for (OrtValue* out : outs) kept.emplace_back(out);
  if (!failure.empty()) throw InputError(name_ + " cannot be computed: " + failure, "export it again");
  std::vector<Tensor> tensors;
  tensors.reserve(kept.size());
  for (auto const& value : kept) tensors.push_back(copied(value.get(), name_ + " cannot be read"));
  return tensors;
}

}  // namespace ptq_export::ort
