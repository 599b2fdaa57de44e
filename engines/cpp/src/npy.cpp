// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#include <cstring>
#include <string>

#include "files.h"
#include "ptq_export/error.h"
#include "ptq_export/files.h"
#include "utf8.h"

namespace ptq_export {

namespace {

constexpr std::size_t kMaxBytes = std::size_t{1} << 32;
constexpr std::size_t kMostSizes = 8;

std::size_t little_endian(std::string const& bytes, std::size_t at, std::size_t width) {
  std::size_t value = 0;
  for (std::size_t index = 0; index < width; ++index)
    value |= static_cast<std::size_t>(static_cast<unsigned char>(bytes[at + index])) << (8 * index);
  return value;
}

// The value behind `'name':` in the header, up to the comma that ends it; commas in brackets belong to it.
std::string entry(std::string const& header, std::string const& name) {
  std::size_t at = header.find("'" + name + "':");
  if (at == std::string::npos) return "";
  at = header.find_first_not_of(' ', at + name.size() + 3);
  if (at == std::string::npos) return "";
  std::size_t const end = header.find(header[at] == '(' ? ")" : ",", at);
  return end == std::string::npos ? "" : header.substr(at, end - at + (header[at] == '(' ? 1 : 0));
}

Shape shape_of(std::string const& text, std::string const& file) {
  Shape shape;
  for (std::size_t at = 0; (at = text.find_first_of("0123456789", at)) != std::string::npos;) {
    std::size_t const end = text.find_first_not_of("0123456789", at);
    if (end == std::string::npos || end - at > 12 || shape.size() == kMostSizes)
      throw InputError(file + " has a shape that is none: " + shortened(text, 60));
    shape.push_back(std::stoll(text.substr(at, end - at)));
    at = end;
  }
  return shape;
}

template <class Number>
std::vector<Number> numbers(std::string const& bytes, std::size_t at, std::size_t total, std::string const& file) {
  if (bytes.size() - at != total * sizeof(Number))
    throw InputError(file + " holds " + std::to_string(bytes.size() - at) + " bytes, its header says " +
                     std::to_string(total * sizeof(Number)));
  std::vector<Number> values(total);
  if (total > 0) std::memcpy(values.data(), bytes.data() + at, total * sizeof(Number));
  return values;
}

}  // namespace

TensorView Array::view() const {
  if (auto const* floats = std::get_if<std::vector<float>>(&values)) return {floats->data(), shape};
  return {std::get<std::vector<std::int64_t>>(values).data(), shape};
}

Array read_npy(std::filesystem::path const& path) {
  std::string const file = path.string();
  std::string const bytes = read_bytes(path, kMaxBytes);
  bool const known = bytes.size() > 12 && bytes.compare(0, 6, "\x93NUMPY") == 0 && (bytes[6] == 1 || bytes[6] == 2);
  if (!known) throw InputError(file + " is no .npy file of format 1 or 2", "write it with numpy.save");
  std::size_t const width = bytes[6] == 1 ? 2 : 4;
  std::size_t const length = little_endian(bytes, 8, width);
  if (length > bytes.size() - 8 - width) throw InputError(file + " is cut off in its header");
  std::string const header = bytes.substr(8 + width, length);
  Array array{shape_of(entry(header, "shape"), file), {}};
  std::string const type = entry(header, "descr");
  if ((type != "'<f4'" && type != "'<i8'") || entry(header, "fortran_order") != "False")
    throw InputError(
        file + " holds " + (type.empty() ? "nothing known" : shortened(type)) + ", not float32 or int64 in C order",
        "convert it first");
  std::size_t const total = count(array.shape);
  std::size_t const at = 8 + width + length;
  if (type == "'<f4'")
    array.values = numbers<float>(bytes, at, total, file);
  else
    array.values = numbers<std::int64_t>(bytes, at, total, file);
  return array;
}

void write_npy(std::filesystem::path const& file, Tensor const& tensor) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (std::int64_t const size : tensor.shape()) header += std::to_string(size) + ", ";
  header += "), }";
  header.append(64 - (header.size() + 11) % 64, ' ');
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xFFU);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(reinterpret_cast<char const*>(tensor.data()), tensor.size() * sizeof(float));
  write_atomically(file, bytes);
}

}  // namespace ptq_export
