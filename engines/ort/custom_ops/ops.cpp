// ONNX Runtime's custom operators of the domain `ptq_export`, over channels-last tensors [N, ..., C].
//
// GroupNormQuantize            x f32, gamma, beta, gain, more f32 (or none)              -> u8
// DequantizeGroupNormQuantize  x u8, x_gain, x_offset, gamma, beta, gain, shift (or none) -> u8
// QuantizeChannels             x f32, gain, more f32 (or none)                           -> u8
// RepeatPixels                 x u8 [N, H, W, C]                                         -> u8
// DequantizeChannels           x u8, x_gain, x_offset                                    -> f32
// DequantizeAdd                x u8, x_gain, x_offset, summand f32                       -> f32
// DequantizeSum                x u8, x_gain, x_offset, summand u8, summand_gain          -> f32
// WinogradConv                 x u8 [N, H, W, C], and the other inputs of QLinearConv    -> u8
//
// Vectors hold a number per channel; gamma, beta and shift perhaps one per image and channel. A group norm is that of
// x * x_gain + x_offset + shift. With `more`, the channels of x and those of more stand one behind the other in every
// row. Attributes: zero_point of what is quantised; groups, epsilon, silu (0 or 1) of a group norm; height and width,
// how often a pixel is repeated.
//
// A graph whose types, ranks, sizes or attributes do not fit is refused with a message, when it is loaded or run.
// Not a number and infinity are no error, and end at the next quantiser, as they do at ONNX Runtime's QuantizeLinear:
// NaN becomes code 0, infinities the ends of the range. One of them in a float group norm makes its whole group NaN,
// and so 0. Floats that are not quantised (DequantizeAdd's summand) keep them.
#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "call.h"
#include "group_norm.h"
#include "kernels.h"
#include "layout.h"
#include "loops.h"
#include "ort_abi.h"
#include "winograd_conv.h"

namespace channels_last {
namespace {

// Floats x, and perhaps more channels of the same pixels, as one tensor of `shape`.
struct Floats {
  std::vector<int64_t> shape;
  Layout layout;
  Parts<float> parts;
};

Floats floats_of(const Call& call, size_t more_index) {
  const auto x = call.input<float>(0);
  const Layout alone(call, x.shape);
  if (!call.has_input(more_index)) return {x.shape, alone, {{x.data, alone.channels, 0}}};
  const auto more = call.input<float>(more_index);
  auto shape = more.shape;
  const bool same_rank = shape.size() == x.shape.size();
  if (!same_rank || !std::equal(shape.begin(), shape.end() - 1, x.shape.begin()) ||
      shape.back() > std::numeric_limits<int64_t>::max() - x.shape.back()) {
    call.fail("the channels to add are not those of the same pixels");
  }
  shape.back() += x.shape.back();
  const auto others = static_cast<size_t>(more.shape.back());
  return {shape, Layout(call, shape), {{x.data, alone.channels, 0}, {more.data, others, alone.channels}}};
}

struct GroupNormQuantize {
  static constexpr const char* kName = "GroupNormQuantize";
  static constexpr const char* kInputs = "ffffF";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit GroupNormQuantize(const Node& node) : norm(node) {}

  void compute(const Call& call) const {
    const auto x = floats_of(call, 4);
    const Vector one(1.0), zero(0.0);
    norm.compute<float>(call, x.layout, x.parts, {one, zero, zero}, 1, call.output<uint8_t>(x.shape));
  }

  GroupNorm norm;
};

struct DequantizeGroupNormQuantize {
  static constexpr const char* kName = "DequantizeGroupNormQuantize";
  static constexpr const char* kInputs = "ufffffF";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit DequantizeGroupNormQuantize(const Node& node) : norm(node) {}

  void compute(const Call& call) const {
    const auto x = call.input<uint8_t>(0);
    const Layout layout(call, x.shape);
    const Vector gain(call, 1, layout), offset(call, 2, layout), shift(call, 6, layout);
    const Parts<uint8_t> whole{{x.data, layout.channels, 0}};
    norm.compute<std::uint32_t>(call, layout, whole, {gain, offset, shift}, 3, call.output<uint8_t>(x.shape));
  }

