// Files of a folder that may have come from anyone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace ptq_export {

// The file `name` of `folder`; InputError where the name, or a link on its way, leads out of it.
std::filesystem::path inside(std::filesystem::path const& folder, std::string const& name);

// The size of a regular file; InputError where it is absent, a pipe, a folder or a device.
std::uintmax_t regular_size(std::filesystem::path const& file);

// At most `most` bytes of a regular file; InputError where it cannot be read, or has more.
std::string read_bytes(std::filesystem::path const& file, std::size_t most);

// `name.onnx.data`, where the weights of a large graph lie, and `name.prompt.onnx`.
std::filesystem::path data_beside(std::filesystem::path const& file);
std::filesystem::path prompt_beside(std::filesystem::path const& file);

// Writes the file whole or not at all: a temporary file beside it, and one rename.
void write_atomically(std::filesystem::path const& file, std::string const& bytes);

}  // namespace ptq_export
