// Products of rows by quantized weights: one shape for every instruction set.
//
// Llamakiln's addition to ggml-cpu, used by product_traits.h. An instruction set is a struct of a dozen primitives in a
// file of its own (product_avx2.h, product_avx_vnni.h, product_avx512.h, product_dotprod.h, product_i8mm.h); what is
// here knows formats of weights and in what order things are done, and no intrinsics.
//
//   register  holds DEPTH consecutive values of each of COLUMNS columns of weights, in bytes.
//   panel     PANEL columns, a register or two wide; all blocks of a panel lie one after another, in as many bytes as in
//             the file.
//   group     ROWS rows that one register of values holds together (two for i8mm, else one). A packed row is an array of
//             row_block, one for each block of weights.
//   tile      up to 8 or 16 groups by a panel: weights are unpacked once for all its rows.
//
// Integers are exact, whatever the bytes are, -128 too. Blocks of 32 values (Q4_0, Q8_0) are added up as ggml does:
// sum += float(integers) * (weights' scale * row's scale), one rounding for each of the three operations. Blocks of 256
// (Q4_K, Q6_K) take sum += row's scale * (scale * float(integers) - min's scale * float(minima)): five roundings where
// ggml's kernels, which differ among themselves, take between four and a dozen. So n blocks are within (n + 5) * 2^-24
// of the sum of the absolute values of their parts.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace product {

constexpr int PREFETCH_BYTES = 2048;  // ahead of what is read of the weights: a stream's first lines are slow else

inline void prefetch(const uint8_t * from, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) {
        __builtin_prefetch(from + PREFETCH_BYTES + i);
    }
}

// What a block of weights needs of a group of rows.
template <class I, int VALUES> struct row_block {
    static constexpr int N_SUMS = VALUES == 32 ? 2 : 16;

    float             scale[I::ROWS*I::ROWS];   // a register of sums times this; each row's as often as it has columns
    int16_t           sums[N_SUMS*I::ROWS];     // of the values; how, is said by who packs it
    typename I::value values[VALUES*I::ROWS];   // DEPTH of the first row, of the second one, the next DEPTH ...

    void set_scale(int row, float to) {
        for (int i = 0; i < I::ROWS; i++) {
            scale[row*I::ROWS + i] = to;
        }
    }
    void set_values(int row, const int8_t * from) {
        for (int i = 0; i < VALUES; i += I::DEPTH) {
            for (int j = 0; j < I::DEPTH; j++) {
                values[i*I::ROWS + row*I::DEPTH + j] = from[i + j];
            }
        }
    }
};

// Where value i of a column is within 16 values of a panel, in bytes.
template <class I> constexpr size_t place(int column, int i) {
    return ((size_t) i/I::DEPTH*I::PANEL + column)*I::DEPTH + i%I::DEPTH;
}

inline int sum_of(const int8_t * values, int n) {
    int sum = 0;
    for (int i = 0; i < n; i++) {
        sum += values[i];
    }
    return sum;
}

// A tile's accumulators, and where they go.
template <class I, int R> struct sums {
    static constexpr int C = I::PANEL/I::COLUMNS;

    typename I::floats of[R][C];

    sums() {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                of[r][c] = I::zero_floats();
            }
        }
    }
    // A block of 32: its panel begins with the scales.
    template <class ROWS_BLOCK>
    void add(const typename I::ints (&total)[R][C], const uint8_t * panel, const ROWS_BLOCK * const * row, int b) {
        typename I::floats scale[C];
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) {
            scale[c] = I::halves(panel, c);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const auto row_scale = I::row_scale(row[r][b].scale);
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                of[r][c] = I::fma(I::small_to_floats(total[r][c]), I::mul(scale[c], row_scale), of[r][c]);
            }
        }
    }
    void store(float * const * out, float factor) {  // a pointer for each row: to the panel's first column
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                I::store(I::mul(of[r][c], I::same(factor)), out + r*I::ROWS, c*I::COLUMNS);
            }
        }
    }
};

