"""Do the kernels that libllama/patch.py changes compute what they should? Also a program, for a node and its CPU.

usage: python kernels.py FOLDER    (a library set; prints one line per case, ends with 1 if one of them is wrong)

Builds one ggml node per case through the C API. Attention is compared with its formula in 64 bit floats, a product by
rearranged weights with ggml's own product by the weights as they are in the file. Needs numpy and nothing of this
repository, so that it can be sent to a machine as text.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, I32 = 0, 1, 2, 8, 12, 14, 26  # enum ggml_type
QUANTIZED = (Q4_0, Q8_0, Q4_K, Q6_K)
MEMORY_BYTES = 64 << 20
EXACT = 2e-5  # greatest error of sums in 32 bits: ours
ROUGH = 4e-3  # of values added up in 16 bits, or of queries in 8 bits: ggml's own kernels


@dataclass(frozen=True)
class Attention:
    """rows: how many each sequence has in this step. past: cells that each has computed before; of those, `shared` are
    the same for all. Cells of the sequences alternate in runs of `run`. Nobody sees `foreign` more cells. All of it is
    there `caches` times, each apart from the others."""

    name: str
    rows: tuple[int, ...]
    heads: int = 8
    kv_heads: int = 2
    width: int = 64
    past: int = 90
    shared: int = 0
    run: int = 1
    foreign: int = 70
    kind: int = F16
    max_bias: float = 0.0
    softcap: float = 0.0
    has_sinks: bool = False
    has_mask: bool = True
    caches: int = 1
    threads: int = 2
    tolerance: float = EXACT


ATTENTION = [
    Attention("one stream", (1,), past=700),
    Attention("one stream, first token", (1,), past=0),
    Attention("streams", (1, 1, 1, 1, 1, 1, 1, 1), heads=32, kv_heads=4),
    Attention("streams on more threads than groups", (1, 1), kv_heads=1, threads=4),
    Attention("streams with a common prefix", (1,) * 8, shared=60),
    Attention("a prompt", (48,), past=0),
    Attention("a prompt that goes on", (33,), past=130),
    Attention("a prompt beyond 64 rows", (100,), past=40),
    Attention("streams and prompts", (1, 1, 24, 1, 40), past=37, run=5),
    Attention("no cell of others", (1, 7), foreign=0),
    Attention("many cells of others", (1, 20), foreign=900),
    Attention("three heads to a key", (1, 9), heads=15, kv_heads=5),
    Attention("seven heads to a key", (1, 9), heads=14, kv_heads=2),
    Attention("heads of 128", (1, 9), heads=12, kv_heads=2, width=128),
    Attention("heads of 80, a key for each: prompt", (24,), heads=4, kv_heads=4, width=80),
    Attention("heads of 80, a key for each: streams", (1, 1, 1), heads=4, kv_heads=4, width=80, tolerance=ROUGH),
    Attention("one row more than a tile, a key for each", (65,), heads=2, kv_heads=2, past=3),
    Attention("no mask", (5,), foreign=0, has_mask=False),
    Attention("ALiBi", (1, 20), heads=12, kv_heads=4, max_bias=8.0),
    Attention("soft cap", (1, 20), softcap=30.0),
    Attention("sinks", (1, 20), has_sinks=True),
    Attention("sinks, first token", (1,), past=0, has_sinks=True),
    Attention("cache in 32 bits", (1, 20), kind=F32),
    Attention("cache in 8 bits", (1, 20), kind=Q8_0),
    Attention("one thread", (1, 20), threads=1),
    Attention("three caches", (1, 9), caches=3),
]


@dataclass(frozen=True)
class Product:
    """rows x n_in values by weights of n_in x n_out in a quantized type. experts: each row is multiplied by the weights
    of `chosen` of so many, as in sparse models; is_shared: one row by all of its experts, else each has its own."""

    kind: int
    rows: int
    n_in: int = 512
    n_out: int = 96
    threads: int = 2
    experts: int = 0
    chosen: int = 2
    is_shared: bool = True
    tolerance: float = 1e-5  # share of the greatest value: sums are in another order


PRODUCTS = [
    *(Product(kind, rows) for kind in QUANTIZED for rows in (*range(1, 19), 29, 30, 31, 32, 45, 61, 130)),
    *(Product(kind, rows, threads=threads) for kind in QUANTIZED for rows in (1, 7) for threads in (1, 3, 4)),
    *(Product(kind, 5, n_out=8) for kind in QUANTIZED),  # fewer columns than threads' shares
    *(Product(kind, rows, experts=7) for kind in QUANTIZED for rows in (1, 2, 40)),
    *(Product(kind, 9, experts=3, chosen=3, is_shared=False, threads=4) for kind in QUANTIZED),
    Product(Q4_0, 7, threads=1),
    Product(Q4_0, 15, threads=7),
    Product(Q4_0, 3, n_out=8),
    *(Product(Q4_0, rows, n_in=2048, n_out=40, threads=1) for rows in (16, 20, 40)),
]


class Ggml:
    """The functions of a library set that a case needs."""

    def __init__(self, folder: Path) -> None:
        self.base = ctypes.CDLL(str(folder / "libggml-base.so.0"), mode=ctypes.RTLD_GLOBAL)
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so.0"))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        signatures = {
            "ggml_init": (pointer, [_InitParams]),
            "ggml_free": (None, [pointer]),
            "ggml_new_tensor_4d": (pointer, [pointer, ctypes.c_int, number, number, number, number]),
            "ggml_permute": (pointer, [pointer, pointer, *[ctypes.c_int] * 4]),
            "ggml_get_data": (pointer, [pointer]),
            "ggml_nbytes": (ctypes.c_size_t, [pointer]),
            "ggml_flash_attn_ext": (pointer, [*[pointer] * 5, *[ctypes.c_float] * 3]),
            "ggml_flash_attn_ext_add_sinks": (None, [pointer, pointer]),
            "ggml_new_graph": (pointer, [pointer]),
            "ggml_build_forward_expand": (None, [pointer, pointer]),
            "ggml_quantize_chunk": (ctypes.c_size_t, [ctypes.c_int, pointer, pointer, *[number] * 3, pointer]),
            "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
            "ggml_mul_mat_id": (pointer, [pointer, pointer, pointer, pointer]),
            "ggml_row_size": (ctypes.c_size_t, [ctypes.c_int, number]),
            "ggml_backend_alloc_ctx_tensors_from_buft": (pointer, [pointer, pointer]),
            "ggml_backend_tensor_set": (None, [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]),
            "ggml_backend_buffer_free": (None, [pointer]),
            "ggml_backend_reg_dev_get": (pointer, [pointer, ctypes.c_size_t]),
            "ggml_backend_dev_supports_op": (ctypes.c_bool, [pointer, pointer]),
            "ggml_backend_reg_get_proc_address": (pointer, [pointer, ctypes.c_char_p]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self.base, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.compute = self.cpu.ggml_graph_compute_with_ctx
        self.compute.restype, self.compute.argtypes = ctypes.c_int, [pointer, pointer, ctypes.c_int]
        self.cpu.ggml_cpu_init()
        self.cpu.ggml_backend_cpu_reg.restype = pointer
        registry = self.cpu.ggml_backend_cpu_reg()
        find = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(
            self.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        )
        self.device = self.ggml_backend_reg_dev_get(registry, 0)
        kinds = find(self.device)
        self.buffer_kinds = list(itertools.takewhile(bool, (kinds[i] for i in itertools.count())))

    def result(self, context: int, node: int, threads: int) -> Any:
        """Compute a node and what it needs; its values, in 32 bits."""
        graph = self.ggml_new_graph(context)
        self.ggml_build_forward_expand(graph, node)
        assert self.compute(context, graph, threads) == 0
        return np.frombuffer(ctypes.string_at(self.ggml_get_data(node), self.ggml_nbytes(node)), np.float32)

    def fill(self, tensor: int, values: Any) -> None:
        data = np.ascontiguousarray(values)
        assert self.ggml_nbytes(tensor) == data.nbytes
        ctypes.memmove(self.ggml_get_data(tensor), data.ctypes.data, data.nbytes)


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def lay_out(case: Attention) -> tuple[int, Any]:
    """How many cells there are, and which of them each row sees: an array of rows x cells."""
    n = len(case.rows)
    n_own = [case.past - case.shared + rows for rows in case.rows]
    owner: list[int] = [-1] * case.shared
    left = list(n_own)
    while any(left):
        for i in range(n):
            owner += [i] * min(case.run, left[i])
            left[i] -= min(case.run, left[i])
    owner = [-2] * (case.foreign // 2) + owner + [-2] * (case.foreign - case.foreign // 2)
    seen = []
    for i, rows in enumerate(case.rows):
        mine = [cell for cell, who in enumerate(owner) if who == i]
        for row in range(rows):
            allowed = set(mine[: n_own[i] - rows + row + 1])
            seen.append([who == -1 or cell in allowed for cell, who in enumerate(owner)])
    return len(owner), np.array(seen)


def cached(case: Attention, values: Any, ggml: Ggml) -> tuple[Any, Any]:
    """What the cache holds of these values, as bytes for ggml and as numbers for the formula."""
    if case.kind == F32:
        return values, values
    if case.kind == F16:
        half = values.astype(np.float16)
        return half, half
    n_blocks = values.size // 32
    raw = np.zeros(n_blocks * 34, np.uint8)
    ggml.ggml_quantize_chunk(Q8_0, values.ctypes.data, raw.ctypes.data, 0, values.size // case.width, case.width, None)
    blocks = raw.reshape(n_blocks, 34)
    numbers = blocks[:, 2:].view(np.int8) * blocks[:, :2].copy().view(np.float16).astype(np.float64)
    return raw, numbers.reshape(values.shape)


def slopes(case: Attention) -> Any:
    """ALiBi's, as in llama.cpp for any number of heads."""
    if not case.max_bias:
        return np.ones(case.heads)
    n = 2 ** int(np.log2(case.heads))
    first, second = 2 ** (-case.max_bias / n), 2 ** (-case.max_bias / 2 / n)
    return np.array([first ** (h + 1) if h < n else second ** (2 * (h - n) + 1) for h in range(case.heads)])


