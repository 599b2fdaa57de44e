#include "safetensors.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "files.h"
#include "ptq_export/error.h"

namespace ptq_export {

namespace {

constexpr std::size_t kMostDimensions = 8;
constexpr std::uint64_t kLengthBytes = 8;  // of the header's length
constexpr char const* kCopyAgain = "copy the run folder again";

std::string read_at(std::filesystem::path const& file, std::uint64_t at, std::uint64_t bytes) {
  std::ifstream stream(file, std::ios::binary);
  std::string found(static_cast<std::size_t>(bytes), '\0');
  stream.seekg(static_cast<std::streamoff>(at));
  if (!stream.read(found.data(), static_cast<std::streamsize>(bytes)))
    throw InputError(file.string() + " cannot be read", kCopyAgain);
  return found;
}

template <class Number>
std::vector<Number> rows_of(std::filesystem::path const& file, std::uint64_t at, std::size_t each,
                            std::vector<std::int64_t> const& chosen) {
  std::vector<Number> values;
  std::size_t const bytes = each * sizeof(Number);
  for (std::int64_t const row : chosen) {
    std::string const found = read_at(file, at + static_cast<std::uint64_t>(row) * bytes, bytes);
    values.resize(values.size() + each);
    std::copy(found.begin(), found.end(), reinterpret_cast<char*>(values.data() + values.size() - each));
  }
  return values;
}

}  // namespace

SafeTensors::SafeTensors(std::filesystem::path const& file) : file_(file) {
  std::uint64_t const size = regular_size(file);
  std::uint64_t length = 0;
  std::string const head = read_at(file, 0, std::min(size, kLengthBytes));
  for (std::size_t index = head.size(); index > 0; --index)
    length = (length << 8) | static_cast<unsigned char>(head[index - 1]);
  if (size < kLengthBytes || length > size - kLengthBytes || length > Json::kMaxBytes)
    throw InputError(file.string() + " is no .safetensors file: its header is cut off", kCopyAgain);
  header_ = Json::parse(read_at(file, kLengthBytes, length), file.string());
  data_at_ = kLengthBytes + length;
  data_bytes_ = size - data_at_;
}

SafeTensors::Located SafeTensors::located(std::string const& name) const {
  Fields const entry = Fields(header_, file_.string()).object(name);
  std::string const& kind = entry.text("dtype");
  if (kind != "F32" && kind != "I64") entry.refuse("dtype", "F32 or I64");
  Located found{{}, kind == "F32" ? DType::float32 : DType::int64, 0};
  for (Json const& item : entry.list("shape")) {
    auto const* number = item.get_if<std::int64_t>();
    if (number == nullptr || found.shape.size() == kMostDimensions) entry.refuse("shape", "a shape");
    found.shape.push_back(*number);
  }
  std::vector<std::uint64_t> ends;
  for (Json const& item : entry.list("data_offsets")) {
    auto const* number = item.get_if<std::int64_t>();
    if (number == nullptr || *number < 0) entry.refuse("data_offsets", "two offsets");
    ends.push_back(static_cast<std::uint64_t>(*number));
  }
  std::uint64_t const bytes = count(found.shape) * (kind == "F32" ? sizeof(float) : sizeof(std::int64_t));
  if (ends.size() != 2 || ends[0] > ends[1] || ends[1] > data_bytes_ || ends[1] - ends[0] != bytes || bytes == 0 ||
      found.shape.empty())
    entry.refuse("data_offsets", "where " + shown(found.shape) + " lies in the file");
  found.at = data_at_ + ends[0];
  return found;
}

Array SafeTensors::read(std::string const& name, std::vector<std::int64_t> const& chosen) const {
  Located const found = located(name);
  for (std::int64_t const row : chosen)
    if (row < 0 || row >= found.shape.front())
      throw InputError(file_.string() + ": " + name + " has " + std::to_string(found.shape.front()) + " rows",
                       kCopyAgain);
  Array array{found.shape, {}};
  std::size_t const each = count(found.shape) / static_cast<std::size_t>(found.shape.front());
  array.shape.front() = static_cast<std::int64_t>(chosen.size());
  if (found.dtype == DType::float32)
    array.values = rows_of<float>(file_, found.at, each, chosen);
  else
    array.values = rows_of<std::int64_t>(file_, found.at, each, chosen);
  return array;
}

}  // namespace ptq_export
