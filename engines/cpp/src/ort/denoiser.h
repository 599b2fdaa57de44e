// A denoiser on ONNX Runtime's CPU provider: `engines/ort/engine.py`.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "ptq_export/denoiser.h"

namespace ptq_export::ort {

// Of the file `source`, whose digest was verified; what Python kept of it lies in the folder `cache`.
// InputError: it is no denoiser, or a file beside it is not the one that it states.
std::unique_ptr<Denoiser> open(std::filesystem::path const& source, std::filesystem::path const& cache,
                               std::string const& sha256, EngineOptions const& options);

}  // namespace ptq_export::ort
