// Conditions that a run was calibrated with: `draw` of ptq_export/conditions.py, `examples_of` of
// ptq_export/pipeline/commands/reopened.py.
#include <cstddef>
#include <random>
#include <utility>

#include "files.h"
#include "manifest.h"
#include "ptq_export/error.h"
#include "ptq_export/text_to_image.h"
#include "safetensors.h"

namespace ptq_export {

namespace {

constexpr std::int64_t kMostRows = 200'000'000;  // torch permutes more otherwise

// Which of so many rows: all of them, before one comes again. torch.randperm from a CPU generator
// (aten/src/ATen/native/TensorFactories.cpp).
std::vector<std::int64_t> chosen_rows(std::int64_t available, std::int64_t total, std::uint64_t seed) {
  std::mt19937 generator(static_cast<std::uint32_t>(seed));
  std::vector<std::int64_t> chosen;
  auto const wanted = static_cast<std::size_t>(total);
  while (chosen.size() < wanted) {
    std::vector<std::int64_t> turn(static_cast<std::size_t>(available));
    for (std::size_t index = 0; index < turn.size(); ++index) turn[index] = static_cast<std::int64_t>(index);
    for (std::size_t index = 0; index + 1 < turn.size(); ++index)
      std::swap(turn[index], turn[index + generator() % (turn.size() - index)]);
    chosen.insert(chosen.end(), turn.begin(), turn.end());
  }
  chosen.resize(wanted);
  return chosen;
}

// The numbers of nested lists, and their sizes: `shape` of an axis is that of its first list, and all are alike.
template <class Number>
void flatten(Json const& value, std::size_t axis, Shape& shape, std::vector<Number>& values, Fields const& fields,
             std::string const& name) {
  auto const* items = value.get_if<Json::Array>();
  if (items == nullptr) {
    auto const* whole = value.get_if<std::int64_t>();
    auto const* real = value.get_if<double>();
    if (axis != shape.size() || (whole == nullptr && (real == nullptr || std::is_same_v<Number, std::int64_t>)))
      fields.refuse(name, "lists of numbers");
    values.push_back(whole != nullptr ? static_cast<Number>(*whole) : static_cast<Number>(*real));
    return;
  }
  auto const size = static_cast<std::int64_t>(items->size());
  if (axis == shape.size() && values.empty()) shape.push_back(size);
  if (axis >= shape.size() || shape[axis] != size || size == 0) fields.refuse(name, "lists of numbers");
  for (Json const& item : *items) flatten(item, axis + 1, shape, values, fields, name);
}

template <class Number>
Array repeated(Fields const& examples, std::string const& name, std::int64_t total) {
  Shape shape;
  std::vector<Number> row;
  flatten(examples.any(name), 0, shape, row, examples, name);
  std::vector<Number> values;
  for (std::int64_t index = 0; index < total; ++index) values.insert(values.end(), row.begin(), row.end());
  shape.insert(shape.begin(), total);
  return {std::move(shape), std::move(values)};
}

Arrays packaged(std::filesystem::path const& folder, Fields const& package, std::vector<Input> const& inputs,
                std::int64_t total) {
  Arrays found;
  for (Input const& input : inputs) {
    if (!package.has("examples") || !package.object("examples").has(input.name))
      throw InputError(folder.string() + " is a package, which has no examples of " + input.name,
                       "sample from the run that it was made from, or give --condition " + input.name + "=FILE.npy");
    Fields const examples = package.object("examples");
    found[input.name] = input.dtype == DType::float32 ? repeated<float>(examples, input.name, total)
                                                      : repeated<std::int64_t>(examples, input.name, total);
  }
  return found;
}

}  // namespace

Arrays examples_of_run(std::filesystem::path const& folder, std::vector<Input> const& inputs, std::int64_t total,
                       std::uint64_t seed) {
  if (inputs.empty()) return {};
  Manifest const manifest(folder);
  if (manifest.fields().has("package") && !manifest.fields().any("package").is_null())
    return packaged(folder, manifest.fields().object("package"), inputs, total);
  SafeTensors const pairs(inside(folder, "pairs.safetensors"));
  std::int64_t const available = pairs.rows(inputs.front().name);
  if (available > kMostRows || total < 0) throw InputError("so many rows cannot be drawn", "give fewer samples");
  std::vector<std::int64_t> const chosen = chosen_rows(available, total, seed);
  Arrays found;
  for (Input const& input : inputs) found[input.name] = pairs.read(input.name, chosen);
  return found;
}

}  // namespace ptq_export
