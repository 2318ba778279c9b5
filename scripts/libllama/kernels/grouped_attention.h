// Attention for heads that share their keys, and for rows of one sequence: what they all read is read once.
//
// Llamakiln's addition to ggml-cpu, included by ops.cpp (scripts/libllama/patch.py). ggml's own kernel for few rows goes
// cell by cell for each head of each row alone: it reads a key, makes one score of it, one call of expf and one pass
// over the value. Here the query heads that share a key head (grouped-query attention, arXiv:2305.13245), and the rows
// of a prompt, are the columns of a small matrix: their scores for up to 64 cells are one product, their softmax is
// computed in vectors, and their values are another product. Cells that a row cannot see are never touched, whoever's
// they are, so they do not change a bit of the result. Sums are in 32 bit floats, where ggml's own kernel adds values
// up in 16 bits.
//
// Needs GGML_F32_VEC of AVX-512, AVX2 or NEON; elsewhere ggml's own kernels are used.

#pragma once

#if (defined(__AVX512F__) && defined(__AVX512DQ__)) || \
    (defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)) || \
    (defined(__ARM_NEON) && defined(__aarch64__) && !defined(__ARM_FEATURE_SVE))
#define GROUPED_ATTENTION
#endif

// How many of the next n cells are hidden from a row, counted in whole blocks. The mask of a hidden cell is minus
// infinity, as a half 0xFC00.
static int64_t count_hidden_cells(const ggml_fp16_t * mask, int64_t n) {
    const int64_t block = 32;
    int64_t n_hidden = 0;
    for (; n_hidden + block <= n; n_hidden += block) {
        uint64_t differs = 0;
        for (int64_t i = 0; i < block; i += 4) {
            uint64_t four;
            memcpy(&four, mask + n_hidden + i, sizeof(four));
            differs |= four ^ 0xFC00FC00FC00FC00ULL;
        }
        if (differs) {
            break;
        }
    }
    return n_hidden;
}

#ifdef GROUPED_ATTENTION

static void ggml_compute_forward_flash_attn_ext_f16_one_chunk(
        const ggml_compute_params * params, ggml_tensor * dst, int ir0, int ir1, int64_t ic_start, int64_t ic_end,
        float * partials, int64_t partial_stride);

static constexpr int GROUPED_COLUMNS = GGML_FA_TILE_Q;   // ggml has reserved memory for so many columns
static constexpr int GROUPED_CELLS   = GGML_FA_TILE_KV;  // and so many cells
static constexpr int GROUPED_WORTH   = 3;                // fewer columns than this are left to ggml's own kernel
static constexpr int GROUPED_STEP    = 8;                // rows of the first product are computed by so many

#if defined(__AVX512F__)
#define GROUPED_MAX _mm512_max_ps
#elif defined(__AVX2__)
#define GROUPED_MAX _mm256_max_ps
#else
#define GROUPED_MAX vmaxq_f32
#endif

// C[RM][RN vectors] += A[RM][K] * B[K][RN vectors]; A's element (i, k) is at i*a_row + k*a_column.
template <int RM, int RN>
static inline void grouped_product_block(
        float * GGML_RESTRICT c, int64_t c_row, const float * GGML_RESTRICT a, int64_t a_row, int64_t a_column,
        const float * GGML_RESTRICT b, int64_t b_row, int64_t K) {
    GGML_F32_VEC sum[RM][RN];
    for (int i = 0; i < RM; ++i) {
        for (int r = 0; r < RN; ++r) {
            sum[i][r] = GGML_F32_VEC_LOAD(c + i*c_row + r*GGML_F32_EPR);
        }
    }
    for (int64_t k = 0; k < K; ++k) {
        GGML_F32_VEC bv[RN];
        for (int r = 0; r < RN; ++r) {
            bv[r] = GGML_F32_VEC_LOAD(b + k*b_row + r*GGML_F32_EPR);
        }
        for (int i = 0; i < RM; ++i) {
            const GGML_F32_VEC av = GGML_F32_VEC_SET1(a[i*a_row + k*a_column]);
            for (int r = 0; r < RN; ++r) {
                sum[i][r] = GGML_F32_VEC_FMA(sum[i][r], bv[r], av);
            }
        }
    }
    for (int i = 0; i < RM; ++i) {
        for (int r = 0; r < RN; ++r) {
            GGML_F32_VEC_STORE(c + i*c_row + r*GGML_F32_EPR, sum[i][r]);
        }
    }
}

