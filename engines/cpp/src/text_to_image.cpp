#include "ptq_export/text_to_image.h"

#include "manifest.h"

namespace ptq_export {

TextToImage TextToImage::of_run(std::filesystem::path const& folder) {
  Manifest const manifest(folder);
  Fields const denoiser = manifest.fields().object("denoiser");
  TextToImage found;
  found.latents = manifest.fields().object("artefacts").has("decoder.onnx");
  if (!denoiser.has("text") || denoiser.any("text").is_null()) return found;
  Fields const text = denoiser.object("text");
  for (Json const& item : text.list("conditions")) {
    auto const* name = item.get_if<std::string>();
    if (name == nullptr) text.refuse("conditions", "a list of names");
    found.conditions.push_back(*name);
  }
  return found;
}

}  // namespace ptq_export
