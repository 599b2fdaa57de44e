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

// `add_products`: sums[i] + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1], of shorts in registers of ints.

#if defined(__x86_64__)

namespace baseline {

using Register = __m128i;
constexpr size_t kBytes = 16, kRows = 4;
INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm_add_epi32(sums, _mm_madd_epi16(a, b));
}
#include "winograd_kernels.h"

}  // namespace baseline

TARGET_BEGIN("avx2,fma")
namespace avx2 {

using Register = __m256i;
constexpr size_t kBytes = 32, kRows = 4;
INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
}
#include "winograd_kernels.h"

}  // namespace avx2
TARGET_END

TARGET_BEGIN("avx2,fma,avxvnni")
namespace avx_vnni {

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
INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b));
}
#include "winograd_kernels.h"

}  // namespace avx512
TARGET_END

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
namespace avx512_vnni {

using Register = __m512i;
constexpr size_t kBytes = 64, kRows = 8;
INLINED inline Register add_products(Register sums, Register a, Register b) {
  return _mm512_dpwssd_epi32(sums, a, b);
}
#include "winograd_kernels.h"

}  // namespace avx512_vnni
TARGET_END

#else

namespace baseline {

using Register = std::uint32_t __attribute__((vector_size(16)));
constexpr size_t kBytes = 16, kRows = 4;
INLINED inline Register add_products(Register sums, Register a, Register b) {
  const auto low = [](std::uint32_t pair) INLINED { return static_cast<int32_t>(static_cast<int16_t>(pair & 0xffff)); };
  const auto high = [](std::uint32_t pair) INLINED { return static_cast<int32_t>(static_cast<int16_t>(pair >> 16)); };
  for (size_t i = 0; i < kBytes / 4; ++i) {
    sums[i] += static_cast<std::uint32_t>(low(a[i]) * low(b[i])) + static_cast<std::uint32_t>(high(a[i]) * high(b[i]));
  }
  return sums;
}
#include "winograd_kernels.h"

}  // namespace baseline

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