template <int RM, int RN>
static void grouped_product_columns(
        float * c, int64_t c_row, const float * a, int64_t a_row, int64_t a_column,
        const float * b, int64_t b_row, int64_t M, int64_t K) {
    int64_t i = 0;
    for (; i + RM <= M; i += RM) {
        grouped_product_block<RM, RN>(c + i*c_row, c_row, a + i*a_row, a_row, a_column, b, b_row, K);
    }
    for (; i < M; ++i) {
        grouped_product_block<1, RN>(c + i*c_row, c_row, a + i*a_row, a_row, a_column, b, b_row, K);
    }
}

// C[M][N] += A[M][K] * B[K][N]; N is a multiple of GGML_F32_EPR.
static void grouped_product(
        float * c, int64_t c_row, const float * a, int64_t a_row, int64_t a_column,
        const float * b, int64_t b_row, int64_t M, int64_t N, int64_t K) {
    for (int64_t j = 0; j < N; ) {
        const int64_t n = (N - j)/GGML_F32_EPR;
#if defined(__AVX512F__) || defined(__ARM_NEON)  // 32 registers
        if (n >= 4) {
            grouped_product_columns<4, 4>(c + j, c_row, a, a_row, a_column, b + j, b_row, M, K);
            j += 4*GGML_F32_EPR;
            continue;
        }
        if (n >= 2) {
            grouped_product_columns<8, 2>(c + j, c_row, a, a_row, a_column, b + j, b_row, M, K);
            j += 2*GGML_F32_EPR;
            continue;
        }
#else
        if (n >= 2) {
            grouped_product_columns<4, 2>(c + j, c_row, a, a_row, a_column, b + j, b_row, M, K);
            j += 2*GGML_F32_EPR;
            continue;
        }
#endif
        grouped_product_columns<8, 1>(c + j, c_row, a, a_row, a_column, b + j, b_row, M, K);
        j += GGML_F32_EPR;
    }
}

// Whether a row sees all that an earlier one sees: then it is a later row of the same sequence.
static bool sees_all_of(const ggml_fp16_t * mask, const ggml_fp16_t * earlier, int64_t n) {
    for (int64_t i = 0; i < n; i += GROUPED_CELLS) {
        const int64_t m = std::min<int64_t>(GROUPED_CELLS, n - i);
        int missing = 0;
        for (int64_t j = i; j < i + m; ++j) {
            missing |= (mask[j] == 0xFC00) & (earlier[j] != 0xFC00);
        }
        if (missing) {
            return false;
        }
    }
    return true;
}

// Halves as ggml_cpu_fp16_to_fp32 reads them, but inline: a call for each cell and head cost 2 of a step's 33 ms.
static inline void read_cell(
        float * GGML_RESTRICT to, const char * from, ggml_type type, ggml_to_float_t to_float, int64_t n) {
    if (type == GGML_TYPE_F16) {
        const ggml_fp16_t * half = (const ggml_fp16_t *) from;
        int64_t i = 0;
#if defined(__AVX512F__)
        for (; i + 16 <= n; i += 16) {
            _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (half + i))));
        }
#elif defined(__F16C__)
        for (; i + 8 <= n; i += 8) {
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (half + i))));
        }
#endif
        for (; i < n; ++i) {
            to[i] = GGML_CPU_FP16_TO_FP32(half[i]);
        }
    } else if (type == GGML_TYPE_F32) {
        memcpy(to, from, n*sizeof(float));
    } else {
        to_float(from, to, n);
    }
}

// The cells of a sequence lie apart, so the processor does not see by itself what will be read next.
static inline void fetch_cell(const char * from, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch(from + i);
    }
}

struct grouped_attention {
    const ggml_compute_params * params;
    ggml_tensor * dst;
    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * mask;
    const ggml_tensor * sinks;
    float scale;
    float softcap;
    float max_bias;