  GroupNorm norm;
};

struct QuantizeChannels {
  static constexpr const char* kName = "QuantizeChannels";
  static constexpr const char* kInputs = "ffF";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit QuantizeChannels(const Node& node) : zero_point(static_cast<float>(node.integer("zero_point", 0, 255))) {}

  void compute(const Call& call) const {
    const auto x = floats_of(call, 2);
    const float* gain = call.channel_input(1, x.layout.channels);
    const auto code = [gain, zero_point = zero_point](float x, size_t c) INLINED {
      return code_of(x * gain[c], zero_point);
    };
    map_images(call, x.layout, x.parts, call.output<uint8_t>(x.shape), [&](size_t) { return code; });
  }

  float zero_point;
};

struct RepeatPixels {
  static constexpr const char* kName = "RepeatPixels";
  static constexpr const char* kInputs = "u";
  static constexpr ort::ElementType kOutput = ort::ElementType::kUint8;

  explicit RepeatPixels(const Node& node)
      : height(node.integer("height", 1, kMostCopies)), width(node.integer("width", 1, kMostCopies)) {}

  void compute(const Call& call) const {
    const auto x = call.input<uint8_t>(0);
    if (x.shape.size() != 4) call.fail("pixels are repeated in tensors of four dimensions");
    auto shape = x.shape;
    shape[1] = static_cast<int64_t>(call.product({shape[1], height}));
    shape[2] = static_cast<int64_t>(call.product({shape[2], width}));
    uint8_t* y = call.output<uint8_t>(shape);
    if (x.size == 0) return;
    const auto channels = static_cast<size_t>(shape[3]), row_size = static_cast<size_t>(shape[2]) * channels;
    const uint8_t *pixel = x.data, *const end = x.data + x.size;
    while (pixel != end) {
      uint8_t* const row = y;
      for (int64_t i = 0; i < x.shape[2]; ++i, pixel += channels) {
        for (int64_t copy = 0; copy < width; ++copy, y += channels) std::memcpy(y, pixel, channels);
      }
      for (int64_t copy = 1; copy < height; ++copy, y += row_size) std::memcpy(y, row, row_size);
    }
  }

  static constexpr int64_t kMostCopies = 1024;
  int64_t height, width;
};

// The inputs that dequantising operators begin with: a code x stands for the number x * gain + offset.
struct Codes {
  explicit Codes(const Call& call)
      : tensor(call.input<uint8_t>(0)),
        layout(call, tensor.shape),
        x(tensor.data),
        gain(call.channel_input(1, layout.channels)),
        offset(call.channel_input(2, layout.channels)) {}

  Tensor<uint8_t> tensor;
  Layout layout;
  const uint8_t* x;
  const float *gain, *offset;
};

struct DequantizeChannels {
  static constexpr const char* kName = "DequantizeChannels";
  static constexpr const char* kInputs = "uff";
  static constexpr ort::ElementType kOutput = ort::ElementType::kFloat;

  explicit DequantizeChannels(const Node&) {}

  void compute(const Call& call) const {
    const Codes codes(call);
    float* y = call.output<float>(codes.tensor.shape);
    const auto number = [x = codes.x, gain = codes.gain, offset = codes.offset](size_t i, size_t c) INLINED {
      return static_cast<float>(x[i]) * gain[c] + offset[c];
    };
    fill(call, codes.layout, y, number);
  }
};

struct DequantizeAdd {
  static constexpr const char* kName = "DequantizeAdd";
  static constexpr const char* kInputs = "ufff";
  static constexpr ort::ElementType kOutput = ort::ElementType::kFloat;

  explicit DequantizeAdd(const Node&) {}

