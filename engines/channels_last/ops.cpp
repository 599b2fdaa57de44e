// ONNX Runtime's custom operators of the domain `ptq_export`, over channels-last tensors [N, ..., C].
//
// GroupNormQuantize            x f32, gamma, beta, gain [C]                                     -> u8
// DequantizeGroupNormQuantize  x u8, x_gain, x_offset, gamma, beta, gain [C], shift [N, C] (opt.) -> u8
// QuantizeChannels             x f32, gain [C]                                                  -> u8
// DequantizeChannels           x u8, x_gain, x_offset [C]                                       -> f32
// DequantizeAdd                x u8, x_gain, x_offset [C], summand f32                          -> f32
// DequantizeSum                x u8, x_gain, x_offset [C], summand u8, summand_gain [C]         -> f32
//
// Attributes: zero_point of what is quantised; groups, epsilon and silu (0 or 1) of a group norm. Its statistics are
// those of x * x_gain + x_offset + shift.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels.h"
#include "ort_abi.h"

namespace {

using channels_last::Affine;
using std::int64_t;
using std::size_t;
using std::uint8_t;

// Values per task: below, starting a thread costs more than it saves.
constexpr size_t kTaskSize = 16384;

struct Failure {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status != nullptr) throw Failure{status};
}

// The tensors of one call.
class Call {
 public:
  Call(const ort::Api* api, ort::KernelContext* context) : api_(api), context_(context) {}

  template <class Number>
  const Number* input(size_t index) const {
    void* data = nullptr;
    check(ort::tensor_data(api_, const_cast<ort::Value*>(value(index)), &data));
    return static_cast<const Number*>(data);
  }

  bool has_input(size_t index) const { return value(index) != nullptr; }

  std::vector<int64_t> shape(size_t index) const {
    ort::ShapeInfo* info = nullptr;
    check(ort::shape_info(api_, value(index), &info));
    size_t count = 0;
    ort::Status* status = ort::dimension_count(api_, info, &count);
    std::vector<int64_t> sizes(count);
    if (status == nullptr) status = ort::dimensions(api_, info, sizes.data(), count);
    ort::release_shape_info(api_, info);
    check(status);
    return sizes;
  }

  template <class Number>
  Number* output(const std::vector<int64_t>& shape) const {
    ort::Value* value = nullptr;
    check(ort::kernel_output(api_, context_, 0, shape.data(), shape.size(), &value));
    void* data = nullptr;
    check(ort::tensor_data(api_, value, &data));
    return static_cast<Number*>(data);
  }

  // Run task(0) ... task(count - 1) on the session's threads.
  template <class Task>
  void parallel(size_t count, const Task& task) const {
    if (count == 1) return task(0);
    const auto run = [](void* function, size_t index) { (*static_cast<const Task*>(function))(index); };
    check(ort::parallel_for(api_, context_, run, count, 0, const_cast<Task*>(&task)));
  }

 private:
  const ort::Value* value(size_t index) const {
    const ort::Value* value = nullptr;
    check(ort::kernel_input(api_, context_, index, &value));
    return value;
  }

  const ort::Api* api_;
  ort::KernelContext* context_;
};

// The sizes of a channels-last tensor, and its rows in equal blocks that stay within one image.
struct Layout {
  explicit Layout(const std::vector<int64_t>& shape)
      : images(static_cast<size_t>(shape.front())), channels(static_cast<size_t>(shape.back())) {
    rows = std::accumulate(shape.begin() + 1, shape.end() - 1, size_t{1}, [](size_t product, int64_t size) {
      return product * static_cast<size_t>(size);
    });
    const size_t wanted = std::max<size_t>(1, kTaskSize / std::max<size_t>(1, channels));
    block_rows = std::min({rows, wanted, channels_last::kMaxRows});
    blocks = block_rows == 0 ? 0 : (rows + block_rows - 1) / block_rows;
  }

  size_t tasks() const { return images * blocks; }
  size_t image(size_t task) const { return task / blocks; }
  size_t first_row(size_t task) const { return image(task) * rows + task % blocks * block_rows; }
  size_t task_rows(size_t task) const { return std::min(block_rows, rows - task % blocks * block_rows); }
  size_t first(size_t task) const { return first_row(task) * channels; }

  size_t images, rows = 0, channels, block_rows = 0, blocks = 0;
};

