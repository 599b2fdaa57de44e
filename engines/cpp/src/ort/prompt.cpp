#include "ort/prompt.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "files.h"
#include "ptq_export/error.h"
#include "sha256.h"

namespace ptq_export::ort {

namespace fs = std::filesystem;

namespace {

constexpr char const* kRemedy = "copy both files again, or export it again";

fs::path required(fs::path const& source, Prompt const& prompt) {
  fs::path beside = prompt_beside(source);
  std::string const step = source.filename().string();
  if (!fs::exists(beside))
    throw InputError(beside.string() + " is not there: " + step + " takes what it computes once per prompt", kRemedy);
  if (sha256_file(beside) != prompt.sha256)
    throw InputError(beside.string() + " is damaged, or another graph's: its sha256 is not the one in " + step,
                     kRemedy);
  if (fs::exists(data_beside(beside)))
    throw InputError(beside.string() + " keeps its weights in another file, which is not read here");
  return beside;
}

std::size_t bytes_of(TensorView const& view) {
  return count(view.shape()) * (view.dtype() == DType::float32 ? sizeof(float) : sizeof(std::int64_t));
}

bool fits(Input const& wanted, Shape const& found, std::map<std::string, std::int64_t>& sizes) {
  if (found.size() != wanted.shape.size() + 1) return false;
  for (std::size_t axis = 0; axis < wanted.shape.size(); ++axis) {
    auto const* name = std::get_if<std::string>(&wanted.shape[axis]);
    std::int64_t const size = found[axis + 1];
    if (size !=
        (name != nullptr ? sizes.emplace(*name, size).first->second : std::get<std::int64_t>(wanted.shape[axis])))
      return false;
  }
  return true;
}

}  // namespace

PromptGraph::PromptGraph(fs::path const& source, Prompt const& prompt, Signature const& signature, int threads)
    : session_(required(source, prompt), {threads, true, {}}), made_(prompt.values) {
  std::string const told = prompt_beside(source).filename().string() + " is another graph than its step graph says: ";
  for (GraphValue const& value : session_.inputs()) {
    auto const found = std::find_if(signature.inputs.begin() + 2, signature.inputs.end(),
                                    [&](Input const& input) { return input.name == value.name; });
    if (found == signature.inputs.end() || found->dtype != value.dtype)
      throw InputError(told + value.name, "export it again");
    reads_.push_back(static_cast<std::size_t>(found - signature.inputs.begin()));
    read_names_.push_back(value.name.c_str());
  }
  for (GraphValue const& value : session_.outputs())
    if (value.dtype != DType::float32 ||
        std::none_of(made_.begin(), made_.end(), [&](Input const& input) { return input.name == value.name; }))
      throw InputError(told + value.name, "export it again");
  if (session_.outputs().size() != made_.size()) throw InputError(told + "values are missing", "export it again");
  for (Input const& value : made_) names_.push_back(value.name);
  for (std::string const& name : names_) made_names_.push_back(name.c_str());
}

bool PromptGraph::is_known(std::vector<TensorView> const& feeds) const {
  if (known_.size() != reads_.size()) return false;
  for (std::size_t index = 0; index < reads_.size(); ++index) {
    TensorView const& given = feeds[reads_[index]];
    Known const& known = known_[index];
    if (known.shape != given.shape() || std::memcmp(known.bytes.data(), given.data(), known.bytes.size()) != 0)
      return false;
  }
  return true;
}

std::vector<Tensor> const& PromptGraph::values(std::vector<TensorView> const& feeds) {
  if (is_known(feeds)) return values_;
  std::vector<TensorView> given;
  std::vector<Known> read;
  for (std::size_t const index : reads_) {
    given.push_back(feeds[index]);
    read.push_back({feeds[index].shape(), {static_cast<char const*>(feeds[index].data()), bytes_of(feeds[index])}});
  }
  known_.clear();
  values_ = session_.run(read_names_, given, made_names_);
  std::map<std::string, std::int64_t> sizes;
  for (std::size_t index = 0; index < made_.size(); ++index)
    if (!fits(made_[index], values_[index].shape(), sizes))
      throw InputError("the prompt graph makes " + names_[index] + " " + shown(values_[index].shape()) +
                           ", and its step graph takes " + made_[index].shown(),
                       "export it again");
  known_ = std::move(read);
  return values_;
}

}  // namespace ptq_export::ort