// 32 values of each column of register c of a panel, or the part of them: 16 bytes for each column, the lower halves are
// the first 16 values, the upper ones the rest.
template <class I, int N, bool IS_SIGNED>
inline __attribute__((always_inline)) void unpack(typename I::bytes (&w)[N], const uint8_t * from, int c, int part) {
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
        const int  half = I::PARTS == 2 ? part : i/(N/2), at = I::PARTS == 2 ? i : i % (N/2);
        const auto both = I::load(from + (at*I::PANEL + c*I::COLUMNS)*I::DEPTH);
        w[i] = half ? (IS_SIGNED ? I::high_signed(both) : I::high(both)) : (IS_SIGNED ? I::low_signed(both) : I::low(both));
    }
}

// --------------------------------------------------------------------------------------------------- blocks of 32

// d[PANEL], then 16 bytes for each column: the lower halves are a block's first 16 values, the upper ones the rest.
template <class I> struct q4_0 {
    using source     = block_q4_0;
    using row_source = block_q8_0;
    using rows       = row_block<I, 32>;
    static constexpr int    VALUES = 32, P = I::PANEL, C = P/I::COLUMNS;
    static constexpr int    N = 32/I::DEPTH/I::PARTS;  // registers at a time
    static constexpr size_t BYTES  = P*sizeof(source);
    static constexpr int    GROUPS = I::GROUPS_32;

    static void pack(const source * const * columns, uint8_t * to) {
        for (int c = 0; c < P; c++) {
            memcpy(to + 2*c, &columns[c]->d, 2);
            for (int i = 0; i < 16; i++) {
                to[2*P + place<I>(c, i)] = columns[c]->qs[i] ^ (I::IS_SIGNED ? 0x88 : 0);
            }
        }
    }
    static void pack_row(const row_source & from, int row, rows & to) {
        to.set_scale(row, I::half(from.d));
        to.set_values(row, from.qs);
        const int32_t offset = -8*sum_of(from.qs, 32);  // what makes unsigned weights signed
        memcpy(to.sums + 2*row, &offset, 4);
    }
    template <int R> static void tile(int n_blocks, const uint8_t * panel, const rows * const * row, float * const * out) {
        sums<I, R> sum;
        for (int b = 0; b < n_blocks; b++, panel += BYTES) {
            prefetch(panel, BYTES);
            typename I::ints total[R][C];
#pragma GCC unroll 2
            for (int part = 0; part < I::PARTS; part++) {
                typename I::bytes w[C][N];
#pragma GCC unroll 2
                for (int c = 0; c < C; c++) {
                    unpack<I, N, I::IS_SIGNED>(w[c], panel + 2*P, c, part);
                }
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    const rows & x = row[r][b];
#pragma GCC unroll 2
                    for (int c = 0; c < C; c++) {
                        total[r][c] = I::template sum<N, 15>(part ? total[r][c] : I::start(x.sums), w[c],
                                                             x.values + 16*part*I::ROWS);
                    }
                }
            }
            sum.add(total, panel, row, b);
        }
        sum.store(out, I::IS_SIGNED ? 1.0f/16 : 1.0f);
    }
};

// d[PANEL], then 32 bytes for each column.
template <class I> struct q8_0 {
    using source     = block_q8_0;
    using row_source = block_q8_0;
    using rows       = row_block<I, 32>;
    static constexpr int    VALUES = 32, P = I::PANEL, C = P/I::COLUMNS;
    static constexpr int    N = 16/I::DEPTH;  // registers at a time: half a block
    static constexpr size_t BYTES  = P*sizeof(source);
    static constexpr int    GROUPS = I::GROUPS_32;

    static void pack(const source * const * columns, uint8_t * to) {
        for (int c = 0; c < P; c++) {
            memcpy(to + 2*c, &columns[c]->d, 2);
            for (int i = 0; i < 32; i++) {
                to[2*P + place<I>(c, i)] = columns[c]->qs[i] ^ (I::IS_SIGNED_8 ? 0 : 0x80);
            }
        }
    }
    static void pack_row(const row_source & from, int row, rows & to) {
        to.set_scale(row, I::half(from.d));
        to.set_values(row, from.qs);
        const int32_t offset = I::IS_SIGNED_8 ? 0 : -128*sum_of(from.qs, 32);
        memcpy(to.sums + 2*row, &offset, 4);
    }
    template <int R> static void tile(int n_blocks, const uint8_t * panel, const rows * const * row, float * const * out) {
        sums<I, R> sum;
        for (int b = 0; b < n_blocks; b++, panel += BYTES) {
            prefetch(panel, BYTES);
            typename I::ints total[R][C];
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                typename I::bytes w[C][N];
#pragma GCC unroll 2
                for (int c = 0; c < C; c++) {
#pragma GCC unroll 8
                    for (int i = 0; i < N; i++) {
                        w[c][i] = I::load_8(panel + 2*P + ((half*N + i)*C + c)*I::DEPTH*I::COLUMNS);
                    }
                }
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    const rows & x = row[r][b];
#pragma GCC unroll 2
                    for (int c = 0; c < C; c++) {
                        total[r][c] = I::template sum<N, 255>(half ? total[r][c] : I::start_8(x.sums), w[c],
                                                              x.values + 16*half*I::ROWS);
                    }
                }
            }
            sum.add(total, panel, row, b);
        }
        sum.store(out, 1.0f);
    }
};

