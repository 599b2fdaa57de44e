#include <algorithm>

#include "float_graph.h"
#include "manifest.h"
#include "ptq_export/error.h"
#include "ptq_export/text_to_image.h"
#include "rows.h"
#include "text/tokenizer.h"
#include "utf8.h"

namespace ptq_export {

namespace {

constexpr std::size_t kEncodedAtOnce = 8, kShown = 80;

std::string numbered(std::string const& before, std::size_t index, char between, std::string const& after) {
  return index == 0 ? before + after : before + between + std::to_string(index + 1) + after;
}

}  // namespace

PromptEncoder::PromptEncoder(std::filesystem::path const& folder, int threads) {
  Manifest const manifest(folder);
  TextToImage const around = TextToImage::of_run(folder);
  if (around.conditions.empty())
    throw InputError("this engine takes no prompts", "leave out --prompt, --negative and --guidance");
  conditions_ = around.conditions;
  for (std::size_t index = 0; index < static_cast<std::size_t>(around.tokenizers); ++index)
    tokenizers_.emplace_back(manifest.verified(numbered("tokenizer", index, '.', ".json")));
  graph_ = open_float_graph(manifest, "text_encoder.onnx", conditions_, threads);
}

PromptEncoder::PromptEncoder(PromptEncoder&&) noexcept = default;
PromptEncoder& PromptEncoder::operator=(PromptEncoder&&) noexcept = default;
PromptEncoder::~PromptEncoder() = default;

Conditions PromptEncoder::encode(std::vector<std::string> const& prompts) const {
  if (prompts.empty()) throw InputError("there are no prompts to encode", "give one or more");
  Conditions found;
  for (std::size_t first = 0; first < prompts.size(); first += kEncodedAtOnce) {
    std::size_t const last = std::min(first + kEncodedAtOnce, prompts.size());
    std::vector<std::string> names;
    std::vector<std::vector<std::int64_t>> ids(tokenizers_.size());
    std::vector<TensorView> feeds;
    for (std::size_t index = 0; index < tokenizers_.size(); ++index) {
      for (std::size_t row = first; row < last; ++row) {
        auto const encoded = tokenizers_[index].encode(prompts[row]);
        ids[index].insert(ids[index].end(), encoded.ids.begin(), encoded.ids.end());
      }
      names.push_back(numbered("input_ids", index, '_', ""));
      feeds.emplace_back(ids[index].data(), Shape{static_cast<std::int64_t>(last - first),
                                                  static_cast<std::int64_t>(tokenizers_[index].length())});
    }
    std::vector<Tensor> const made = graph_->run(names, feeds, conditions_);
    for (std::size_t index = 0; index < made.size(); ++index) append_rows(found[conditions_[index]], made[index]);
  }
  return found;
}

std::size_t PromptEncoder::length() const noexcept {
  std::size_t least = tokenizers_.front().length();
  for (text::Tokenizer const& each : tokenizers_) least = std::min(least, each.length());
  return least;
}

bool PromptEncoder::cuts(std::string const& prompt) const {
  return std::any_of(tokenizers_.begin(), tokenizers_.end(),
                     [&](text::Tokenizer const& each) { return each.encode(prompt).was_cut; });
}

std::string PromptEncoder::note(std::vector<std::string> const& prompts) const {
  auto const cut =
      std::find_if(prompts.begin(), prompts.end(), [&](std::string const& prompt) { return cuts(prompt); });
  if (cut == prompts.end()) return "";
  return "cut to " + std::to_string(length()) + " tokens: " + shortened("'" + *cut + "'", kShown);
}

}  // namespace ptq_export
