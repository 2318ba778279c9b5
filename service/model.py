"""The model: what the engine may ask of one, and llama.cpp's answer to it.

The only importer of llama_cpp, and it imports late, because `library.choose_library` must have chosen the library set
first. Knows tokens, positions and sequences. Knows nothing of requests, text rules, queues or HTTP.

Threads: `decode`, `forget`, samplers and `close` belong to the engine thread alone. The vocabulary is read-only once
loaded, so `tokenize`, `token_bytes` and the rest may be called from any thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import ModelError, ModelFatal
from .request import SamplingParams

log = logging.getLogger(__name__)
log_llama = logging.getLogger("llama.cpp")

READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One token of a batch: its place in its sequence, and whether the next token will be sampled from it."""

    token: int
    position: int
    sequence: int = 0
    wants_logits: bool = False


class Sampler(Protocol):
    def sample(self, index: int) -> int:
        """Choose the token after batch entry `index` of the last decode; the entry must have wanted logits."""

    def close(self) -> None: ...


class Model(Protocol):
    """What engine and prompt need of a model. `max_batch` entries fit one decode, `n_context` positions one
    sequence."""

    n_context: int
    max_batch: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    adds_bos: bool
    description: str
    n_vocab: int
    sampling_defaults: dict[str, float]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes: ...

    def is_end(self, token: int) -> bool: ...

    def check_grammar(self, gbnf: str) -> None:
        """Raises ValueError with the reason if this is no grammar to keep to. Any thread."""

    def json_grammar(self, schema: dict[str, Any] | None) -> str:
        """JSON Schema -> GBNF; None stands for any JSON object. Raises ValueError with the reason. Any thread."""

    def decode(self, batch: Sequence[Entry]) -> None:
        """Compute the batch. Raises ModelError if this batch cannot be computed, ModelFatal if none can any more."""

    def forget(self, sequence: int) -> None:
        """Drop everything computed for a sequence."""

    def make_sampler(self, params: SamplingParams, seed: int) -> Sampler: ...

    def close(self) -> None: ...


def read_ahead(path: Path) -> None:
    """Read the file once from front to back: page faults in mmap order are random and slow on a network volume."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = bytearray(READ_BYTES)
        while file.readinto(buffer):
            pass


class LlamaModel:
    """A GGUF file in llama.cpp, one sequence at a time per `sequence` number, through the binding's low-level
    functions.

    path: the GGUF file. n_context: tokens per sequence, None for the model's own up to max_auto_context. n_threads:
    for decode and prefill alike (a batch of several sequences uses n_threads_batch, so both are set). max_batch:
    entries per decode, which is also how long the engine thread can be away at a time. Raises ModelFatal if the file
    cannot be used.
    """

    def __init__(
        self, path: Path, *, n_context: int | None, max_auto_context: int, n_threads: int, max_batch: int = 128
    ) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._log_callback = llama_cpp.llama_log_callback(_forward_log)  # kept: llama.cpp holds only a bare pointer
        llama_cpp.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

        self._model = self._context = self._batch = None
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self._model:
            raise ModelFatal(f"{path}: llama.cpp cannot load this file; its own log lines say why")
        if llama_cpp.llama_model_has_encoder(self._model) or not llama_cpp.llama_model_has_decoder(self._model):
            raise ModelFatal(f"{path}: not a text generation model (it has an encoder or no decoder)")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.sampling_defaults: dict[str, float] = {}

        n_trained = llama_cpp.llama_model_n_ctx_train(self._model)
        self.n_context = n_context or min(n_trained, max_auto_context)
        if self.n_context > n_trained:
            log.warning("LLM_CONTEXT=%d: the model was trained for %d tokens", self.n_context, n_trained)
        self.max_batch = min(max_batch, self.n_context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.n_context
        params.n_batch = params.n_ubatch = self.max_batch
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelFatal(
                f"LLM_CONTEXT={self.n_context}: llama.cpp cannot make this context; is there enough memory?"
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(self.max_batch, 0, 1)

        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._special_text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(llama_cpp.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, len(buffer))
        self.description = buffer.value.decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text -> token ids. add_special: put BOS/EOS where the vocabulary wants them; parse_special: read markers."""
        data = text.encode()
        n_room = len(data) + 2  # every token but BOS and EOS spends at least one byte
        while True:
            tokens = (self._lib.llama_token * n_room)()
            n = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, n_room, add_special, parse_special)
            if n >= 0:
                return list(tokens[:n])
            if -n <= n_room:
                raise ModelError(f"llama_tokenize answered {n} for {len(data)} bytes")
            n_room = -n

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; markers such as <|im_end|> stand for none. May be part of a character."""
        return self._piece(token, special=False)

    def is_end(self, token: int) -> bool:
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def decode(self, batch: Sequence[Entry]) -> None:
        fields = self._batch
        if not 0 < len(batch) <= self.max_batch:
            raise ModelError(f"a batch of {len(batch)} tokens: must be 1 to {self.max_batch}")
        for i, entry in enumerate(batch):
            fields.token[i] = entry.token
            fields.pos[i] = entry.position
            fields.n_seq_id[i] = 1
            fields.seq_id[i][0] = entry.sequence
            fields.logits[i] = entry.wants_logits
        fields.n_tokens = len(batch)
        status = self._lib.llama_decode(self._context, fields)
        if status == 0:
            return
        meaning = f"llama_decode answered {status} for {len(batch)} tokens"
        if status == 1:
            raise ModelError(f"{meaning}: no room in the KV cache")
        if status == 2:  # some of the batch may have stayed: the engine forgets the sequence
            raise ModelError(f"{meaning}: aborted")
        if status == -1:
            raise ModelError(f"{meaning}: invalid batch")
        raise ModelFatal(f"{meaning}: the computation failed")

    def forget(self, sequence: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def make_sampler(self, params: SamplingParams, seed: int) -> Sampler:
        return LlamaSampler(self._lib, self._context, params, seed)

    def close(self) -> None:
        """Free everything. Safe to call twice and on a half-made model."""
        if self._batch is not None:
            self._lib.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def _special_text(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _piece(self, token: int, special: bool) -> bytes:
        n_room = 32
        while True:
            buffer = ctypes.create_string_buffer(n_room)
            n = self._lib.llama_token_to_piece(self._vocab, token, buffer, n_room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            n_room = -n


class LlamaSampler:
    """llama.cpp's chain top-k -> top-p -> temperature -> seeded draw; temperature 0 takes the likeliest token."""

    def __init__(self, lib: Any, context: Any, params: SamplingParams, seed: int) -> None:
        self._lib, self._context = lib, context
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if params.temperature == 0:
            links = [lib.llama_sampler_init_greedy()]
        else:
            links = [
                lib.llama_sampler_init_top_k(params.top_k),
                lib.llama_sampler_init_top_p(params.top_p, 1),
                lib.llama_sampler_init_temp(params.temperature),
                lib.llama_sampler_init_dist(seed),
            ]
        for link in links:
            lib.llama_sampler_chain_add(self._chain, link)

    def sample(self, index: int) -> int:
        return int(self._lib.llama_sampler_sample(self._chain, self._context, index))

    def close(self) -> None:
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None


# enum ggml_log_level as this llama.cpp has it (the binding's comment is older). Its `info` (2) is talkative: our debug.
_LEVELS = {3: logging.WARNING, 4: logging.ERROR}


def _forward_log(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and line != ".":
        log_llama.log(_LEVELS.get(level, logging.DEBUG), "%s", line)
