#include "sha256.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#include "files.h"
#include "ptq_export/error.h"

namespace ptq_export {

namespace {

constexpr std::array<std::uint32_t, 64> kRounds{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t turned(std::uint32_t word, unsigned bits) { return (word >> bits) | (word << (32 - bits)); }

class Sha256 {
 public:
  void update(unsigned char const* bytes, std::size_t count) {
    length_ += count;
    while (count > 0) {
      std::size_t const taken = std::min(count, block_.size() - filled_);
      std::memcpy(block_.data() + filled_, bytes, taken);
      filled_ += taken;
      bytes += taken;
      count -= taken;
      if (filled_ == block_.size()) compress();
    }
  }

  std::string hexadecimal() {
    std::uint64_t const bits = length_ * 8;
    unsigned char const one = 0x80;
    unsigned char const zero = 0;
    update(&one, 1);
    while (filled_ != 56) update(&zero, 1);
    for (int shift = 56; shift >= 0; shift -= 8) {
      auto const byte = static_cast<unsigned char>(bits >> shift);
      update(&byte, 1);
    }
    std::string text;
    for (std::uint32_t const word : state_)
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15U];
    return text;
  }

 private:
  void compress() {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i)
      for (std::size_t byte = 0; byte < 4; ++byte) w[i] = (w[i] << 8) | block_[4 * i + byte];
    for (std::size_t i = 16; i < 64; ++i) {
      std::uint32_t const s0 = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ (w[i - 15] >> 3);
      std::uint32_t const s1 = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t i = 0; i < 64; ++i) {
      std::uint32_t const choice = (e & f) ^ (~e & g);
      std::uint32_t const majority = (a & b) ^ (a & c) ^ (b & c);
      std::uint32_t const first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + kRounds[i] + w[i];
      std::uint32_t const second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority;
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    std::array<std::uint32_t, 8> const sums{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state_[i] += sums[i];
    filled_ = 0;
  }

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace

std::string sha256(std::string_view bytes) {
  Sha256 total;
  total.update(reinterpret_cast<unsigned char const*>(bytes.data()), bytes.size());
  return total.hexadecimal();
}

std::string sha256_file(std::filesystem::path const& file) {
  regular_size(file);
  std::ifstream stream(file, std::ios::binary);
  Sha256 total;
  std::vector<char> block(std::size_t{1} << 16);
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())) || stream.gcount() > 0)
    total.update(reinterpret_cast<unsigned char const*>(block.data()), static_cast<std::size_t>(stream.gcount()));
  if (!stream.eof()) throw InputError(file.string() + " cannot be read");
  return total.hexadecimal();
}

}  // namespace ptq_export
