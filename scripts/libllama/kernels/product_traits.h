// Who computes products by weights of a type: for those that quantized_product.h knows and this CPU's instruction set
// has, ggml's class tensor_traits in repack.cpp is replaced by product_traits, its layouts, its functions
// ggml_gemm_*, ggml_gemv_* and ggml_quantize_mat_* with it. ggml asks ggml_repack_get_optimal_repack_type, which asks
// here first (scripts/libllama/patch.py).
//
// A product of dense and one of chosen experts' weights are the same: rows anywhere, results anywhere. Rows are
// quantized by ggml's own function for the format. Included by repack.cpp within namespace ggml::cpu::repack.

#ifdef PRODUCT_SET
template <class W, class I> class product_traits : public tensor_traits_base {
    using row_source = typename W::row_source;
    using rows       = typename W::rows;
    static constexpr ggml_type ROW_TYPE = std::is_same_v<row_source, block_q8_K> ? GGML_TYPE_Q8_K : GGML_TYPE_Q8_0;

    // Rows of one product, and where each one's results begin.
    struct work {
        std::vector<const rows *> groups;
        std::vector<float *>      out;
        std::vector<float>        beside;  // for the row that fills up the last group
        std::vector<rows>         packed;  // of an expert

        void multiply(int64_t n_blocks, const void * weights, int64_t first, int64_t last) {  // panels of all columns
            ::product::multiply<W, I>(n_blocks, (const uint8_t *) weights + first*n_blocks*W::BYTES, last - first,
                                      groups.data(), groups.size(), out.data(), first*I::PANEL);
        }
    };
    // The calling thread's, empty.
    static work & begin(int64_t n_rows, int64_t n_columns) {
        static thread_local work my;
        my.groups.clear();
        my.out.clear();
        if (n_rows % I::ROWS) {
            my.beside.resize(n_columns);
        }
        return my;
    }
    static int64_t n_groups(int64_t n_rows) { return (n_rows + I::ROWS - 1)/I::ROWS; }

    // Rows that `quantized` gives as I::ROWS pointers; nullptr: none is left, zeros fill up.
    static void pack_group(const row_source * const * quantized, int64_t n_blocks, rows * to) {
        static const row_source none = {};
        for (int i = 0; i < I::ROWS; i++) {
            for (int64_t b = 0; b < n_blocks; b++) {
                W::pack_row(quantized[i] ? quantized[i][b] : none, i, to[b]);
            }
        }
    }

    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        const ggml_tensor * x = op->src[1];
        const int64_t n_blocks = x->ne[0]/W::VALUES, n_rows = ggml_nrows(x);
        if (op->op == GGML_OP_MUL_MAT) {
            size = n_groups(n_rows)*n_blocks*sizeof(rows);
            return true;
        }
        if (op->op == GGML_OP_MUL_MAT_ID) {
            size = n_rows*n_blocks*sizeof(row_source);
            return true;
        }
        return false;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (op->op == GGML_OP_MUL_MAT) {
            multiply_all(params, op);
            return true;
        }
        if (op->op == GGML_OP_MUL_MAT_ID) {
            multiply_chosen(params, op);
            return true;
        }
        return false;
    }

    static float * row_of(const ggml_tensor * x, int64_t i) {
        const int64_t i1 = i % x->ne[1], i2 = i/x->ne[1] % x->ne[2], i3 = i/x->ne[1]/x->ne[2];
        return (float *) ((char *) x->data + i1*x->nb[1] + i2*x->nb[2] + i3*x->nb[3]);
    }

    void multiply_all(ggml_compute_params * params, ggml_tensor * op) {
        const ggml_tensor * weights = op->src[0], * x = op->src[1];
        GGML_ASSERT(x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float));
        GGML_ASSERT(ggml_n_dims(weights) == 2 && op->ne[0] == weights->ne[1]);
        const int64_t n_in = x->ne[0], n_blocks = n_in/W::VALUES, n_rows = ggml_nrows(x);
        const int64_t n_panels = weights->ne[1]/I::PANEL;
        rows * packed = (rows *) params->wdata;
        GGML_ASSERT(params->wsize >= n_groups(n_rows)*n_blocks*sizeof(rows));

        static thread_local std::vector<row_source> quantized;
        quantized.resize(I::ROWS*n_blocks);
        const auto quantize = ggml_get_type_traits_cpu(ROW_TYPE)->from_float;
        for (int64_t g = params->ith; g < n_groups(n_rows); g += params->nth) {
            const row_source * group[I::ROWS] = {};
            for (int64_t i = 0; i < I::ROWS && g*I::ROWS + i < n_rows; i++) {
                quantize(row_of(x, g*I::ROWS + i), quantized.data() + i*n_blocks, n_in);
                group[i] = quantized.data() + i*n_blocks;
            }
            pack_group(group, n_blocks, packed + g*n_blocks);
        }
        work & my = begin(n_rows, op->ne[0]);
        for (int64_t i = 0; i < n_groups(n_rows)*I::ROWS; i++) {
            if (i % I::ROWS == 0) {
                my.groups.push_back(packed + i/I::ROWS*n_blocks);
            }
            my.out.push_back(i < n_rows ? row_of(op, i) : my.beside.data());
        }

        // Whoever is ready takes the next of four chunks for each thread: cores are not equally fast.
        const int64_t n_chunks = std::min<int64_t>(n_panels, 4*params->nth);
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        for (int64_t chunk = params->ith; chunk < n_chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            my.multiply(n_blocks, weights->data, chunk*n_panels/n_chunks, (chunk + 1)*n_panels/n_chunks);
        }
    }

    // op[column, i, token] = weights of expert ids[i, token] by x[i or 0, token]
    void multiply_chosen(ggml_compute_params * params, ggml_tensor * op) {
        const ggml_tensor * weights = op->src[0], * x = op->src[1], * ids = op->src[2];
        GGML_ASSERT(x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float));
        GGML_ASSERT(weights->ne[3] == 1 && x->ne[3] == 1 && op->ne[0] == weights->ne[1]);
        const int64_t n_in = x->ne[0], n_blocks = n_in/W::VALUES, n_rows = ggml_nrows(x);
        const int64_t n_panels = weights->ne[1]/I::PANEL;
        row_source * quantized = (row_source *) params->wdata;
        GGML_ASSERT(params->wsize >= n_rows*n_blocks*sizeof(row_source));
        const auto quantize = ggml_get_type_traits_cpu(ROW_TYPE)->from_float;
        for (int64_t i = params->ith; i < n_rows; i += params->nth) {
            quantize(row_of(x, i), quantized + i*n_blocks, n_in);
        }
        ggml_barrier(params->threadpool);

        struct choice {
            const row_source * row;
            float *            out;
        };
        static thread_local std::vector<std::vector<choice>> of_expert;
        of_expert.resize(std::max<size_t>(of_expert.size(), weights->ne[2]));
        for (int64_t expert = 0; expert < weights->ne[2]; expert++) {
            of_expert[expert].clear();
        }
        for (int64_t token = 0; token < ids->ne[1]; token++) {
            for (int64_t i = 0; i < ids->ne[0]; i++) {
                const int32_t expert = *(const int32_t *) ((const char *) ids->data + token*ids->nb[1] + i*ids->nb[0]);
                GGML_ASSERT(0 <= expert && expert < weights->ne[2]);
                of_expert[expert].push_back({ quantized + (token*x->ne[1] + i % x->ne[1])*n_blocks,
                                              (float *) ((char *) op->data + token*op->nb[2] + i*op->nb[1]) });
            }
        }
        const int64_t first = params->ith*n_panels/params->nth, last = (params->ith + 1)*n_panels/params->nth;
        for (int64_t expert = 0; expert < weights->ne[2]; expert++) {
            const std::vector<choice> & chosen = of_expert[expert];
            const int64_t n = chosen.size();
            if (n == 0 || first == last) {
                continue;
            }
            work & my = begin(n, op->ne[0]);
            my.packed.resize(n_groups(n)*n_blocks);
            for (int64_t g = 0; g < n_groups(n); g++) {
                const row_source * group[I::ROWS] = {};
                for (int64_t i = 0; i < I::ROWS; i++) {
                    const bool is_left = g*I::ROWS + i < n;
                    group[i] = is_left ? chosen[g*I::ROWS + i].row : nullptr;
                    my.out.push_back(is_left ? chosen[g*I::ROWS + i].out : my.beside.data());
                }
                pack_group(group, n_blocks, my.packed.data() + g*n_blocks);
                my.groups.push_back(my.packed.data() + g*n_blocks);
            }
            my.multiply(n_blocks, (const char *) weights->data + expert*weights->nb[2], first, last);
        }
    }

    int repack(ggml_tensor * t, const void * data, size_t size) override {
        const int64_t n_blocks = t->ne[0]/W::VALUES, n_columns = ggml_nrows(t);
        GGML_ASSERT(n_columns % I::PANEL == 0 && size == n_columns*n_blocks*sizeof(typename W::source));
        const auto * from = (const typename W::source *) data;
        uint8_t    * to   = (uint8_t *) t->data;
        for (int64_t column = 0; column < n_columns; column += I::PANEL) {
            for (int64_t b = 0; b < n_blocks; b++, to += W::BYTES) {
                const typename W::source * columns[I::PANEL];
                for (int c = 0; c < I::PANEL; c++) {
                    columns[c] = from + (column + c)*n_blocks + b;
                }
                W::pack(columns, to);
            }
        }
        return 0;
    }
};

