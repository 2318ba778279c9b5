// Products on AVX2. vpmaddubsw multiplies unsigned bytes (the weights) by signed ones (a row's, broadcast) and adds two
// neighbours in 16 bits, where eight such sums of nibbles fit (8 * 2 * 15 * 128 = 30,720) and two of six bits (2 * 2 *
// 63 * 128 = 32,256). One vpmaddwd then adds the halves and multiplies by the block's scale.
//
// 256 products, eight columns of 32 nibbles: 8 vpmaddubsw, 7 vpaddw, 1 vpmaddwd, 1 vpaddd, and a share of unpacking.

#pragma once

#include <immintrin.h>

#include "quantized_product.h"

namespace product {

struct avx2 {
    static constexpr int  ROWS = 1, COLUMNS = 8, DEPTH = 4, PANEL = 8;
    static constexpr int  GROUPS_32 = 4, GROUPS_256 = 4;  // of a tile
    static constexpr int  PARTS = 1;  // in which 32 values are unpacked: their sums in 16 bits stay together
    static constexpr int  MINIMA = 2, SCALES = 2;         // neighbours of a column: pairs, as vpmaddwd wants them
    static constexpr bool IS_SIGNED = false;
    using value  = int8_t;
    using bytes  = __m256i;
    using ints   = __m256i;
    using floats = __m256;
    using scale  = __m256i;  // 16 bits, each twice

    static float  half(uint16_t x) { return _cvtsh_ss(x); }
    static floats halves(const uint8_t * d, int c) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) d + c)); }
    static floats zero_floats() { return _mm256_setzero_ps(); }
    static floats same(float x) { return _mm256_set1_ps(x); }
    static floats row_scale(const float * x) { return _mm256_broadcast_ss(x); }
    static floats to_floats(ints x) { return _mm256_cvtepi32_ps(x); }
    static floats small_to_floats(ints x) { return to_floats(x); }
    static floats mul(floats x, floats y) { return _mm256_mul_ps(x, y); }
    static floats fma(floats x, floats y, floats z) { return _mm256_fmadd_ps(x, y, z); }    // z + x*y
    static floats fnma(floats x, floats y, floats z) { return _mm256_fnmadd_ps(x, y, z); }  // z - x*y
    static void   store(floats x, float * const * out, int column) { _mm256_storeu_ps(out[0] + column, x); }

    static ints  zero() { return _mm256_setzero_si256(); }
    static void  in_order(ints &) {}
    static ints  start(const int16_t * offset) { return _mm256_set1_epi32(two(offset)); }
    static bytes load(const uint8_t * x) { return _mm256_loadu_si256((const __m256i *) x); }
    static bytes low(bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
    static bytes high(bytes x) { return low(_mm256_srli_epi16(x, 4)); }
    static bytes low_signed(bytes x) { return x; }
    static bytes high_signed(bytes x) { return x; }
    template <int J> static bytes six(const uint8_t * x, size_t stride) {
        const __m256i mask = _mm256_set1_epi8(63);
        if (J < 3) {
            return _mm256_and_si256(load(x + J*stride), mask);
        }
        const __m256i a = _mm256_srli_epi16(load(x), 6), b = _mm256_srli_epi16(load(x + stride), 4);
        const __m256i c = _mm256_srli_epi16(load(x + 2*stride), 2), two = _mm256_set1_epi8(3);
        return _mm256_or_si256(_mm256_or_si256(_mm256_and_si256(a, two), _mm256_and_si256(b, _mm256_set1_epi8(12))),
                               _mm256_and_si256(c, _mm256_set1_epi8(48)));
    }

    // Four values of a row, or two sums.
    template <class T> static int32_t two(const T * x) {
        int32_t bits;
        memcpy(&bits, x, 4);
        return bits;
    }
    template <int N> static __m256i in_16_bits(const bytes * w, const int8_t * x) {
        __m256i sum = _mm256_maddubs_epi16(w[0], _mm256_set1_epi32(two(x)));
#pragma GCC unroll 8
        for (int i = 1; i < N; i++) {
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[i], _mm256_set1_epi32(two(x + 4*i))));
        }
        return sum;
    }
    // from + scale * the sum of N registers' products; no weight is greater than MOST
    template <int N, int MOST> static ints scaled_sum(ints from, const bytes * w, const int8_t * x, scale by) {
        constexpr int FIT = 32767/(2*128*MOST) < N ? 32767/(2*128*MOST) : N;
#pragma GCC unroll 8
        for (int i = 0; i < N; i += FIT) {
            from = _mm256_add_epi32(from, _mm256_madd_epi16(in_16_bits<FIT>(w + i, x + 4*i), by));
        }
        return from;
    }
    template <int N, int MOST> static ints sum(ints from, const bytes * w, const int8_t * x) {
        return scaled_sum<N, MOST>(from, w, x, _mm256_set1_epi16(1));
    }
    template <int N, int MOST> static void add(ints & total, ints, const bytes * w, const int8_t * x, scale by) {
        total = scaled_sum<N, MOST>(total, w, x, by);
    }

    static scale scale_6(const uint8_t * x, int) {
        const __m256i twice = _mm256_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1,
                                               4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1);
        int64_t eight;
        memcpy(&eight, x, 8);
        return _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), twice);
    }
    template <int J> static scale scale_8(const uint8_t * x, int) {
        const __m256i pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) x + J/2));
        const __m256i one = J%2 ? _mm256_srli_epi32(pairs, 16) : _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF));
        return _mm256_or_si256(one, _mm256_slli_epi32(one, 16));
    }

    static void pack_minima_sums(const int16_t (&of_32)[8], int, int16_t * to) { memcpy(to, of_32, sizeof of_32); }
    struct minima {
        __m256i pairs[4];
        minima(const uint8_t * x, int) {
            for (int i = 0; i < 4; i++) {
                pairs[i] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *) x + i));
            }
        }
        floats times(const int16_t * sums) const { return to_floats(pair_products<4>(pairs, sums)); }
    };
    // What makes unsigned weights of six bits signed: minus 32 times scales by sums.
    struct scales_8 {
        __m256i pairs[8];
        scales_8(const uint8_t * x, int) {
            for (int i = 0; i < 8; i++) {
                pairs[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) x + i));
            }
        }
        ints start(const int16_t * sums) const {
            return _mm256_slli_epi32(_mm256_sub_epi32(zero(), pair_products<8>(pairs, sums)), 5);
        }
    };
    template <int N> static ints pair_products(const __m256i * pairs, const int16_t * sums) {
        ints sum = _mm256_madd_epi16(pairs[0], _mm256_set1_epi32(two(sums)));
#pragma GCC unroll 8
        for (int i = 1; i < N; i++) {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs[i], _mm256_set1_epi32(two(sums + 2*i))));
        }
        return sum;
    }
};

// For weights of eight bits, whose products do not fit: both sides in 16 bits, the rows packed so.
struct avx2_wide : avx2 {
    static constexpr int  DEPTH = 2;
    static constexpr bool IS_SIGNED_8 = true;
    using value = int16_t;

    static ints  start_8(const int16_t *) { return zero(); }
    static bytes load_8(const uint8_t * x) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) x)); }
    template <int N, int MOST> static ints sum(ints from, const bytes * w, const int16_t * x) {
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) {
            from = _mm256_add_epi32(from, _mm256_madd_epi16(w[i], _mm256_set1_epi32(two(x + 2*i))));
        }
        return from;
    }
};

}  // namespace product
