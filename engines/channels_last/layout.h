// The rows of a channels-last tensor, cut into tasks.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "call.h"
#include "kernels.h"

namespace channels_last {

// Values per task: below, starting a thread costs more than it saves.
inline constexpr size_t kTaskSize = 16384;

// The sizes of a channels-last tensor, and its rows in equal blocks that stay within one image.
struct Layout {
  explicit Layout(const std::vector<int64_t>& shape)
      : images(static_cast<size_t>(shape.front())), channels(static_cast<size_t>(shape.back())) {
    rows = std::accumulate(shape.begin() + 1, shape.end() - 1, size_t{1}, [](size_t product, int64_t size) {
      return product * static_cast<size_t>(size);
    });
    const size_t wanted = std::max<size_t>(1, kTaskSize / std::max<size_t>(1, channels));
    block_rows = std::min({rows, wanted, kMaxRows});
    blocks = block_rows == 0 ? 0 : (rows + block_rows - 1) / block_rows;
  }

  size_t tasks() const { return images * blocks; }
  size_t image(size_t task) const { return task / blocks; }
  size_t first_row(size_t task) const { return image(task) * rows + task % blocks * block_rows; }
  size_t task_rows(size_t task) const { return std::min(block_rows, rows - task % blocks * block_rows); }
  size_t first(size_t task) const { return first_row(task) * channels; }

  size_t images, rows = 0, channels, block_rows = 0, blocks = 0;
};

}  // namespace channels_last
