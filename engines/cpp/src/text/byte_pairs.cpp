#include "text/byte_pairs.h"

#include <array>
#include <cstddef>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

#include "ptq_export/error.h"
#include "utf8.h"

namespace ptq_export::text {

namespace {

constexpr char const* kWordEnd = "</w>";

// The letter of each byte: itself where it can be seen, else one from U+0100 on.
std::array<std::string, 256> byte_letters() {
  std::array<std::string, 256> letters;
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    bool const seen = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    append_utf8(letters[byte], seen ? byte : next++);
  }
  return letters;
}

std::uint64_t key_of(std::int64_t first, std::int64_t second) {
  return (static_cast<std::uint64_t>(first) << 32) | static_cast<std::uint64_t>(second);
}

// `["a", "b"]`, or as files of before have it `"a b"`.
std::pair<std::string, std::string> merged_of(Json const& item, Fields const& model) {
  if (auto const* text = item.get_if<std::string>()) {
    std::size_t const blank = text->find(' ');
    if (blank != std::string::npos) return {text->substr(0, blank), text->substr(blank + 1)};
  }
  auto const* both = item.get_if<Json::Array>();
  if (both == nullptr || both->size() != 2) model.refuse("merges", "a list of two tokens each");
  auto const* first = (*both)[0].get_if<std::string>();
  auto const* second = (*both)[1].get_if<std::string>();
  if (first == nullptr || second == nullptr) model.refuse("merges", "a list of two tokens each");
  return {*first, *second};
}

}  // namespace

BytePairs::BytePairs(Fields const& model) {
  auto const* vocabulary = model.any("vocab").get_if<Json::Object>();
  if (vocabulary == nullptr) model.refuse("vocab", "an object");
  for (auto const& [token, id] : *vocabulary) {
    auto const* number = id.get_if<std::int64_t>();
    if (number == nullptr || *number < 0 || *number >= kMostIds) model.refuse("vocab", "an object of ids");
    ids_.emplace(token, *number);
  }
  auto const unknown = ids_.find(model.text("unk_token"));
  if (unknown == ids_.end()) model.refuse("unk_token", "a token of vocab");
  unknown_ = unknown->second;
  read_merges(model);
}

void BytePairs::read_merges(Fields const& model) {
  std::int64_t rank = 0;
  for (Json const& item : model.list("merges")) {
    auto const [first, second] = merged_of(item, model);
    auto const one = ids_.find(first);
    auto const other = ids_.find(second);
    auto const made = ids_.find(first + second);
    if (one == ids_.end() || other == ids_.end() || made == ids_.end())
      throw InputError(model.file() + ": " + model.place("merges") + " makes '" + shortened(first + second) + "' of '" +
                           shortened(first) + "' and '" + shortened(second) + "', which are not all in vocab",
                       "copy the run folder again");
    merges_[key_of(one->second, other->second)] = {rank++, made->second};
  }
}

std::vector<BytePairs::Symbol> BytePairs::letters_of(std::string_view word) const {
  static std::array<std::string, 256> const letters = byte_letters();
  std::vector<Symbol> symbols;
  for (std::size_t index = 0; index < word.size(); ++index) {
    bool const is_last = index + 1 == word.size();
    auto const found = ids_.find(letters.at(static_cast<unsigned char>(word[index])) + (is_last ? kWordEnd : ""));
    auto const at = static_cast<std::ptrdiff_t>(index);
    symbols.push_back({found == ids_.end() ? unknown_ : found->second, at - 1, is_last ? -1 : at + 1, false});
  }
  return symbols;
}

BytePairs::Merge const* BytePairs::merge_of(std::vector<Symbol> const& symbols, std::ptrdiff_t at) const {
  if (at < 0) return nullptr;
  Symbol const& symbol = symbols[static_cast<std::size_t>(at)];
  if (symbol.is_gone || symbol.after < 0) return nullptr;
  auto const found = merges_.find(key_of(symbol.id, symbols[static_cast<std::size_t>(symbol.after)].id));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairs::append(std::string_view word, std::vector<std::int64_t>& ids) const {
  std::vector<Symbol> symbols = letters_of(word);
  using Entry = std::tuple<std::int64_t, std::ptrdiff_t>;  // the least rank first, of equal ones the leftmost
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  auto const consider = [&](std::ptrdiff_t at) {
    if (Merge const* merge = merge_of(symbols, at)) queue.emplace(merge->rank, at);
  };
  for (std::size_t index = 0; index < symbols.size(); ++index) consider(static_cast<std::ptrdiff_t>(index));
  while (!queue.empty()) {
    auto const [rank, at] = queue.top();
    queue.pop();
    Merge const* merge = merge_of(symbols, at);
    if (merge == nullptr || merge->rank != rank) continue;  // one of the two was merged with another meanwhile
    Symbol& first = symbols[static_cast<std::size_t>(at)];
    Symbol& second = symbols[static_cast<std::size_t>(first.after)];
    first.id = merge->made;
    first.after = second.after;
    second.is_gone = true;
    if (first.after >= 0) symbols[static_cast<std::size_t>(first.after)].before = at;
    consider(first.before);
    consider(at);
  }
  for (Symbol const& symbol : symbols)
    if (!symbol.is_gone) ids.push_back(symbol.id);
}

}  // namespace ptq_export::text
