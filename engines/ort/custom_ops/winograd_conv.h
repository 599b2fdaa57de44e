// A 3 x 3 convolution of codes, stride 1, by Winograd's method; see `winograd.h`.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "call.h"
#include "winograd.h"
#include "winograd_weights.h"

namespace channels_last {

// The transformed inputs of some tiles, in slices of channels that are read one after the other.
class InputTransforms {
 public:
  static constexpr size_t kChannels = 2 * kPairs;  // Of a slice.

  InputTransforms(size_t tiles, size_t channels)
      : slices((channels + kChannels - 1) / kChannels),
        row(slices == 1 ? (channels + kAlign - 1) / kAlign * kAlign : kChannels),
        stride(tiles * row + kAlign),
        numbers_(make(slices * kPoints * stride)) {}

  std::int16_t* at(size_t slice, size_t tile) const { return numbers_.get() + slice * kPoints * stride + tile * row; }

  const size_t slices, row, stride;

 private:
  struct Free {
    void operator()(std::int16_t* numbers) const { operator delete[](numbers, kCacheLine); }
  };
  static constexpr std::align_val_t kCacheLine{64};

  static std::int16_t* make(size_t count) {
    return static_cast<std::int16_t*>(operator new[](count * sizeof(std::int16_t), kCacheLine));
  }

  std::unique_ptr<std::int16_t[], Free> numbers_;
};

// What one thread works with, while it computes some tiles of a block of output channels: for the caches' first levels.
struct WinogradScratch {
  alignas(64) std::int16_t weights[kPoints * kWeightStride];
  alignas(64) std::int32_t products[kPoints * kSumStride];
  alignas(64) std::int32_t sums[kTiles][kPixels * kBlock];

  // This thread's; null where there is no memory.
  static WinogradScratch* own() {
    thread_local const std::unique_ptr<WinogradScratch> scratch(new (std::nothrow) WinogradScratch);
    return scratch.get();
  }
};

// The inputs and outputs of one call, cut into tiles.
struct Tiling {
  size_t images, height, width, channels, outputs;               // Of the input; channels of the output.
  size_t top, left, output_height, output_width, rows, columns;  // Padding; pixels of the output, and its tiles.

  size_t tiles() const { return images * rows * columns; }

  struct Place {
    size_t image, row, column;  // Of a tile's first pixel in the output.
  };
  Place place(size_t tile) const {
    const size_t column = tile % columns, row = tile / columns % rows;
    return {tile / columns / rows, row * kTile, column * kTile};
  }
};

struct WinogradConv {
  static constexpr const char* kName = "WinogradConv";
  static constexpr const char* kInputs = "ufucfcfuI";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit WinogradConv(const Node& node)
      : pads_(node.integers("pads", 4, 0, 1)),
        input_zero_point_(node.scalar<uint8_t>(2)),
        output_zero_point_(node.scalar<uint8_t>(7)),
        weights_(shared(packed(node, node.constant<std::int8_t>(3)))),
        scale_(scales(node, *weights_)),
        bias_(biases(node, *weights_, input_zero_point_)),
        padding_(weights_->inputs, input_zero_point_) {
    const auto zero_points = node.constant<std::int8_t>(5);
    const auto is_zero = [](std::int8_t code) { return code == 0; };
    if (!std::all_of(zero_points.data, zero_points.data + zero_points.size, is_zero)) {
      node.fail("the weights have a zero point");
    }
  }

  void compute(const Call& call) const {
    const auto x = call.input<uint8_t>(0);
    const Tiling tiling = tiles_of(call, x.shape);
    const auto shape = sizes({tiling.images, tiling.output_height, tiling.output_width, tiling.outputs});
    uint8_t* y = call.output<uint8_t>(shape);
    const size_t parts = kMostTransformed / (kTiles * kPoints * 2 * tiling.channels);
    const size_t most = std::max<size_t>(1, parts) * kTiles;
    for (size_t first = 0; first < tiling.tiles(); first += most) {
      compute_tiles(call, tiling, x.data, first, std::min(most, tiling.tiles() - first), y);
    }
  }

