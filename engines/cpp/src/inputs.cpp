#include "inputs.h"

#include <algorithm>

#include "ptq_export/error.h"

namespace ptq_export {

namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 28;
constexpr std::size_t kMostAxes = 7, kMostInputs = 1000;

bool is_identifier(std::string const& text) {
  auto const letter = [](char each) {
    return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') || each == '_' || (each & 0x80) != 0;
  };
  auto const within = [&](char each) { return letter(each) || (each >= '0' && each <= '9'); };
  return !text.empty() && letter(text.front()) && std::all_of(text.begin(), text.end(), within);
}

bool is_count(Json const& value) {
  auto const* number = value.get_if<std::int64_t>();
  return number != nullptr && *number >= 1 && *number <= kMost;
}

Input input_of(Json const& value, std::string const& where) {
  Fields const fields(value, where, "an input");
  Input input;
  input.name = fields.text("name");
  std::string const& dtype = fields.text("dtype");
  if (!is_identifier(input.name) || (dtype != "float32" && dtype != "int64"))
    throw InputError(
        where + ": no input is called " + fields.any("name").shown() + " and of type " + fields.any("dtype").shown(),
        "export it again");
  input.dtype = dtype == "float32" ? DType::float32 : DType::int64;
  bool fits = fields.list("shape").size() <= kMostAxes;
  for (Json const& size : fields.list("shape")) {
    auto const* name = size.get_if<std::string>();
    fits = fits && (is_count(size) || (name != nullptr && is_identifier(*name)));
    if (!fits) break;
    input.shape.push_back(name != nullptr ? Input::Size(*name) : Input::Size(*size.get_if<std::int64_t>()));
  }
  Json const& limit = fields.any("limit");
  if (!fits || !(limit.is_null() || is_count(limit)))
    throw InputError(where + ": the shape or the limit of " + input.name + " are none", "export it again");
  if (!limit.is_null()) input.limit = *limit.get_if<std::int64_t>();
  return input;
}

}  // namespace

std::vector<Input> inputs_of(Json const& value, std::string const& where) {
  auto const* items = value.get_if<Json::Array>();
  if (items == nullptr || items->size() > kMostInputs) throw InputError(where, "export it again");
  std::vector<Input> inputs;
  for (Json const& item : *items) {
    inputs.push_back(input_of(item, where));
    auto const same = [&](Input const& input) { return input.name == inputs.back().name; };
    if (std::count_if(inputs.begin(), inputs.end(), same) > 1)
      throw InputError(where + ": it names an input twice: " + inputs.back().name, "export it again");
  }
  return inputs;
}

void require_denoiser(std::vector<Input> const& inputs, std::string const& name) {
  auto const number = [](Input::Size const& size) { return std::holds_alternative<std::int64_t>(size); };
  bool const fits = inputs.size() >= 2 && inputs[0].name == "sample" && inputs[0].dtype == DType::float32 &&
                    inputs[1].name == "timestep" && inputs[1].shape.empty() && inputs[0].shape.size() >= 2 &&
                    inputs[0].shape.size() <= 4 && std::all_of(inputs[0].shape.begin(), inputs[0].shape.end(), number);
  if (fits) return;
  std::string takes;
  for (Input const& input : inputs) takes += (takes.empty() ? "" : ", ") + input.shown();
  throw InputError(name + " is not a denoiser of (sample, timestep): it takes " + (takes.empty() ? "nothing" : takes));
}

}  // namespace ptq_export