// I8: for weights of eight bits.
template <class I, class I8> const tensor_traits_base * product_traits_of(const ggml_tensor * weights) {
    static_assert(I::PANEL == I8::PANEL);
    static const product_traits<::product::q4_0<I>, I>   q4_0;
    static const product_traits<::product::q8_0<I8>, I8> q8_0;
    static const product_traits<::product::q4_K<I>, I>   q4_K;
    static const product_traits<::product::q6_K<I>, I>   q6_K;
    if (weights->ne[1] % I::PANEL != 0) {
        return nullptr;
    }
    switch (weights->type) {
        case GGML_TYPE_Q4_0: return &q4_0;
        case GGML_TYPE_Q8_0: return &q8_0;
        case GGML_TYPE_Q4_K: return &q4_K;
        case GGML_TYPE_Q6_K: return &q6_K;
        default:             return nullptr;
    }
}
#endif

// nullptr: ggml's own, or none.
static const tensor_traits_base * find_product_traits(const ggml_tensor * weights) {
    const tensor_traits_base * found = nullptr;
#ifdef PRODUCT_SET
    found = product_traits_of<PRODUCT_SET, PRODUCT_SET_8>(weights);
#endif
#ifdef PRODUCT_SET_NARROW
    if (!found) {
        found = product_traits_of<PRODUCT_SET_NARROW, PRODUCT_SET_NARROW>(weights);
    }
#endif
    GGML_UNUSED(weights);
    return found;
}

// Weights are read from end to end in every step: with pages of 4 kB a prefetcher stops and an address is looked up
// 512 times as often. Before the first byte is written; a kernel that has none goes on without.
static void ask_for_large_pages(void * base, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t PAGE = 4096;  // or more: what is not whole is refused, and that is all
    const uintptr_t first = ((uintptr_t) base + PAGE - 1)/PAGE*PAGE, last = ((uintptr_t) base + size)/PAGE*PAGE;
    if (first < last) {
        (void) madvise((void *) first, last - first, MADV_HUGEPAGE);
    }
#else
    GGML_UNUSED(base);
    GGML_UNUSED(size);
#endif
}
