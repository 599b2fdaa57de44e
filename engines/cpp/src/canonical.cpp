#include "canonical.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "ptq_export/error.h"

namespace ptq_export {

namespace {

void append_escaped(std::string& text, std::uint32_t unit) {
  char buffer[12];  // of any unit, which compilers cannot know to be of 16 bits
  std::snprintf(buffer, sizeof buffer, "\\u%04x", unit);
  text += buffer;
}

std::uint32_t decode(std::string_view text, std::size_t& at) {
  auto const lead = static_cast<unsigned char>(text[at++]);
  int const more = lead < 0x80 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  std::uint32_t point = more == 0 ? lead : lead & (0x3FU >> more);
  for (int index = 0; index < more; ++index) point = (point << 6) | (static_cast<unsigned char>(text[at++]) & 0x3FU);
  return point;
}

}  // namespace

// The text is UTF-8, as all that was read from JSON.
std::string json_text(std::string_view text) {
  static constexpr std::string_view kNames = "\"\\\b\f\n\r\t";
  static constexpr std::string_view kWritten = "\"\\bfnrt";
  std::string out = "\"";
  for (std::size_t at = 0; at < text.size();) {
    std::uint32_t const point = decode(text, at);
    std::size_t const named = point < 0x80 ? kNames.find(static_cast<char>(point)) : std::string_view::npos;
    if (named != std::string_view::npos) {
      out += '\\';
      out += kWritten[named];
    } else if (point >= 0x20 && point < 0x7F) {
      out += static_cast<char>(point);
    } else if (point < 0x10000) {
      append_escaped(out, point);
    } else {
      append_escaped(out, 0xD800 + ((point - 0x10000) >> 10));
      append_escaped(out, 0xDC00 + ((point - 0x10000) & 0x3FFU));
    }
  }
  return out + "\"";
}

std::string canonical(Json const& value) {
  if (value.is_null()) return "null";
  if (auto const* flag = value.get_if<bool>()) return *flag ? "true" : "false";
  if (auto const* whole = value.get_if<std::int64_t>()) return std::to_string(*whole);
  if (auto const* text = value.get_if<std::string>()) return json_text(*text);
  std::string out;
  if (auto const* items = value.get_if<Json::Array>()) {
    for (Json const& item : *items) out += (out.empty() ? "" : ",") + canonical(item);
    return "[" + out + "]";
  }
  auto const* members = value.get_if<Json::Object>();
  if (members == nullptr) throw InputError("the options of an engine hold a fraction", "build it again");
  std::vector<std::pair<std::string, Json>> named;
  for (Json::Member const& member : *members) named.emplace_back(member.name, member.value);
  std::sort(named.begin(), named.end(), [](auto const& one, auto const& two) { return one.first < two.first; });
  return canonical(named);
}

std::string canonical(std::vector<std::pair<std::string, Json>> const& sorted) {
  std::string out;
  for (auto const& [name, value] : sorted) out += (out.empty() ? "" : ",") + json_text(name) + ":" + canonical(value);
  return "{" + out + "}";
}

std::string canonical(Identity const& identity) {
  Json::Object versions;
  Json::Object options;
  Json::Array isa;
  for (auto const& [name, version] : identity.versions) versions.push_back({name, Json(Json::Value(version))});
  for (auto const& [name, value] : identity.options) options.push_back({name, value});
  for (std::string const& name : identity.isa) isa.emplace_back(Json::Value(name));
  Json::Object all;
  for (auto const& [name, text] :
       {std::pair{"arch", &identity.arch}, std::pair{"device", &identity.device}, std::pair{"engine", &identity.engine},
        std::pair{"os", &identity.os}, std::pair{"onnx_sha256", &identity.onnx_sha256}})
    all.push_back({name, Json(Json::Value(*text))});
  all.push_back({"isa", Json(Json::Value(std::move(isa)))});
  all.push_back({"options", Json(Json::Value(std::move(options)))});
  all.push_back({"versions", Json(Json::Value(std::move(versions)))});
  return canonical(Json(Json::Value(std::move(all))));
}

}  // namespace ptq_export
