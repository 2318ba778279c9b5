// AVX-512 for tests/libllama/products.cpp on a CPU without it: SIMDe's functions in the place of the compiler's, and what Debian
// 12's SIMDe lacks, from two halves.

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

static inline simde__m512i simde_both(__m256i low, __m256i high) {
    simde__m512i_private to;
    to.m256i[0] = low;
    to.m256i[1] = high;
    return simde__m512i_from_private(to);
}
static inline simde__m512 simde_both(__m256 low, __m256 high) {
    simde__m512_private to;
    to.m256[0] = low;
    to.m256[1] = high;
    return simde__m512_from_private(to);
}
static inline __m256i simde_half(simde__m512i x, int which) { return simde__m512i_to_private(x).m256i[which]; }

#define _mm512_cvtph_ps(x) \
    simde_both(_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1)))
#define _mm512_cvtepi32_ps(x) \
    simde_both(_mm256_cvtepi32_ps(simde_half(x, 0)), _mm256_cvtepi32_ps(simde_half(x, 1)))
#define _mm512_cvtepu8_epi32(x) simde_both(_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8)))
#define _mm512_cvtepu8_epi16(x) \
    simde_both(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1)))
#define _mm512_srai_epi32(x, n) \
    simde_both(_mm256_srai_epi32(simde_half(x, 0), n), _mm256_srai_epi32(simde_half(x, 1), n))