// -------------------------------------------------------------------------------------------------- blocks of 256

// Four times 4*n numbers of six bits in 3 bytes each: the last ones' bits are the upper two of the others' bytes.
template <int N> void pack_sixes(const uint8_t (&from)[4*N], uint8_t * to) {
    for (int i = 0; i < N; i++) {
        const int last = from[3*N + i];
        for (int j = 0; j < 3; j++) {
            to[j*N + i] = from[j*N + i] | ((last >> 2*j) & 3) << 6;
        }
    }
}
template <int N> void unpack_sixes(const uint8_t * from, uint8_t * first, uint8_t * second) {  // half of them each
    for (int i = 0; i < N; i += 8) {
        uint64_t a, b, c;
        memcpy(&a, from + i, 8);
        memcpy(&b, from + N + i, 8);
        memcpy(&c, from + 2*N + i, 8);
        constexpr uint64_t TWO = 0x0303030303030303, SIX = 0x3F3F3F3F3F3F3F3F;
        const uint64_t d = ((a >> 6) & TWO) | ((b >> 6) & TWO) << 2 | ((c >> 6) & TWO) << 4;
        a &= SIX, b &= SIX, c &= SIX;
        memcpy(first + i, &a, 8);
        memcpy(first + N + i, &b, 8);
        memcpy(second + i, &c, 8);
        memcpy(second + N + i, &d, 8);
    }
}

// d[PANEL], dmin[PANEL], scales and minima in 12 bytes a column, then eight times 32 values of each column as in q4_0.
template <class I> struct q4_K {
    using source     = block_q4_K;
    using row_source = block_q8_K;
    using rows       = row_block<I, 256>;
    static constexpr int    VALUES = 256, P = I::PANEL, C = P/I::COLUMNS;
    static constexpr int    N = 32/I::DEPTH/I::PARTS;  // registers at a time
    static constexpr size_t BYTES  = P*sizeof(source);
    static constexpr int    GROUPS = I::GROUPS_256;

    static void pack(const source * const * columns, uint8_t * to) {
        uint8_t sixes[16*P];
        for (int c = 0; c < P; c++) {
            const source & from = *columns[c];
            memcpy(to + 2*c, &from, 2);                        // d
            memcpy(to + 2*P + 2*c, (const char *) &from + 2, 2);  // dmin
            const uint8_t * s = from.scales;
            for (int j = 0; j < 8; j++) {
                sixes[j*P + c] = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
                sixes[8*P + (j/I::MINIMA*P + c)*I::MINIMA + j%I::MINIMA] =
                    j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
                for (int i = 0; i < 16; i++) {
                    const uint8_t * q = from.qs + j/2*32 + i;
                    const int shift = j%2*4;
                    to[16*P + 16*P*j + place<I>(c, i)] = ((q[0] >> shift) & 15) | ((q[16] >> shift) & 15) << 4;
                }
            }
        }
        pack_sixes<4*P>(sixes, to + 4*P);
    }
    static void pack_row(const row_source & from, int row, rows & to) {
        int16_t of_32[8];
        for (int j = 0; j < 8; j++) {
            of_32[j] = sum_of(from.qs + 32*j, 32);
        }
        to.set_scale(row, from.d);
        to.set_values(row, from.qs);
        I::pack_minima_sums(of_32, row, to.sums);
    }
    template <int R> static void tile(int n_blocks, const uint8_t * panel, const rows * const * row, float * const * out) {
        sums<I, R> sum;
        for (int b = 0; b < n_blocks; b++, panel += BYTES) {
            uint8_t scales[8*P + 4], minima[8*P];  // 4: registers are loaded whole
            unpack_sixes<4*P>(panel + 4*P, scales, minima);
            typename I::ints total[R][C];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
                for (int c = 0; c < C; c++) {
                    total[r][c] = I::zero();
                }
            }
#pragma GCC unroll 1
            for (int j = 0; j < 8; j++) {
                const uint8_t * q = panel + 16*P + 16*P*j;
                prefetch(q, 16*P);
                typename I::ints  sub[R][C];
                typename I::scale scale[C];
#pragma GCC unroll 2
                for (int c = 0; c < C; c++) {
                    scale[c] = I::scale_6(scales + j*P, c);
                }
#pragma GCC unroll 2
                for (int part = 0; part < I::PARTS; part++) {
                    typename I::bytes w[C][N];
#pragma GCC unroll 2
                    for (int c = 0; c < C; c++) {
                        unpack<I, N, false>(w[c], q, c, part);
                    }
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++) {
                        const auto * x = row[r][b].values + (32*j + 16*part)*I::ROWS;
#pragma GCC unroll 2
                        for (int c = 0; c < C; c++) {
                            if (part == 0) {
                                sub[r][c] = I::zero();
                            }
                            if (part + 1 < I::PARTS) {
                                sub[r][c] = I::template sum<N, 15>(sub[r][c], w[c], x);
                            } else {
                                I::template add<N, 15>(total[r][c], sub[r][c], w[c], x, scale[c]);
                            }
                        }
                    }
                }
            }
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                const auto d = I::halves(panel, c), dmin = I::halves(panel + 2*P, c);
                const typename I::minima mins(minima, c);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    const rows & x = row[r][b];
                    const auto of_minima = mins.times(x.sums);
                    const auto part = I::fnma(dmin, of_minima, I::mul(d, I::to_floats(total[r][c])));
                    sum.of[r][c] = I::fma(part, I::row_scale(x.scale), sum.of[r][c]);
                }
            }
        }
        sum.store(out, 1.0f);
    }
};

