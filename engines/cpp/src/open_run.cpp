#include "files.h"
#include "manifest.h"
#include "ptq_export/denoiser.h"
#include "ptq_export/error.h"
#ifdef PTQ_EXPORT_WITH_ORT
#include "ort/denoiser.h"
#endif
#ifdef PTQ_EXPORT_WITH_TENSORRT
#include "trt/denoiser.h"
#endif

namespace ptq_export {

std::unique_ptr<Denoiser> open_run(std::filesystem::path const& folder, EngineOptions const& options) {
  Manifest const manifest(folder);
  Target const target = find_target(options.which.empty() ? manifest.target() : options.which);
  std::filesystem::path const source = manifest.verified(target.onnx);
#ifdef PTQ_EXPORT_WITH_ORT
  if (target.engine == "ort") return ort::open(source, inside(folder, "engine"), manifest.sha256(target.onnx), options);
#endif
#ifdef PTQ_EXPORT_WITH_TENSORRT
  if (target.engine == "trt") return trt::open(source, inside(folder, "engine"), manifest, target.onnx, options);
#endif
  throw EnvironmentMissing(
      target.name + " is served by " + (target.engine == "ort" ? "ONNX Runtime" : "TensorRT") +
          ", which this library was compiled without",
      target.engine == "ort" ? "give CMake -DONNXRUNTIME_ROOT=..." : "give CMake -DPTQ_EXPORT_TENSORRT=ON");
}

}  // namespace ptq_export
