#include "ort/graph.h"

#include <algorithm>
#include <cctype>

#include "inputs.h"
#include "ptq_export/error.h"
#include "ptq_export/json.h"
#include "utf8.h"

namespace ptq_export::ort {

namespace {

constexpr std::size_t kLargestSample = std::size_t{1} << 28;
constexpr char const* kAgain = "export it again";

bool contains(std::vector<std::string> const& names, std::string const& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<Prompt> stated_prompt(Session const& session, std::string const& name) {
  std::optional<std::string> const text = session.metadata("prompt");
  if (!text) return std::nullopt;
  std::string const where = name + " does not say what its prompt graph is";
  Json const json = Json::parse(*text, where);
  Fields const fields(json, where);
  Prompt prompt{inputs_of(fields.any("values"), where), {}, fields.text("sha256")};
  for (Json const& item : fields.list("instead_of")) {
    auto const* condition = item.get_if<std::string>();
    if (condition == nullptr) fields.refuse("instead_of", "a list of texts");
    prompt.instead_of.push_back(*condition);
  }
  for (Input const& value : prompt.values)
    if (value.dtype != DType::float32 || value.limit) throw InputError(where, kAgain);
  if (prompt.values.empty()) throw InputError(where, kAgain);
  return prompt;
}

// What the step graph must take: values of a prompt graph in place of conditions.
std::vector<Input> step_inputs(std::vector<Input> const& inputs, std::optional<Prompt> const& prompt,
                               std::string const& name) {
  if (!prompt) return inputs;
  std::vector<Input> taken;
  std::size_t replaced = 0;
  for (std::size_t index = 0; index < inputs.size(); ++index) {
    bool const is_replaced = index >= 2 && contains(prompt->instead_of, inputs[index].name);
    replaced += is_replaced ? 1 : 0;
    if (!is_replaced) taken.push_back(inputs[index]);
  }
  for (Input const& value : prompt->values)
    if (std::any_of(inputs.begin(), inputs.end(), [&](Input const& input) { return input.name == value.name; }))
      throw InputError(name + " takes a value " + value.name + " that is a condition of it", kAgain);
  if (replaced != prompt->instead_of.size())
    throw InputError(name + " takes values in place of what are no conditions of it", kAgain);
  taken.insert(taken.end(), prompt->values.begin(), prompt->values.end());
  return taken;
}

// The graph's inputs are those that it states.
void require_stated(std::vector<Input> const& stated, Session const& session, std::string const& name) {
  for (Input const& input : stated) {
    auto const found = std::find_if(session.inputs().begin(), session.inputs().end(),
                                    [&](GraphValue const& value) { return value.name == input.name; });
    bool same =
        found != session.inputs().end() && found->dtype == input.dtype && found->shape.size() == input.shape.size() + 1;
    for (std::size_t axis = 0; same && axis < input.shape.size(); ++axis)
      same = std::holds_alternative<std::string>(input.shape[axis]) || found->shape[axis + 1] == input.shape[axis];
    if (!same) throw InputError(name + " states an input " + input.shown() + " that its graph does not have", kAgain);
  }
  for (GraphValue const& value : session.inputs())
    if (std::none_of(stated.begin(), stated.end(), [&](Input const& input) { return input.name == value.name; }))
      throw InputError(name + " has inputs that it does not state: " + value.name, kAgain);
}

std::optional<std::int64_t> stated_timesteps(Session const& session, std::string const& name) {
  std::optional<std::string> const text = session.metadata("num_train_timesteps");
  if (!text) return std::nullopt;
  bool const digits =
      !text->empty() && text->size() < 8 &&
      std::all_of(text->begin(), text->end(), [](char letter) { return letter >= '0' && letter <= '9'; });
  std::int64_t const found = digits ? std::stoll(*text) : 0;
  if (found < 1)
    throw InputError(name + " says num_train_timesteps = '" + shortened(*text) + "', which is no count", kAgain);
  return found;
}

}  // namespace

Described describe(Session const& session, std::string const& name) {
  std::optional<std::string> const text = session.metadata("inputs");
  if (!text) throw InputError(name + " does not say what its inputs are", kAgain);
  std::string const where = name + " does not say what its inputs are";
  Described found;
  Signature& signature = found.signature;
  signature.inputs = inputs_of(Json::parse(*text, where), where);
  require_denoiser(signature.inputs, name);
  found.prompt = stated_prompt(session, name);
  require_stated(step_inputs(signature.inputs, found.prompt, name), session, name);
  if (session.outputs().size() != 1 || session.outputs().front().dtype != DType::float32)
    throw InputError(name + " makes " + std::to_string(session.outputs().size()) + " outputs", kAgain);
  Shape const sample = signature.sample_shape();
  if (count(sample) > kLargestSample)
    throw InputError(name + " takes samples of " + shown(sample) + ", which is too large");
  std::vector<Input::Size> const& made = session.outputs().front().shape;
  auto const* channels = made.size() == sample.size() + 1 ? std::get_if<std::int64_t>(&made[1]) : nullptr;
  signature.channels = channels != nullptr ? *channels : sample.front();
  for (GraphValue const& value : session.inputs())
    if (value.name == "sample" && std::holds_alternative<std::int64_t>(value.shape.front()))
      signature.batch = std::get<std::int64_t>(value.shape.front());
  signature.num_train_timesteps = stated_timesteps(session, name);
  return found;
}

}  // namespace ptq_export::ort
