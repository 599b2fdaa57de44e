#include "text/tokenizer.h"

#include <algorithm>
#include <functional>

#include "ptq_export/error.h"
#include "text/unicode.h"
#include "text/words.h"
#include "utf8.h"

namespace ptq_export::text {

namespace {

constexpr std::int64_t kMostTokens = 1 << 16;
constexpr char const* kNormalizer = R"({"type": "Sequence", "normalizers": [
  {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}]})";
constexpr char const* kByteLevel =
    R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";

bool same(Json const& one, Json const& other) {
  if (auto const* items = one.get_if<Json::Array>()) {
    auto const* others = other.get_if<Json::Array>();
    return others != nullptr && std::equal(items->begin(), items->end(), others->begin(), others->end(), same);
  }
  if (auto const* members = one.get_if<Json::Object>()) {
    auto const* others = other.get_if<Json::Object>();
    return others != nullptr && members->size() == others->size() &&
           std::all_of(members->begin(), members->end(), [&](Json::Member const& member) {
             Json const* found = other.find(member.name);
             return found != nullptr && same(member.value, *found);
           });
  }
  bool const nested = other.get_if<Json::Array>() != nullptr || other.get_if<Json::Object>() != nullptr;
  auto const* text = one.get_if<std::string>();
  auto const* told = other.get_if<std::string>();
  return !nested && (text != nullptr) == (told != nullptr) &&
         (text != nullptr ? *text == *told : one.shown() == other.shown());
}

[[noreturn]] void refuse(Fields const& fields, std::string const& name) {
  Json const& value = fields.any(name);
  Json const* type = value.find("type");
  throw InputError(fields.file() + ": " + fields.place(name) + " is " +
                       (type != nullptr ? "of type " + type->shown() : value.shown()) +
                       ", and C++ reads tokenizers of CLIP's kind alone",
                   "draw from Python: ptq-export sample --prompt TEXT");
}

// Refuses a member that is not `wanted`, in JSON.
void require(Fields const& fields, std::string const& name, std::string const& wanted) {
  if (!same(fields.any(name), Json::parse(wanted, name))) refuse(fields, name);
}

// `model`, if its settings are CLIP's.
Fields model_of(Fields const& fields) {
  Fields model = fields.object("model");
  require(model, "type", R"("BPE")");
  for (char const* name : {"fuse_unk", "byte_fallback", "ignore_merges"}) require(model, name, "false");
  require(model, "dropout", "null");
  require(model, "continuing_subword_prefix", R"("")");
  require(model, "end_of_word_suffix", R"("</w>")");
  return model;
}

// Whether the tokens around a prompt are parted in a text, where normalisation and words are CLIP's.
bool parts_ends(Fields const& fields) {
  require(fields, "normalizer", kNormalizer);
  auto const tells = [&](std::string_view pattern) {
    Json::Object regex{{"Regex", Json(Json::Value(std::string(pattern)))}};
    Json::Object split{{"type", Json(Json::Value(std::string("Split")))},
                       {"pattern", Json(Json::Value(regex))},
                       {"behavior", Json(Json::Value(std::string("Removed")))},
                       {"invert", Json(Json::Value(true))}};
    Json::Array both{Json(Json::Value(split)), Json::parse(kByteLevel, "pre_tokenizer")};
    Json::Object sequence{{"type", Json(Json::Value(std::string("Sequence")))},
                          {"pretokenizers", Json(Json::Value(both))}};
    return same(fields.any("pre_tokenizer"), Json(Json::Value(sequence)));
  };
  if (tells(kWordsAndEnds)) return true;
  if (!tells(kWords)) refuse(fields, "pre_tokenizer");
  return false;
}

std::u32string normalized(std::u32string text) {
  text = composed(text);
  std::u32string found;
  for (char32_t const point : text)
    if (!is_space(point))
      found += point;
    else if (found.empty() || found.back() != U' ')
      found += U' ';
  return lowered(found);
}

