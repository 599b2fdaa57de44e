#include "text/words.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "text/unicode.h"

namespace ptq_export::text {

std::string_view const kWords = R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
std::string_view const kWordsAndEnds =
    R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";

namespace {

// The parts of `<|startoftext|>` and `<|endoftext|>`, which the byte level's own expression parts again.
using End = std::array<std::u32string_view, 3>;
constexpr std::array<End, 2> kEnds{{{U"<|", U"startoftext", U"|>"}, {U"<|", U"endoftext", U"|>"}}};
constexpr std::array<std::u32string_view, 7> kEndings{U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"};

bool begins(std::u32string_view text, std::u32string_view with) { return text.substr(0, with.size()) == with; }

bool begins(std::u32string_view text, End const& with) {
  for (std::u32string_view const part : with) {
    if (!begins(text, part)) return false;
    text.remove_prefix(part.size());
  }
  return true;
}

bool is_other(char32_t point) { return !is_space(point) && !is_letter(point) && !is_number(point); }

// How many characters the word has with which `text`, which is not empty, begins.
std::size_t length_of(std::u32string_view text) {
  auto const* const ending = std::find_if(kEndings.begin(), kEndings.end(),
                                          [&](std::u32string_view const each) { return begins(text, each); });
  if (ending != kEndings.end()) return ending->size();
  if (is_number(text.front())) return 1;
  auto const* const end =
      std::find_if_not(text.data(), text.data() + text.size(), is_letter(text.front()) ? is_letter : is_other);
  return static_cast<std::size_t>(end - text.data());
}

}  // namespace

std::vector<std::u32string> words_of(std::u32string const& text, bool ends) {
  std::vector<std::u32string> words;
  std::u32string_view rest = text;
  auto const take = [&](std::size_t length) {
    words.emplace_back(rest.substr(0, length));
    rest.remove_prefix(length);
  };
  while (!rest.empty()) {
    auto const* const end =
        std::find_if(kEnds.begin(), kEnds.end(), [&](End const& each) { return ends && begins(rest, each); });
    if (end != kEnds.end())
      for (std::u32string_view const part : *end) take(part.size());
    else if (is_space(rest.front()))
      rest.remove_prefix(1);
    else
      take(length_of(rest));
  }
  return words;
}

}  // namespace ptq_export::text
