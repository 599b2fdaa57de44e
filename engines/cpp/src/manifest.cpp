#include "manifest.h"

#include <algorithm>
#include <array>

#include "files.h"
#include "ptq_export/error.h"
#include "sha256.h"
#include "utf8.h"

namespace ptq_export {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kSchema = 2;

struct Row {
  char const *name, *engine, *onnx;  // no engine: a target that others serve
};

constexpr std::array<Row, 15> kTargets{{
    {"ort-int8", "ort", "denoiser.ort-int8.onnx"},
    {"ort-fp32", "ort", "denoiser.fp32.onnx"},
    {"ort-fp32-unfolded", "ort", "denoiser.fp32-unfolded.onnx"},
    {"trt-int8", "trt", "denoiser.trt-int8.onnx"},
    {"trt-fp16", "trt", "denoiser.fp16.onnx"},
    {"trt-fp32", "trt", "denoiser.fp32.onnx"},
    {"openvino-int8", nullptr, nullptr},
    {"openvino-fp32", nullptr, nullptr},
    {"openvino-bf16", nullptr, nullptr},
    {"trt-rtx-int8", nullptr, nullptr},
    {"trt-rtx-fp16", nullptr, nullptr},
    {"ort-trt-int8", nullptr, nullptr},
    {"ort-trt-fp16", nullptr, nullptr},
    {"ort-cuda-fp16", nullptr, nullptr},
    {"jetson-int8", nullptr, nullptr},
}};

std::string served() {
  std::string names;
  for (Row const& row : kTargets)
    if (row.engine != nullptr) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

}  // namespace

Target find_target(std::string const& name) {
  auto const* const found =
      std::find_if(kTargets.begin(), kTargets.end(), [&](Row const& row) { return name == row.name; });
  if (found == kTargets.end()) throw InputError("unknown target '" + shortened(name) + "'", "known: " + served());
  if (found->engine == nullptr) throw InputError(name + " is not served from C++", "served are " + served());
  return {found->name, found->engine, found->onnx};
}

Manifest::Manifest(fs::path const& folder) : folder_(folder), file_((folder / "manifest.json").string()) {
  if (!fs::is_regular_file(file_))
    throw InputError(folder.string() + " is not a finished run: it has no manifest.json",
                     "finish it with the same command");
  json_ = Json::read(inside(folder, "manifest.json"));
  Json const* schema = json_.find("schema");
  auto const* found = schema != nullptr ? schema->get_if<std::int64_t>() : nullptr;
  if (schema != nullptr && (found == nullptr || *found != kSchema))
    throw InputError(
        file_ + " has schema " + schema->shown() + ", this version reads " + std::to_string(kSchema),
        found != nullptr && *found < kSchema ? "make the run again, in a new folder" : "update ptq-export");
  static_cast<void>(fields().object("artefacts"));
}

std::string Manifest::sha256(std::string const& name) const {
  Fields const artefacts = fields().object("artefacts");
  if (!artefacts.has(name))
    throw InputError(folder_.string() + " has no " + name + " in its manifest", "make the run again, in a new folder");
  return artefacts.object(name).text("sha256");
}

fs::path Manifest::verified(std::string const& name) const {
  fs::path file = inside(folder_, name);
  std::string const wanted = sha256(name);
  if (!fs::is_regular_file(file)) throw InputError(file.string() + " does not exist", "export it first");
  std::string const found = sha256_file(file);
  if (found != wanted)
    throw InputError(name + " is damaged: its sha256 is " + found + ", the manifest says " + shortened(wanted, 64),
                     "copy the file again, or make the run again in a new folder");
  return file;
}

}  // namespace ptq_export