// The attributes of a node.
class Node {
 public:
  Node(const ort::Api* api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  int64_t integer(const char* name) const {
    int64_t value = 0;
    check(ort::attribute_int(api_, info_, name, &value));
    return value;
  }

  float number(const char* name) const {
    float value = 0.0f;
    check(ort::attribute_float(api_, info_, name, &value));
    return value;
  }

 private:
  const ort::Api* api_;
  const ort::KernelInfo* info_;
};

// The sums of every image's channels, from those of its blocks.
struct Moments {
  std::vector<double> sums, squares;
};

template <class Number, class Sum>
Moments moments_of(const Call& call, const Layout& layout, const Number* x) {
  const size_t channels = layout.channels;
  std::vector<Sum> partial(layout.tasks() * 2 * channels);
  call.parallel(layout.tasks(), [&](size_t task) {
    Sum* sums = partial.data() + task * 2 * channels;
    channels_last::add_moments(x + layout.first(task), layout.task_rows(task), channels, sums, sums + channels);
  });
  Moments total{std::vector<double>(layout.images * channels), std::vector<double>(layout.images * channels)};
  for (size_t task = 0; task < layout.tasks(); ++task) {
    const Sum* sums = partial.data() + task * 2 * channels;
    const size_t first = layout.image(task) * channels;
    for (size_t c = 0; c < channels; ++c) {
      total.sums[first + c] += static_cast<double>(sums[c]);
      total.squares[first + c] += static_cast<double>(sums[channels + c]);
    }
  }
  return total;
}

// A number per channel, or per image and channel.
class Vector {
 public:
  Vector(const Call& call, size_t index, size_t channels) : data_(call.input<float>(index)), channels_(channels) {
    size_t size = 1;
    for (const int64_t dimension : call.shape(index)) size *= static_cast<size_t>(dimension);
    per_image_ = size != channels;
  }

  // The number of image i / channels, channel i % channels.
  double operator[](size_t i) const { return data_[per_image_ ? i : i % channels_]; }

 private:
  const float* data_;
  size_t channels_;
  bool per_image_ = false;
};

// x is normalised by one multiplication and one addition per channel of an image: x * slope + intercept.
struct Normalisation {
  std::vector<float> slope, intercept;
};

struct GroupNorm {
  explicit GroupNorm(const Node& node)
      : groups(static_cast<size_t>(node.integer("groups"))),
        epsilon(node.number("epsilon")),
        zero_point(static_cast<float>(node.integer("zero_point"))),
        silu(node.integer("silu") != 0) {}

  // What is normalised is x * gain(i) + offset(i), i counting the channels of all images.
  template <class Gain, class Offset>
  Normalisation normalisation(const Layout& layout, const Moments& moments, const Gain& gain, const Offset& offset,
                              const Vector& gamma, const Vector& beta) const {
    const size_t width = layout.channels / groups, vectors = layout.images * layout.channels;
    const double rows = static_cast<double>(layout.rows), count = rows * static_cast<double>(width);
    Normalisation result{std::vector<float>(vectors), std::vector<float>(vectors)};
    for (size_t first = 0; first < vectors; first += width) {
      double sum = 0.0, square = 0.0;
      for (size_t i = first; i < first + width; ++i) {
        const double g = gain(i), o = offset(i);
        sum += g * moments.sums[i] + rows * o;
        square += g * g * moments.squares[i] + 2.0 * g * o * moments.sums[i] + rows * o * o;
      }
      const double mean = sum / count, variance = std::max(0.0, square / count - mean * mean);
      const double inverse = 1.0 / std::sqrt(variance + epsilon);
      for (size_t i = first; i < first + width; ++i) {
        const double scale = inverse * gamma[i];
        result.slope[i] = static_cast<float>(scale * gain(i));
        result.intercept[i] = static_cast<float>((offset(i) - mean) * scale + beta[i]);
      }
    }
    return result;
  }

  template <class Number>
  void quantise(const Call& call, const Layout& layout, const Number* x, const Normalisation& normalised,
                const float* gain, uint8_t* y) const {
    call.parallel(layout.tasks(), [&](size_t task) {
      const size_t vector = layout.image(task) * layout.channels, first = layout.first(task);
      const Affine affine{normalised.slope.data() + vector, normalised.intercept.data() + vector, gain, zero_point,
                          silu};
      channels_last::quantise(x + first, layout.task_rows(task), layout.channels, affine, y + first);
    });
  }

  size_t groups;
  double epsilon;
  float zero_point;
  bool silu;
};

struct GroupNormQuantize {
  static constexpr const char* kName = "GroupNormQuantize";
  static constexpr const char* kInputs = "ffff";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit GroupNormQuantize(const Node& node) : norm(node) {}

  void compute(const Call& call) const {
    const auto shape = call.shape(0);
    const Layout layout(shape);
    const float* x = call.input<float>(0);
    uint8_t* y = call.output<uint8_t>(shape);
    const Moments moments = moments_of<float, float>(call, layout, x);
    const Vector gamma(call, 1, layout.channels), beta(call, 2, layout.channels);
    const auto one = [](size_t) { return 1.0; };
    const auto zero = [](size_t) { return 0.0; };
    norm.quantise(call, layout, x, norm.normalisation(layout, moments, one, zero, gamma, beta),
                  call.input<float>(3), y);
  }

