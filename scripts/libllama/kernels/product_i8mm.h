// Products on Arm with i8mm (AmpereOne, A2): smmla multiplies eight values of two rows by those of two columns. Two a
// cycle in LLVM's model of ampere1b: at most 64 products a cycle. All else is as in product_dotprod.h.

#pragma once

#include "product_dotprod.h"

namespace product {

struct i8mm : dotprod {
    static constexpr int ROWS = 2, COLUMNS = 2, DEPTH = 8;
    static constexpr int GROUPS_32 = 4, GROUPS_256 = 4;
    static constexpr int MINIMA = 8;

    // what belongs to columns: this one's and its neighbour's, twice
    static floats twice(floats x, int c) {
        const float32x2_t two = c ? vget_high_f32(x) : vget_low_f32(x);
        return vcombine_f32(two, two);
    }
    static scale twice(scale x, int c) {
        const int32x2_t two = c ? vget_high_s32(x) : vget_low_s32(x);
        return vcombine_s32(two, two);
    }
    static floats halves(const uint8_t * d, int c) { return twice(dotprod::halves(d, 0), c); }
    static floats row_scale(const float * x) { return vld1q_f32(x); }
    static void   store(floats x, float * const * out, int column) {
        vst1_f32(out[0] + column, vget_low_f32(x));
        vst1_f32(out[1] + column, vget_high_f32(x));
    }
    template <int N, int MOST> static ints sum(ints from, const bytes * w, const int8_t * x) {
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) {
            from = vmmlaq_s32(from, vld1q_s8(x + 16*i), w[i]);
        }
        return from;
    }
    template <int N, int MOST> static void add(ints & total, ints from, const bytes * w, const int8_t * x, scale by) {
        total = vmlaq_s32(total, sum<N, MOST>(from, w, x), by);
    }
    static scale scale_6(const uint8_t * x, int c) { return twice(dotprod::scale_6(x, 0), c); }
    template <int J> static scale scale_8(const uint8_t * x, int c) {
        return twice(dotprod::scale_8<J>(x, 0), c);
    }

    static void pack_minima_sums(const int16_t (&of_32)[8], int row, int16_t * to) {
        int8_t * bytes = (int8_t *) to;
        for (int j = 0; j < 8; j++) {
            bytes[8*row + j]      = of_32[j] & 127;
            bytes[8*row + j + 16] = of_32[j] >> 7;
        }
    }
    struct minima {
        int8x16_t of;  // eight sub-blocks of two columns
        minima(const uint8_t * x, int c) : of(load_8(x + 16*c)) {}
        floats times(const int16_t * sums) const {
            const ints above = vmmlaq_s32(small_above_7(), vreinterpretq_s8_s16(vld1q_s16(sums + 8)), of);
            return small_to_floats(vmmlaq_s32(vshlq_n_s32(above, 7), vreinterpretq_s8_s16(vld1q_s16(sums)), of));
        }
    };
};

}  // namespace product
