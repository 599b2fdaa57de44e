// SHA-256 (FIPS 180-4), in hexadecimal.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace ptq_export {

std::string sha256(std::string_view bytes);

// Of a regular file; InputError where it cannot be read.
std::string sha256_file(std::filesystem::path const& file);

}  // namespace ptq_export