// d[PANEL], 16 scales a column, then four times 64 values of each column in three times 16 bytes: the first, second and
// third 16 values have six bits of each byte, the last 16 the other two of all three.
template <class I> struct q6_K {
    using source     = block_q6_K;
    using row_source = block_q8_K;
    using rows       = row_block<I, 256>;
    static constexpr int    VALUES = 256, P = I::PANEL, C = P/I::COLUMNS, N = 16/I::DEPTH;
    static constexpr size_t BYTES  = P*sizeof(source);
    static constexpr int    GROUPS = I::GROUPS_256;

    static void pack(const source * const * columns, uint8_t * to) {
        for (int c = 0; c < P; c++) {
            const source & from = *columns[c];
            memcpy(to + 2*c, &from.d, 2);
            for (int j = 0; j < 16; j++) {
                to[2*P + (j/I::SCALES*P + c)*I::SCALES + j%I::SCALES] = from.scales[j];
            }
            for (int unit = 0; unit < 4; unit++) {
                for (int i = 0; i < 16; i++) {
                    const int last = six(from, 64*unit + 48 + i);
                    for (int j = 0; j < 3; j++) {
                        const int q = six(from, 64*unit + 16*j + i), two = (last >> (I::IS_SIGNED ? 4 - 2*j : 2*j)) & 3;
                        to[18*P + (3*unit + j)*16*P + place<I>(c, i)] = I::IS_SIGNED ? (q << 2 | two) : (q | two << 6);
                    }
                }
            }
        }
    }
    // 0 to 63; signed instruction sets want 32 less, in the same six bits
    static int six(const source & from, int i) {
        const int part = i/128, l = i%32, k = i%128/32;
        const int low = (from.ql[64*part + l + k%2*32] >> k/2*4) & 15, high = (from.qh[32*part + l] >> 2*k) & 3;
        return (low | high << 4) ^ (I::IS_SIGNED ? 32 : 0);
    }
    static void pack_row(const row_source & from, int row, rows & to) {
        to.set_scale(row, from.d);
        to.set_values(row, from.qs);
        for (int j = 0; j < 16; j++) {
            to.sums[j*I::ROWS + row] = sum_of(from.qs + 16*j, 16);
        }
    }
    template <int R> static void tile(int n_blocks, const uint8_t * panel, const rows * const * row, float * const * out) {
        sums<I, R> sum;
        for (int b = 0; b < n_blocks; b++, panel += BYTES) {
            typename I::ints total[R][C];
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                const typename I::scales_8 scales(panel + 2*P, c);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) {
                    total[r][c] = scales.start(row[r][b].sums);
                }
            }
#pragma GCC unroll 1
            for (int unit = 0; unit < 4; unit++) {
                const uint8_t * q = panel + 18*P + 48*P*unit;
                prefetch(q, 48*P);
                sixteen<R, 0>(total, panel + 2*P, q, row, b, unit);
                sixteen<R, 1>(total, panel + 2*P, q, row, b, unit);
                sixteen<R, 2>(total, panel + 2*P, q, row, b, unit);
                sixteen<R, 3>(total, panel + 2*P, q, row, b, unit);
            }
            typename I::floats d[C];
            for (int c = 0; c < C; c++) {
                d[c] = I::halves(panel, c);
            }
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
                for (int c = 0; c < C; c++) {
                    const auto part = I::mul(d[c], I::to_floats(total[r][c]));
                    sum.of[r][c] = I::fma(part, I::row_scale(row[r][b].scale), sum.of[r][c]);
                }
            }
        }
        sum.store(out, I::IS_SIGNED ? 1.0f/4 : 1.0f);
    }
    // Values 64*unit + 16*J and on.
    template <int R, int J>
    static inline __attribute__((always_inline)) void sixteen(typename I::ints (&total)[R][C], const uint8_t * scales,
                                                              const uint8_t * q, const rows * const * row, int b, int unit) {
        typename I::bytes w[C][N];
        typename I::scale scale[C];
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) {
            scale[c] = I::template scale_8<J>(scales + 4*unit*P, c);
#pragma GCC unroll 8
            for (int i = 0; i < N; i++) {
                w[c][i] = I::template six<J>(q + (i*C + c)*I::DEPTH*I::COLUMNS, 16*P);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const auto * x = row[r][b].values + (64*unit + 16*J)*I::ROWS;
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                I::template add<N, 63>(total[r][c], I::zero(), w[c], x, scale[c]);
                I::in_order(total[r][c]);  // else compilers begin with all rows at once and run out of registers
            }
        }
    }
};

