// Products on Arm with dotprod (Ampere Altra, A1). sdot adds four signed products to each of four columns; the row's
// four bytes are a lane of a register of 16. Two a cycle on Neoverse N1: at most 32 products a cycle.
//
// Weights of four and six bits are signed, 16 and 4 times too large, so that a mask or a shift unpacks them.
//
// What sums begin with is loaded: movi takes a slot of the two that sdot needs, a load does not. And scvtf of four takes
// N1 two cycles: small sums begin with the bits of 1.5 * 2^23, so that they are a float, less which they are themselves.

#pragma once

#include <arm_neon.h>

#include "quantized_product.h"

namespace product {

struct dotprod {
    static constexpr int  ROWS = 1, COLUMNS = 4, DEPTH = 4, PANEL = 4;
    static constexpr int  GROUPS_32 = 8, GROUPS_256 = 8;
    static constexpr int  PARTS = 2;  // in which 32 values are unpacked: half of the registers are free for rows
    static constexpr int  MINIMA = 4, SCALES = 1;
    static constexpr bool IS_SIGNED = true, IS_SIGNED_8 = true;
    using value  = int8_t;
    using bytes  = int8x16_t;
    using ints   = int32x4_t;
    using floats = float32x4_t;
    using scale  = int32x4_t;

    static float half(uint16_t x) {
        __fp16 y;
        memcpy(&y, &x, 2);
        return y;
    }
    static floats halves(const uint8_t * d, int) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(d))); }
    static floats zero_floats() { return vdupq_n_f32(0); }
    static floats same(float x) { return vdupq_n_f32(x); }
    static floats row_scale(const float * x) { return vdupq_n_f32(*x); }
    static floats to_floats(ints x) { return vcvtq_f32_s32(x); }
    static floats small_to_floats(ints x) {  // less than 2^22 either way, from small()
        return vsubq_f32(vreinterpretq_f32_s32(x), vdupq_n_f32(12582912));
    }
    static floats mul(floats x, floats y) { return vmulq_f32(x, y); }
    static floats fma(floats x, floats y, floats z) { return vfmaq_f32(z, x, y); }
    static floats fnma(floats x, floats y, floats z) { return vfmsq_f32(z, x, y); }
    static void   store(floats x, float * const * out, int column) { vst1q_f32(out[0] + column, x); }

    static ints loaded(int which) {
        static constexpr int32_t SMALL = 0x4B400000;
        alignas(16) static const int32_t starts[3][4] = { {}, { SMALL, SMALL, SMALL, SMALL },
                                                          { SMALL >> 7, SMALL >> 7, SMALL >> 7, SMALL >> 7 } };
        return *(const volatile ints *) starts[which];
    }
    static ints       zero() { return loaded(0); }
    static ints       small() { return loaded(1); }
    static ints       small_above_7() { return loaded(2); }  // small, once it is shifted
    static void       in_order(ints & x) { asm volatile("" : "+w"(x)); }  // before whatever is loaded() later
    static ints       start(const int16_t *) { return small(); }
    static ints       start_8(const int16_t *) { return small(); }
    static uint8x16_t load(const uint8_t * x) { return vld1q_u8(x); }
    static bytes      load_8(const uint8_t * x) { return vreinterpretq_s8_u8(load(x)); }
    static bytes      low(uint8x16_t x) { return vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(0x0F))); }
    static bytes      high(uint8x16_t x) { return vreinterpretq_s8_u8(vshrq_n_u8(x, 4)); }
    static bytes      low_signed(uint8x16_t x) { return vreinterpretq_s8_u8(vshlq_n_u8(x, 4)); }
    static bytes      high_signed(uint8x16_t x) { return vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(0xF0))); }
    template <int J> static bytes six(const uint8_t * x, size_t stride) {
        if (J < 3) {
            return vreinterpretq_s8_u8(vandq_u8(load(x + J*stride), vdupq_n_u8(0xFC)));
        }
        // inserted above the lower bits of what is there: the third's two, the second's, the first's
        const uint8x16_t two = vsliq_n_u8(load(x + 2*stride), load(x + stride), 2);
        return vreinterpretq_s8_u8(vshlq_n_u8(vsliq_n_u8(two, load(x), 4), 2));
    }

    template <int N, int MOST> static ints sum(ints from, const bytes * w, const int8_t * x) {
#pragma GCC unroll 2
        for (int i = 0; i < N; i += 4) {
            const int8x16_t row = vld1q_s8(x + 4*i);
            from = vdotq_laneq_s32(from, w[i], row, 0);
            from = vdotq_laneq_s32(from, w[i + 1], row, 1);
            from = vdotq_laneq_s32(from, w[i + 2], row, 2);
            from = vdotq_laneq_s32(from, w[i + 3], row, 3);
        }
        return from;
    }
    template <int N, int MOST> static void add(ints & total, ints from, const bytes * w, const int8_t * x, scale by) {
        total = vmlaq_s32(total, sum<N, MOST>(from, w, x), by);
    }

    static scale scale_6(const uint8_t * x, int) { return of_four(vreinterpretq_s16_u16(vmovl_u8(vld1_u8(x)))); }
    template <int J> static scale scale_8(const uint8_t * x, int) {
        return of_four(vmovl_s8(vreinterpret_s8_u8(vld1_u8(x + J*PANEL))));
    }
    static scale of_four(int16x8_t x) { return vmovl_s16(vget_low_s16(x)); }
    struct scales_8 {
        scales_8(const uint8_t *, int) {}
        ints start(const int16_t *) const { return zero(); }
    };

    // Sums of 32 values do not fit a byte: seven bits of each of eight sums, then what is above them.
    static void pack_minima_sums(const int16_t (&of_32)[8], int row, int16_t * to) {
        int8_t * bytes = (int8_t *) to;
        for (int j = 0; j < 8; j++) {
            bytes[8*row + j]     = of_32[j] & 127;
            bytes[8*row + j + 8] = of_32[j] >> 7;
        }
    }
    struct minima {
        int8x16_t first, second;  // four sub-blocks of four columns each
        minima(const uint8_t * x, int) : first(load_8(x)), second(load_8(x + 16)) {}
        floats times(const int16_t * sums) const {  // at most 8 * 63 * 4096
            const int8x16_t row = vreinterpretq_s8_s16(vld1q_s16(sums));
            ints sum = vdotq_laneq_s32(vdotq_laneq_s32(small_above_7(), first, row, 2), second, row, 3);
            sum = vshlq_n_s32(sum, 7);
            return small_to_floats(vdotq_laneq_s32(vdotq_laneq_s32(sum, first, row, 0), second, row, 1));
        }
    };
};

}  // namespace product
