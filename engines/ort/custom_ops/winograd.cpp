#include "winograd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"
#include "target.h"

namespace channels_last {

using std::int16_t;
using std::int32_t;
using std::int8_t;
using std::size_t;
using std::uint8_t;

namespace {

// What the kernels ask of an instruction set:
//   add_products  sums[i] + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1], of shorts in registers of ints
//   widened       the codes at an address as a register of shorts
//   narrow        kBlock integers from 0 to 255, in registers of ints, to codes

namespace baseline {

using Register = int32_t __attribute__((vector_size(16)));
constexpr size_t kBytes = 16, kRows = 4;

#if defined(__x86_64__)
INLINED inline Register add_products(Register sums, Register a, Register b) {
  const auto products = _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b));
  return reinterpret_cast<Register>(_mm_add_epi32(reinterpret_cast<__m128i>(sums), products));
}
#else
INLINED inline Register add_products(Register sums, Register a, Register b) {
  using Ints = std::uint32_t __attribute__((vector_size(16)));  // Unsigned: they may wrap.
  const Register low = (a << 16 >> 16) * (b << 16 >> 16), high = (a >> 16) * (b >> 16);
  return reinterpret_cast<Register>(reinterpret_cast<Ints>(sums) + reinterpret_cast<Ints>(low) +
                                    reinterpret_cast<Ints>(high));
}
#endif

using Shorts8 = int16_t __attribute__((vector_size(16)));
using Codes8 = uint8_t __attribute__((vector_size(8)));
using SignedCodes8 = int8_t __attribute__((vector_size(8)));
using Codes4 = uint8_t __attribute__((vector_size(4)));

template <class Codes>
INLINED inline Register widen(const void* from) {
  Codes codes;
  __builtin_memcpy(&codes, from, sizeof codes);
  return reinterpret_cast<Register>(__builtin_convertvector(codes, Shorts8));
}
INLINED inline Register widened(const uint8_t* codes) { return widen<Codes8>(codes); }
INLINED inline Register widened(const int8_t* codes) { return widen<SignedCodes8>(codes); }
INLINED inline void narrow(const Register* numbers, uint8_t* codes) {
  for (size_t i = 0; i < kBlock / 4; ++i) {
    const auto narrowed = __builtin_convertvector(numbers[i], Codes4);
    __builtin_memcpy(codes + i * sizeof narrowed, &narrowed, sizeof narrowed);
  }
}
#include "winograd_kernels.h"

}  // namespace baseline

#if defined(__x86_64__)

TARGET_BEGIN("avx2,fma")
namespace avx2 {

using Register = __m256i;
constexpr size_t kBytes = 32, kRows = 4;

INLINED inline __m128i load_half(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
}
INLINED inline Register widened(const uint8_t* codes) { return _mm256_cvtepu8_epi16(load_half(codes)); }
INLINED inline Register widened(const int8_t* codes) { return _mm256_cvtepi8_epi16(load_half(codes)); }
INLINED inline void narrow(const Register* numbers, uint8_t* codes) {
  const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packus_epi32(numbers[0], numbers[1]), _MM_SHUFFLE(3, 1, 2, 0));
  const __m128i low = _mm256_castsi256_si128(shorts), high = _mm256_extracti128_si256(shorts, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(low, high));
}
#include "winograd_kernels.h"

}  // namespace avx2
TARGET_END

TARGET_BEGIN("avx2,fma,avxvnni")
namespace avx_vnni {

using avx2::narrow;
using avx2::widened;
using Register = __m256i;
constexpr size_t kBytes = 32, kRows = 4;
INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm256_dpwssd_avx_epi32(sums, a, b);
}
#include "winograd_kernels.h"

}  // namespace avx_vnni
TARGET_END

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace avx512 {

using Register = __m512i;
constexpr size_t kBytes = 64, kRows = 8;

INLINED inline __m256i load_half(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b));
}
INLINED inline Register widened(const uint8_t* codes) { return _mm512_cvtepu8_epi16(load_half(codes)); }
INLINED inline Register widened(const int8_t* codes) { return _mm512_cvtepi8_epi16(load_half(codes)); }
INLINED inline void narrow(const Register* numbers, uint8_t* codes) {
  using Numbers = std::uint32_t __attribute__((vector_size(64)));
  using Codes = uint8_t __attribute__((vector_size(16)));
  const auto narrowed = __builtin_convertvector(reinterpret_cast<Numbers>(numbers[0]), Codes);
  __builtin_memcpy(codes, &narrowed, sizeof narrowed);
}
#include "winograd_kernels.h"

}  // namespace avx512
TARGET_END

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
namespace avx512_vnni {

using avx512::narrow;
using avx512::widened;
using Register = __m512i;
constexpr size_t kBytes = 64, kRows = 8;
INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm512_dpwssd_epi32(sums, a, b);
}
#include "winograd_kernels.h"

}  // namespace avx512_vnni
TARGET_END

#endif

}  // namespace

const WinogradKernels& winograd_kernels() {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512Vnni: return avx512_vnni::kKernels;
    case Isa::kAvx512: return avx512::kKernels;
    case Isa::kAvxVnni: return avx_vnni::kKernels;
    case Isa::kAvx2: return avx2::kKernels;
#endif
    default: return baseline::kKernels;
  }
}

}  // namespace channels_last
