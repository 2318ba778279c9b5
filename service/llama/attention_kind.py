"""Which kind of attention is faster on this machine for a model's heads: flash attention, or plain products.

Where several heads share a key it is flash attention, by rule: our library sets compute them together and read a
stream's own cells only (scripts/libllama/kernels/grouped_attention.h). A stream with a key for each head is left to
ggml's own kernel, which goes cell by cell, two to four times slower than plain products on 2 cores of an AMD EPYC
(heads of 64 and 80, November 2026), and not so on other CPUs. So there both are timed before the model is ready, as
bare operations of libggml on the model's head sizes: four chats, a row of each. That takes BUDGET_S, however large the
model is, and no context is made twice.

Knows libggml's C functions. Knows nothing of weights, contexts, files or the engine.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from .library import LIB_PATH_VARIABLE

log = logging.getLogger(__name__)

SHARING = 3  # heads of one key from which on our kernel takes a stream's together: its GROUPED_WORTH
BUDGET_S = 0.1  # of this thread's CPU, for both kinds
MIN_ROUNDS = 2  # of both, however slow the machine is: memory is touched for the first time in the first
STREAMS, OWN_CELLS = 4, 256  # chats, and cells of each
WORTH = 0.9  # plain attention must take this share of the time: it pays for whatever others keep, too
F32, F16 = 0, 1  # enum ggml_type
VISIBLE, HIDDEN, VALUE = b"\x00\x00", b"\x00\xfc", b"\x66\x2e"  # halves: 0, minus infinity, 0.1
SPARE_BYTES = 2 << 20  # of a context: mask, descriptions, graphs


def is_flash_faster(
    n_heads: int, n_keys: int, size: int, *, time_kinds: Callable[[int, int, int], tuple[float, float]] | None = None
) -> bool:
    """n_heads and n_keys: heads and key heads of a layer, 0 if it has no attention. size: values of a head. time_kinds:
    for tests; what `time_both` does."""
    if not n_heads or not n_keys or n_heads // n_keys >= SHARING:
        return True
    flash_s, plain_s = (time_kinds or time_both)(n_heads // n_keys * n_keys, n_keys, size)
    log.info("attention of %d streams and a layer: flash %.2f ms, plain %.2f ms", STREAMS, flash_s * 1e3, plain_s * 1e3)
    return plain_s > WORTH * flash_s


def time_both(
    n_heads: int, n_keys: int, size: int, clock: Callable[[], float] = time.thread_time
) -> tuple[float, float]:
    """Seconds of flash and of plain attention for a row of each stream, the fastest of what fits the budget. clock:
    of this thread, which computes alone, so that what others do at boot is not counted."""
    with _Operations(n_heads, n_keys, size) as operations:
        fastest = [float("inf")] * 2
        started, n = clock(), 0
        while n < 2 * MIN_ROUNDS or clock() - started < BUDGET_S:
            before = clock()
            operations.compute(n % 2)
            fastest[n % 2] = min(fastest[n % 2], clock() - before)
            n += 1
    return fastest[0], fastest[1]


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Operations:
    """The graphs of both kinds, on one thread: how the work is shared out among several is the same for both."""

    def __init__(self, n_heads: int, n_keys: int, size: int) -> None:
        directory = Path(os.environ[LIB_PATH_VARIABLE])
        self._base = ctypes.CDLL(str(directory / "libggml-base.so.0"))
        self._cpu = ctypes.CDLL(str(directory / "libggml-cpu.so.0"))
        self._declare()
        self._backend = self._cpu.ggml_backend_cpu_init()
        self._cpu.ggml_backend_cpu_set_n_threads(self._backend, 1)
        cells = STREAMS * OWN_CELLS
        cache_bytes = 3 * 2 * cells * size * n_keys  # keys, and values as either kind wants them
        rows_bytes = 4 * (2 * cells + 3 * size) * STREAMS * n_heads  # scores, query and both results
        self._context = self._base.ggml_init(_InitParams(cache_bytes + rows_bytes + SPARE_BYTES, None, False))
        query = self._make(F32, size, STREAMS, n_heads, b"\x00\x00\x80\x3f")
        keys, values = (self._turn(self._make(F16, size, n_keys, cells, VALUE)) for _ in range(2))  # as in the cache
        turned = self._make(F16, cells, size, n_keys, VALUE)
        mask = self._make(F16, cells, STREAMS, 1, HIDDEN)
        for stream in range(STREAMS):  # each sees its own cells
            start = 2 * (stream * cells + stream * OWN_CELLS)
            ctypes.memmove(self._base.ggml_get_data(mask) + start, VISIBLE * OWN_CELLS, 2 * OWN_CELLS)
        scale, base = size**-0.5, self._base
        flash = base.ggml_flash_attn_ext(self._context, query, keys, values, mask, scale, 0.0, 0.0)
        scores = base.ggml_mul_mat(self._context, keys, query)
        shares = base.ggml_soft_max_ext(self._context, scores, mask, scale, 0.0)
        plain = base.ggml_mul_mat(self._context, turned, shares)
        self._graphs = [self._make_graph(flash), self._make_graph(plain)]

    def __enter__(self) -> _Operations:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.ggml_free(self._context)
        self._base.ggml_backend_free(self._backend)

    def compute(self, kind: int) -> None:
        """0: flash attention, 1: plain."""
        if self._base.ggml_backend_graph_compute(self._backend, self._graphs[kind]):
            raise RuntimeError("ggml_backend_graph_compute")

    def _make(self, kind: int, columns: int, rows: int, planes: int, value: bytes) -> int:
        tensor = self._base.ggml_new_tensor_4d(self._context, kind, columns, rows, planes, 1)
        n_bytes = self._base.ggml_nbytes(tensor)
        ctypes.memmove(self._base.ggml_get_data(tensor), value * (n_bytes // len(value)), n_bytes)
        return tensor

    def _turn(self, tensor: int) -> int:
        return self._base.ggml_permute(self._context, tensor, 0, 2, 1, 3)

    def _make_graph(self, node: int) -> int:
        graph = self._base.ggml_new_graph(self._context)
        self._base.ggml_build_forward_expand(graph, node)
        return graph

    def _declare(self) -> None:
        pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        for name, result, arguments in (
            ("ggml_init", pointer, [_InitParams]),
            ("ggml_free", None, [pointer]),
            ("ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, *[number] * 4]),
            ("ggml_permute", pointer, [pointer, pointer, *[ctypes.c_int] * 4]),
            ("ggml_get_data", pointer, [pointer]),
            ("ggml_nbytes", ctypes.c_size_t, [pointer]),
            ("ggml_flash_attn_ext", pointer, [*[pointer] * 5, *[real] * 3]),
            ("ggml_mul_mat", pointer, [pointer] * 3),
            ("ggml_soft_max_ext", pointer, [*[pointer] * 3, real, real]),
            ("ggml_new_graph", pointer, [pointer]),
            ("ggml_build_forward_expand", None, [pointer, pointer]),
            ("ggml_backend_graph_compute", ctypes.c_int, [pointer, pointer]),
            ("ggml_backend_free", None, [pointer]),
        ):
            function = getattr(self._base, name)
            function.restype, function.argtypes = result, arguments
        self._cpu.ggml_backend_cpu_init.restype = pointer
        self._cpu.ggml_backend_cpu_set_n_threads.argtypes = [pointer, ctypes.c_int]
