#include <algorithm>
#include <cmath>

#include "float_graph.h"
#include "manifest.h"
#include "ptq_export/error.h"
#include "ptq_export/text_to_image.h"
#include "rows.h"

namespace ptq_export {

namespace {

constexpr std::int64_t kDecodedAtOnce = 4;
constexpr char const* kImage = "image";

}  // namespace

LatentDecoder::LatentDecoder(std::filesystem::path const& folder, int threads)
    : graph_(open_float_graph(Manifest(folder), "decoder.onnx", {kImage}, threads)) {
  std::vector<std::string> const names = graph_->inputs();
  if (names.size() != 1) throw InputError("decoder.onnx does not take latents alone", "copy the run folder again");
  input_ = names.front();
}

LatentDecoder::LatentDecoder(LatentDecoder&&) noexcept = default;
LatentDecoder& LatentDecoder::operator=(LatentDecoder&&) noexcept = default;
LatentDecoder::~LatentDecoder() = default;

Tensor LatentDecoder::decode(Tensor const& latents) const {
  if (latents.shape().empty() || latents.size() == 0)
    throw InputError("the latents are " + shown(latents.shape()) + ", not [N, C, ...]", "give one sample at least");
  Tensor images;
  std::int64_t const total = latents.shape().front();
  std::size_t const each = latents.size() / static_cast<std::size_t>(total);
  for (std::int64_t first = 0; first < total; first += kDecodedAtOnce) {
    Shape shape = latents.shape();
    shape.front() = std::min(kDecodedAtOnce, total - first);
    TensorView const rows(latents.data() + static_cast<std::size_t>(first) * each, shape);
    append_rows(images, graph_->run({input_}, {rows}, {kImage}).front());
  }
  for (std::size_t index = 0; index < images.size(); ++index) {
    if (!std::isfinite(images[index]))
      throw InputError("the picture became NaN or infinite in the decoder", "ask for less guidance");
    images[index] = std::min(std::max(images[index], -1.0F), 1.0F);
  }
  return images;
}

}  // namespace ptq_export
