#include "ptq_export/text_to_image.h"

#include "manifest.h"
#include "ptq_export/error.h"

namespace ptq_export {

namespace {

constexpr std::int64_t kMostTokenizers = 4;
constexpr double kMostScale = 1e6;

std::vector<std::string> texts_of(Fields const& fields, std::string_view name) {
  std::vector<std::string> texts;
  for (Json const& item : fields.list(name)) {
    auto const* text = item.get_if<std::string>();
    if (text == nullptr) fields.refuse(name, "a list of texts");
    texts.push_back(*text);
  }
  return texts;
}

}  // namespace

TextToImage TextToImage::of_run(std::filesystem::path const& folder) {
  Manifest const manifest(folder);
  Fields const denoiser = manifest.fields().object("denoiser");
  TextToImage found;
  found.latents = manifest.fields().object("artefacts").has("decoder.onnx");
  if (!denoiser.has("text") || denoiser.any("text").is_null()) return found;
  Fields const text = denoiser.object("text");
  found.conditions = texts_of(text, "conditions");
  found.tokenizers = text.whole("tokenizers", 1, kMostTokenizers);
  found.scale = text.number("scale", 0, kMostScale);
  found.prompts = texts_of(text, "prompts");
  return found;
}

}  // namespace ptq_export
