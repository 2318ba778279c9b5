"""The one change that our library sets make to llama.cpp: attention passes over what a row cannot see in blocks.

All sequences lie in one KV cache, so most cells of a step are of others and masked. The CPU's flash attention looks at
them one by one, again for each head and layer: 0.3 ms per row and 1000 cells with TinyLlama's shape. In blocks of 32
that is next to nothing; a step of 8 streams and 24 prompt rows over 3200 cells took 160 instead of 196 ms (2 cores of
an AMD EPYC, medians of 3, November 2026). What is computed stays the same to the last bit.

Knows where in the pinned tree the lines go, and stops if it is not so any more. Standard library only.
"""

import hashlib
import os
import shutil
from pathlib import Path

OPS = Path("ggml/src/ggml-cpu/ops.cpp")

COUNT = """\
// Llamakiln: how many of the next n cells are hidden from a row, counted in whole blocks. The mask of a hidden cell is
// minus infinity, as a half 0xFC00.
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

"""
SKIP_CELLS = """\
                ic += count_hidden_cells(mp + ic + 1, ic_end - ic - 1);
"""
SKIP_TILE = """\
                bool is_hidden = true;
                for (int tq = 0; tq < tile_rows && is_hidden; tq++) {
                    const char * row = (const char *) mask->data + (iq1 + tq)*mask->nb[1]
                        + (iq2%mask->ne[2])*mask->nb[2] + (iq3%mask->ne[3])*mask->nb[3];
                    is_hidden = count_hidden_cells((const ggml_fp16_t *) row + ic, kv_tile) == kv_tile;
                }
                if (is_hidden) {
                    continue;
                }
"""
# A line that is there exactly once, what goes before it, what goes after it
EDITS = (
    ("static void ggml_compute_forward_flash_attn_ext_f16_one_chunk(", COUNT, ""),
    ("            if (mv == -INFINITY) {", "", SKIP_CELLS),
    ("                bool can_skip = true;", SKIP_TILE, ""),
)


class Mismatch(Exception):
    """The tree is not the one that the change was written for."""


def key() -> str:
    """What names the change: another one gives other 12 hexadecimal digits."""
    return hashlib.sha256(repr((str(OPS), EDITS)).encode()).hexdigest()[:12]


def edit(text: str) -> str:
    """Raises Mismatch."""
    for line, before, after in EDITS:
        n = text.splitlines().count(line)
        if n != 1:
            raise Mismatch(f"{OPS}: {line.strip()!r} is there {n} times, not once")
        text = text.replace(f"\n{line}\n", f"\n{before}{line}\n{after}")
    return text


def apply(source: Path, target: Path) -> Path:
    """A copy of the tree with the change in it, made once; all other files are hard links. Returns target. Raises
    Mismatch and OSError."""
    if target.exists():
        return target
    changed = edit((source / OPS).read_text())
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copytree(source, part, symlinks=True, copy_function=os.link)
        (part / OPS).unlink()  # a link: the original must not change
        (part / OPS).write_text(changed)
        try:
            part.rename(target)
        except OSError:
            if not target.exists():  # another run may have been faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
