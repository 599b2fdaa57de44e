#include "ptq_export/tensor.h"

#include <utility>

#include "ptq_export/error.h"

namespace ptq_export {

namespace {
constexpr std::size_t kMostNumbers = std::size_t{1} << 40;
}

std::size_t count(Shape const& shape) {
  std::size_t total = 1;
  bool empty = false;
  for (std::int64_t const size : shape) {
    auto const sized = static_cast<std::size_t>(size);
    empty = empty || size == 0;
    if (size < 0 || (size > 0 && total > kMostNumbers / sized))
      throw InputError(shown(shape) + " is no shape of a tensor");
    if (size > 0) total *= sized;
  }
  return empty ? 0 : total;
}

std::string shown(Shape const& shape) {
  std::string text = "[";
  for (std::int64_t const size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

Tensor::Tensor(Shape shape, std::vector<float> values) : shape_(std::move(shape)), values_(std::move(values)) {
  if (count(shape_) != values_.size())
    throw InputError(shown(shape_) + " does not hold " + std::to_string(values_.size()) + " numbers");
}

void Tensor::resize(Shape const& shape) {
  if (shape == shape_) return;
  values_.resize(count(shape));
  shape_ = shape;
}

}  // namespace ptq_export
