// Arrays of float32 or int64, contiguous, in C order: one that owns its numbers, and a view of anyone's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ptq_export {

enum class DType { float32, int64 };
using Shape = std::vector<std::int64_t>;

// How many numbers a shape has; InputError where a size is negative or the product is past 2^40.
std::size_t count(Shape const& shape);
// As numpy shows it: [2, 3, 32, 32].
std::string shown(Shape const& shape);

// float32 `[...]` with its own memory.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Shape shape, float value = 0.0F) : shape_(std::move(shape)), values_(count(shape_), value) {}
  Tensor(Shape shape, std::vector<float> values);

  [[nodiscard]] Shape const& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t size() const noexcept { return values_.size(); }
  [[nodiscard]] float* data() noexcept { return values_.data(); }
  [[nodiscard]] float const* data() const noexcept { return values_.data(); }
  float& operator[](std::size_t index) { return values_[index]; }
  float operator[](std::size_t index) const { return values_[index]; }

  // Another shape, and numbers that are no longer those of before; memory is kept where it suffices.
  void resize(Shape const& shape);

 private:
  Shape shape_;
  std::vector<float> values_;
};

// Numbers that lie elsewhere and must stay there while the view is used.
class TensorView {
 public:
  TensorView() = default;
  TensorView(Tensor const& tensor) : TensorView(tensor.data(), tensor.shape()) {}  // NOLINT: a tensor is a feed
  TensorView(float const* data, Shape shape) : shape_(std::move(shape)), data_(data), dtype_(DType::float32) {}
  TensorView(std::int64_t const* data, Shape shape) : shape_(std::move(shape)), data_(data), dtype_(DType::int64) {}
  // One integer for the whole batch, or one per sample.
  TensorView(std::vector<std::int64_t> const& values)  // NOLINT: as above
      : TensorView(values.data(), {static_cast<std::int64_t>(values.size())}) {}

  [[nodiscard]] Shape const& shape() const noexcept { return shape_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] void const* data() const noexcept { return data_; }
  [[nodiscard]] float const* floats() const noexcept { return static_cast<float const*>(data_); }
  [[nodiscard]] std::int64_t const* integers() const noexcept { return static_cast<std::int64_t const*>(data_); }

 private:
  Shape shape_;
  void const* data_ = nullptr;
  DType dtype_ = DType::float32;
};

}  // namespace ptq_export
