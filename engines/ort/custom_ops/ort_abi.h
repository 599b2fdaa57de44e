// The part of ONNX Runtime's C interface that a library of custom operators needs.
//
// ONNX Runtime's wheels bring no headers (https://github.com/microsoft/onnxruntime/issues/18840), so what is used is
// declared here. Its tables of functions only ever grow at their ends: places that were right once stay right.
// Version 17 is the first with `KernelContext_ParallelFor`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

inline constexpr std::uint32_t kVersion = 17;

struct Api;                  // A table of functions; see `place`.
struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct SessionOptions;
struct ShapeInfo;
struct Status;               // A null pointer is success.
struct Value;

enum class ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6 };
template <class Number>
inline constexpr ElementType kTypeOf{};
template <>
inline constexpr ElementType kTypeOf<float> = ElementType::kFloat;
template <>
inline constexpr ElementType kTypeOf<std::uint8_t> = ElementType::kUint8;
template <>
inline constexpr ElementType kTypeOf<std::int8_t> = ElementType::kInt8;
template <>
inline constexpr ElementType kTypeOf<std::int32_t> = ElementType::kInt32;

inline constexpr int kFail = 1, kInvalidArgument = 2;  // Codes of a status.
enum class Presence : int { kRequired = 0, kOptional = 1 };

struct ApiBase {
  const Api* (*get_api)(std::uint32_t version);
  const char* (*get_version_string)();
};

struct CustomOp {
  std::uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, std::size_t);
  std::size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, std::size_t);
  std::size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  Presence (*input_presence)(const CustomOp*, std::size_t);
  Presence (*output_presence)(const CustomOp*, std::size_t);
  int (*input_memory)(const CustomOp*, std::size_t);
  int (*variadic_input_least)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_least)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_checked)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*compute_checked)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, void*);
  int (*first_version)(const CustomOp*);
  int (*last_version)(const CustomOp*);
};

// The places in the table, and the types, of the functions used.
namespace place {
template <std::size_t kPlace, class Signature>
struct Function;
template <std::size_t kPlace, class Result, class... Arguments>
struct Function<kPlace, Result(Arguments...)> {
  Result operator()(const Api* api, Arguments... arguments) const {
    using Pointer = Result (*)(Arguments...);
    return reinterpret_cast<Pointer const*>(api)[kPlace](arguments...);
  }
};
}  // namespace place

inline constexpr place::Function<0, Status*(int code, const char* message)> create_status;
inline constexpr place::Function<26, Status*(const char* name, CustomOpDomain**)> create_custom_op_domain;
inline constexpr place::Function<27, Status*(CustomOpDomain*, const CustomOp*)> add_to_domain;
inline constexpr place::Function<28, Status*(SessionOptions*, CustomOpDomain*)> add_custom_op_domain;
inline constexpr place::Function<51, Status*(Value*, void** data)> tensor_data;
inline constexpr place::Function<60, Status*(const ShapeInfo*, ElementType*)> element_type;
inline constexpr place::Function<61, Status*(const ShapeInfo*, std::size_t*)> dimension_count;
inline constexpr place::Function<62, Status*(const ShapeInfo*, std::int64_t*, std::size_t)> dimensions;
inline constexpr place::Function<65, Status*(const Value*, ShapeInfo**)> shape_info;
inline constexpr place::Function<85, Status*(const KernelInfo*, const char* name, float*)> attribute_float;
inline constexpr place::Function<86, Status*(const KernelInfo*, const char* name, std::int64_t*)> attribute_int;
inline constexpr place::Function<88, Status*(const KernelContext*, std::size_t*)> input_count;
inline constexpr place::Function<90, Status*(const KernelContext*, std::size_t, const Value**)> kernel_input;
inline constexpr place::Function<91, Status*(KernelContext*, std::size_t, const std::int64_t* dimensions, std::size_t,
                                             Value**)>
    kernel_output;
inline constexpr place::Function<99, void(ShapeInfo*)> release_shape_info;
inline constexpr place::Function<163, Status*(const KernelInfo*, const char* name, std::int64_t*, std::size_t*)>
    attribute_ints;
inline constexpr place::Function<249, Status*(const KernelInfo*, std::size_t, int* is_constant, const Value**)>
    constant_input;
inline constexpr place::Function<274, Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t total,
                                              std::size_t batches, void*)>
    parallel_for;

}  // namespace ort
