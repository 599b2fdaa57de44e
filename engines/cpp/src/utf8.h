// UTF-8: is it any, one character more, and all characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ptq_export {

// Whether every byte is part of a character, in its shortest form, that is no half of one.
bool is_utf8(std::string_view text) noexcept;

void append_utf8(std::string& text, std::uint32_t code_point);

// The characters of a text that is UTF-8.
std::u32string decoded(std::string_view text);

// The text with control characters, and bytes that are no UTF-8, as `?`: what a terminal may be shown of a file that
// came from anyone.
std::string printable(std::string_view text);

// The same of its first bytes.
std::string shortened(std::string_view text, std::size_t most = 40);

}  // namespace ptq_export
