// Products on x86-64 with VNNI. vpdpbusd adds four products of an unsigned byte (the weights) and a signed one (a row's,
// broadcast) in 32 bits: no sum can overflow, weights of eight bits are unsigned too, 128 greater than they are.
//
// vnni_256 is for eight columns, on AVX-VNNI or AVX-512; vnni_512 for sixteen. 512 products, sixteen columns of 32
// nibbles: 8 vpdpbusd; for a K-quant's sub-block 1 vpmulld and 1 vpaddd.

#pragma once

#include "product_avx2.h"

namespace product {

struct vnni_256 : avx2 {
    static constexpr bool IS_SIGNED_8 = false;

    static ints multiply_bytes(ints from, bytes w, int32_t x) {
#ifdef __AVXVNNI__
        return _mm256_dpbusd_avx_epi32(from, w, _mm256_set1_epi32(x));
#else
        return _mm256_dpbusd_epi32(from, w, _mm256_set1_epi32(x));
#endif
    }
    static ints  start_8(const int16_t * offset) { return start(offset); }
    static bytes load_8(const uint8_t * x) { return load(x); }
    template <int N, int MOST> static ints sum(ints from, const bytes * w, const int8_t * x) {
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
            from = multiply_bytes(from, w[i], two(x + 4*i));
        }
        return from;
    }
    template <int N, int MOST> static void add(ints & total, ints from, const bytes * w, const int8_t * x, scale by) {
        const ints products = sum<N, MOST>(from, w, x);
        total = _mm256_add_epi32(total, _mm256_mullo_epi32(products, by));
    }
    static scale scale_6(const uint8_t * x, int) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) x)); }
    template <int J> static scale scale_8(const uint8_t * x, int) {
        const __m256i pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) x + J/2));
        return _mm256_srai_epi32(J%2 ? pairs : _mm256_slli_epi32(pairs, 16), 16);
    }
};

#if defined(__AVX512F__) || defined(SIMDE_X86_AVX512_H)
struct vnni_512 {
    static constexpr int  ROWS = 1, COLUMNS = 16, DEPTH = 4, PANEL = 16;
    static constexpr int  GROUPS_32 = 8, GROUPS_256 = 8;
    static constexpr int  PARTS = 1;
    static constexpr int  MINIMA = 2, SCALES = 2;
    static constexpr bool IS_SIGNED = false, IS_SIGNED_8 = false;
    using value  = int8_t;
    using bytes  = __m512i;
    using ints   = __m512i;
    using floats = __m512;
    using scale  = __m512i;

    static float  half(uint16_t x) { return avx2::half(x); }
    static floats halves(const uint8_t * d, int) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) d)); }
    static floats zero_floats() { return _mm512_setzero_ps(); }
    static floats same(float x) { return _mm512_set1_ps(x); }
    static floats row_scale(const float * x) { return _mm512_set1_ps(*x); }
    static floats to_floats(ints x) { return _mm512_cvtepi32_ps(x); }
    static floats small_to_floats(ints x) { return to_floats(x); }
    static floats mul(floats x, floats y) { return _mm512_mul_ps(x, y); }
    static floats fma(floats x, floats y, floats z) { return _mm512_fmadd_ps(x, y, z); }
    static floats fnma(floats x, floats y, floats z) { return _mm512_fnmadd_ps(x, y, z); }
    static void   store(floats x, float * const * out, int column) { _mm512_storeu_ps(out[0] + column, x); }

    static ints  zero() { return _mm512_setzero_si512(); }
    static void  in_order(ints &) {}
    static ints  start(const int16_t * offset) { return _mm512_set1_epi32(avx2::two(offset)); }
    static ints  start_8(const int16_t * offset) { return start(offset); }
    static bytes load(const uint8_t * x) { return _mm512_loadu_si512(x); }
    static bytes load_8(const uint8_t * x) { return load(x); }
    static bytes low(bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
    static bytes high(bytes x) { return low(_mm512_srli_epi16(x, 4)); }
    static bytes low_signed(bytes x) { return x; }
    static bytes high_signed(bytes x) { return x; }
    template <int J> static bytes six(const uint8_t * x, size_t stride) {
        if (J < 3) {
            return _mm512_and_si512(load(x + J*stride), _mm512_set1_epi8(63));
        }
        const __m512i a = _mm512_srli_epi16(load(x), 6), b = _mm512_srli_epi16(load(x + stride), 4);
        const __m512i c = _mm512_srli_epi16(load(x + 2*stride), 2);
        return _mm512_or_si512(_mm512_or_si512(_mm512_and_si512(a, _mm512_set1_epi8(3)),
                                               _mm512_and_si512(b, _mm512_set1_epi8(12))),
                               _mm512_and_si512(c, _mm512_set1_epi8(48)));
    }
    template <int N, int MOST> static ints sum(ints from, const bytes * w, const int8_t * x) {
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
            from = _mm512_dpbusd_epi32(from, w[i], _mm512_set1_epi32(avx2::two(x + 4*i)));
        }
        return from;
    }
    template <int N, int MOST> static void add(ints & total, ints from, const bytes * w, const int8_t * x, scale by) {
        const ints products = sum<N, MOST>(from, w, x);
        total = _mm512_add_epi32(total, _mm512_mullo_epi32(products, by));
    }
    static scale scale_6(const uint8_t * x, int) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) x)); }
    template <int J> static scale scale_8(const uint8_t * x, int) {
        const __m512i pairs = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *) x + J/2));
        return _mm512_srai_epi32(J%2 ? pairs : _mm512_slli_epi32(pairs, 16), 16);
    }

    static void pack_minima_sums(const int16_t (&of_32)[8], int row, int16_t * to) {
        avx2::pack_minima_sums(of_32, row, to);
    }
    struct minima {
        __m512i pairs[4];
        minima(const uint8_t * x, int) {
            for (int i = 0; i < 4; i++) {
                pairs[i] = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *) x + i));
            }
        }
        floats times(const int16_t * sums) const { return to_floats(pair_products<4>(pairs, sums)); }
    };
    struct scales_8 {
        __m512i pairs[8];
        scales_8(const uint8_t * x, int) {
            for (int i = 0; i < 8; i++) {
                pairs[i] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *) x + i));
            }
        }
        ints start(const int16_t * sums) const {
            return _mm512_slli_epi32(_mm512_sub_epi32(zero(), pair_products<8>(pairs, sums)), 5);
        }
    };
    template <int N> static ints pair_products(const __m512i * pairs, const int16_t * sums) {
        ints sum = zero();
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
            sum = _mm512_dpwssd_epi32(sum, pairs[i], _mm512_set1_epi32(avx2::two(sums + 2*i)));
        }
        return sum;
    }
};
#endif

}  // namespace product
