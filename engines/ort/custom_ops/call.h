// One call of an operator: its tensors, its attributes and its threads.
//
// A graph may come from anybody. What it holds is checked here, where it is read: types, sizes, ranges.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "failure.h"
#include "ort_abi.h"

namespace channels_last {

using std::int64_t;
using std::size_t;
using std::uint8_t;

// An input: `size` numbers, the product of the sizes in `shape`, of which none is negative.
template <class Number>
struct Tensor {
  const Number* data;
  std::vector<int64_t> shape;
  size_t size;
};

// The product of sizes, all of them partial products too: what fits here cannot overflow later.
inline size_t product(const ort::Api* api, const std::vector<int64_t>& sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (size < 0) fail(api, "a size is negative");
    if (size != 0 && result > std::numeric_limits<int64_t>::max() / size) fail(api, "a tensor is too large");
    result *= size;
  }
  return static_cast<size_t>(result);
}

inline std::vector<int64_t> shape_of(const ort::Api* api, const ort::Value* value, ort::ElementType wanted) {
  ort::ShapeInfo* made = nullptr;
  check(ort::shape_info(api, value, &made));
  const auto release = [api](ort::ShapeInfo* info) { ort::release_shape_info(api, info); };
  const std::unique_ptr<ort::ShapeInfo, decltype(release)> info(made, release);
  ort::ElementType type{};
  check(ort::element_type(api, info.get(), &type));
  if (type != wanted) fail(api, "an input is of another type");
  size_t rank = 0;
  check(ort::dimension_count(api, info.get(), &rank));
  std::vector<int64_t> sizes(rank);
  check(ort::dimensions(api, info.get(), sizes.data(), rank));
  return sizes;
}

template <class Number>
Tensor<Number> tensor_of(const ort::Api* api, const ort::Value* value) {
  if (value == nullptr) fail(api, "an input is missing");
  std::vector<int64_t> shape = shape_of(api, value, ort::kTypeOf<Number>);
  const size_t size = product(api, shape);
  void* data = nullptr;
  check(ort::tensor_data(api, const_cast<ort::Value*>(value), &data));
  return {static_cast<const Number*>(data), std::move(shape), size};
}

// The tensors of one call.
class Call {
 public:
  Call(const ort::Api* api, ort::KernelContext* context) : api_(api), context_(context) {}

  bool has_input(size_t index) const { return value(index) != nullptr; }

  template <class Number>
  Tensor<Number> input(size_t index) const {
    return tensor_of<Number>(api_, value(index));
  }

  // An input of another's shape.
  template <class Number>
  const Number* input_of_shape(size_t index, const std::vector<int64_t>& shape) const {
    const auto tensor = input<Number>(index);
    if (tensor.shape != shape) fail("the summands have different shapes");
    return tensor.data;
  }

  // An input that holds a number per channel.
  const float* channel_input(size_t index, size_t channels) const {
    const auto vector = input<float>(index);
    if (vector.size != channels) fail("a vector does not have a number per channel");
    return vector.data;
  }

  template <class Number>
  Number* output(const std::vector<int64_t>& shape) const {
    product(shape);
    ort::Value* value = nullptr;
    check(ort::kernel_output(api_, context_, 0, shape.data(), shape.size(), &value));
    void* data = nullptr;
    check(ort::tensor_data(api_, value, &data));
    return static_cast<Number*>(data);
  }

  size_t product(const std::vector<int64_t>& sizes) const { return channels_last::product(api_, sizes); }

  // Run task(0) ... task(count - 1), none of which throws, on the session's threads, groups of them on the same one.
  template <class Task>
  void parallel(size_t count, const Task& task, size_t group_size = 1) const {
    const size_t groups = (count + group_size - 1) / group_size;
    const auto run_group = [&](size_t group) {
      const size_t end = std::min(count, (group + 1) * group_size);
      for (size_t i = group * group_size; i < end; ++i) task(i);
    };
    if (groups == 0) return;
    if (groups == 1) return run_group(0);
    using RunGroup = decltype(run_group);
    const auto run = [](void* function, size_t group) { (*static_cast<const RunGroup*>(function))(group); };
    check(ort::parallel_for(api_, context_, run, groups, 0, const_cast<void*>(static_cast<const void*>(&run_group))));
  }

  [[noreturn]] void fail(const char* message) const { channels_last::fail(api_, message); }

 private:
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

// The attributes and the constant inputs of a node.
class Node {
 public:
  Node(const ort::Api* api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  // An integer from `least` to `most`.
  int64_t integer(const char* name, int64_t least, int64_t most) const {
    int64_t value = 0;
    check(ort::attribute_int(api_, info_, name, &value));
    if (value < least || value > most) fail(std::string("the attribute ") + name + " is out of range");
    return value;
  }

  // A finite number that is not negative.
  float number(const char* name) const {
    float value = 0.0f;
    check(ort::attribute_float(api_, info_, name, &value));
    if (!std::isfinite(value) || value < 0.0f) fail(std::string("the attribute ") + name + " is out of range");
    return value;
  }

  // `count` integers from `least` to `most`.
  std::vector<int64_t> integers(const char* name, size_t count, int64_t least, int64_t most) const {
    size_t size = 0;
    check(ort::attribute_ints(api_, info_, name, nullptr, &size));
    std::vector<int64_t> values(std::min(size, count));
    if (size == count) check(ort::attribute_ints(api_, info_, name, values.data(), &size));
    const auto fits = [=](int64_t value) { return value >= least && value <= most; };
    if (size != count || !std::all_of(values.begin(), values.end(), fits)) {
      fail(std::string("the attribute ") + name + " is out of range");
    }
    return values;
  }

  bool has_input(size_t index) const { return value(index) != nullptr; }

  // An input that must be a constant: it lives as long as the session.
  template <class Number>
  Tensor<Number> constant(size_t index) const {
    if (!has_input(index)) fail("an input that must be a constant is missing or is none");
    return tensor_of<Number>(api_, value(index));
  }

  // A constant of one number.
  template <class Number>
  Number scalar(size_t index) const {
    const auto tensor = constant<Number>(index);
    if (tensor.size != 1) fail("an input that must be one number is not");
    return *tensor.data;
  }

  [[noreturn]] void fail(const std::string& message) const { channels_last::fail(api_, message); }

 private:
  const ort::Value* value(size_t index) const {
    int is_constant = 0;
    const ort::Value* value = nullptr;
    check(ort::constant_input(api_, info_, index, &is_constant, &value));
    return is_constant != 0 ? value : nullptr;
  }

  const ort::Api* api_;
  const ort::KernelInfo* info_;
};

}  // namespace channels_last
