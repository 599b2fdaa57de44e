// ONNX Runtime's custom operators of the domain `ptq_export`, over channels-last tensors [N, ..., C].
//
// GroupNormQuantize            x f32, gamma, beta, gain                                  -> u8
// DequantizeGroupNormQuantize  x u8, x_gain, x_offset, gamma, beta, gain, shift (or none) -> u8
// QuantizeChannels             x f32, gain                                               -> u8
// RepeatPixels                 x u8 [N, H, W, C]                                         -> u8
// DequantizeChannels           x u8, x_gain, x_offset                                    -> f32
// DequantizeAdd                x u8, x_gain, x_offset, summand f32                       -> f32
// DequantizeSum                x u8, x_gain, x_offset, summand u8, summand_gain          -> f32
//
// Vectors hold a number per channel; gamma, beta and shift perhaps one per image and channel. A group norm is that of
// x * x_gain + x_offset + shift. Attributes: zero_point of what is quantised; groups, epsilon, silu (0 or 1) of a group
// norm; height and width, how often a pixel is repeated.
#include <cstring>
#include <new>
#include <string_view>
#include <vector>

#include "call.h"
#include "group_norm.h"
#include "kernels.h"
#include "layout.h"
#include "ort_abi.h"

namespace channels_last {
namespace {

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
    const Vector gamma(call, 1, layout), beta(call, 2, layout);
    const auto one = [](size_t) { return 1.0; };
    const auto zero = [](size_t) { return 0.0; };
    norm.quantise(call, layout, x, norm.normalisation(call, layout, moments, one, zero, gamma, beta),
                  call.channel_input(3, layout.channels), y);
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
    const Vector gain(call, 1, layout), offset(call, 2, layout), shift(call, 6, layout);
    const Vector gamma(call, 3, layout), beta(call, 4, layout);
    const auto gains = [&](size_t i) { return gain[i]; };
    const auto offsets = [&](size_t i) { return offset[i] + shift[i]; };
    norm.quantise(call, layout, x, norm.normalisation(call, layout, moments, gains, offsets, gamma, beta),
                  call.channel_input(5, layout.channels), y);
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
    const float *x = call.input<float>(0), *gain = call.channel_input(1, layout.channels);
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
    const float* gain = call.channel_input(1, layout.channels);
    const float* offset = call.channel_input(2, layout.channels);
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
    const float* gain = call.channel_input(1, layout.channels);
    const float* offset = call.channel_input(2, layout.channels);
    if (call.shape(3) != shape) call.fail("the summands have different shapes");
    const float* summand = call.input<float>(3);
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
    const float* gain = call.channel_input(1, layout.channels);
    const float* offset = call.channel_input(2, layout.channels);
    const float* summand_gain = call.channel_input(4, layout.channels);
    if (call.shape(3) != shape) call.fail("the summands have different shapes");
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

// The domain lives as long as the process: sessions refer to it.
ort::CustomOpDomain* domain(const ort::Api* api) {
  static ort::CustomOpDomain* const domain = [api] {
    ort::CustomOpDomain* made = nullptr;
    check(ort::create_custom_op_domain(api, "ptq_export", &made));
    add<GroupNormQuantize>(api, made);
    add<DequantizeGroupNormQuantize>(api, made);
    add<QuantizeChannels>(api, made);
    add<RepeatPixels>(api, made);
    add<DequantizeChannels>(api, made);
    add<DequantizeAdd>(api, made);
    add<DequantizeSum>(api, made);
    return made;
  }();
  return domain;
}

}  // namespace
}  // namespace channels_last

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  const ort::Api* api = base->get_api(ort::kVersion);
  try {
    channels_last::check(ort::add_custom_op_domain(api, options, channels_last::domain(api)));
    return nullptr;
  } catch (const channels_last::Failure& failure) {
    return failure.status;
  }
}
