// A float graph in a session of ONNX Runtime: `open_part` of `engines/text_to_image.py`.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "float_graph.h"

namespace ptq_export::ort {

// InputError: ONNX Runtime cannot load it, or it does not make `outputs` of float32.
std::unique_ptr<FloatGraph> open_float_graph(std::filesystem::path const& file, std::vector<std::string> const& outputs,
                                             int threads);

}  // namespace ptq_export::ort