  void compute(const Call& call) const {
    const Codes codes(call);
    const float* summand = call.input_of_shape<float>(3, codes.tensor.shape);
    float* y = call.output<float>(codes.tensor.shape);
    const auto sum = [x = codes.x, gain = codes.gain, offset = codes.offset, summand](size_t i, size_t c) INLINED {
      return static_cast<float>(x[i]) * gain[c] + offset[c] + summand[i];
    };
    fill(call, codes.layout, y, sum);
  }
};

struct DequantizeSum {
  static constexpr const char* kName = "DequantizeSum";
  static constexpr const char* kInputs = "uffuf";
  static constexpr ort::ElementType kOutput = ort::ElementType::kFloat;

  explicit DequantizeSum(const Node&) {}

  void compute(const Call& call) const {
    const Codes codes(call);
    const uint8_t* summand = call.input_of_shape<uint8_t>(3, codes.tensor.shape);
    const float* summand_gain = call.channel_input(4, codes.layout.channels);
    float* y = call.output<float>(codes.tensor.shape);
    const auto sum = [=, x = codes.x, gain = codes.gain, offset = codes.offset](size_t i, size_t c) INLINED {
      return static_cast<float>(x[i]) * gain[c] + static_cast<float>(summand[i]) * summand_gain[c] + offset[c];
    };
    fill(call, codes.layout, y, sum);
  }
};

template <class Op>
struct Kernel {
  const ort::Api* api;
  Op op;
};

// The type of an input by its letter in `kInputs`: u8, f32, codes of weights (i8), i32; a capital: it may be left out.
inline ort::ElementType type_of(char letter) {
  switch (letter) {
    case 'u': return ort::ElementType::kUint8;
    case 'c': return ort::ElementType::kInt8;
    case 'I': return ort::ElementType::kInt32;
    default: return ort::ElementType::kFloat;
  }
}

inline bool is_optional(char letter) { return letter >= 'A' && letter <= 'Z'; }

// ONNX Runtime's view of an operator.
template <class Op>
ort::CustomOp custom_op() {
  static constexpr size_t kCount = std::string_view(Op::kInputs).size();
  ort::CustomOp op{};
  op.version = ort::kVersion;
  op.name = [](const ort::CustomOp*) { return Op::kName; };
  op.execution_provider = [](const ort::CustomOp*) -> const char* { return nullptr; };
  op.input_count = [](const ort::CustomOp*) { return kCount; };
  op.input_type = [](const ort::CustomOp*, size_t index) {
    return type_of(Op::kInputs[index]);
  };
  op.input_presence = [](const ort::CustomOp*, size_t index) {
    return is_optional(Op::kInputs[index]) ? ort::Presence::kOptional : ort::Presence::kRequired;
  };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  op.output_count = [](const ort::CustomOp*) { return size_t{1}; };
  op.output_type = [](const ort::CustomOp*, size_t) { return Op::kOutput; };
  op.output_presence = [](const ort::CustomOp*, size_t) { return ort::Presence::kRequired; };
  op.create_kernel_checked = [](const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
    return status_of(api, [&] { *kernel = new Kernel<Op>{api, Op(Node(api, info))}; });
  };
  op.compute_checked = [](void* kernel, ort::KernelContext* context) {
    const auto& own = *static_cast<const Kernel<Op>*>(kernel);
    return status_of(own.api, [&] { own.op.compute(Call(own.api, context)); });
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
    add<WinogradConv>(api, made);
    return made;
  }();
  return domain;
}

}  // namespace
}  // namespace channels_last

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  using namespace channels_last;
  static constexpr std::uint32_t kFirstVersion = 1;
  const ort::Api* api = base->get_api(ort::kVersion);
  return status_of(api == nullptr ? base->get_api(kFirstVersion) : api, [&] {
    if (api == nullptr) fail(base->get_api(kFirstVersion), "these operators need ONNX Runtime 1.17");
    if (isa == Isa::kNone) fail(api, std::string(kIsaVariable) + " names none of this processor's: " + isa_names());
    check(ort::add_custom_op_domain(api, options, domain(api)));
  });
}
