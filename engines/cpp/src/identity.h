// What a built engine depends on, in the sidecar beside it (`engines/build_cache.py`), and who built it
// (`ptq_export/provenance.py`).
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "ptq_export/json.h"

namespace ptq_export {

struct Identity {
  std::string engine;
  std::vector<std::pair<std::string, std::string>> versions;
  std::string onnx_sha256;
  std::vector<std::pair<std::string, Json>> options;
  std::string os, arch;
  std::vector<std::string> isa;
  std::string device;
};

// Of an engine that is built here and now: `os`, `arch` and `isa` are this machine's.
Identity identity_here(std::string const& engine, std::string const& onnx_sha256);

// The identity in the sidecar of an engine file, and the sha256 that the file had.
// InputError: it is absent or damaged.
std::pair<Identity, std::string> read_identity(std::filesystem::path const& engine_file);

// One sentence per field in which `found` is not `wanted`, as Python says it.
std::vector<std::string> differences(Identity const& found, Identity const& wanted);

// Whether this account built the engine file of that digest, as what its identity says that it is.
bool was_built_here(Identity const& identity, std::string const& file_sha256);

// Why `engine_file` cannot be used as `wanted`; empty where it can.
std::vector<std::string> stale_reasons(std::filesystem::path const& engine_file, Identity const& wanted, bool trusted);

// The library of operators with that digest that Python used last; empty where it did not say, or it is not there.
std::filesystem::path known_operators(std::string const& sha256);

}  // namespace ptq_export
