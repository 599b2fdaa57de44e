#include "float_graph.h"

#include "files.h"
#include "ptq_export/error.h"
#ifdef PTQ_EXPORT_WITH_ORT
#include "ort/session_graph.h"
#endif

namespace ptq_export {

#ifdef PTQ_EXPORT_WITH_ORT
std::unique_ptr<FloatGraph> open_float_graph(Manifest const& manifest, std::string const& name,
                                             std::vector<std::string> const& outputs, int threads) {
  if (std::string const data = data_beside(name).string(); manifest.fields().object("artefacts").has(data))
    static_cast<void>(manifest.verified(data));
  return ort::open_float_graph(manifest.verified(name), outputs, threads);
}
#else
std::unique_ptr<FloatGraph> open_float_graph(Manifest const&, std::string const& name, std::vector<std::string> const&,
                                             int) {
  throw EnvironmentMissing(name + " is computed by ONNX Runtime, which this library was compiled without",
                           "give CMake -DONNXRUNTIME_ROOT=...");
}
#endif

}  // namespace ptq_export
