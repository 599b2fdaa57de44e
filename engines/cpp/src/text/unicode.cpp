#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <unordered_map>

namespace ptq_export::text {

namespace {

struct Range {
  char32_t first, last;
};

// Every `step`th character of a range has its lower case `shift` further on.
struct Shift {
  char32_t first, last, step;
  std::int32_t shift;
};

// A character that is two, and whether the two become one again.
struct Pair {
  char32_t whole, first, second;
  bool again;
};

// A character that is another.
struct Single {
  char32_t first, other;
};

// Characters of one combining class.
struct Mark {
  char32_t first, last;
  int order;
};

#include "text/unicode_tables.inc"

// The row with the largest `first` that is no larger than `point`; nullptr where there is none.
template <class Row, std::size_t size>
Row const* row_of(std::array<Row, size> const& rows, char32_t point) noexcept {
  auto const next = std::upper_bound(rows.begin(), rows.end(), point,
                                     [](char32_t wanted, Row const& row) { return wanted < row.first; });
  return next == rows.begin() ? nullptr : &*std::prev(next);
}

template <std::size_t size>
bool is_in(std::array<Range, size> const& ranges, char32_t point) noexcept {
  Range const* row = row_of(ranges, point);
  return row != nullptr && point <= row->last;
}

int order_of(char32_t point) noexcept {
  Mark const* row = row_of(kMarks, point);
  return row != nullptr && point <= row->last ? row->order : 0;
}

// Hangul's syllables are computed (The Unicode Standard, 3.12).
constexpr char32_t kSyllables = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllableCount = kLeads * kVowels * kTails;

void append_decomposed(std::u32string& text, char32_t point) {
  if (char32_t const syllable = point - kSyllables; syllable < kSyllableCount) {
    text += static_cast<char32_t>(kLead + syllable / kTails / kVowels);
    text += static_cast<char32_t>(kVowel + syllable / kTails % kVowels);
    if (syllable % kTails != 0) text += static_cast<char32_t>(kTail + syllable % kTails);
    return;
  }
  auto const* pair = std::lower_bound(kComposed.data(), kComposed.data() + kComposed.size(), point,
                                      [](Pair const& row, char32_t wanted) { return row.whole < wanted; });
  Single const* single = row_of(kSingle, point);
  if (pair != kComposed.data() + kComposed.size() && pair->whole == point) {
    append_decomposed(text, pair->first);
    append_decomposed(text, pair->second);
  } else if (single != nullptr && single->first == point) {
    append_decomposed(text, single->other);
  } else {
    text += point;
  }
}

// What two characters become; 0 where they stay two.
char32_t composed(char32_t first, char32_t second) {
  static std::unordered_map<std::uint64_t, char32_t> const known = [] {
    std::unordered_map<std::uint64_t, char32_t> pairs;
    for (Pair const& row : kComposed)
      if (row.again) pairs.emplace((std::uint64_t{row.first} << 32) | row.second, row.whole);
    return pairs;
  }();
  char32_t const syllable = first - kSyllables;
  if (first - kLead < kLeads && second - kVowel < kVowels)
    return kSyllables + ((first - kLead) * kVowels + second - kVowel) * kTails;
  if (syllable < kSyllableCount && syllable % kTails == 0 && second > kTail && second < kTail + kTails)
    return first + second - kTail;
  auto const found = known.find((std::uint64_t{first} << 32) | second);
  return found == known.end() ? 0 : found->second;
}

// Decomposed, and the marks behind each character in the order of their classes.
std::u32string decomposed(std::u32string const& given) {
  std::u32string text;
  for (char32_t const point : given) append_decomposed(text, point);
  auto const is_mark = [](char32_t point) { return order_of(point) != 0; };
  for (auto first = text.begin(); (first = std::find_if(first, text.end(), is_mark)) != text.end();) {
    auto const last = std::find_if_not(first, text.end(), is_mark);
    std::stable_sort(first, last, [](char32_t one, char32_t other) { return order_of(one) < order_of(other); });
    first = last;
  }
  return text;
}

}  // namespace

bool is_letter(char32_t point) noexcept { return is_in(kLetters, point); }
bool is_number(char32_t point) noexcept { return is_in(kNumbers, point); }
bool is_space(char32_t point) noexcept { return is_in(kSpaces, point); }

std::u32string lowered(std::u32string const& given) {
  std::u32string text;
  for (char32_t const point : given) {
    Shift const* row = row_of(kLower, point);
    bool const is_upper = row != nullptr && point <= row->last && (point - row->first) % row->step == 0;
    if (point == U'\u0130')  // the only one whose lower case is two characters
      text += U"i\u0307";
    else
      text += is_upper ? static_cast<char32_t>(static_cast<std::int32_t>(point) + row->shift) : point;
  }
  return text;
}

std::u32string composed(std::u32string const& given) {
  std::u32string text;
  std::size_t base = 0;  // behind the last character that is no mark; 0 where there is none
  int last = 0;          // the class of what stands between it and this one
  for (char32_t const point : decomposed(given)) {
    int const order = order_of(point);
    bool const free = base == text.size() || last < order;
    if (char32_t const whole = base > 0 && free ? composed(text[base - 1], point) : 0; whole != 0) {
      text[base - 1] = whole;
      continue;
    }
    text += point;
    last = order;
    if (order == 0) base = text.size();
  }
  return text;
}

}  // namespace ptq_export::text
