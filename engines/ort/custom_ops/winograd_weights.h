// The weights of a Winograd convolution: their codes as the kernels read them, and what makes their sums exact.
//
// They are kept as codes and transformed whenever they are used: that costs less than to fetch their transform, which
// is eight times as large, from memory.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>
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

// The place of the first tap of a channel's kernel in `codes`; the next ones follow 2 * kBlock apart.
inline size_t place(const WinogradWeights& weights, size_t output, size_t input) {
  const size_t pair = output / kBlock * weights.pairs + input / 2;
  return pair * WinogradWeights::kPairSize + output % kBlock * 2 + input % 2;
}

// Per output channel: the sums of its weights above and below 0, of some input channels. 255 times their total is how
// many values a sum of products can take.
struct Spread {
  explicit Spread(size_t channels) : above(channels), below(channels) {}

  void add(const WinogradWeights& weights, size_t pair) {
    for (size_t channel = 0; channel < above.size(); ++channel) {
      for (size_t input = 2 * pair; input < 2 * pair + 2; ++input) {
        const std::int8_t* taps = weights.codes.data() + place(weights, channel, input);
        for (size_t tap = 0; tap < kTaps; ++tap) {
          const int code = taps[tap * kBlock * 2];
          (code > 0 ? above : below)[channel] += std::abs(code);
        }
      }
    }
  }

  bool is_exact() const {
    for (size_t i = 0; i < above.size(); ++i) {
      if (255 * (above[i] + below[i]) >= kExact) return false;
    }
    return true;
  }

  Range range(size_t first, size_t last) const {
    Range made{first, last, std::vector<std::int32_t>(above.size())};
    for (size_t i = 0; i < above.size(); ++i) {
      made.centre[i] = static_cast<std::int32_t>((below[i] - above[i]) * 255 / 2);
    }
    return made;
  }

  std::vector<int64_t> above, below;
};

// As few ranges as keep every output channel exact. One pair alone always is.
inline std::vector<Range> ranges_of(const WinogradWeights& weights) {
  std::vector<Range> ranges;
  Spread all(weights.totals.size());
  size_t first = 0;
  for (size_t pair = 0; pair < weights.pairs; ++pair) {
    Spread more = all;
    more.add(weights, pair);
    if (!more.is_exact()) {
      ranges.push_back(all.range(first, pair));
      more = Spread(weights.totals.size());
      more.add(weights, pair);
      first = pair;
    }
    all = std::move(more);
  }
  ranges.push_back(all.range(first, weights.pairs));
  return ranges;
}

// Weights `given` [outputs, inputs, 3, 3].
inline WinogradWeights packed(const Node& node, const Tensor<std::int8_t>& given) {
  constexpr int64_t kMostChannels = 1 << 20;
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
  made.ranges = ranges_of(made);
  return made;
}

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
