// Arrays of a `.safetensors` file of any origin (https://github.com/huggingface/safetensors#format), row by row.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ptq_export/files.h"
#include "ptq_export/json.h"

namespace ptq_export {

class SafeTensors {
 public:
  // InputError: no regular file, or its header is none.
  explicit SafeTensors(std::filesystem::path const& file);

  // How many rows an array has. InputError: it is absent, neither float32 nor int64, or claims other bytes than it has.
  [[nodiscard]] std::int64_t rows(std::string const& name) const { return located(name).shape.front(); }
  // Some rows of it, in this order.
  [[nodiscard]] Array read(std::string const& name, std::vector<std::int64_t> const& chosen) const;

 private:
  struct Located {
    Shape shape;
    DType dtype;
    std::uint64_t at;  // of its first byte in the file
  };
  [[nodiscard]] Located located(std::string const& name) const;

  std::filesystem::path file_;
  std::uint64_t data_at_ = 0, data_bytes_ = 0;
  Json header_;
};

}  // namespace ptq_export
