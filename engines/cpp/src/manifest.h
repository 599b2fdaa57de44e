// What `manifest.json` of a finished run says, as far as this library reads it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ptq_export/denoiser.h"
#include "ptq_export/json.h"

namespace ptq_export {

// Which engine serves a target, and from which file of the run folder.
struct Target {
  std::string name, engine, onnx;
};

// InputError: an unknown target, or one that is not served from C++.
Target find_target(std::string const& name);

class Manifest {
 public:
  // InputError: `folder` is not a finished run, or its manifest is damaged or of another schema.
  explicit Manifest(std::filesystem::path const& folder);

  [[nodiscard]] Fields fields() const { return {json_, file_}; }
  [[nodiscard]] std::string const& target() const { return fields().text("target"); }
  // The file of that name, which has the manifest's digest.
  // InputError: it is not in the manifest, leads out of the folder, is absent, or is damaged.
  [[nodiscard]] std::filesystem::path verified(std::string const& name) const;
  [[nodiscard]] std::string sha256(std::string const& name) const;

 private:
  std::filesystem::path folder_;
  std::string file_;
  Json json_;
};

}  // namespace ptq_export
