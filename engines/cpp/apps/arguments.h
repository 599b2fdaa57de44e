// What `sample_images` is asked for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "ptq_export/denoiser.h"

struct Arguments {
  std::filesystem::path run, picture = "samples.png", noise, samples;
  std::int64_t count = 16, steps = 20, seed = 0;
  std::string sampler;
  std::optional<std::string> prompt, negative;
  std::optional<double> guidance;
  std::map<std::string, std::string> conditions, unconditional;  // by name: an integer, or an .npy file
  ptq_export::EngineOptions engine;
};

// Nothing where help was asked for and shown. ptq_export::InputError: an unknown flag, or a value that is none.
std::optional<Arguments> parse(int count, char const* const* words);
