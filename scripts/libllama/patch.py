"""What our library sets change in llama.cpp's CPU kernels: where people share a node, most of its time was lost there.

Attention is computed for all heads that share a key, and for all rows of a prompt, together (grouped_attention.h).
It never touches a cell that a row cannot see. ggml's own kernel goes cell by cell for each head of each row. Eight
streams of 350 tokens: 50 instead of 60 ms per step; sixteen prompt rows over 1024 cells: 72 instead of 126 ms.

Products by Q4_0, Q8_0, Q4_K and Q6_K weights are ours on AVX2, VNNI (256 and 512 bits), Arm's dotprod and i8mm, for
dense and sparse models: kernels/quantized_product.h has their shape, product_<set>.h an instruction set each,
product_traits.h takes the place of ggml's class. On AVX2 (EPYC 7003, one core, 2048 x 1024, best of 60), 8 rows: Q4_K
0.19 instead of 0.49 ms, Q6_K 0.23 instead of 0.73, Q4_0 0.20 instead of 0.50, Q8_0 0.45 instead of 1.09. On Arm and
with VNNI estimated only. Their buffers ask for pages of 2 MB.

On CPUs with AMX ggml's products by AMX come before all others. Compiled by GCC 11 or 12 they end the process: the
compiler takes only the first eight bytes of the tile configuration for read and does not store what belongs into the
rest. That is mended, also for whoever is compared with us (FIXES). Weights that we multiply are kept from AMX.

The other types' products are ggml's: one whose last rows are two or three fills them up to four, and so it does with
one that makes sixteen: the product for four rows reads and unpacks each weight once, that for one row once for each.

Times of steps are medians of TinyLlama's shape in Q4_0 on 2 cores of an AMD EPYC, November 2026, each against what was
there before it. On Arm results are tested, and no time was measured.

Knows where in the pinned tree the changes go, and stops if it is not so any more. Standard library only.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CPU = Path("ggml/src/ggml-cpu")
AMX, AMX_PRODUCT = CPU / "amx/amx.cpp", CPU / "amx/mmq.cpp"
OPS, REPACK = CPU / "ops.cpp", CPU / "repack.cpp"
KERNELS = Path(__file__).parent / "kernels"

# Types of weights that AMX must not have, because our product is faster. Measured for Q4_0 on two cores of a Xeon, 32
# rows of TinyLlama's shape: 300 rows/s against 260. For the others by the estimate of the same loop on icelake-server
# (tests/bench/README.md), which for Q4_K is 0.9 of Q4_0's: 270 rows/s, where AMX has 225 for Q4_K_M, and 94 at 8 rows.
# If `make bench` on a CPU with AMX says otherwise, the type goes from here.
AMX_LEAVES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K")

HEADERS = {CPU / header.name: header for header in sorted(KERNELS.glob("*.h"))}  # beside who includes them


@dataclass(frozen=True)
class Edit:
    """`found`, which is in the file exactly once, becomes `made`; a `made` with {} in it puts `found` there."""

    file: Path
    found: str
    made: str

    @property
    def result(self) -> str:
        return self.made.replace("{}", self.found, 1) if "{}" in self.made else self.made


FIXES = (  # without these some CPUs run nothing
    Edit(
        AMX_PRODUCT,
        "    _tile_loadconfig(&tc);\n",
        '    asm volatile("" : : "r"(&tc) : "memory");  // all of it is read, whatever the intrinsic says\n{}',
    ),
)

EDITS = (
    *FIXES,
    Edit(
        AMX,
        "        int alignment;\n        switch (src0->type) {\n",
        f"        if ({' || '.join(f'src0->type == GGML_TYPE_{name}' for name in AMX_LEAVES) or 'false'}) {{\n"
        "            return false;\n        }\n{}",
    ),
    Edit(
        OPS,
        "static void ggml_compute_forward_flash_attn_ext_f16_one_chunk(\n",
        '#include "grouped_attention.h"\n\n{}',
    ),
    # ggml's own kernel, which goes on with a single head of a single row: hidden cells in blocks
    Edit(
        OPS,
        "            if (mv == -INFINITY) {\n",
        "{}                ic += count_hidden_cells(mp + ic + 1, ic_end - ic - 1);\n",
    ),
    Edit(
        OPS,
        "    // When use_ref is set, force the vec-only reference implementation (no tiling, no KV-chunking)\n",
        """\
#ifdef GROUPED_ATTENTION
    if (const grouped_attention grouped(params, dst); grouped.is_possible()) {
        grouped.run();
        return;
    }
#endif

{}""",
    ),
    Edit(
        REPACK,
        "    void forward_mul_mat_one_chunk(ggml_compute_params * params,\n",
        """\
    // Llamakiln: whether the last rows of so many are filled up to four.
    static bool fills_up(int64_t n_rows) {
        return n_rows % 4 > 1 || n_rows % 16 == 13;
    }

