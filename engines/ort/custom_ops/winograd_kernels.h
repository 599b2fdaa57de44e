// The kernels of `winograd.h` for vectors of kBytes bytes, kRows tiles at once. Included once per instruction set, in a
// namespace of its own that defines Register, kBytes, kRows and the functions that winograd.cpp names, between
// TARGET_BEGIN and TARGET_END.

using Shorts = std::uint16_t __attribute__((vector_size(kBytes)));  // Unsigned: they may wrap.
using SignedInts = std::int32_t __attribute__((vector_size(kBytes)));
using Ints = std::uint32_t __attribute__((vector_size(kBytes)));
using Floats = float __attribute__((vector_size(kBytes)));

constexpr size_t kShorts = kBytes / 2, kInts = kBytes / 4, kVectors = kBlock / kInts;

template <class Vector, class Number>
INLINED inline Vector load(const Number* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class Vector, class Number>
INLINED inline void store(Number* to, const Vector& vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

// B' d: {4,0,-5,0,1,0} {0,-4,-4,1,1,0} {0,4,-4,-1,1,0} {0,-2,-1,2,1,0} {0,2,-1,-2,1,0} {0,4,0,-5,0,1}.
struct InputTransform {
  static constexpr size_t kFrom = kPatch, kTo = kPatch;
  INLINED inline static void apply(const Shorts* d, Shorts* v) {
    const Shorts even = d[4] - (d[2] << 2), odd = d[3] - (d[1] << 2);
    const Shorts inner_even = d[4] - d[2], inner_odd = (d[3] - d[1]) << 1;
    v[0] = ((d[0] - d[2]) << 2) + inner_even;
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = inner_even + inner_odd;
    v[4] = inner_even - inner_odd;
    v[5] = d[5] - d[3] - (inner_odd << 1);
  }
};

// G g: {6,0,0} {4,4,4} {4,-4,4} {1,2,4} {1,-2,4} {0,0,12}.
struct WeightTransform {
  static constexpr size_t kFrom = 3, kTo = kPatch;
  INLINED inline static void apply(const Shorts* g, Shorts* u) {
    const Shorts ends = (g[0] + g[2]) << 2, middle = g[1] << 2, last = g[2] << 2;
    const Shorts far = g[0] + last, twice = g[1] << 1;
    u[0] = g[0] * std::uint16_t{6};
    u[1] = ends + middle;
    u[2] = ends - middle;
    u[3] = far + twice;
    u[4] = far - twice;
    u[5] = last * std::uint16_t{3};
  }
};

// A' m: {1,-1,-1,1,1,0} {0,-1,1,2,-2,0} {0,-1,-1,4,4,0} {0,-1,1,8,-8,2}; twice the last, as G's last row is.
struct OutputTransform {
  static constexpr size_t kFrom = kPatch, kTo = kTile;
  INLINED inline static void apply(const Ints* m, Ints* y) {
    const Ints near_sum = m[1] + m[2], near_difference = m[1] - m[2];
    const Ints far_sum = m[3] + m[4], far_difference = m[3] - m[4];
    y[0] = m[0] - near_sum + far_sum;
    y[1] = (far_difference << 1) - near_difference;
    y[2] = (far_sum << 2) - near_sum;
    y[3] = (far_difference << 3) - near_difference + (m[5] << 1);
  }
};

// to(row, column, value) for the kTo x kTo transform of the kFrom x kFrom numbers from(row, column).
template <class Transform, class Vector, class From, class To>
INLINED inline void transform(const From& from, const To& to) {
  Vector half[Transform::kTo][Transform::kFrom];
#pragma GCC unroll 6
  for (size_t column = 0; column < Transform::kFrom; ++column) {
    Vector given[Transform::kFrom], made[Transform::kTo];
#pragma GCC unroll 6
    for (size_t row = 0; row < Transform::kFrom; ++row) given[row] = from(row, column);
    Transform::apply(given, made);
#pragma GCC unroll 6
    for (size_t row = 0; row < Transform::kTo; ++row) half[row][column] = made[row];
  }
#pragma GCC unroll 6
  for (size_t row = 0; row < Transform::kTo; ++row) {
    Vector made[Transform::kTo];
    Transform::apply(half[row], made);
#pragma GCC unroll 6
    for (size_t column = 0; column < Transform::kTo; ++column) to(row, column, made[column]);
  }
}

INLINED inline void transform_pixels(const uint8_t* const* patch, size_t channel, int16_t* v, size_t stride) {
  const auto code = [=](size_t row, size_t column) INLINED {
    return reinterpret_cast<Shorts>(widened(patch[row * kPatch + column] + channel));
  };
  const auto put = [=](size_t row, size_t column, const Shorts& value) INLINED {
    store(v + (row * kPatch + column) * stride, value);
  };
  transform<InputTransform, Shorts>(code, put);
}

void transform_input(const uint8_t* const* patch, size_t channels, int16_t* v, size_t stride) {
  size_t channel = 0;
  for (; channel + kShorts <= channels; channel += kShorts) transform_pixels(patch, channel, v + channel, stride);
  if (channel == channels) return;
  uint8_t rest[kPoints][kShorts] = {};
  const uint8_t* rests[kPoints];
  for (size_t point = 0; point < kPoints; ++point) {
    __builtin_memcpy(rest[point], patch[point] + channel, channels - channel);
    rests[point] = rest[point];
  }
  transform_pixels(rests, 0, v + channel, stride);
}

void transform_weights(const int8_t* weights, size_t pairs, int16_t* u) {
  constexpr size_t kPair = 2 * kBlock, kAhead = 32;  // Pairs: what is read next comes from far away.
  for (size_t pair = 0; pair < pairs; ++pair, weights += kTaps * kPair, u += kPair) {
    for (size_t line = 0; line < kTaps * kPair; line += 64) __builtin_prefetch(weights + kAhead * kTaps * kPair + line);
    for (size_t first = 0; first < kPair; first += kShorts) {
      const auto weight = [=](size_t row, size_t column) INLINED {
        return reinterpret_cast<Shorts>(widened(weights + (row * 3 + column) * kPair + first));
      };
      const auto put = [=](size_t row, size_t column, const Shorts& value) INLINED {
        store(u + (row * kPatch + column) * kWeightStride + first, value);
      };
      transform<WeightTransform, Shorts>(weight, put);
    }
  }
}

template <size_t kCount>
void multiply_tiles(const int16_t* v, size_t stride, const int16_t* u, size_t pairs, int32_t* m, bool accumulate) {
  Register sums[kCount][kVectors];
#pragma GCC unroll 16
  for (size_t tile = 0; tile < kCount; ++tile) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kVectors; ++i) {
      sums[tile][i] = accumulate ? load<Register>(m + tile * kBlock + i * kInts) : Register{};
    }
  }
#pragma GCC unroll 2
  for (size_t pair = 0; pair < pairs; ++pair) {
    Register weights[kVectors];
#pragma GCC unroll 4
    for (size_t i = 0; i < kVectors; ++i) weights[i] = load<Register>(u + pair * 2 * kBlock + i * kShorts);
#pragma GCC unroll 16
    for (size_t tile = 0; tile < kCount; ++tile) {
      std::uint32_t codes;
      __builtin_memcpy(&codes, v + tile * stride + 2 * pair, sizeof codes);
      const auto all = reinterpret_cast<Register>(codes - Ints{});
#pragma GCC unroll 4
      for (size_t i = 0; i < kVectors; ++i) sums[tile][i] = add_products(sums[tile][i], weights[i], all);
    }
  }
#pragma GCC unroll 16
  for (size_t tile = 0; tile < kCount; ++tile) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kVectors; ++i) store(m + tile * kBlock + i * kInts, sums[tile][i]);
  }
}