// Appends the ids of the added tokens in a text, and calls `text` with what lies between them; of two at one place the
// longer is taken.
template <class Added, class Text>
void parted(std::u32string const& whole, std::vector<Added> const& added, std::vector<std::int64_t>& ids, Text text) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < whole.size();) {
    Added const* found = nullptr;
    for (Added const& each : added)
      if (whole.compare(at, each.content.size(), each.content) == 0 &&
          (found == nullptr || each.content.size() > found->content.size()))
        found = &each;
    if (found == nullptr) {
      ++at;
      continue;
    }
    text(whole.substr(begin, at - begin));
    ids.push_back(found->id);
    begin = at += found->content.size();
  }
  text(whole.substr(begin));
}

}  // namespace

Tokenizer::Tokenizer(std::filesystem::path const& file) : Tokenizer(Fields(Json::read(file), file.string())) {}

Tokenizer::Tokenizer(Fields const& fields) : pairs_(model_of(fields)), parts_ends_(parts_ends(fields)) {
  read_added(fields);
  read_ends(fields.object("post_processor"));
  read_length(fields);
}

void Tokenizer::read_added(Fields const& fields) {
  for (Json const& item : fields.list("added_tokens")) {
    Fields const token(item, fields.file(), "added_tokens");
    for (char const* name : {"single_word", "lstrip", "rstrip"}) require(token, name, "false");
    std::int64_t const id = token.whole("id", 0, kMostIds);
    std::u32string const content = decoded(token.text("content"));
    if (content.empty()) token.refuse("content", "a token");
    if (token.flag("normalized"))
      normalized_.push_back({normalized(content), id});
    else
      raw_.push_back({content, id});
  }
}

void Tokenizer::read_ends(Fields const& processor) {
  require(processor, "type", R"("RobertaProcessing")");
  auto const id_of = [&](char const* name) {
    Json::Array const& token = processor.list(name);
    auto const* id = token.size() == 2 ? token[1].get_if<std::int64_t>() : nullptr;
    if (id == nullptr || *id < 0 || *id >= kMostIds) processor.refuse(name, "a token and its id");
    return *id;
  };
  first_ = id_of("cls");
  last_ = id_of("sep");
}

void Tokenizer::read_length(Fields const& fields) {
  Fields const truncation = fields.object("truncation");
  Fields const padding = fields.object("padding");
  for (Fields const& each : {truncation, padding}) require(each, "direction", R"("Right")");
  require(truncation, "strategy", R"("LongestFirst")");
  require(padding, "pad_to_multiple_of", "null");
  std::int64_t const length = padding.object("strategy").whole("Fixed", 3, kMostTokens);
  require(truncation, "max_length", std::to_string(length));
  filling_ = padding.whole("pad_id", 0, kMostIds);
  length_ = static_cast<std::size_t>(length);
}

void Tokenizer::append_words(std::u32string const& text, std::vector<std::int64_t>& ids) const {
  for (std::u32string const& word : words_of(text, parts_ends_)) {
    std::string bytes;
    for (char32_t const point : word) append_utf8(bytes, point);
    pairs_.append(bytes, ids);
  }
}

Tokenizer::Encoded Tokenizer::encode(std::string_view prompt) const {
  if (!is_utf8(prompt)) throw InputError("a prompt is not UTF-8: '" + shortened(prompt) + "'", "write it in UTF-8");
  Encoded made{{first_}, false};
  parted(decoded(prompt), raw_, made.ids, [&](std::u32string const& piece) {
    parted(normalized(piece), normalized_, made.ids, [&](std::u32string const& text) { append_words(text, made.ids); });
  });
  made.was_cut = made.ids.size() + 1 > length_;
  made.ids.resize(std::min(made.ids.size(), length_ - 1));
  made.ids.push_back(last_);
  made.ids.resize(length_, filling_);
  return made;
}

}  // namespace ptq_export::text
