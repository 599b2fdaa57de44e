// Byte pair encoding (arXiv:1508.07909) of words, over the letters by which GPT-2 writes bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptq_export/json.h"

namespace ptq_export::text {

// Ids are smaller.
inline constexpr std::int64_t kMostIds = std::int64_t{1} << 31;

class BytePairs {
 public:
  // Of `model` of a `tokenizer.json`. InputError: it is none with CLIP's settings, or names unknown tokens.
  explicit BytePairs(Fields const& model);

  // Appends the ids of a word, in UTF-8.
  void append(std::string_view word, std::vector<std::int64_t>& ids) const;

 private:
  struct Merge {
    std::int64_t rank, made;
  };
  struct Symbol {
    std::int64_t id;
    std::ptrdiff_t before, after;  // of the word's symbols; -1 where there is none
    bool is_gone;
  };
  [[nodiscard]] std::vector<Symbol> letters_of(std::string_view word) const;
  [[nodiscard]] Merge const* merge_of(std::vector<Symbol> const& symbols, std::ptrdiff_t at) const;
  void read_merges(Fields const& model);

  std::unordered_map<std::string, std::int64_t> ids_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by two ids
  std::int64_t unknown_ = 0;
};

}  // namespace ptq_export::text