// `multiply_tiles` for `tiles` of 1 to kCount.
template <size_t kCount, class... Arguments>
void multiply_up_to(size_t tiles, Arguments... arguments) {
  if constexpr (kCount > 1) {
    if (tiles < kCount) return multiply_up_to<kCount - 1>(tiles, arguments...);
  }
  multiply_tiles<kCount>(arguments...);
}

void multiply(const int16_t* v, size_t stride, size_t row, const int16_t* u, size_t pairs, size_t tiles, int32_t* m,
              bool accumulate) {
  for (size_t point = 0; point < kPoints; ++point, v += stride, u += kWeightStride, m += kSumStride) {
    for (size_t tile = 0; tile < tiles; tile += kRows) {
      const size_t now = tiles - tile < kRows ? tiles - tile : kRows;
      multiply_up_to<kRows>(now, v + tile * row, row, u, pairs, m + tile * kBlock, accumulate);
    }
  }
}

void transform_output(const int32_t* m, const int32_t* centre, int32_t* sums, bool accumulate) {
  constexpr std::uint32_t kInverseOf9 = 0x38E38E39;
  for (size_t first = 0; first < kBlock; first += kInts) {
    const Ints shift = load<Ints>(centre + first) << 6;
    const auto product = [=](size_t row, size_t column) INLINED {
      return load<Ints>(m + (row * kPatch + column) * kSumStride + first);
    };
    const auto put = [=](size_t row, size_t column, const Ints& value) INLINED {
      int32_t* sum = sums + (row * kTile + column) * kBlock + first;
      const Ints y = reinterpret_cast<Ints>(reinterpret_cast<SignedInts>(value * kInverseOf9 + shift) >> 6);
      store(sum, accumulate ? load<Ints>(sum) + y : y);
    };
    transform<OutputTransform, Ints>(product, put);
  }
}

void requantise(const int32_t* sums, const Requantisation& to, uint8_t* codes) {
  constexpr std::uint32_t kToInteger = 0x4B400000;  // As a float 1.5 * 2^23: added, it leaves an integer in low bits.
  const Floats least = Floats{} - static_cast<float>(to.zero_point), most = least + 255.0f;
  const Ints zero_point = static_cast<std::uint32_t>(to.zero_point) - (kToInteger + Ints{});
  Ints bias[kVectors];
  Floats scale[kVectors];
#pragma GCC unroll 4
  for (size_t i = 0; i < kVectors; ++i) {
    bias[i] = load<Ints>(to.bias + i * kInts), scale[i] = load<Floats>(to.scale + i * kInts);
  }
  for (size_t pixel = 0; pixel < kPixels; ++pixel) {
    Register made[kVectors];
#pragma GCC unroll 4
    for (size_t i = 0; i < kVectors; ++i) {
      const Ints sum = load<Ints>(sums + pixel * kBlock + i * kInts) + bias[i];
      Floats number = __builtin_convertvector(reinterpret_cast<SignedInts>(sum), Floats) * scale[i];
      number = number > least ? number : least;
      number = number < most ? number : most;
      const Floats shifted = number + reinterpret_cast<Floats>(kToInteger + Ints{});
      made[i] = reinterpret_cast<Register>(reinterpret_cast<Ints>(shifted) + zero_point);
    }
    narrow(made, codes + pixel * kBlock);
  }
}

constexpr WinogradKernels kKernels{transform_input, transform_weights, multiply, transform_output, requantise};
