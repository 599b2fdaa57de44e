// A denoiser on TensorRT: `engines/trt/engine.py`, without its builder.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "manifest.h"
#include "ptq_export/denoiser.h"

namespace ptq_export::trt {

// Of the plan of the file `source`, whose digest was verified; it lies beside it or in the folder `cache`.
// EnvironmentMissing: no plan there is of this machine; each is told with the reason.
std::unique_ptr<Denoiser> open(std::filesystem::path const& source, std::filesystem::path const& cache,
                               Manifest const& manifest, std::string const& onnx, EngineOptions const& options);

}  // namespace ptq_export::trt