{}""",
    ),
    Edit(
        REPACK,
        """\
                {
                    size = ggml_row_size(PARAM_TYPE, ggml_nelements(op->src[1]));
                    return true;
""",
        """\
                {
                    const ggml_tensor * src1 = op->src[1];
                    size = ggml_row_size(PARAM_TYPE, src1->ne[0]*GGML_PAD(src1->ne[1], 4)*src1->ne[2]*src1->ne[3]);
                    return true;
""",
    ),
    Edit(
        REPACK,
        "(const char *) params->wdata + (i11 + i12 * ne11) * src1_col_stride;\n",
        "(const char *) params->wdata + (i11 + i12 * GGML_PAD(ne11, 4)) * src1_col_stride;\n",
    ),
    Edit(
        REPACK,
        "        const size_t nbw2  = nbw1 * ne11;\n",
        "        const size_t nbw2  = nbw1 * GGML_PAD(ne11, 4);\n",
    ),
    Edit(
        REPACK,
        "            const int64_t i11_processed = ne11 - ne11 % 4;\n",
        """\
{}            if (fills_up(ne11)) {
                if (ith == ne11 / 4 % nth) {
                    static thread_local std::vector<float> four;
                    four.assign(4 * ne10, 0.0f);
                    for (int64_t i11 = i11_processed; i11 < ne11; i11++) {
                        memcpy(four.data() + (i11 - i11_processed) * ne10, data_ptr + i11 * nb11, ne10 * sizeof(float));
                    }
                    ggml_quantize_mat_t<INTER_SIZE, PARAM_TYPE>(four.data(),
                                                                (void *) (wdata_ptr + i11_processed * nbw1), 4, ne10);
                }
                continue;
            }
""",
    ),
    Edit(
        REPACK,
        "        // If there are more than three rows in src1, use gemm; otherwise, use gemv.\n",
        """\
        if (fills_up(nrows)) {  // dst has no room for the rows that are filled in
            const int64_t n_rest = nrows % 16, n_full = nrows - n_rest;
            static thread_local std::vector<float> rest;
            rest.resize(16 * ncols);
            if (n_full) {
                gemm<BLOC_TYPE, INTER_SIZE, NB_COLS, PARAM_TYPE>(ne00, (float *) (dst_ptr) + src0_start, nb1 / nb0,
                                                                 src0_ptr + src0_start * nb01, src1_ptr, n_full, ncols);
            }
            gemm<BLOC_TYPE, INTER_SIZE, NB_COLS, PARAM_TYPE>(ne00, rest.data(), ncols, src0_ptr + src0_start * nb01,
                                                             src1_ptr + src1_col_stride * n_full, GGML_PAD(n_rest, 4),
                                                             ncols);
            for (int64_t row = 0; row < n_rest; row++) {
                float * to = (float *) (dst_ptr + (n_full + row) * nb1) + src0_start;
                memcpy(to, rest.data() + row * ncols, ncols * sizeof(float));
            }
            return;
        }

{}""",
    ),
    # ours where there is one; ggml's own classes stay for the rest
    Edit(
        REPACK,
        """\
}  // namespace ggml::cpu::repack

static const ggml::cpu::tensor_traits * ggml_repack_get_optimal_repack_type(const struct ggml_tensor * cur) {
""",
        """\
#include "product_traits.h"

{}    if (const auto * ours = ggml::cpu::repack::find_product_traits(cur)) {
        return ours;
    }
""",
    ),
    Edit(
        REPACK,
        "    buffer->iface.init_tensor = ggml_backend_cpu_repack_buffer_init_tensor;\n",
        "{}    ggml::cpu::repack::ask_for_large_pages(ggml_backend_buffer_get_base(buffer), size);\n",
    ),
    Edit(
        REPACK,
        "#include <cstring>\n",
        """\
#include <algorithm>
{}#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "product_set.h"
""",
    ),
)


class Mismatch(Exception):
    """The tree is not the one that the changes were written for."""


def headers(edits: Sequence[Edit]) -> dict[Path, Path]:
    """Those of HEADERS that the edits include, and that these include."""
    included = {place: header for place, header in HEADERS.items() if any(header.name in edit.made for edit in edits)}
    left = list(included.values())
    while left:
        text = left.pop().read_text()
        for place, header in HEADERS.items():
            if place not in included and f'#include "{header.name}"' in text:
                included[place] = header
                left.append(header)
    return included


def key(edits: Sequence[Edit] = EDITS) -> str:
    """What names the changes: others give other 12 hexadecimal digits."""
    recipe = ([header.read_text() for header in headers(edits).values()], tuple(edits))
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def files(edits: Sequence[Edit] = EDITS) -> list[Path]:
    """What is changed or added, within the tree."""
    return sorted({*headers(edits), *(edit.file for edit in edits)})


def change(source: Path, file: Path, edits: Sequence[Edit] = EDITS) -> str:
    """A file of the tree with the changes in it. Raises Mismatch."""
    if file in HEADERS:
        return HEADERS[file].read_text()
    text = (source / file).read_text()
    for edit in edits:
        if edit.file == file:
            n = text.count(edit.found)
            if n != 1:
                raise Mismatch(f"{file}: {edit.found.strip().splitlines()[0]!r} is there {n} times, not once")
            text = text.replace(edit.found, edit.result)
    return text


def apply(source: Path, target: Path, edits: Sequence[Edit] = EDITS) -> Path:
    """A copy of the tree with the changes in it, made once; all other files are hard links. Returns target. Raises
    Mismatch and OSError."""
    if target.exists():
        return target
    changed = {file: change(source, file, edits) for file in files(edits)}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copytree(source, part, symlinks=True, copy_function=os.link)
        for file, text in changed.items():
            (part / file).unlink(missing_ok=True)  # a link: the original must not change
            (part / file).write_text(text)
        try:
            part.rename(target)
        except OSError:
            if not target.exists():  # another run may have been faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