 private:
  static constexpr size_t kMostTransformed = size_t{1} << 20;  // Bytes, or kTiles tiles: what a second cache holds.
  static constexpr size_t kCodesPerThread = 2048;  // Of each point, to transform: for fewer none is woken.

  static std::vector<int64_t> sizes(std::initializer_list<size_t> numbers) { return {numbers.begin(), numbers.end()}; }

  static std::vector<float> scales(const Node& node, const WinogradWeights& weights) {
    const float input = node.scalar<float>(1), output = node.scalar<float>(6);
    const auto given = node.constant<float>(4);
    if (given.size != 1 && given.size != weights.outputs) node.fail("the scales do not fit the weights");
    std::vector<float> made(weights.totals.size());
    for (size_t i = 0; i < weights.outputs; ++i) {
      made[i] = input * given.data[given.size == 1 ? 0 : i] / output;
      if (!std::isfinite(made[i])) node.fail("a scale is not finite");
    }
    return made;
  }

  // What is added to the sums of w * code, less the centres of their ranges.
  static std::vector<std::int32_t> biases(const Node& node, const WinogradWeights& weights, int64_t zero_point) {
    constexpr size_t kIndex = 8;
    const Tensor<std::int32_t> given =
        node.has_input(kIndex) ? node.constant<std::int32_t>(kIndex) : Tensor<std::int32_t>{nullptr, {}, 0};
    if (given.size != 0 && given.size != weights.outputs) node.fail("the bias does not fit the weights");
    std::vector<std::int32_t> made(weights.totals.size());
    for (size_t i = 0; i < weights.outputs; ++i) {
      int64_t bias = (given.size == 0 ? 0 : given.data[i]) - zero_point * weights.totals[i];
      for (const Range& range : weights.ranges) bias -= range.centre[i];
      made[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(bias));
    }
    return made;
  }

  Tiling tiles_of(const Call& call, const std::vector<int64_t>& shape) const {
    if (shape.size() != 4) call.fail("a convolution's input has four dimensions");
    if (shape[3] != static_cast<int64_t>(weights_->inputs)) call.fail("the input's channels are not the weights'");
    const int64_t height = shape[1] + pads_[0] + pads_[2] - 2, width = shape[2] + pads_[1] + pads_[3] - 2;
    if (height < 1 || width < 1) call.fail("the input is smaller than a kernel");
    call.product({shape[0], height, width, static_cast<int64_t>(weights_->outputs)});
    const auto size = [](int64_t number) { return static_cast<size_t>(number); };
    const auto cut = [](int64_t pixels) { return (static_cast<size_t>(pixels) + kTile - 1) / kTile; };
    return {size(shape[0]), size(shape[1]), size(shape[2]), weights_->inputs, weights_->outputs, size(pads_[0]),
            size(pads_[1]), size(height),   size(width),    cut(height),      cut(width)};
  }

  // Tiles `first` to `first + count`: first all their inputs are transformed, then each block of channels is computed.
  void compute_tiles(const Call& call, const Tiling& tiling, const uint8_t* x, size_t first, size_t count,
                     uint8_t* y) const {
    const InputTransforms transforms(count, tiling.channels);
    const auto transform = [&](size_t tile) { transform_patch(tiling, x, first + tile, tile, transforms); };
    call.parallel(count, transform, std::max<size_t>(1, kCodesPerThread / tiling.channels));
    const size_t parts = (count + kTiles - 1) / kTiles, blocks = weights_->blocks;
    std::atomic<bool> out_of_memory{false};
    call.parallel(blocks * parts, [&](size_t task) {
      const size_t block = task % blocks, begin = task / blocks * kTiles;
      const size_t end = std::min(count, begin + kTiles);
      WinogradScratch* scratch = WinogradScratch::own();
      if (scratch == nullptr) return out_of_memory.store(true);
      add_up(transforms, block, begin, end - begin, *scratch);
      for (size_t tile = begin; tile < end; ++tile) write(tiling, first + tile, block, scratch->sums[tile - begin], y);
    });
    if (out_of_memory) call.fail("out of memory");
  }

