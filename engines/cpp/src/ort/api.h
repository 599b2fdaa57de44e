// ONNX Runtime's table of functions, and owners of what it hands out.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

namespace ptq_export::ort {

// EnvironmentMissing: the library is older than the headers that this was compiled with.
OrtApi const& api();

// The message of a status, which is released; empty where it is none.
std::string message_of(OrtStatus* status);

// InputError with the message of a status, if it is one, behind `doing`.
void check(OrtStatus* status, std::string const& doing);

struct Release {
  void operator()(OrtValue* value) const noexcept { api().ReleaseValue(value); }
  void operator()(OrtMemoryInfo* value) const noexcept { api().ReleaseMemoryInfo(value); }
  void operator()(OrtSessionOptions* value) const noexcept { api().ReleaseSessionOptions(value); }
  void operator()(OrtTypeInfo* value) const noexcept { api().ReleaseTypeInfo(value); }
  void operator()(OrtTensorTypeAndShapeInfo* value) const noexcept { api().ReleaseTensorTypeAndShapeInfo(value); }
  void operator()(OrtModelMetadata* value) const noexcept { api().ReleaseModelMetadata(value); }
  void operator()(OrtEnv* value) const noexcept { api().ReleaseEnv(value); }
};
template <class Type>
using Owned = std::unique_ptr<Type, Release>;

// What a function of the table makes by its last argument.
template <class Type, class Function, class... Arguments>
Owned<Type> made(std::string const& doing, Function function, Arguments... arguments) {
  Type* value = nullptr;
  check(function(arguments..., &value), doing);
  return Owned<Type>(value);
}

}  // namespace ptq_export::ort
