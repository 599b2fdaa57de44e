// Characters as CLIP's tokenizers know them: classes, lower case, and the composed form (NFC).
#pragma once

#include <string>

namespace ptq_export::text {

bool is_letter(char32_t point) noexcept;
bool is_number(char32_t point) noexcept;
bool is_space(char32_t point) noexcept;

// The lower case of each character by itself.
std::u32string lowered(std::u32string const& given);

// Unicode's normalisation form C (UAX #15).
std::u32string composed(std::u32string const& given);

}  // namespace ptq_export::text