  // The patch of a tile, what lies outside of the image being the code of zero.
  void transform_patch(const Tiling& tiling, const uint8_t* x, size_t tile, size_t to,
                       const InputTransforms& transforms) const {
    const auto place = tiling.place(tile);
    const uint8_t* patch[kPoints];
    for (size_t point = 0; point < kPoints; ++point) {
      // Sizes that are not negative: above and left of the image they wrap, and are outside too.
      const size_t row = place.row + point / kPatch - tiling.top, column = place.column + point % kPatch - tiling.left;
      const bool inside = row < tiling.height && column < tiling.width;
      const size_t pixel = (place.image * tiling.height + row) * tiling.width + column;
      patch[point] = inside ? x + pixel * tiling.channels : padding_.data();
    }
    for (size_t slice = 0; slice < transforms.slices; ++slice) {
      const size_t rest = tiling.channels - slice * InputTransforms::kChannels;
      const size_t channels = std::min(rest, InputTransforms::kChannels);
      winograd_kernels().transform_input(patch, channels, transforms.at(slice, to), transforms.stride);
      for (const uint8_t*& pixel : patch) pixel += channels;
    }
  }

  // The sums of a block's channels for `count` tiles, into scratch.sums.
  void add_up(const InputTransforms& transforms, size_t block, size_t tile, size_t count,
              WinogradScratch& scratch) const {
    const auto& kernels = winograd_kernels();
    for (const Range& range : weights_->ranges) {
      for (size_t pair = range.first, pairs = 0; pair < range.last; pair += pairs) {
        const size_t slice = pair / kPairs, in_slice = pair % kPairs;
        pairs = std::min(kPairs - in_slice, range.last - pair);
        kernels.transform_weights(weights_->at(block, pair), pairs, scratch.weights);
        kernels.multiply(transforms.at(slice, tile) + 2 * in_slice, transforms.stride, transforms.row, scratch.weights,
                         pairs, count, scratch.products, pair != range.first);
      }
      const bool accumulate = &range != &weights_->ranges.front();
      for (size_t i = 0; i < count; ++i) {
        kernels.transform_output(scratch.products + i * kBlock, range.centre.data() + block * kBlock, scratch.sums[i],
                                 accumulate);
      }
    }
  }

  // The codes of a tile's pixels that lie in the image.
  void write(const Tiling& tiling, size_t tile, size_t block, const std::int32_t* sums, uint8_t* y) const {
    alignas(64) uint8_t codes[kPixels * kBlock];
    const size_t channel = block * kBlock, channels = std::min(kBlock, tiling.outputs - channel);
    winograd_kernels().requantise(sums, {scale_.data() + channel, bias_.data() + channel, output_zero_point_}, codes);
    const auto place = tiling.place(tile);
    const size_t rows = std::min(kTile, tiling.output_height - place.row);
    const size_t columns = std::min(kTile, tiling.output_width - place.column);
    for (size_t row = 0; row < rows; ++row) {
      size_t pixel = (place.image * tiling.output_height + place.row + row) * tiling.output_width + place.column;
      const uint8_t* code = codes + row * kTile * kBlock;
      for (size_t column = 0; column < columns; ++column, ++pixel, code += kBlock) {
        uint8_t* const to = y + pixel * tiling.outputs + channel;
        if (channels == kBlock) {
          std::memcpy(to, code, kBlock);  // A size that the compiler knows.
        } else {
          std::memcpy(to, code, channels);
        }
      }
    }
  }

  std::vector<int64_t> pads_;
  uint8_t input_zero_point_, output_zero_point_;
  std::shared_ptr<const WinogradWeights> weights_;
  std::vector<float> scale_;
  std::vector<std::int32_t> bias_;
  std::vector<uint8_t> padding_;  // A pixel of zeros.
};

}  // namespace channels_last
