#include "ptq_export/json.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <locale>
#include <sstream>
#include <unordered_set>

#include "files.h"
#include "ptq_export/error.h"
#include "utf8.h"

namespace ptq_export {

namespace {

class Parser {
 public:
  Parser(std::string_view text, std::string const& where) : text_(text), where_(where) {}

  Json document() {
    Json value = element(0);
    blanks();
    if (at_ != text_.size()) fail("there is more behind its end");
    return value;
  }

 private:
  [[noreturn]] void fail(std::string const& why) const {
    throw InputError(where_ + " cannot be read: " + why + " (byte " + std::to_string(at_) + ")",
                     "make the run again, in a new folder");
  }

  void blanks() { at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size()); }

  [[nodiscard]] char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char wanted) {
    if (next() != wanted || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }

  Json element(int depth) {
    if (depth > Json::kMaxDepth) fail("it is nested too deeply");
    blanks();
    switch (next()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"':
        return Json(Json::Value(string()));
      case 't':
        return word("true", Json::Value(true));
      case 'f':
        return word("false", Json::Value(false));
      case 'n':
        return word("null", Json::Value(nullptr));
      default:
        return number();
    }
  }

  Json word(std::string_view name, Json::Value value) {
    if (text_.substr(at_, name.size()) != name) fail("a value is missing");
    at_ += name.size();
    return Json(std::move(value));
  }

  Json array(int depth) {
    Json::Array items;
    take('[');
    blanks();
    if (take(']')) return Json(Json::Value(std::move(items)));
    do items.push_back(element(depth + 1));
    while ((blanks(), take(',')));
    if (!take(']')) fail("a list is not closed");
    return Json(Json::Value(std::move(items)));
  }

  Json object(int depth) {
    Json::Object members;
    std::unordered_set<std::string> names;
    take('{');
    blanks();
    if (take('}')) return Json(Json::Value(std::move(members)));
    do {
      blanks();
      std::string name = string();
      if (!names.insert(name).second) fail("it holds '" + shortened(name, 80) + "' twice");
      blanks();
      if (!take(':')) fail("a colon is missing");
      members.push_back({std::move(name), element(depth + 1)});
      blanks();
    } while (take(','));
    if (!take('}')) fail("an object is not closed");
    return Json(Json::Value(std::move(members)));
  }

  Json number() {
    std::size_t const start = at_;
    take('-');
    if (!take('0')) digits();
    bool const whole = next() != '.' && next() != 'e' && next() != 'E';
    if (take('.')) digits();
    if (next() == 'e' || next() == 'E') {
      ++at_;
      if (!take('+')) take('-');
      digits();
    }
    std::string const text(text_.substr(start, at_ - start));
    return whole ? integer(text) : real(text);
  }

  Json integer(std::string const& text) {
    if (text.size() > 20) fail("the integer " + text.substr(0, 20) + " is too large");
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    std::int64_t value = 0;
    if (!(stream >> value) || value == INT64_MIN) fail("the integer " + text + " is too large");
    return Json(Json::Value(value));
  }

  Json real(std::string const& text) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    double value = 0;
    stream >> value;  // too small is 0 or a subnormal, as in Python; too large fails and gives the largest double
    if (stream.fail() && std::abs(value) > 1) fail(text.substr(0, 40) + " is no finite number");
    return Json(Json::Value(value));
  }

  void digits() {
    std::size_t const start = at_;
    while (next() >= '0' && next() <= '9') ++at_;
    if (at_ == start) fail("a value is missing");
  }

  std::string string() {
    if (!take('"')) fail("a text is missing");
    std::string found;
    while (!take('"')) {
      if (at_ >= text_.size()) fail("a text is not closed");
      if (static_cast<unsigned char>(next()) < 0x20) fail("a text holds a control character");
      if (take('\\'))
        escaped(found);
      else
        found += text_[at_++];
    }
    return found;
  }

  void escaped(std::string& found) {
    static constexpr std::string_view kNames = "\"\\/bfnrt";
    static constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      append_utf8(found, code_point());
      return;
    }
    std::size_t const which = at_ < text_.size() ? kNames.find(next()) : std::string_view::npos;
    if (which == std::string_view::npos) fail("a text holds an unknown escape");
    found += kMeant[which];
    ++at_;
  }

  std::uint32_t code_point() {
    std::uint32_t const first = hexadecimal();
    if (first < 0xD800 || first > 0xDFFF) return first;
    bool const pair = first < 0xDC00 && take('\\') && take('u');
    std::uint32_t const second = pair ? hexadecimal() : 0;
    if (second < 0xDC00 || second > 0xDFFF) fail("a text holds half a character");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  std::uint32_t hexadecimal() {
    std::uint32_t value = 0;
    for (int digit = 0; digit < 4; ++digit) {
      static constexpr std::string_view kDigits = "0123456789abcdef0123456789ABCDEF";
      std::size_t const found = at_ < text_.size() ? kDigits.find(next()) : std::string_view::npos;
      if (found == std::string_view::npos) fail("a text holds an unknown escape");
      value = value * 16 + static_cast<std::uint32_t>(found % 16);
      ++at_;
    }
    return value;
  }

  std::string_view text_;
  std::string const& where_;
  std::size_t at_ = 0;
};

}  // namespace

Json Json::parse(std::string_view text, std::string const& where) {
  if (!is_utf8(text)) throw InputError(where + " cannot be read: it is not UTF-8");
  return Parser(text, where).document();
}

Json Json::read(std::filesystem::path const& file) {
  std::string const remedy = "make the run again, in a new folder";
  std::uintmax_t const size = regular_size(file);
  if (size > kMaxBytes)
    throw InputError(file.string() + " has " + std::to_string(size >> 20) + " MiB, JSON of at most 32 is read", remedy);
  Json value = parse(read_bytes(file, kMaxBytes), file.string());
  if (value.get_if<Object>() == nullptr) throw InputError(file.string() + " is not a JSON object", remedy);
  return value;
}

Json const* Json::find(std::string_view name) const noexcept {
  auto const* members = get_if<Object>();
  if (members == nullptr) return nullptr;
  for (Member const& member : *members)
    if (member.name == name) return &member.value;
  return nullptr;
}

std::string Json::shown() const {
  static constexpr std::array<char const*, 7> kKinds{"null", "", "", "", "", "a list", "an object"};
  if (auto const* flag = get_if<bool>()) return *flag ? "True" : "False";
  if (auto const* whole = get_if<std::int64_t>()) return std::to_string(*whole);
  if (auto const* text = get_if<std::string>()) return "'" + shortened(*text, 38) + "'";
  if (auto const* real = get_if<double>()) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream << *real;
    return stream.str();
  }
  return kKinds.at(value_.index());
}

}  // namespace ptq_export
