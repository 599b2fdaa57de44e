#include "prompting.h"

#include <algorithm>
#include <iostream>

#include "ptq_export/error.h"

namespace {

using ptq_export::InputError;
using ptq_export::TextToImage;

bool is_given(Arguments const& asked, std::string const& name) {
  return asked.conditions.find(name) != asked.conditions.end();
}

// Whether conditions are given in the place of a prompt: all that it decides, or none.
bool are_by_hand(Arguments const& asked, std::vector<std::string> const& of_prompt) {
  auto const given =
      std::find_if(of_prompt.begin(), of_prompt.end(), [&](std::string const& name) { return is_given(asked, name); });
  if (given == of_prompt.end()) return false;
  auto const absent = std::find_if_not(of_prompt.begin(), of_prompt.end(),
                                       [&](std::string const& name) { return is_given(asked, name); });
  if (absent != of_prompt.end())
    throw InputError("a prompt decides " + *given + " and " + *absent + ", which is missing",
                     "give all of them by --condition, or none and --prompt");
  if (asked.prompt || asked.negative)
    throw InputError(*given + " is given, which a prompt decides", "leave out --prompt and --negative, or --condition");
  return true;
}

std::vector<std::string> prompts_of(Arguments const& asked, TextToImage const& around, std::int64_t count) {
  auto const total = static_cast<std::size_t>(count);
  if (asked.prompt) return std::vector<std::string>(total, *asked.prompt);
  if (around.prompts.empty()) throw InputError("the run has no prompts of its own", "give --prompt TEXT");
  std::vector<std::string> prompts;
  for (std::size_t index = 0; index < total; ++index) prompts.push_back(around.prompts[index % around.prompts.size()]);
  return prompts;
}

}  // namespace

Prompted prompted(Arguments const& asked, TextToImage const& around, std::int64_t count) {
  Prompted found;
  if (around.conditions.empty()) {
    if (asked.prompt || asked.negative)
      throw InputError("this engine takes no prompts", "leave out --prompt and --negative");
    return found;
  }
  if (are_by_hand(asked, around.conditions)) return found;
  if (!asked.unconditional.empty())
    throw InputError("--unconditional says what --negative says in a run that takes prompts", "leave it out");
  std::string const negative = asked.negative.value_or("");
  found.scale = asked.guidance.value_or(around.scale);
  if (found.scale == 1.0 && !negative.empty())
    throw InputError("a negative prompt says nothing without guidance", "give --guidance, more than 1");
  ptq_export::PromptEncoder const encoder(asked.run, asked.engine.threads);
  std::vector<std::string> const prompts = prompts_of(asked, around, count);
  if (std::string const note = encoder.note(prompts); !note.empty()) std::cerr << note << '\n';
  if (found.scale != 1.0) found.away = encoder.encode({negative});
  found.given = encoder.encode(prompts);
  return found;
}