// ------------------------------------------------------------------------------------------------ any number of rows

// n_panels panels by n_groups groups of packed rows, where groups[i] is one and out[i*ROWS] and on are its rows' results,
// of which those of the first panel are `column` and on. Rows are taken in blocks that stay in a core's second cache while the panels pass by.
template <class W, class I, int... T>
void multiply(int n_blocks, const uint8_t * panels, int64_t n_panels, const typename W::rows * const * groups,
              int64_t n_groups, float * const * out, int64_t column, std::integer_sequence<int, T...>) {
    using tile = void (*)(int, const uint8_t *, const typename W::rows * const *, float * const *);
    static constexpr tile TILES[] = { W::template tile<T + 1>... };
    constexpr int64_t MOST = sizeof...(T), BLOCK = 64/I::ROWS;
    for (int64_t first = 0, n = 0; first < n_groups; first += n) {
        n = n_groups - first < BLOCK + MOST ? n_groups - first : BLOCK;
        const int64_t n_tiles = (n + MOST - 1)/MOST;
        for (int64_t p = 0; p < n_panels; p++) {
            for (int64_t t = 0, g = first; t < n_tiles; t++) {
                const int64_t size = (first + n - g)/(n_tiles - t);
                float * to[MOST*I::ROWS];
                for (int64_t i = 0; i < size*I::ROWS; i++) {
                    to[i] = out[g*I::ROWS + i] + column + p*I::PANEL;
                }
                TILES[size - 1](n_blocks, panels + p*n_blocks*W::BYTES, groups + g, to);
                g += size;
            }
        }
    }
}
template <class W, class I>
void multiply(int n_blocks, const uint8_t * panels, int64_t n_panels, const typename W::rows * const * groups,
              int64_t n_groups, float * const * out, int64_t column = 0) {
    multiply<W, I>(n_blocks, panels, n_panels, groups, n_groups, out, column, std::make_integer_sequence<int, W::GROUPS>());
}

}  // namespace product
