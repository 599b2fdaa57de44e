// The rows of a channels-last tensor, cut into tasks for the session's threads.
#pragma once

#include <algorithm>
#include <vector>

#include "call.h"
#include "kernels.h"
#include "loops.h"

namespace channels_last {

// Values per task: with fewer, waking a thread costs more than it saves. Tasks that only load, multiply and add go to a
// thread in groups of kLight.
inline constexpr size_t kTaskSize = 16384, kLight = 4;

// The sizes of a channels-last tensor, and its rows in equal blocks that stay within one image: none where it is empty.
struct Layout {
  // `shape` is that of a tensor that was read: its sizes are not negative, their products fit.
  Layout(const Call& call, const std::vector<int64_t>& shape) {
    if (shape.size() < 2) call.fail("a channels-last tensor has two dimensions at least");
    images = static_cast<size_t>(shape.front());
    channels = static_cast<size_t>(shape.back());
    rows = call.product({shape.begin() + 1, shape.end() - 1});
    const size_t wanted = std::max<size_t>(1, kTaskSize / std::max<size_t>(1, channels));
    block_rows = std::min({rows, wanted, kMaxRows});
    blocks = rows == 0 || channels == 0 ? 0 : (rows + block_rows - 1) / block_rows;
  }

  size_t tasks() const { return images * blocks; }
  size_t image(size_t task) const { return task / blocks; }
  size_t task_rows(size_t task) const { return std::min(block_rows, rows - task % blocks * block_rows); }
  // The first row of a task, of all images' rows.
  size_t first_row(size_t task) const { return image(task) * rows + task % blocks * block_rows; }

  size_t images = 0, rows = 0, channels = 0, block_rows = 0, blocks = 0;
};

// A tensor of `channels` channels, which are those from `first` on of a layout.
template <class Number>
struct Part {
  const Number* x;
  size_t channels, first;
};

// What a layout's values are read from: one tensor, or two whose channels follow each other in every row.
template <class Number>
using Parts = std::vector<Part<Number>>;

// y = of(x, c) for every value x, c being its channel; `of_image` gives the function for an image.
template <class Number, class OfImage>
void map_images(const Call& call, const Layout& layout, const Parts<Number>& parts, uint8_t* y,
                const OfImage& of_image, size_t group_size = kLight) {
  const auto map = [&](size_t task) {
    const auto of = of_image(layout.image(task));
    const size_t row = layout.first_row(task), rows = layout.task_rows(task);
    for (const Part<Number>& part : parts) {
      const Number* x = part.x + row * part.channels;
      uint8_t* codes = y + row * layout.channels;
      vectorised([&]() INLINED { map_rows(x, rows, part.channels, part.first, codes, layout.channels, of); });
    }
  };
  call.parallel(layout.tasks(), map, group_size);
}

// y[i] = of(i, c) for every value i, c being its channel.
template <class Number, class Of>
void fill(const Call& call, const Layout& layout, Number* y, const Of& of) {
  const auto fill_task = [&](size_t task) {
    const size_t first = layout.first_row(task) * layout.channels;
    vectorised([&]() INLINED { fill_rows(first, layout.task_rows(task), layout.channels, y, of); });
  };
  call.parallel(layout.tasks(), fill_task, kLight);
}

}  // namespace channels_last