def attention_error(case: Attention, ggml: Ggml) -> float:
    """The greatest difference between the set's attention and the formula, values being around 1."""
    random = np.random.default_rng(20261127)
    n_cells, seen = lay_out(case)
    n_rows, scale = sum(case.rows), case.width**-0.5
    n = case.caches
    q = random.standard_normal((n, n_rows, case.heads, case.width), np.float32) * 2
    k, v = (random.standard_normal((n, n_cells, case.kv_heads, case.width), np.float32) for _ in range(2))
    (k_raw, k_value), (v_raw, v_value) = cached(case, k, ggml), cached(case, v, ggml)
    bias = -random.random((n, *seen.shape)) * 9 if case.max_bias else np.zeros((n, *seen.shape))
    mask = np.where(seen, bias, -np.inf).astype(np.float16)
    sinks = random.standard_normal(case.heads).astype(np.float32)

    context = ggml.ggml_init(_InitParams(MEMORY_BYTES, None, False))
    try:

        def tensor(kind: int, values: Any, *shape: int) -> int:
            made = ggml.ggml_new_tensor_4d(context, kind, *shape)
            ggml.fill(made, values)
            return made

        def turned(made: int) -> int:
            return ggml.ggml_permute(context, made, 0, 2, 1, 3)  # as llama.cpp hands them over

        node = ggml.ggml_flash_attn_ext(
            context,
            turned(tensor(F32, q, case.width, case.heads, n_rows, n)),
            turned(tensor(case.kind, k_raw, case.width, case.kv_heads, n_cells, n)),
            turned(tensor(case.kind, v_raw, case.width, case.kv_heads, n_cells, n)),
            tensor(F16, mask, n_cells, n_rows, 1, n) if case.has_mask else None,
            scale,
            case.max_bias,
            case.softcap,
        )
        if case.has_sinks:
            ggml.ggml_flash_attn_ext_add_sinks(node, tensor(F32, sinks, case.heads, 1, 1, 1))
        found = ggml.result(context, node, case.threads).reshape(q.shape)
    finally:
        ggml.ggml_free(context)

    group = np.arange(case.heads) // (case.heads // case.kv_heads)
    scores = np.einsum("nrhd,nchd->nhrc", q.astype(np.float64), k_value.astype(np.float64)[:, :, group]) * scale
    if case.softcap:
        scores = case.softcap * np.tanh(scores / case.softcap)
    if case.has_mask:
        scores = scores + slopes(case)[:, None, None] * mask.astype(np.float64)[:, None]
    sink = sinks.astype(np.float64)[:, None] if case.has_sinks else np.full((case.heads, 1), -np.inf)
    most = np.maximum(scores.max(axis=3), sink)
    weights = np.exp(scores - most[..., None])
    total = weights.sum(axis=3) + np.exp(sink - most)
    expected = np.einsum("nhrc,nchd->nrhd", weights / total[..., None], v_value.astype(np.float64)[:, :, group])
    return float(np.abs(found - expected).max())


