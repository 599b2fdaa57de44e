// One call of an operator: its tensors, its attributes, its threads, and how it fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ort_abi.h"

namespace channels_last {

using std::int64_t;
using std::size_t;
using std::uint8_t;

// What ONNX Runtime is told went wrong.
struct Failure {
  ort::Status* status;
};

inline void check(ort::Status* status) {
  if (status != nullptr) throw Failure{status};
}

// The tensors of one call.
class Call {
 public:
  Call(const ort::Api* api, ort::KernelContext* context) : api_(api), context_(context) {}

  bool has_input(size_t index) const { return value(index) != nullptr; }

  template <class Number>
  const Number* input(size_t index) const {
    void* data = nullptr;
    check(ort::tensor_data(api_, const_cast<ort::Value*>(value(index)), &data));
    return static_cast<const Number*>(data);
  }

  // An input that holds a number per channel.
  const float* channel_input(size_t index, size_t channels) const {
    if (size(index) != channels) fail("a vector does not have a number per channel");
    return input<float>(index);
  }

  std::vector<int64_t> shape(size_t index) const {
    ort::ShapeInfo* info = nullptr;
    check(ort::shape_info(api_, value(index), &info));
    size_t count = 0;
    ort::Status* status = ort::dimension_count(api_, info, &count);
    std::vector<int64_t> sizes(count);
    if (status == nullptr) status = ort::dimensions(api_, info, sizes.data(), count);
    ort::release_shape_info(api_, info);
    check(status);
    return sizes;
  }

  size_t size(size_t index) const {
    size_t product = 1;
    for (const int64_t dimension : shape(index)) product *= static_cast<size_t>(dimension);
    return product;
  }

  template <class Number>
  Number* output(const std::vector<int64_t>& shape) const {
    ort::Value* value = nullptr;
    check(ort::kernel_output(api_, context_, 0, shape.data(), shape.size(), &value));
    void* data = nullptr;
    check(ort::tensor_data(api_, value, &data));
    return static_cast<Number*>(data);
  }

  // Run task(0) ... task(count - 1) on the session's threads.
  template <class Task>
  void parallel(size_t count, const Task& task) const {
    if (count == 1) return task(0);
    const auto run = [](void* function, size_t index) { (*static_cast<const Task*>(function))(index); };
    check(ort::parallel_for(api_, context_, run, count, 0, const_cast<Task*>(&task)));
  }

  [[noreturn]] void fail(const char* message) const { throw Failure{ort::create_status(api_, kInvalid, message)}; }

 private:
  static constexpr int kInvalid = 2;

  const ort::Value* value(size_t index) const {
    size_t count = 0;
    check(ort::input_count(api_, context_, &count));
    const ort::Value* value = nullptr;
    if (index < count) check(ort::kernel_input(api_, context_, index, &value));
    return value;
  }

  const ort::Api* api_;
  ort::KernelContext* context_;
};

// The attributes of a node.
class Node {
 public:
  Node(const ort::Api* api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  int64_t integer(const char* name) const {
    int64_t value = 0;
    check(ort::attribute_int(api_, info_, name, &value));
    return value;
  }

  float number(const char* name) const {
    float value = 0.0f;
    check(ort::attribute_float(api_, info_, name, &value));
    return value;
  }

 private:
  const ort::Api* api_;
  const ort::KernelInfo* info_;
};

}  // namespace channels_last
