// What a prompt decides of the samples that `sample_images` is asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "ptq_export/text_to_image.h"

struct Prompted {
  ptq_export::Conditions given;  // `[N, ...]`; none of a run that takes no prompts, or whose conditions were given
  ptq_export::Conditions away;   // `[1, ...]`; none without guidance
  double scale = 1.0;
};

// The conditions of the prompt that was asked for, or of those of the run in their order, for `count` samples. Prompts
// that are too long are told on standard error.
// ptq_export::InputError: a prompt for a run that takes none, or beside conditions that it decides.
Prompted prompted(Arguments const& asked, ptq_export::TextToImage const& around, std::int64_t count);
