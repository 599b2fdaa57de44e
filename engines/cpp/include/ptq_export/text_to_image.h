// What lies around the denoiser of a text-to-image run. This library does not run it: whoever does gives the conditions
// of a prompt by their names, and decodes the samples.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace ptq_export {

struct TextToImage {
  std::vector<std::string> conditions;  // what the run's text encoder makes of a prompt; none where it takes none
  bool latents = false;                 // samples are latents, of which the run's decoder makes pictures

  // InputError: no finished run, or its manifest is damaged.
  static TextToImage of_run(std::filesystem::path const& folder);
};

}  // namespace ptq_export