    explicit grouped_attention(const ggml_compute_params * params, ggml_tensor * dst) :
            params(params), dst(dst), q(dst->src[0]), k(dst->src[1]), v(dst->src[2]), mask(dst->src[3]),
            sinks(dst->src[4]) {
        memcpy(&scale,    (float *) dst->op_params + 0, sizeof(float));
        memcpy(&max_bias, (float *) dst->op_params + 1, sizeof(float));
        memcpy(&softcap,  (float *) dst->op_params + 2, sizeof(float));
        if (softcap != 0.0f) {
            scale /= softcap;
        }
    }

    bool is_possible() const {
        return !params->use_ref && q->type == GGML_TYPE_F32 && k->type == v->type &&
            (k->type == GGML_TYPE_F16 || k->type == GGML_TYPE_F32 || ggml_get_type_traits(k->type)->to_float) &&
            k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3] && q->ne[2]%k->ne[2] == 0 && q->ne[3]%k->ne[3] == 0 &&
            v->ne[0]%GGML_F32_EPR == 0 && (!mask || mask->ne[2] == 1);
    }

    const ggml_fp16_t * mask_row(int64_t row, int64_t i3) const {
        if (!mask) {
            return nullptr;
        }
        return (const ggml_fp16_t *) ((const char *) mask->data + row*mask->nb[1] + (i3%mask->ne[3])*mask->nb[3]);
    }

    // As in ggml's kernels: ALiBi (arXiv:2108.12409), and 1 without it.
    float slope(int64_t head) const {
        if (max_bias <= 0.0f) {
            return 1.0f;
        }
        const uint32_t n_log2 = 1u << (uint32_t) floor(log2(q->ne[2]));
        const float m0 = powf(2.0f, -(max_bias       )/n_log2);
        const float m1 = powf(2.0f, -(max_bias / 2.0f)/n_log2);
        return head < n_log2 ? powf(m0, head + 1) : powf(m1, 2*(head - n_log2) + 1);
    }

    // All rows in blocks, each block for one group of heads: whichever thread is free takes the next.
    void run() const {
        const int nth = params->nth;
        const int64_t n_rows = q->ne[1], n_groups = k->ne[2], n_share = q->ne[2]/n_groups;
        // A group is cut in parts where there are fewer of them than threads, or where it is wider than a tile.
        const int64_t n_all    = n_rows*n_groups*q->ne[3];
        const int64_t n_least  = std::max((nth + n_all - 1)/n_all, (n_share + GROUPED_COLUMNS - 1)/GROUPED_COLUMNS);
        const int64_t n_parts  = std::min(n_share, n_least);
        const int64_t n_heads  = (n_share + n_parts - 1)/n_parts;
        const int64_t n_fair   = (n_rows*n_groups*n_parts + 4*nth - 1)/(4*nth);  // four blocks for each thread
        const int64_t n_tile   = std::max<int64_t>(1, std::min<int64_t>(n_fair, GROUPED_COLUMNS/n_heads));
        const int64_t n_tiles  = (n_rows + n_tile - 1)/n_tile;
        const int64_t n_blocks = n_tiles*n_groups*n_parts*q->ne[3];

        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, nth);
        }
        ggml_barrier(params->threadpool);
        for (int64_t block = params->ith; block < n_blocks; block = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t tile  = block%n_tiles;
            const int64_t part  = block/n_tiles%n_parts;
            const int64_t group = block/n_tiles/n_parts%n_groups;
            const int64_t i3    = block/n_tiles/n_parts/n_groups;
            const int64_t head0 = part*n_heads, head1 = std::min(head0 + n_heads, n_share);
            const int64_t end = std::min((tile + 1)*n_tile, n_rows);
            for (int64_t row = tile*n_tile, next; head0 < head1 && row < end; row = next) {
                for (next = row + 1; next < end; ++next) {
                    if (mask && !sees_all_of(mask_row(next, i3), mask_row(next - 1, i3), k->ne[1])) {
                        break;
                    }
                }
                compute(row, next, group, group*n_share + head0, group*n_share + head1, i3);
            }
        }
    }

    // Rows [row0, row1) of one sequence, each of which sees what the one before it sees, and heads [head0, head1) of
    // one group. A column is one head of one row.
    void compute(int64_t row0, int64_t row1, int64_t group, int64_t head0, int64_t head1, int64_t i3) const {
        const int64_t DK = k->ne[0], DV = v->ne[0], n_cells = k->ne[1];
        const int64_t n_rows = row1 - row0, n_heads = head1 - head0, n_columns = n_rows*n_heads;
        const int64_t N = GGML_PAD(n_columns, GGML_F32_EPR);
        float * base = (float *) params->wdata + params->ith*(GROUPED_COLUMNS*DK + 2*GROUPED_COLUMNS*GROUPED_CELLS
            + GROUPED_COLUMNS*DV + GROUPED_CELLS*DV + GROUPED_CELLS*DK + CACHE_LINE_SIZE_F32);
        // From a cache line on: else each vector of AVX-512 lies across two. Twice the scores' room is reserved.
        base = (float *) (((uintptr_t) base + 63) & ~(uintptr_t) 63);

        if (n_columns < GROUPED_WORTH) {
            ggml_compute_params own = *params;
            own.ith   = 0;
            own.wdata = base;
            for (int64_t c = 0; c < n_columns; ++c) {
                const int64_t ir = (i3*q->ne[2] + head0 + c%n_heads)*q->ne[1] + row0 + c/n_heads;
                ggml_compute_forward_flash_attn_ext_f16_one_chunk(&own, dst, ir, ir + 1, 0, n_cells, nullptr, 0);
            }
            return;
        }

        float * queries = base;                                  // [DK][N]
        float * keys    = queries + GROUPED_COLUMNS*DK;          // [cells][DK]
        float * values  = keys    + GROUPED_CELLS*DK;            // [cells][DV]
        float * scores  = values  + GROUPED_CELLS*DV;            // [cells][N]
        float * result  = scores  + GROUPED_COLUMNS*GROUPED_CELLS;  // [N][DV]
        float * greatest = result + GROUPED_COLUMNS*DV;          // [N]
        float * sum      = greatest + GROUPED_COLUMNS;           // [N]
        float * offset   = sum      + GROUPED_COLUMNS;           // [N]
        float * slopes   = offset   + GROUPED_COLUMNS;           // [N]

        const int64_t k3 = i3/(q->ne[3]/k->ne[3]);
        const char * k_data = (const char *) k->data + group*k->nb[2] + k3*k->nb[3];
        const char * v_data = (const char *) v->data + group*v->nb[2] + k3*v->nb[3];
        const ggml_to_float_t to_float = ggml_get_type_traits(k->type)->to_float;
        const ggml_fp16_t * last = mask_row(row1 - 1, i3);  // it sees all that the others see

        int64_t lists[2][GROUPED_CELLS], cell = 0;
        const auto gather = [&](int64_t * cells) {  // the next cells that are seen
            int64_t n = 0;
            while (n < GROUPED_CELLS && cell < n_cells) {
                if (last && last[cell] == 0xFC00) {
                    cell += 1 + count_hidden_cells(last + cell + 1, n_cells - cell - 1);
                } else {
                    cells[n++] = cell++;
                }
            }
            return n;
        };
        int64_t n = gather(lists[0]);
        for (int64_t t = 0; t < n; ++t) {
            fetch_cell(k_data + lists[0][t]*k->nb[1], ggml_row_size(k->type, DK));
            fetch_cell(v_data + lists[0][t]*v->nb[1], ggml_row_size(v->type, DV));
        }

        memset(queries, 0, DK*N*sizeof(float));
        memset(result,  0, N*DV*sizeof(float));
        for (int64_t c = 0; c < N; ++c) {
            greatest[c] = -INFINITY;
            sum[c]      = 0.0f;
        }
        for (int64_t c = 0; c < n_columns; ++c) {
            const float * from = (const float *) ((const char *) q->data
                + (row0 + c/n_heads)*q->nb[1] + (head0 + c%n_heads)*q->nb[2] + i3*q->nb[3]);
            for (int64_t d = 0; d < DK; ++d) {
                queries[d*N + c] = from[d]*scale;
            }
            slopes[c] = slope(head0 + c%n_heads);
        }

        for (int i = 0; n > 0; i ^= 1) {
            const int64_t * cells = lists[i], * ahead = lists[i ^ 1];
            const int64_t n_ahead = gather(lists[i ^ 1]);
            for (int64_t t = 0; t < n; ++t) {
                read_cell(keys   + t*DK, k_data + cells[t]*k->nb[1], k->type, to_float, DK);
                read_cell(values + t*DV, v_data + cells[t]*v->nb[1], v->type, to_float, DV);
                if (t < n_ahead) {
                    fetch_cell(k_data + ahead[t]*k->nb[1], ggml_row_size(k->type, DK));
                    fetch_cell(v_data + ahead[t]*v->nb[1], ggml_row_size(v->type, DV));
                }
            }
            const int64_t M = GGML_PAD(n, GROUPED_STEP);
            memset(keys + n*DK, 0, (M - n)*DK*sizeof(float));
            memset(scores, 0, M*N*sizeof(float));
            grouped_product(scores, N, keys, DK, 1, queries, N, M, N, DK);
            if (softcap != 0.0f) {
                ggml_vec_tanh_f32(n*N, scores, scores);
                ggml_vec_scale_f32(n*N, scores, softcap);
            }
            if (mask) {
                for (int64_t r = 0; r < n_rows; ++r) {
                    const ggml_fp16_t * seen = mask_row(row0 + r, i3);
                    for (int64_t t = 0; t < n; ++t) {
                        if (seen[cells[t]] & 0x7FFF) {  // neither zero nor minus zero
                            const float bias = GGML_CPU_FP16_TO_FP32(seen[cells[t]]);
                            for (int64_t c = r*n_heads; c < (r + 1)*n_heads; ++c) {
                                scores[t*N + c] += slopes[c]*bias;
                            }
                        }
                    }
                }
            }
            soften(scores, n, N, greatest, sum, offset, result, DV);
            grouped_product(result, DV, scores, 1, N, values, DV, GGML_PAD(n_columns, 4), DV, n);
            n = n_ahead;
        }

        for (int64_t c = 0; c < n_columns; ++c) {
            const int64_t row = row0 + c/n_heads, head = head0 + c%n_heads;
            float total = sum[c], share = 1.0f;
            if (sinks) {
                const float sink = ((const float *) sinks->data)[head];
                const float most = std::max(greatest[c], sink);
                share = expf(greatest[c] - most);
                total = total*share + expf(sink - most);
            }
            ggml_vec_scale_f32(DV, result + c*DV, total == 0.0f ? 0.0f : share/total);
            char * to = (char *) dst->data + ((i3*q->ne[1] + row)*q->ne[2] + head)*dst->nb[1];
            memcpy(to, result + c*DV, DV*sizeof(float));
        }
    }

    // scores[n][N] become weights relative to the greatest score of their column so far; what was summed up before is
    // brought to the same measure (online softmax, arXiv:1805.02867).
    static void soften(
            float * scores, int64_t n, int64_t N, float * greatest, float * sum, float * offset,
            float * result, int64_t DV) {
        for (int64_t j = 0; j < N; j += GGML_F32_EPR) {
            const GGML_F32_VEC before = GGML_F32_VEC_LOAD(greatest + j);
            GGML_F32_VEC most = before;
            for (int64_t t = 0; t < n; ++t) {
                most = GROUPED_MAX(most, GGML_F32_VEC_LOAD(scores + t*N + j));
            }
            float old[GGML_F32_EPR];
            GGML_F32_VEC_STORE(old, before);
            GGML_F32_VEC_STORE(greatest + j, most);
            for (int64_t c = j; c < j + GGML_F32_EPR; ++c) {
                offset[c] = greatest[c] == -INFINITY ? 0.0f : -greatest[c];  // a row that has seen nothing yet
                if (old[c - j] < greatest[c]) {
                    const float less = expf(old[c - j] + offset[c]);
                    sum[c] *= less;
                    if (less != 0.0f) {
                        ggml_vec_scale_f32(DV, result + c*DV, less);
                    } else {
                        memset(result + c*DV, 0, DV*sizeof(float));
                    }
                }
            }
            const GGML_F32_VEC shift = GGML_F32_VEC_LOAD(offset + j);
            GGML_F32_VEC total = GGML_F32_VEC_LOAD(sum + j);
            for (int64_t t = 0; t < n; ++t) {
                const GGML_F32_VEC weight = ggml_v_expf(GGML_F32_VEC_ADD(GGML_F32_VEC_LOAD(scores + t*N + j), shift));
                GGML_F32_VEC_STORE(scores + t*N + j, weight);
                total = GGML_F32_VEC_ADD(total, weight);
            }
            GGML_F32_VEC_STORE(sum + j, total);
        }
    }
};

#endif  // GROUPED_ATTENTION
