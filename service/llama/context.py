"""The context: one KV cache for all sequences, and the computation of a step.

Belongs to the engine thread. Knows tokens, positions and sequences; knows nothing of text.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError, ModelFatal, NoRoom
from ..protocol import Chunk
from .binding import listen
from .library import LIB_PATH_VARIABLE

log = logging.getLogger(__name__)

CACHE_MEMORY_SHARE = 4  # an automatic KV cache takes at most a quarter of the memory
AUTO_CACHE_CONTEXTS = 8  # and at most this many full contexts

# GGML_TYPE_F16 and GGML_TYPE_Q8_0, and bytes per value (a Q8_0 block is 34 bytes for 32 values)
CACHE_TYPES = {"f16": (1, 2.0), "q8_0": (8, 34 / 32)}


class LlamaContext:
    """model: llama.cpp's, which must outlive this. n_cells: tokens that all sequences hold together. n_sequences: how
    many there are. max_batch: rows of one decode. Raises ModelFatal if llama.cpp cannot make it."""

    def __init__(
        self,
        lib: Any,
        model: Any,
        *,
        n_cells: int,
        n_sequences: int,
        max_batch: int,
        n_threads: int,
        cache_type: str,
        has_flash_attention: bool,
        is_unified: bool,
        is_quiet: bool,
    ) -> None:
        self._lib = lib
        self.handle = self._pool = None
        params = lib.llama_context_default_params()
        params.n_ctx = n_cells
        params.n_batch = params.n_ubatch = max_batch
        params.n_seq_max = n_sequences
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = 1 if has_flash_attention else 0
        params.type_k = params.type_v = CACHE_TYPES[cache_type][0]
        params.kv_unified = is_unified
        params.swa_full = True  # a window alone could not be reused by another request
        params.no_perf = True
        make = functools.partial(lib.llama_init_from_model, model, params)
        self.handle = listen(lib, make, is_quiet)
        if not self.handle:
            raise ModelFatal(
                f"LLM_CACHE_TOKENS={n_cells}: llama.cpp cannot make a cache of this size; is there enough memory?"
            )
        self.n_cells = int(lib.llama_n_ctx(self.handle))
        self._memory = lib.llama_get_memory(self.handle)
        self._attach_threads(n_threads)
        self._rows = _Rows(lib, max_batch, n_sequences)

    def decode(self, chunks: Sequence[Chunk]) -> None:
        n_rows = self._rows.fill(chunks)
        status = self._lib.llama_decode(self.handle, self._rows.batch)
        if status == 0:
            return
        meaning = f"llama_decode answered {status} for {n_rows} tokens"
        if status == 1:
            raise NoRoom(f"{meaning}: no room in the KV cache")
        if status == 2:  # what was finished stays: the engine forgets it
            raise ModelError(f"{meaning}: aborted")
        if status == -1:
            raise ModelError(f"{meaning}: invalid batch")
        raise ModelFatal(f"{meaning}: the computation failed")

    def copy(self, source: int, target: int, n: int) -> None:
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, n)

    def forget(self, sequence: int, start: int) -> bool:
        return bool(self._lib.llama_memory_seq_rm(self._memory, sequence, start or -1, -1))

    def close(self) -> None:
        """Free it. Safe to call twice and on a half-made one."""
        if self.handle:
            self._lib.llama_free(self.handle)
            self.handle = None
        if self._pool:
            self._cpu.ggml_threadpool_free(self._pool)
            self._pool = None

    def _attach_threads(self, n_threads: int) -> None:
        """A pool that lives as long as the context: without it every decode starts and ends its threads."""
        if n_threads == 1:
            return
        directory = Path(os.environ[LIB_PATH_VARIABLE])  # the binding has none of these functions
        base, self._cpu, llama = (
            ctypes.CDLL(str(directory / name)) for name in ("libggml-base.so.0", "libggml-cpu.so.0", "libllama.so.0")
        )
        base.ggml_threadpool_params_init.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._cpu.ggml_threadpool_new.argtypes = [ctypes.c_void_p]
        self._cpu.ggml_threadpool_new.restype = ctypes.c_void_p
        self._cpu.ggml_threadpool_free.argtypes = [ctypes.c_void_p]
        llama.llama_attach_threadpool.argtypes = [ctypes.c_void_p] * 3
        params = ctypes.create_string_buffer(2048)  # larger than ggml_threadpool_params, which ggml itself fills
        base.ggml_threadpool_params_init(params, n_threads)
        self._pool = self._cpu.ggml_threadpool_new(params)
        if self._pool:
            llama.llama_attach_threadpool(self.handle, self._pool, self._pool)


def choose_cells(lib: Any, model: Any, cache_type: str, n_context: int) -> int:
    """As many cells as a quarter of the memory holds, at most AUTO_CACHE_CONTEXTS contexts."""
    n_head = max(lib.llama_model_n_head(model), 1)
    width = lib.llama_model_n_embd(model) * lib.llama_model_n_head_kv(model) // n_head
    cell_bytes = max(2 * lib.llama_model_n_layer(model) * width * CACHE_TYPES[cache_type][1], 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(int(memory // CACHE_MEMORY_SHARE // cell_bytes), AUTO_CACHE_CONTEXTS * n_context)


class _Rows:
    """llama_batch with arrays of our own, filled by slices: a step of many rows costs Python only microseconds."""

    def __init__(self, lib: Any, max_rows: int, n_sequences: int) -> None:
        self._max_rows = max_rows
        self._tokens = (lib.llama_token * max_rows)()
        self._positions = (lib.llama_pos * max_rows)()
        self._n_ids = (ctypes.c_int32 * max_rows)(*[1] * max_rows)
        self._logits = (ctypes.c_int8 * max_rows)()
        ids = [(lib.llama_seq_id * 1)(i) for i in range(n_sequences)]
        self._id_of = [ctypes.cast(each, ctypes.POINTER(lib.llama_seq_id)) for each in ids]
        self._ids = (ctypes.POINTER(lib.llama_seq_id) * max_rows)()
        self._kept = ids  # the pointers do not own what they point to
        self.batch = lib.llama_batch()
        self.batch.token, self.batch.pos = self._tokens, self._positions
        self.batch.n_seq_id, self.batch.seq_id, self.batch.logits = self._n_ids, self._ids, self._logits

    def fill(self, chunks: Sequence[Chunk]) -> int:
        """Returns the number of rows. Raises ModelError if they do not fit."""
        n_rows = sum(len(chunk.tokens) for chunk in chunks)
        if not 0 < n_rows <= self._max_rows:
            raise ModelError(f"a step of {n_rows} rows: must be 1 to {self._max_rows}")
        row = 0
        for chunk in chunks:
            n, end = len(chunk.tokens), row + len(chunk.tokens)
            self._tokens[row:end] = chunk.tokens
            self._positions[row:end] = range(chunk.start, chunk.start + n)
            self._ids[row:end] = [self._id_of[chunk.sequence]] * n
            self._logits[row:end] = [0] * (n - chunk.n_logits) + [1] * chunk.n_logits
            row = end
        self.batch.n_tokens = n_rows
        return n_rows
