// numpy's arrays and PNG pictures.
#pragma once

#include <filesystem>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "ptq_export/tensor.h"

namespace ptq_export {

// What an .npy file holds: float32 or int64, in C order.
struct Array {
  Shape shape;
  std::variant<std::vector<float>, std::vector<std::int64_t>> values;

  [[nodiscard]] TensorView view() const;
};

// InputError: no regular file, no .npy of format 1 or 2, another type or order, or fewer numbers than its header says.
Array read_npy(std::filesystem::path const& file);
void write_npy(std::filesystem::path const& file, Tensor const& tensor);

// Samples `[N, C, H, W]` or `[N, C, L]` as one picture, as square as N allows, pixels enlarged: the grid of
// `ptq-export sample`. `range` is drawn from black to white; that of the samples where it is not given.
void write_grid(std::filesystem::path const& file, Tensor const& samples,
                std::optional<std::pair<double, double>> range);

}  // namespace ptq_export
