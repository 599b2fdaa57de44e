// The steps of an exact integer Winograd convolution F(4x4, 3x3), each for several instruction sets.
//
// A tile of 4 x 4 outputs needs a patch of 6 x 6 inputs. In place of 9 products per output there are 36 per tile:
//   Y = A' [ (G g G') * (B' d B) ] A,   * element by element, summed over the input channels.
// G has the rows of Lavin and Gray's (https://arxiv.org/abs/1509.09308), each scaled to integers:
//   {6,0,0} {4,4,4} {4,-4,4} {1,2,4} {1,-2,4} {0,0,12}
// so that B' stays theirs, A' but for two signs and a 2, and Y is 576 y. For codes d and weights g of 8 bits
// |B'dB| <= 17340 and |GgG'| <= 18432: both fit 16 bits, and two products of them 32. Sums may wrap: what is computed
// is 576 y mod 2^32, and 576 = 9 * 64. Times the inverse of 9 it is 64 y mod 2^32, and so y, if y is known to lie among
// 2^26 numbers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace channels_last {

inline constexpr std::size_t kTile = 4;     // Outputs along one side of a tile.
inline constexpr std::size_t kPatch = 6;    // Inputs along one side of its patch.
inline constexpr std::size_t kPoints = 36;  // Of a patch, and of its transform.
inline constexpr std::size_t kPixels = 16;  // Of a tile.
inline constexpr std::size_t kBlock = 16;   // Output channels that are computed together.
inline constexpr std::size_t kTaps = 9;     // Of a 3 x 3 kernel.
inline constexpr std::size_t kAlign = 32;   // Input channels per vector, of the longest vectors.
inline constexpr std::size_t kTiles = 64;   // That a thread computes at once, for a block of output channels
inline constexpr std::size_t kPairs = 64;   // and at most so many pairs of input channels.
inline constexpr std::int64_t kExact = std::int64_t{1} << 26;  // So many results can be told apart.

// A block of output channels: code = clamp(round((sum + bias) * scale) + zero_point).
struct Requantisation {
  const float* scale;
  const std::int32_t* bias;
  std::int32_t zero_point;
};

// What is between two of the points in transforms of weights and of sums; not a power of two, for the caches.
inline constexpr std::size_t kWeightStride = kPairs * kBlock * 2 + 32, kSumStride = kTiles * kBlock + 16;

struct WinogradKernels {
  // Patch of codes to its transform: v[point * stride + c], for c up to the next multiple of kAlign.
  void (*transform_input)(const std::uint8_t* const* patch, std::size_t channels, std::int16_t* v, std::size_t stride);

  // Weights [pairs of inputs][kTaps][kBlock][2] to their transform: u[point * kWeightStride + (pair, kBlock, 2)].
  void (*transform_weights)(const std::int8_t* weights, std::size_t pairs, std::int16_t* u);

  // Of every point m[tile][kBlock] (+)= sum over pairs of v[tile * row + (pair, 2)] * u[pair][kBlock][2], the points
  // `stride` apart in v, kSumStride in m and kWeightStride in u.
  void (*multiply)(const std::int16_t* v, std::size_t stride, std::size_t row, const std::int16_t* u,
                   std::size_t pairs, std::size_t tiles, std::int32_t* m, bool accumulate);

  // A tile of m[point * kSumStride + kBlock] to its sums [kPixels][kBlock] (+)= y + centre, |y + centre| < kExact / 2.
  void (*transform_output)(const std::int32_t* m, const std::int32_t* centre, std::int32_t* sums, bool accumulate);

  // A tile of sums to its codes.
  void (*requantise)(const std::int32_t* sums, const Requantisation& to, std::uint8_t* codes);
};

// For the instruction set that was chosen.
const WinogradKernels& winograd_kernels();

}  // namespace channels_last
