// How an operator fails: by an exception inside, by a status at ONNX Runtime's C interface.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "ort_abi.h"

namespace channels_last {

// What ONNX Runtime is told went wrong.
struct Failure {
  ort::Status* status;
};

inline void check(ort::Status* status) {
  if (status != nullptr) throw Failure{status};
}

[[noreturn]] inline void fail(const ort::Api* api, const std::string& message) {
  throw Failure{ort::create_status(api, ort::kInvalidArgument, message.c_str())};
}

// What became of `action`: no exception may pass through a C interface.
template <class Action>
ort::Status* status_of(const ort::Api* api, const Action& action) noexcept {
  try {
    action();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return ort::create_status(api, ort::kFail, "out of memory");
  } catch (const std::exception& error) {
    return ort::create_status(api, ort::kFail, error.what());
  } catch (...) {
    return ort::create_status(api, ort::kFail, "an operator failed");
  }
}

}  // namespace channels_last