  GroupNorm norm;
};

struct DequantizeGroupNormQuantize {
  static constexpr const char* kName = "DequantizeGroupNormQuantize";
  static constexpr const char* kInputs = "ufffff?";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit DequantizeGroupNormQuantize(const Node& node) : norm(node) {}

  void compute(const Call& call) const {
    const auto shape = call.shape(0);
    const Layout layout(shape);
    const uint8_t* x = call.input<uint8_t>(0);
    uint8_t* y = call.output<uint8_t>(shape);
    const Moments moments = moments_of<uint8_t, std::uint32_t>(call, layout, x);
    const Vector gain(call, 1, layout.channels), offset(call, 2, layout.channels);
    const Vector gamma(call, 3, layout.channels), beta(call, 4, layout.channels);
    const std::optional<Vector> shift =
        call.has_input(6) ? std::optional<Vector>(std::in_place, call, 6, layout.channels) : std::nullopt;
    const auto shifted = [&](size_t i) { return offset[i] + (shift ? (*shift)[i] : 0.0); };
    const auto gains = [&](size_t i) { return gain[i]; };
    norm.quantise(call, layout, x, norm.normalisation(layout, moments, gains, shifted, gamma, beta),
                  call.input<float>(5), y);
  }

  GroupNorm norm;
};

struct QuantizeChannels {
  static constexpr const char* kName = "QuantizeChannels";
  static constexpr const char* kInputs = "ff";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit QuantizeChannels(const Node& node) : zero_point(static_cast<float>(node.integer("zero_point"))) {}

  void compute(const Call& call) const {
    const auto shape = call.shape(0);
    const Layout layout(shape);
    const std::vector<float> ones(layout.channels, 1.0f), zeros(layout.channels, 0.0f);
    const float *x = call.input<float>(0), *gain = call.input<float>(1);
    uint8_t* y = call.output<uint8_t>(shape);
    const Affine affine{ones.data(), zeros.data(), gain, zero_point, false};
    call.parallel(layout.tasks(), [&](size_t task) {
      const size_t first = layout.first(task);
      channels_last::quantise(x + first, layout.task_rows(task), layout.channels, affine, y + first);
    });
  }

  float zero_point;
};

struct RepeatPixels {
  static constexpr const char* kName = "RepeatPixels";
  static constexpr const char* kInputs = "u";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit RepeatPixels(const Node& node)
      : height(static_cast<size_t>(node.integer("height"))), width(static_cast<size_t>(node.integer("width"))) {}

  void compute(const Call& call) const {
    auto shape = call.shape(0);
    const size_t pixels = static_cast<size_t>(shape[2]), channels = static_cast<size_t>(shape[3]);
    const size_t rows = static_cast<size_t>(shape[0] * shape[1]), row_size = pixels * width * channels;
    shape[1] *= static_cast<int64_t>(height);
    shape[2] *= static_cast<int64_t>(width);
    const uint8_t* x = call.input<uint8_t>(0);
    uint8_t* y = call.output<uint8_t>(shape);
    for (size_t row = 0; row < rows; ++row, y += height * row_size) {
      uint8_t* pixel = y;
      for (size_t i = 0; i < pixels; ++i, x += channels) {
        for (size_t copy = 0; copy < width; ++copy, pixel += channels) std::memcpy(pixel, x, channels);
      }
      for (size_t copy = 1; copy < height; ++copy) std::memcpy(y + copy * row_size, y, row_size);
    }
  }

  size_t height, width;
};

struct DequantizeChannels {
  static constexpr const char* kName = "DequantizeChannels";
  static constexpr const char* kInputs = "uff";
  static constexpr ort::ElementType kOutput = ort::ElementType::kFloat;

  explicit DequantizeChannels(const Node&) {}

  void compute(const Call& call) const {
    const auto shape = call.shape(0);
    const Layout layout(shape);
    const uint8_t* x = call.input<uint8_t>(0);
    const float *gain = call.input<float>(1), *offset = call.input<float>(2);
    float* y = call.output<float>(shape);
    call.parallel(layout.tasks(), [&](size_t task) {
      const size_t first = layout.first(task);
      channels_last::dequantise(x + first, layout.task_rows(task), layout.channels, gain, offset, y + first);
    });
  }
};

struct DequantizeAdd {
  static constexpr const char* kName = "DequantizeAdd";
  static constexpr const char* kInputs = "ufff";
  static constexpr ort::ElementType kOutput = ort::ElementType::kFloat;

