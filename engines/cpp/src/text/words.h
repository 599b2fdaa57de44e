// The words of a text, as CLIP's tokenizers part it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ptq_export::text {

// The regular expressions by which a `tokenizer.json` may tell this rule: transformers 5's, and those of before, which
// do not part the two tokens around a prompt.
extern std::string_view const kWordsAndEnds;
extern std::string_view const kWords;

// Runs of letters, single numbers, the endings of English ('s, 't, ...), and runs of what else is no space; with `ends`
// the two tokens around a prompt stand alone, in their parts.
std::vector<std::u32string> words_of(std::u32string const& text, bool ends);

}  // namespace ptq_export::text
