// A grid of samples as PNG (https://www.w3.org/TR/png-3/), its pixels in stored blocks of deflate.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "files.h"
#include "ptq_export/error.h"
#include "ptq_export/files.h"

namespace ptq_export {

namespace {

constexpr std::size_t kLargestSide = 112;  // of one sample, in pixels: LARGEST_SIDE_PX of ptq_export/report/images.py
constexpr std::size_t kStored = 65535;

struct Picture {
  std::size_t width, height, colours;  // 1 grey, 3 RGB
  std::string bytes;

  Picture(std::size_t across, std::size_t down, std::size_t of_colours, char fill)
      : width(across), height(down), colours(of_colours), bytes(across * down * of_colours, fill) {}
  char* at(std::size_t x, std::size_t y) { return bytes.data() + (y * width + x) * colours; }
  [[nodiscard]] char const* at(std::size_t x, std::size_t y) const { return bytes.data() + (y * width + x) * colours; }
};

void append_number(std::string& bytes, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
}

std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1U) != 0 ? 0xEDB88320U ^ (value >> 1) : value >> 1;
    table[byte] = value;
  }
  return table;
}

void append_chunk(std::string& png, std::string const& type, std::string const& data) {
  static std::array<std::uint32_t, 256> const table = crc_table();
  append_number(png, static_cast<std::uint32_t>(data.size()));
  std::string const body = type + data;
  std::uint32_t crc = 0xFFFFFFFFU;
  for (char const byte : body) crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xFFU] ^ (crc >> 8);
  png += body;
  append_number(png, crc ^ 0xFFFFFFFFU);
}

// A zlib stream that compresses nothing.
std::string stored(std::string const& data) {
  std::string stream("\x78\x01", 2);
  for (std::size_t at = 0; at < data.size(); at += kStored) {
    std::size_t const length = std::min(kStored, data.size() - at);
    stream += static_cast<char>(at + length == data.size());
    for (std::size_t const half : {length, ~length}) {
      stream += static_cast<char>(half & 0xFFU);
      stream += static_cast<char>((half >> 8) & 0xFFU);
    }
    stream.append(data, at, length);
  }
  std::uint32_t one = 1;
  std::uint32_t two = 0;
  for (char const byte : data) {
    one = (one + static_cast<unsigned char>(byte)) % 65521;
    two = (two + one) % 65521;
  }
  append_number(stream, (two << 16) | one);
  return stream;
}

std::string png(Picture const& picture) {
  std::string lines;
  std::size_t const row = picture.width * picture.colours;
  for (std::size_t y = 0; y < picture.height; ++y) {
    lines += '\0';  // no filter
    lines.append(picture.bytes, y * row, row);
  }
  std::string head;
  append_number(head, static_cast<std::uint32_t>(picture.width));
  append_number(head, static_cast<std::uint32_t>(picture.height));
  head += '\x08';
  head += picture.colours == 3 ? '\x02' : '\x00';
  head.append(3, '\0');
  std::string file("\x89PNG\r\n\x1a\n", 8);
  append_chunk(file, "IHDR", head);
  append_chunk(file, "IDAT", stored(lines));
  append_chunk(file, "IEND", "");
  return file;
}

// One sample `[C, H, W]`: three channels are colours, others stand side by side, as square as their number allows.
Picture tile(float const* sample, std::size_t channels, std::size_t height, std::size_t width, double low,
             double span) {
  auto const level = [&](std::size_t channel, std::size_t y, std::size_t x) {
    double const value = (static_cast<double>(sample[(channel * height + y) * width + x]) - low) / span;
    return static_cast<char>(static_cast<unsigned char>(std::min(std::max(std::nearbyint(255 * value), 0.0), 255.0)));
  };
  std::size_t across = 1;
  while (across * across < channels || channels % across != 0) ++across;
  bool const colours = channels == 3;
  Picture picture(colours ? width : across * width, colours ? height : channels / across * height, colours ? 3 : 1, 0);
  for (std::size_t channel = 0; channel < channels; ++channel)
    for (std::size_t y = 0; y < height; ++y)
      for (std::size_t x = 0; x < width; ++x)
        (colours ? picture.at(x, y)[channel]
                 : *picture.at(channel % across * width + x, channel / across * height + y)) = level(channel, y, x);
  return picture;
}

Picture enlarged(Picture const& small, std::size_t scale) {
  Picture large(small.width * scale, small.height * scale, small.colours, 0);
  for (std::size_t y = 0; y < large.height; ++y)
    for (std::size_t x = 0; x < large.width; ++x)
      std::copy_n(small.at(x / scale, y / scale), small.colours, large.at(x, y));
  return large;
}

}  // namespace

void write_grid(std::filesystem::path const& file, Tensor const& samples,
                std::optional<std::pair<double, double>> range) {
  Shape shape = samples.shape();
  if (shape.size() == 3) shape.insert(shape.begin() + 1, 1);  // sequences: a row per channel
  if (shape.size() != 4 || samples.size() == 0)
    throw InputError(shown(samples.shape()) + " are no samples to be drawn");
  auto const [least, most] = std::minmax_element(samples.data(), samples.data() + samples.size());
  double const low = range ? range->first : static_cast<double>(*least);
  double const high = range ? range->second : static_cast<double>(*most);
  double const span = std::max(high - low, static_cast<double>(std::numeric_limits<float>::min()));
  auto const total = static_cast<std::size_t>(shape[0]);
  std::size_t const each = samples.size() / total;
  auto const columns = static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(total))));
  std::size_t const rows = (total + columns - 1) / columns;
  auto const size = [&](std::size_t axis) { return static_cast<std::size_t>(shape[axis]); };
  Picture const first = tile(samples.data(), size(1), size(2), size(3), low, span);
  Picture canvas(columns * (first.width + 1) + 1, rows * (first.height + 1) + 1, first.colours, '\xFF');
  for (std::size_t index = 0; index < total; ++index) {
    Picture const one = tile(samples.data() + index * each, size(1), size(2), size(3), low, span);
    for (std::size_t y = 0; y < one.height; ++y)
      std::copy_n(one.at(0, y), one.width * one.colours,
                  canvas.at(index % columns * (one.width + 1) + 1, index / columns * (one.height + 1) + 1 + y));
  }
  std::size_t const scale = std::max<std::size_t>(1, kLargestSide / std::max(first.width, first.height));
  write_atomically(file, png(enlarged(canvas, scale)));
}

}  // namespace ptq_export
