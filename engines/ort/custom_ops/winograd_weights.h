// The weights of a Winograd convolution: their codes as the kernels read them, and what makes their sums exact.
//
// They are kept as codes and transformed whenever they are used: that costs less than to fetch their transform, which is
// eight times as large, from memory.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "call.h"
#include "winograd.h"

namespace channels_last {

// Pairs of input channels whose sums are told apart exactly, and the middle of these sums per output channel, negated.
struct Range {
  size_t first, last;
  std::vector<std::int32_t> centre;
};

struct WinogradWeights {
  size_t inputs = 0, outputs = 0, pairs = 0, blocks = 0;
  std::vector<std::int8_t> codes;    // [blocks][pairs][kTaps][kBlock][2], zeros where there is no channel.
  std::vector<std::int64_t> totals;  // The sum of an output channel's weights; 0 where there is none.
  std::vector<Range> ranges;

  static constexpr size_t kPairSize = kTaps * kBlock * 2;

  // Of a block of output channels, from a pair of input channels on.
  const std::int8_t* at(size_t block, size_t pair) const { return codes.data() + (block * pairs + pair) * kPairSize; }
};

// Weights `given` [outputs, inputs, 3, 3].
class WinogradPacking {
 public:
  static WinogradWeights packed(const Node& node, const Tensor<std::int8_t>& given) {
    const auto& shape = given.shape;
    if (shape.size() != 4 || shape[2] != 3 || shape[3] != 3 || given.size == 0) node.fail("the kernels are not 3 x 3");
    if (shape[0] > kMostChannels || shape[1] > kMostChannels) node.fail("there are too many channels");
    WinogradWeights made;
    made.outputs = static_cast<size_t>(shape[0]), made.inputs = static_cast<size_t>(shape[1]);
    made.pairs = (made.inputs + 1) / 2, made.blocks = (made.outputs + kBlock - 1) / kBlock;
    made.codes.resize(made.blocks * made.pairs * WinogradWeights::kPairSize);
    made.totals.resize(made.blocks * kBlock);
    const std::int8_t* code = given.data;
    for (size_t output = 0; output < made.outputs; ++output) {
      for (size_t input = 0; input < made.inputs; ++input) {
        std::int8_t* const taps = made.codes.data() + place(made, output, input);
        for (size_t tap = 0; tap < kTaps; ++tap, ++code) {
          taps[tap * kBlock * 2] = *code;
          made.totals[output] += *code;
        }
      }
    }
    add_ranges(made);
    return made;
  }

 private:
  static constexpr int64_t kMostChannels = 1 << 20;

  static size_t place(const WinogradWeights& weights, size_t output, size_t input) {
    const size_t pair = output / kBlock * weights.pairs + input / 2;
    return pair * WinogradWeights::kPairSize + output % kBlock * 2 + input % 2;
  }

  // A sum of 255 * w, over the weights w above 0 less those below, takes this many values: it must be under kExact. Pairs
  // are taken into a range while that holds for every output channel.
  static void add_ranges(WinogradWeights& weights) {
    const size_t channels = weights.totals.size();
    std::vector<int64_t> above(channels), below(channels), more_above(channels), more_below(channels);
    size_t first = 0;
    for (size_t pair = 0; pair < weights.pairs; ++pair) {
      std::fill(more_above.begin(), more_above.end(), 0), std::fill(more_below.begin(), more_below.end(), 0);
      for (size_t channel = 0; channel < channels; ++channel) add_pair(weights, channel, pair, more_above, more_below);
      bool fits = true;
      for (size_t i = 0; i < channels; ++i) {
        fits = fits && 255 * (above[i] + below[i] + more_above[i] + more_below[i]) < kExact;
      }
      if (!fits) {
        weights.ranges.push_back(range(first, pair, above, below));
        std::fill(above.begin(), above.end(), 0), std::fill(below.begin(), below.end(), 0);
        first = pair;
      }
      for (size_t i = 0; i < channels; ++i) above[i] += more_above[i], below[i] += more_below[i];
    }
    weights.ranges.push_back(range(first, weights.pairs, above, below));
  }

  static void add_pair(const WinogradWeights& weights, size_t output, size_t pair, std::vector<int64_t>& above,
                       std::vector<int64_t>& below) {
    for (size_t input = 0; input < 2; ++input) {
      const std::int8_t* taps = weights.codes.data() + place(weights, output, 2 * pair + input);
      for (size_t tap = 0; tap < kTaps; ++tap) {
        const std::int8_t code = taps[tap * kBlock * 2];
        (code > 0 ? above : below)[output] += std::abs(code);
      }
    }
  }

  static Range range(size_t first, size_t last, const std::vector<int64_t>& above, const std::vector<int64_t>& below) {
    Range made{first, last, std::vector<std::int32_t>(above.size())};
    for (size_t i = 0; i < above.size(); ++i) {
      made.centre[i] = static_cast<std::int32_t>((below[i] - above[i]) * 255 / 2);
    }
    return made;
  }
};

// The same weights as those that another session of this process packed, if it still has them.
inline std::shared_ptr<const WinogradWeights> shared(WinogradWeights&& made) {
  static std::mutex mutex;
  static std::unordered_multimap<size_t, std::weak_ptr<const WinogradWeights>> all;
  const auto& codes = made.codes;
  const size_t hash = std::hash<std::string_view>()({reinterpret_cast<const char*>(codes.data()), codes.size()});
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [first, last] = all.equal_range(hash);
  for (auto found = first; found != last;) {
    const auto weights = found->second.lock();
    if (weights == nullptr) {
      found = all.erase(found);
      continue;
    }
    const bool same = weights->inputs == made.inputs && weights->outputs == made.outputs && weights->codes == codes;
    if (same) return weights;
    ++found;
  }
  auto weights = std::make_shared<const WinogradWeights>(std::move(made));
  all.emplace(hash, weights);
  return weights;
}

}  // namespace channels_last
