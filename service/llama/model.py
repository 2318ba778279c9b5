"""A GGUF file in llama.cpp: the answer to `protocol.Model`.

`binding`, `vocabulary`, `context`, `sampler` and `state` are its parts. The binding is imported late, because
`library.load` must have chosen the library set first.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from ..errors import ModelFatal
from ..protocol import Chunk, Sampler
from ..request import SamplingParams, TokenLogprob
from . import attention_kind, state
from .binding import import_binding, listen
from .context import LlamaContext, choose_cells
from .sampler import LlamaSampler, read_logprob
from .vocabulary import LlamaVocabulary

log = logging.getLogger(__name__)

READ_BYTES = 32 << 20
MIN_SEQUENCES = 64  # in the KV cache, running and kept; llama.cpp's own limit is 256


def read_ahead(path: Path) -> None:
    """Read the file once from front to back: page faults in mmap order are random and slow on a network volume.

    Parts whose first page is in the page cache already are left out: after a restart that is all of them.
    """
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer, probe = bytearray(READ_BYTES), bytearray(1)
        for start in range(0, os.fstat(file.fileno()).st_size, READ_BYTES):
            try:
                os.preadv(file.fileno(), [probe], start, os.RWF_NOWAIT)
            except OSError:  # not cached, or a file system that cannot tell
                os.preadv(file.fileno(), [buffer], start)


class LlamaModel(LlamaVocabulary):
    """A GGUF file with one KV cache for all sequences (is_unified; else each has its part of the cells, and copies
    cost: for comparison).

    path: the GGUF file. n_context: tokens per sequence, None for the model's own up to max_auto_context. n_cells: size
    of the cache in tokens, None for AUTO_CACHE_CONTEXTS contexts or what a quarter of the memory holds. n_threads: for
    decode and prefill alike (a batch of several sequences uses n_threads_batch, so both are set). has_flash_attention:
    None for the faster kind (`attention_kind`). max_batch: rows per decode, which is also how long the engine thread
    can be away. is_quiet: llama.cpp's warnings about a file that loads were logged before. Raises ModelFatal if the
    file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_context: int | None,
        max_auto_context: int,
        n_threads: int,
        n_cells: int | None = None,
        cache_type: str = "f16",
        has_flash_attention: bool | None = True,
        repacks: bool = True,
        n_sequences: int = MIN_SEQUENCES,
        max_batch: int = 256,
        is_unified: bool = True,
        is_quiet: bool = False,
    ) -> None:
        lib = import_binding()
        lib.llama_backend_init()
        self._model = self._context = None
        model_params = lib.llama_model_default_params()
        model_params.use_extra_bufts = repacks
        load = functools.partial(lib.llama_model_load_from_file, os.fsencode(path), model_params)
        self._model = listen(lib, load, is_quiet)
        if not self._model:
            raise ModelFatal(f"{path}: llama.cpp cannot load this file; its own log lines say why")
        # Workers tokenise whenever they like: the weights go when nobody refers to this any more, and never at the end
        # of the process, which stops no worker that is inside a call
        weakref.finalize(self, lib.llama_model_free, self._model).atexit = False
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            raise ModelFatal(f"{path}: not a text generation model (it has an encoder or no decoder)")
        super().__init__(lib, self._model)
        self.shares = not (lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))
        self.sampling_defaults = self._read_sampling_defaults()
        self.description = self._describe()

        n_trained = lib.llama_model_n_ctx_train(self._model)
        self.n_context = n_context or min(n_trained, max_auto_context)
        if self.n_context > n_trained:
            log.warning("LLM_CONTEXT=%d: the model was trained for %d tokens", self.n_context, n_trained)
        n_cells = max(n_cells or choose_cells(lib, self._model, cache_type, self.n_context), self.n_context)
        self.max_batch = min(max_batch, self.n_context)
        self.n_sequences = min(n_sequences, lib.llama_max_parallel_sequences(), self.max_batch)
        self._make_context = functools.partial(
            LlamaContext,
            lib,
            self._model,
            n_cells=n_cells,
            n_sequences=self.n_sequences,
            max_batch=self.max_batch,
            n_threads=n_threads,
            cache_type=cache_type,
            is_unified=is_unified,
        )
        if has_flash_attention is None:
            has_flash_attention = attention_kind.is_flash_faster(*self._describe_heads())
        self._open_context(has_flash_attention, is_quiet)

    def decode(self, chunks: Sequence[Chunk]) -> None:
        self._context.decode(chunks)

    def copy(self, source: int, target: int, n: int) -> None:
        self._context.copy(source, target, n)

    def forget(self, sequence: int, start: int) -> bool:
        return self._context.forget(sequence, start)

    def logprob(self, index: int, token: int, n_top: int) -> TokenLogprob:
        return read_logprob(self._lib, self._context.handle, self, index, token, n_top)

    def make_sampler(self, params: SamplingParams, seed: int, prompt: Sequence[int]) -> Sampler:
        return LlamaSampler(self._lib, self._context.handle, self.n_vocab, self.n_context, params, seed, prompt)

    def save(self, sequence: int) -> memoryview:
        return state.save(self._lib, self._context.handle, sequence)

    def restore(self, sequence: int, data: memoryview) -> bool:
        is_restored = state.restore(self._lib, self._context.handle, sequence, data)
        if not is_restored:
            self.forget(sequence, 0)
        return is_restored

    def close(self) -> None:
        """Free the context: nothing can be computed any more. The vocabulary stays for whoever still reads it. Safe to
        call twice and on a half-made model."""
        if self._context:
            self._context.close()
            self._context = None

    def _open_context(self, has_flash_attention: bool, is_quiet: bool) -> None:
        if self._context:
            self._context.close()
        self._context = self._make_context(has_flash_attention=has_flash_attention, is_quiet=is_quiet)
        self.n_cells = self._context.n_cells
        self.has_flash_attention = has_flash_attention

    def _describe(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(self._model, buffer, len(buffer))
        # llama.cpp knows the names of sizes that were trained by others; of the rest it says "?B"
        n_params = self._lib.llama_model_n_params(self._model)
        size = f"{n_params / 1e9:.1f}B" if n_params >= 1e9 else f"{n_params / 1e6:.1f}M"
        return buffer.value.decode("utf-8", "replace").replace("?B", size)

    def _describe_heads(self) -> tuple[int, int, int]:
        """Heads, key heads and values of a head in the first layer; of a hybrid that may be one without attention."""
        lib, model = self._lib, self._model
        n_heads, n_keys = lib.llama_model_n_head(model), lib.llama_model_n_head_kv(model)
        name, size = self._read_text("general.architecture"), 0
        if n_heads:
            size = int(self._read_text(f"{name}.attention.key_length") or lib.llama_model_n_embd(model) // n_heads)
        return n_heads, n_keys, size

    def _read_text(self, key: str) -> str:
        """A value of the file's header as text, '' if there is none."""
        buffer = ctypes.create_string_buffer(64)
        n = self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if n > 0 else ""

    def _read_sampling_defaults(self) -> dict[str, float | int]:
        """The file's general.sampling.* keys, under our names; a value that is no number is left out."""
        found: dict[str, float | int] = {}
        for key, (name, kind) in _SAMPLING_KEYS.items():
            if text := self._read_text(key):
                try:
                    found[name] = kind(text)
                except ValueError:
                    log.warning("%s=%s: not a number, ignored", key, text)
        return found


_SAMPLING_KEYS = {
    "general.sampling.temp": ("temperature", float),
    "general.sampling.top_k": ("top_k", int),
    "general.sampling.top_p": ("top_p", float),
    "general.sampling.min_p": ("min_p", float),
    "general.sampling.penalty_repeat": ("repeat_penalty", float),
}
