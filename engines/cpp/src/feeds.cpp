#include "feeds.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ptq_export/error.h"

namespace ptq_export {

namespace {

std::string told(Input const& wanted) { return wanted.name == "timestep" ? "the time-step" : "the " + wanted.name; }

std::string joined(std::vector<std::string> const& names) {
  std::string text;
  for (std::string const& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

template <class Number>
std::string shown_values(Number const* values, std::size_t total) {
  std::string text = "[";
  for (std::size_t index = 0; index < total && text.size() < 60; ++index)
    text += (index > 0 ? ", " : "") + std::to_string(values[index]);
  return (text + "]").substr(0, 60);
}

// x . x is finite where x is, and takes a thousandth of a step's time; only where it overflows is each number looked
// at.
bool all_finite(float const* values, std::size_t total) {
  std::array<float, 16> sums{};
  std::size_t index = 0;
  for (; index + sums.size() <= total; index += sums.size())
    for (std::size_t lane = 0; lane < sums.size(); ++lane) sums[lane] += values[index + lane] * values[index + lane];
  for (; index < total; ++index) sums[0] += values[index] * values[index];
  auto const finite = [](float value) { return std::isfinite(value); };
  return std::all_of(sums.begin(), sums.end(), finite) || std::all_of(values, values + total, finite);
}

void check_integers(Input const& wanted, TensorView const& given, std::optional<std::int64_t> limit) {
  if (given.dtype() != DType::int64)
    throw InputError(told(wanted) + " is float32, this engine takes int64", "give integers");
  std::int64_t const* values = given.integers();
  std::size_t const total = count(given.shape());
  bool const known =
      std::all_of(values, values + total, [&](std::int64_t value) { return value >= 0 && (!limit || value < *limit); });
  if (total == 0 || !known)
    throw InputError(told(wanted) + " " + shown_values(values, total) + " is out of range",
                     "known: " + (limit ? "0.." + std::to_string(*limit - 1) : "0 and up"));
}

void check_times(Input const& wanted, TensorView const& given, std::optional<std::int64_t> limit) {
  float const* values = given.floats();
  std::size_t const total = count(given.shape());
  float const most = limit ? static_cast<float>(*limit) : std::numeric_limits<float>::max();
  if (!std::all_of(values, values + total, [&](float value) { return !(value < 0) && !(value > most); }) || total == 0)
    throw InputError(told(wanted) + " " + shown_values(values, total) + " is out of range",
                     "known: 0.." + (limit ? std::to_string(*limit) : "None"));
}

}  // namespace

void check_names(Signature const& signature, Feeds const& feeds) {
  std::vector<std::string> surplus;
  std::vector<std::string> missing;
  std::vector<std::string> takes;
  for (auto const& feed : feeds) {
    auto const same = [&](Input const& input) { return input.name == feed.first; };
    if (std::none_of(signature.inputs.begin(), signature.inputs.end(), same)) surplus.push_back(feed.first);
  }
  for (Input const& input : signature.inputs)
    if (feeds.find(input.name) == feeds.end()) missing.push_back(input.shown());
  if (surplus.empty() && missing.empty()) return;
  for (Input const& input : signature.inputs) takes.push_back(input.shown());
  if (!surplus.empty())
    throw InputError("this engine has no input " + joined(surplus), "it takes " + joined(takes) + ": leave it out");
  throw InputError("this engine is conditional: " + joined(missing) + " is missing", "give it by its name");
}

void check_sample(Signature const& signature, TensorView const& given) {
  Input const& wanted = signature.inputs.front();
  if (given.dtype() != DType::float32)
    throw InputError("the sample is int64, this engine takes float32", "convert it first");
  Shape const& found = given.shape();
  Shape const sizes = signature.sample_shape();
  if (found.size() != sizes.size() + 1 || !std::equal(sizes.begin(), sizes.end(), found.begin() + 1) || found[0] <= 0) {
    std::string takes = signature.batch ? std::to_string(*signature.batch) : "N";
    for (std::int64_t const size : sizes) takes += ", " + std::to_string(size);
    throw InputError("the sample is " + shown(found) + ", this engine takes [" + takes + "]");
  }
  if (signature.batch && *signature.batch != found[0])
    throw InputError("the sample has batch " + std::to_string(found[0]) + ", this engine was compiled for batch " +
                         std::to_string(*signature.batch),
                     "send that many samples, or export with a dynamic batch");
  if (!all_finite(given.floats(), count(found)))
    throw InputError(told(wanted) + " holds NaN or infinite values", "a step before this one, or its input, made them");
}

void check_values(Input const& wanted, TensorView const& given, std::optional<std::int64_t> limit, bool is_time) {
  if (wanted.dtype == DType::int64) return check_integers(wanted, given, limit);
  if (given.dtype() != DType::float32)
    throw InputError(told(wanted) + " is int64, this engine takes float32", "convert it first");
  if (is_time) check_times(wanted, given, limit);
  if (!all_finite(given.floats(), count(given.shape())))
    throw InputError(told(wanted) + " holds NaN or infinite values");
}

bool is_single(Input const& wanted, TensorView const& given) {
  return wanted.shape.empty() && (given.shape().empty() || given.shape() == Shape{1});
}

TensorView repeated(TensorView const& given, std::int64_t batch, std::vector<std::int64_t>& integers,
                    std::vector<float>& floats) {
  auto const rows = static_cast<std::size_t>(batch);
  if (given.dtype() == DType::int64) {
    integers.assign(rows, given.integers()[0]);
    return {integers.data(), {batch}};
  }
  floats.assign(rows, given.floats()[0]);
  return {floats.data(), {batch}};
}

void check_rows(Input const& wanted, TensorView const& given, std::int64_t batch,
                std::map<std::string, std::int64_t>& sizes) {
  Shape const& found = given.shape();
  std::map<std::string, std::int64_t> const before = sizes;
  bool fits = found.size() == wanted.shape.size() + 1;
  for (std::size_t axis = 0; fits && axis < wanted.shape.size(); ++axis) {
    auto const* name = std::get_if<std::string>(&wanted.shape[axis]);
    std::int64_t const size = found[axis + 1];
    fits = size ==
           (name != nullptr ? sizes.emplace(*name, size).first->second : std::get<std::int64_t>(wanted.shape[axis]));
  }
  if (!fits) {
    std::string known;
    for (auto const& [name, size] : before)
      if (std::find(wanted.shape.begin(), wanted.shape.end(), Input::Size(name)) != wanted.shape.end())
        known += ", " + name + " is " + std::to_string(size) + " elsewhere";
    throw InputError(told(wanted) + " is " + shown(found) + ", this engine takes " + wanted.shown() + known);
  }
  if (found.front() != batch)
    throw InputError(
        told(wanted) + " has " + std::to_string(found.front()) + " rows, the sample " + std::to_string(batch),
        "give one row per sample");
}

}  // namespace ptq_export