  explicit DequantizeAdd(const Node&) {}

  void compute(const Call& call) const {
    const auto shape = call.shape(0);
    const Layout layout(shape);
    const uint8_t* x = call.input<uint8_t>(0);
    const float *gain = call.input<float>(1), *offset = call.input<float>(2), *summand = call.input<float>(3);
    float* y = call.output<float>(shape);
    call.parallel(layout.tasks(), [&](size_t task) {
      const size_t first = layout.first(task);
      channels_last::dequantise_add(x + first, layout.task_rows(task), layout.channels, gain, offset,
                                    summand + first, y + first);
    });
  }
};

struct DequantizeSum {
  static constexpr const char* kName = "DequantizeSum";
  static constexpr const char* kInputs = "uffuf";
  static constexpr ort::ElementType kOutput = ort::ElementType::kFloat;

  explicit DequantizeSum(const Node&) {}

  void compute(const Call& call) const {
    const auto shape = call.shape(0);
    const Layout layout(shape);
    const uint8_t *x = call.input<uint8_t>(0), *summand = call.input<uint8_t>(3);
    const float *gain = call.input<float>(1), *offset = call.input<float>(2), *summand_gain = call.input<float>(4);
    float* y = call.output<float>(shape);
    call.parallel(layout.tasks(), [&](size_t task) {
      const size_t first = layout.first(task);
      channels_last::dequantise_add(x + first, layout.task_rows(task), layout.channels, gain, offset,
                                    summand + first, summand_gain, y + first);
    });
  }
};

template <class Op>
struct Kernel {
  const ort::Api* api;
  Op op;
};

// ONNX Runtime's view of an operator. `kInputs` has a letter per input: u8, f32, or an f32 that may be left out.
template <class Op>
ort::CustomOp custom_op() {
  static constexpr size_t kCount = std::string_view(Op::kInputs).size();
  ort::CustomOp op{};
  op.version = ort::kVersion;
  op.name = [](const ort::CustomOp*) { return Op::kName; };
  op.execution_provider = [](const ort::CustomOp*) -> const char* { return nullptr; };
  op.input_count = [](const ort::CustomOp*) { return kCount; };
  op.input_type = [](const ort::CustomOp*, size_t index) {
    return Op::kInputs[index] == 'u' ? ort::ElementType::kUint8 : ort::ElementType::kFloat;
  };
  op.input_presence = [](const ort::CustomOp*, size_t index) {
    return Op::kInputs[index] == '?' ? ort::Presence::kOptional : ort::Presence::kRequired;
  };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  op.output_count = [](const ort::CustomOp*) { return size_t{1}; };
  op.output_type = [](const ort::CustomOp*, size_t) { return Op::kOutput; };
  op.output_presence = [](const ort::CustomOp*, size_t) { return ort::Presence::kRequired; };
  op.create_kernel_checked = [](const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info,
                                void** kernel) -> ort::Status* {
    try {
      *kernel = new Kernel<Op>{api, Op(Node(api, info))};
      return nullptr;
    } catch (const Failure& failure) {
      return failure.status;
    }
  };
  op.compute_checked = [](void* kernel, ort::KernelContext* context) -> ort::Status* {
    const auto& [own_api, op] = *static_cast<const Kernel<Op>*>(kernel);
    try {
      op.compute(Call(own_api, context));
      return nullptr;
    } catch (const Failure& failure) {
      return failure.status;
    } catch (const std::bad_alloc&) {
      return ort::create_status(own_api, 1, "out of memory");
    }
  };
  op.destroy = [](void* kernel) { delete static_cast<Kernel<Op>*>(kernel); };
  op.first_version = [](const ort::CustomOp*) { return 1; };
  op.last_version = [](const ort::CustomOp*) { return 1; };
  return op;
}

template <class Op>
void add(const ort::Api* api, ort::CustomOpDomain* domain) {
  static const ort::CustomOp op = custom_op<Op>();
  check(ort::add_to_domain(api, domain, &op));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  const ort::Api* api = base->get_api(ort::kVersion);
  try {
    ort::CustomOpDomain* domain = nullptr;
    check(ort::create_custom_op_domain(api, "ptq_export", &domain));
    add<GroupNormQuantize>(api, domain);
    add<DequantizeGroupNormQuantize>(api, domain);
    add<QuantizeChannels>(api, domain);
    add<RepeatPixels>(api, domain);
    add<DequantizeChannels>(api, domain);
    add<DequantizeAdd>(api, domain);
    add<DequantizeSum>(api, domain);
    check(ort::add_custom_op_domain(api, options, domain));
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  }
}
