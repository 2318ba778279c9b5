// Products by Q4_0 weights on AVX-512 with VNNI: sixteen rows by sixteen columns of weights at a time.
//
// Llamakiln's addition to ggml-cpu, included by arch/x86/repack.cpp (scripts/libllama/patch.py). ggml's own kernel for
// these weights multiplies signed by signed bytes, which VNNI cannot: for each vpdpbusd it moves the signs of one side
// to the other (abs, a mask, a masked subtraction), and it spreads the rows' bytes with shuffles. Here the weights stay
// unsigned, as 0 to 15 instead of -8 to 7, eight times the sum of the row's bytes is taken off once, and a row's bytes
// are broadcast as they are loaded. Integers are exact, and the floats are added up in ggml's order: the result is the
// same to the last bit.
//
// For few rows the time is that of reading the weights, so the next ones are fetched meanwhile.

#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define VNNI_PRODUCT

#include <vector>

// What is needed of 32 values of one row besides their bytes.
struct vnni_row_block {
    float   scale;
    int32_t offset;  // what makes unsigned weights signed: minus eight times the sum of the bytes
};

// Four bytes of row i: values 8*k + 4*half to 8*k + 4*half + 3.
static inline const int32_t * vnni_bytes(const block_q8_0x4 & block, int i, int k, int half) {
    return (const int32_t *) (block.qs + 32*k + 8*i + 4*half);
}

// A block of each of four rows: row i's goes to blocks[i*stride].
static void vnni_prepare(const block_q8_0x4 & block, vnni_row_block * blocks, int64_t stride) {
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_loadu_si512(block.qs));
    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(block.qs + 64));
    // eight sums: two for each row
    const __m256i rows = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    int32_t two[8];
    _mm256_storeu_si256((__m256i *) two, rows);
    for (int i = 0; i < 4; i++) {
        blocks[i*stride] = { GGML_CPU_FP16_TO_FP32(block.d[i]), -8*(two[2*i] + two[2*i + 1]) };
    }
}

// s[i*bs + column] for 4*FOURS rows and those of 16 columns that the mask has; low and high are the weights of 8 each.
template <int FOURS>
static void vnni_tile(int n_blocks, float * s, size_t bs, __mmask16 columns, const block_q4_0x8 * low,
                      const block_q4_0x8 * high, const block_q8_0x4 * rows, const vnni_row_block * row_blocks) {
    constexpr int R = 4*FOURS;
    const __m512i nibble = _mm512_set1_epi8(0x0F), eight = _mm512_set1_epi8(0x08);
    // 32 bit parts of two times eight columns: their first halves, their second ones
    const __m512i firsts  = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i seconds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);

    __m512 sums[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
        sums[i] = _mm512_setzero_ps();
    }
    for (int b = 0; b < n_blocks; b++) {
        // The next tile's weights follow this one's, and both streams of the hardware's prefetcher begin anew there.
        const char * next = (const char *) (low + 2*n_blocks + 2*b);
#pragma GCC unroll 5
        for (int i = 0; i < 5; i++) {
            _mm_prefetch(next + 64*i, _MM_HINT_T1);
        }
        __m512i weights[4][2];  // of values 8*k + 4*half .. + 3, for sixteen columns
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            const __m512i low_bytes  = _mm512_loadu_si512(low[b].qs + 64*k);
            const __m512i high_bytes = _mm512_loadu_si512(high[b].qs + 64*k);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m512i both = _mm512_permutex2var_epi32(low_bytes, half ? seconds : firsts, high_bytes);
                // 0x6A: (bits & nibble) ^ eight. The lower bits are a block's first 16 values, the upper ones the rest.
                weights[k][half]     = _mm512_ternarylogic_epi32(both, nibble, eight, 0x6A);
                weights[k + 2][half] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(both, 4), nibble, eight, 0x6A);
            }
        }
        const __m256i halves = _mm256_setr_m128i(_mm_loadu_si128((const __m128i *) low[b].d),
                                                 _mm_loadu_si128((const __m128i *) high[b].d));
        const __m512 scales = _mm512_cvtph_ps(halves);
#pragma GCC unroll 4
        for (int four = 0; four < FOURS; four++) {
            const block_q8_0x4 & bytes = rows[four*n_blocks + b];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const vnni_row_block & row = row_blocks[(4*four + i)*n_blocks + b];
                __m512i sum = _mm512_set1_epi32(row.offset);
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++) {
                    sum = _mm512_dpbusd_epi32(sum, weights[k][0], _mm512_set1_epi32(*vnni_bytes(bytes, i, k, 0)));
                    sum = _mm512_dpbusd_epi32(sum, weights[k][1], _mm512_set1_epi32(*vnni_bytes(bytes, i, k, 1)));
                }
                const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(row.scale));
                sums[4*four + i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[4*four + i]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
        _mm512_mask_storeu_ps(s + i*bs, columns, sums[i]);
    }
}

// What ggml_gemm_q4_0_8x8_q8_0 computes: nr rows, a multiple of four, by nc columns, a multiple of eight.
static void vnni_product_q4_0(int n, float * s, size_t bs, const void * vx, const void * vy, int nr, int nc) {
    static constexpr decltype(&vnni_tile<1>) TILES[] = { vnni_tile<1>, vnni_tile<2>, vnni_tile<3>, vnni_tile<4> };
    const int n_blocks = n/QK8_0, n_fours = nr/4;
    const block_q4_0x8 * weights = (const block_q4_0x8 *) vx;
    const block_q8_0x4 * rows    = (const block_q8_0x4 *) vy;

    static thread_local std::vector<vnni_row_block> row_blocks;
    row_blocks.resize((size_t) nr*n_blocks);
    for (int four = 0; four < n_fours; four++) {
        for (int b = 0; b < n_blocks; b++) {
            vnni_prepare(rows[four*n_blocks + b], row_blocks.data() + 4*four*n_blocks + b, n_blocks);
        }
    }

    const int n_tiles = (n_fours + 3)/4;
    for (int c = 0; c < nc; c += 16) {
        const bool has_both = c + 8 < nc;
        const block_q4_0x8 * low  = weights + c/8*n_blocks;
        const block_q4_0x8 * high = has_both ? low + n_blocks : low;
        for (int t = 0, four = 0; t < n_tiles; t++) {
            const int fours = (n_fours - four)/(n_tiles - t);
            TILES[fours - 1](n_blocks, s + 4*four*bs + c, bs, has_both ? 0xFFFF : 0x00FF, low, high,
                             rows + four*n_blocks, row_blocks.data() + 4*four*n_blocks);
            four += fours;
        }
    }
}

#endif