def product(case: Product, ggml: Ggml) -> tuple[Any, Any] | None:
    """Both products, as arrays of rows x n_out (x chosen experts): by rearranged weights, by those in the file. More
    rows begin with the same rows. None: this CPU's weights of this type stay as they are."""
    random = np.random.default_rng(20261127)
    n_experts = max(case.experts, 1)
    weights = random.standard_normal((n_experts * case.n_out, case.n_in), np.float32)
    n_own = 1 if case.is_shared or not case.experts else case.chosen
    values = random.standard_normal((case.rows * n_own, case.n_in), np.float32)
    chosen = np.array([random.permutation(n_experts)[: case.chosen] for _ in range(case.rows)], np.int32)
    raw = np.zeros(len(weights) * ggml.ggml_row_size(case.kind, case.n_in), np.uint8)
    ggml.ggml_quantize_chunk(case.kind, weights.ctypes.data, raw.ctypes.data, 0, len(weights), case.n_in, None)

    context, apart = (ggml.ggml_init(_InitParams(MEMORY_BYTES, None, is_empty)) for is_empty in (False, True))
    buffer = None
    try:

        def multiply(by: int) -> int:
            if not case.experts:
                rows = ggml.ggml_new_tensor_4d(context, F32, case.n_in, case.rows, 1, 1)
                ggml.fill(rows, values)
                return ggml.ggml_mul_mat(context, by, rows)
            rows = ggml.ggml_new_tensor_4d(context, F32, case.n_in, n_own, case.rows, 1)
            ggml.fill(rows, values)
            ids = ggml.ggml_new_tensor_4d(context, I32, case.chosen, case.rows, 1, 1)
            ggml.fill(ids, chosen)
            return ggml.ggml_mul_mat_id(context, by, rows, ids)

        plain = ggml.ggml_new_tensor_4d(context, case.kind, case.n_in, case.n_out, n_experts, 1)
        ggml.fill(plain, raw)
        expected = ggml.result(context, multiply(plain), case.threads)

        rearranged = ggml.ggml_new_tensor_4d(apart, case.kind, case.n_in, case.n_out, n_experts, 1)
        buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(apart, ggml.buffer_kinds[-1])
        node = multiply(rearranged)
        if not ggml.ggml_backend_dev_supports_op(ggml.device, node):
            return None
        ggml.ggml_backend_tensor_set(rearranged, raw.ctypes.data, 0, raw.nbytes)
        found = ggml.result(context, node, case.threads)
        shape = (case.rows, -1)
        return found.reshape(shape), expected.reshape(shape)
    finally:
        if buffer:
            ggml.ggml_backend_buffer_free(buffer)
        for each in (context, apart):
            ggml.ggml_free(each)


def product_error(case: Product, ggml: Ggml) -> float | None:
    """The greatest difference between the two products, as a share of the greatest value."""
    both = product(case, ggml)
    return None if both is None else float(np.abs(both[0] - both[1]).max() / np.abs(both[1]).max())


def error(case: Attention | Product, ggml: Ggml) -> float | None:
    return attention_error(case, ggml) if isinstance(case, Attention) else product_error(case, ggml)


def main() -> int:
    ggml = Ggml(Path(sys.argv[1]))
    verdicts = []
    for case in (*ATTENTION, *PRODUCTS):
        found = error(case, ggml)
        verdicts.append("none" if found is None else "ok" if found <= case.tolerance else "WRONG")
        print(f"{verdicts[-1]} {case}: {found}", flush=True)
    print(", ".join(f"{verdicts.count(each)} {each}" for each in ("ok", "none", "WRONG")))
    return int("WRONG" in verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
