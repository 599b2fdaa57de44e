#include "utf8.h"

#include <algorithm>
#include <cstddef>

namespace ptq_export {

namespace {

// The length of the character that begins with this byte, and the least code point of that length; 0 where none does.
struct Lead {
  std::size_t length;
  std::uint32_t least, bits;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, byte};
  if (byte >= 0xC2 && byte < 0xE0) return {2, 0x80, byte & 0x1FU};
  if (byte >= 0xE0 && byte < 0xF0) return {3, 0x800, byte & 0x0FU};
  if (byte >= 0xF0 && byte < 0xF5) return {4, 0x10000, byte & 0x07U};
  return {0, 0, 0};
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  for (std::size_t at = 0; at < text.size();) {
    Lead const lead = lead_of(static_cast<unsigned char>(text[at]));
    if (lead.length == 0 || at + lead.length > text.size()) return false;
    std::uint32_t point = lead.bits;
    for (std::size_t index = 1; index < lead.length; ++index) {
      auto const byte = static_cast<unsigned char>(text[at + index]);
      if ((byte & 0xC0U) != 0x80) return false;
      point = (point << 6) | (byte & 0x3FU);
    }
    if (point < lead.least || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return false;
    at += lead.length;
  }
  return true;
}

void append_utf8(std::string& text, std::uint32_t code_point) {
  auto const tail = [&](int shift) { text += static_cast<char>(0x80U | ((code_point >> shift) & 0x3FU)); };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += static_cast<char>(0xC0U | (code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    text += static_cast<char>(0xE0U | (code_point >> 12));
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0U | (code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::u32string decoded(std::string_view text) {
  std::u32string points;
  for (std::size_t at = 0; at < text.size();) {
    Lead const lead = lead_of(static_cast<unsigned char>(text[at]));
    char32_t point = lead.bits;
    for (std::size_t index = 1; index < lead.length; ++index)
      point = (point << 6) | (static_cast<unsigned char>(text[at + index]) & 0x3FU);
    points += point;
    at += lead.length;
  }
  return points;
}

std::string printable(std::string_view text) {
  bool const plain = !is_utf8(text);
  std::string shown(text);
  std::replace_if(
      shown.begin(), shown.end(),
      [&](char letter) {
        auto const byte = static_cast<unsigned char>(letter);
        return byte < 0x20 || byte == 0x7F || (plain && byte >= 0x80);
      },
      '?');
  return shown;
}

std::string shortened(std::string_view text, std::size_t most) {
  std::size_t length = std::min(text.size(), most);
  while (length > 0 && length < text.size() && (static_cast<unsigned char>(text[length]) & 0xC0U) == 0x80) --length;
  return printable(text.substr(0, length));
}

}  // namespace ptq_export
