// CLIP's tokenizer, as a run folder's `tokenizer.json` tells it (the format of HuggingFace's `tokenizers`).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "ptq_export/json.h"
#include "text/byte_pairs.h"

namespace ptq_export::text {

class Tokenizer {
 public:
  struct Encoded {
    std::vector<std::int64_t> ids;  // `length()` of them
    bool was_cut;
  };

  // InputError: the file cannot be read, or tells another tokenizer than CLIP's, by the name of what differs.
  explicit Tokenizer(std::filesystem::path const& file);

  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  // InputError: the prompt is not UTF-8.
  [[nodiscard]] Encoded encode(std::string_view prompt) const;

 private:
  // A token that stands in a text as it is, and is found before its letters are.
  struct Added {
    std::u32string content;
    std::int64_t id;
  };
  Tokenizer(Fields const& fields);
  void read_added(Fields const& fields);
  void read_ends(Fields const& processor);
  void read_length(Fields const& fields);
  void append_words(std::u32string const& text, std::vector<std::int64_t>& ids) const;

  BytePairs pairs_;
  bool parts_ends_;
  std::vector<Added> raw_, normalized_;  // those that are looked for before and after the text is normalised
  std::int64_t first_ = 0, last_ = 0, filling_ = 0;
  std::size_t length_ = 0;
};

}  // namespace ptq_export::text
