// Do the products of scripts/libllama/kernels/quantized_product.h compute what they should on one instruction set?
//
// Compiled for it by tests/libllama/test_products.py with -DISA=..., run natively or by QEMU, with ggml's own formats and
// reference code linked in. Each case packs weights and rows and compares every value with the formula in 64 bit floats
// over ggml's dequantized weights, within the bound that quantized_product.h promises, and with ggml's plain dot product.
// Whatever lies beside the result must stay as it was. Prints a line per format, ends with 1 if a case is wrong.

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
#include "ggml-quants.h"
#include "quants.h"

#define STRING(x) STRING_OF(x)
#define STRING_OF(x) #x
#include STRING(HEADER)

extern "C" {  // what ggml's files name and these tests never reach
[[noreturn]] void ggml_abort(const char *, int, const char *, ...) { abort(); }
size_t       ggml_row_size(ggml_type, int64_t) { abort(); }
size_t       ggml_type_size(ggml_type) { abort(); }
const char * ggml_type_name(ggml_type) { abort(); }
float        ggml_table_f32_f16[1 << 16];
}

namespace {

// As many wrong bits as one likes are found where all bytes take part at their ends and anywhere between.
enum class filling { real, random, lowest, highest, opposite };
constexpr std::array FILLINGS{ filling::real, filling::random, filling::lowest, filling::highest, filling::opposite };

std::mt19937 random_bits(20261127);

uint8_t byte(filling how, uint8_t lowest, uint8_t highest) {
    return how == filling::lowest ? lowest : how == filling::highest ? highest : (uint8_t) random_bits();
}
ggml_half small_half() {  // a positive number of f16 around 2^-6
    return 0x2000 + random_bits() % 0x0800;
}

// What a format has besides its name: how ggml makes and reads it, and bytes for a filling.
template <class B> struct about;
template <> struct about<block_q4_0> {
    static constexpr const char * NAME = "q4_0";
    static constexpr auto quantize = quantize_row_q4_0_ref;
    static constexpr auto dequantize = dequantize_row_q4_0;
    static constexpr auto dot = ggml_vec_dot_q4_0_q8_0_generic;
    static void fill(block_q4_0 & to, filling how) {
        to.d = small_half();
        for (auto & q : to.qs) q = byte(how, 0x00, 0xFF);
    }
};
template <> struct about<block_q8_0> {
    static constexpr const char * NAME = "q8_0";
    static constexpr auto quantize = quantize_row_q8_0_ref;
    static constexpr auto dequantize = dequantize_row_q8_0;
    static constexpr auto dot = ggml_vec_dot_q8_0_q8_0_generic;
    static void fill(block_q8_0 & to, filling how) {
        to.d = small_half();
        for (auto & q : to.qs) q = (int8_t) byte(how, 0x80, 0x7F);
    }
};
template <> struct about<block_q4_K> {
    static constexpr const char * NAME = "q4_K";
    static constexpr auto quantize = quantize_row_q4_K_ref;
    static constexpr auto dequantize = dequantize_row_q4_K;
    static constexpr auto dot = ggml_vec_dot_q4_K_q8_K_generic;
    static void fill(block_q4_K & to, filling how) {
        const ggml_half d[2] = { small_half(), small_half() };
        memcpy((void *) &to, d, sizeof d);
        for (auto & s : to.scales) s = byte(how, how == filling::lowest ? 0xFF : 0x00, 0xFF);
        for (auto & q : to.qs) q = byte(how, 0x00, 0xFF);
    }
};
template <> struct about<block_q6_K> {
    static constexpr const char * NAME = "q6_K";
    static constexpr auto quantize = quantize_row_q6_K_ref;
    static constexpr auto dequantize = dequantize_row_q6_K;
    static constexpr auto dot = ggml_vec_dot_q6_K_q8_K_generic;
    static void fill(block_q6_K & to, filling how) {
        to.d = small_half();
        for (auto & s : to.scales) s = (int8_t) byte(how, 0x80, how == filling::opposite ? 0x80 : 0x7F);
        for (auto & q : to.ql) q = byte(how, 0x00, 0xFF);
        for (auto & q : to.qh) q = byte(how, 0x00, 0xFF);
    }
};

void finish(block_q8_0 & to, float d) { to.d = (ggml_half) 0x2000; (void) d; }
void finish(block_q8_K & to, float d) {
    to.d = d;
    for (int j = 0; j < QK_K/16; j++) to.bsums[j] = product::sum_of(to.qs + 16*j, 16);
}

template <class W, class I> struct checker {
    using block = typename W::source;
    using row_block = typename W::row_source;
    double worst = 0;  // as a share of the bound
    int    n_cases = 0;
    bool   is_wrong = false;

    void check(int n_rows, int n_panels, int n_blocks, filling how) {
        constexpr int P = I::PANEL, V = W::VALUES;
        const int n_columns = n_panels*P, n_in = n_blocks*V;
        std::normal_distribution<float> normal;

        std::vector<block> weights((size_t) n_columns*n_blocks);
        if (how == filling::real) {
            std::vector<float> x((size_t) n_columns*n_in);
            for (auto & each : x) each = normal(random_bits);
            about<block>::quantize(x.data(), weights.data(), (int64_t) x.size());
        } else {
            for (auto & each : weights) about<block>::fill(each, how);
        }
        std::vector<row_block> rows((size_t) n_rows*n_blocks);
        for (auto & each : rows) {
            const filling its = how == filling::opposite ? filling::lowest : how;
            for (auto & q : each.qs) q = (int8_t) byte(its, 0x80, 0x7F);
            finish(each, normal(random_bits));
        }

        std::vector<uint8_t> panels(n_panels*n_blocks*W::BYTES + product::PREFETCH_BYTES);
        for (int p = 0; p < n_panels; p++) {
            for (int b = 0; b < n_blocks; b++) {
                const block * columns[P];
                for (int c = 0; c < P; c++) columns[c] = &weights[(size_t) (p*P + c)*n_blocks + b];
                W::pack(columns, panels.data() + (p*n_blocks + b)*W::BYTES);
            }
        }
        const int n_groups = (n_rows + I::ROWS - 1)/I::ROWS;
        std::vector<typename W::rows> packed((size_t) n_groups*n_blocks);
        memset((void *) packed.data(), 0, packed.size()*sizeof packed[0]);
        for (int r = 0; r < n_rows; r++) {
            for (int b = 0; b < n_blocks; b++) {
                W::pack_row(rows[(size_t) r*n_blocks + b], r % I::ROWS, packed[(size_t) r/I::ROWS*n_blocks + b]);
            }
        }
        const float untouched = 12345.0f;
        const int   stride = n_columns + 3;
        std::vector<float> found((size_t) (n_groups*I::ROWS + 1)*stride, untouched);
        std::vector<const typename W::rows *> groups;
        std::vector<float *> out;
        for (int g = 0; g < n_groups; g++) groups.push_back(packed.data() + (size_t) g*n_blocks);
        for (int r = 0; r < n_groups*I::ROWS; r++) out.push_back(found.data() + (size_t) r*stride);

        product::multiply<W, I>(n_blocks, panels.data(), n_panels, groups.data(), n_groups, out.data());

        n_cases++;
        std::vector<float> w(n_in);
        for (int c = 0; c < n_columns; c++) {
            about<block>::dequantize(&weights[(size_t) c*n_blocks], w.data(), n_in);
            for (int r = 0; r < n_rows; r++) {
                double sum = 0, parts = 0;
                for (int i = 0; i < n_in; i++) {
                    const row_block & x = rows[(size_t) r*n_blocks + i/V];
                    const double part = (double) w[i]*scale_of(x)*x.qs[i%V];
                    sum += part;
                    parts += std::fabs(part) + minimum_part(weights[(size_t) c*n_blocks + i/V], x, i%V);
                }
                const double bound = (n_blocks + 6)*std::ldexp(parts, -24);
                const float value = found[(size_t) r*stride + c];
                float plain;
                about<block>::dot(n_in, &plain, 0, &weights[(size_t) c*n_blocks], 0, &rows[(size_t) r*n_blocks], 0, 1);
                const double difference = std::fabs(value - sum);
                // ggml's own dot product adds eight sums of floats to each other
                if (!(difference <= bound) || !(std::fabs(value - plain) <= bound + (8*n_blocks + 6)*std::ldexp(parts, -24))) {
                    if (!is_wrong) {
                        printf("WRONG %s: filling %d, row %d of %d, column %d of %d, %d blocks: %g, formula %g, ggml %g\n",
                               about<block>::NAME, (int) how, r, n_rows, c, n_columns, n_blocks, value, sum, plain);
                    }
                    is_wrong = true;
                }
                worst = std::max(worst, difference/bound);
            }
        }
        for (int r = 0; r < n_groups*I::ROWS + 1; r++) {
            for (int c = r < n_groups*I::ROWS ? n_columns : 0; c < stride; c++) {
                if (found[(size_t) r*stride + c] != untouched) {
                    is_wrong = true;
                    printf("WRONG %s: written beside the result, row %d column %d\n", about<block>::NAME, r, c);
                }
            }
        }
    }
    static double scale_of(const block_q8_0 & x) { return ldexp(1.0, -7) + 0*x.d; }  // 0x2000
    static double scale_of(const block_q8_K & x) { return x.d; }
    // what a block's minimum adds to a value's rounding: its own product is taken apart from the rest
    template <class B> static double minimum_part(const B &, const row_block &, int) { return 0; }
    static double minimum_part(const block_q4_K & w, const row_block & x, int i) {
        block_q4_K without = w;
        float with_q[256];
        memset(without.qs, 0, sizeof without.qs);
        dequantize_row_q4_K(&without, with_q, 256);
        return 2*std::fabs((double) with_q[i]*scale_of(x)*x.qs[i]);
    }
};

template <class W, class I> bool check_format() {
    checker<W, I> the;
    const int many = I::ROWS*(2*W::GROUPS + 1);  // more than two tiles
    for (const filling how : FILLINGS) {
        for (int n_rows = 1; n_rows <= W::GROUPS*I::ROWS + 1; n_rows++) the.check(n_rows, 1, 3, how);
        the.check(many, 3, 1, how);
        the.check(2, 2, 9, how);
    }
    the.check(64 + many, 1, 1, filling::random);  // more than a block of rows
    printf("%s %s: %d cases, %.2f of the bound\n", the.is_wrong ? "WRONG" : "ok", about<typename W::source>::NAME,
           the.n_cases, the.worst);
    return !the.is_wrong;
}

}  // namespace

int main() {
    using product::ISA;
#ifndef ISA_8
#define ISA_8 ISA
#endif
    using product::ISA_8;
    for (int i = 0; i < 1 << 16; i++) ggml_table_f32_f16[i] = ISA::half(i);
    bool is_right = true;
    is_right &= check_format<product::q4_0<ISA>, ISA>();
    is_right &= check_format<product::q8_0<ISA_8>, ISA_8>();
    is_right &= check_format<product::q4_K<ISA>, ISA>();
    is_right &= check_format<product::q6_K<ISA>, ISA>();
    return !is_right;
}
