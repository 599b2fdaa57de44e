// A float graph beside a denoiser, a text encoder or a decoder of latents, on ONNX Runtime's CPU provider.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "manifest.h"
#include "ptq_export/tensor.h"

namespace ptq_export {

class FloatGraph {
 public:
  virtual ~FloatGraph() = default;
  FloatGraph(FloatGraph const&) = delete;
  FloatGraph& operator=(FloatGraph const&) = delete;

  [[nodiscard]] virtual std::vector<std::string> inputs() const = 0;
  // Its `outputs`, for feeds of these names.
  [[nodiscard]] virtual std::vector<Tensor> run(std::vector<std::string> const& names,
                                                std::vector<TensorView> const& feeds,
                                                std::vector<std::string> const& outputs) const = 0;

 protected:
  FloatGraph() = default;
};

// The file `name` of a run, which has the manifest's digest, and so have the data beside it.
// InputError: it is damaged, or does not make `outputs` of float32. EnvironmentMissing: compiled without ONNX Runtime.
std::unique_ptr<FloatGraph> open_float_graph(Manifest const& manifest, std::string const& name,
                                             std::vector<std::string> const& outputs, int threads);

}  // namespace ptq_export
