"""The model: what the engine may ask of one, and llama.cpp's answer to it.

The only importer of llama_cpp, and it imports late, because `library.choose_library` must have chosen the library set
first. Knows tokens, positions and sequences. Knows nothing of requests, text rules, queues or HTTP.

Threads: `decode`, `copy`, `forget`, `logprob`, `save`, `restore`, samplers and `close` belong to the engine thread.
The vocabulary is read-only once loaded, so `tokenize`, `token_bytes`, `check_grammar` and the rest may be called from
any thread.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import attention_kind
from .errors import ModelError, ModelFatal, NoRoom
from .library import LIB_PATH_VARIABLE
from .request import SamplingParams, TokenLogprob

log = logging.getLogger(__name__)
log_llama = logging.getLogger("llama.cpp")

READ_BYTES = 32 << 20
MIN_SEQUENCES = 64  # in the KV cache, running and kept; llama.cpp's own limit is 256
REPEAT_WINDOW = 64  # tokens that repeat_penalty looks back on, llama.cpp's default
CACHE_MEMORY_SHARE = 4  # an automatic KV cache takes at most a quarter of the memory
AUTO_CACHE_CONTEXTS = 8  # and at most this many full contexts


@dataclass(frozen=True)
class Chunk:
    """Tokens of one sequence to compute in a step, from position `start`; the last n_logits of them get logits."""

    sequence: int
    start: int
    tokens: Sequence[int]
    n_logits: int = 0


class Sampler(Protocol):
    def sample(self, index: int) -> int:
        """Choose the token after row `index` of the last decode; the row must have had logits."""

    def close(self) -> None: ...


class Model(Protocol):
    """What engine and prompt need of a model.

    n_context: positions of one sequence. n_cells: tokens that all sequences hold together. n_sequences: how many there
    are. max_batch: rows of one decode. has_flash_attention: without it a row's attention costs by all cells in use,
    whoever's they are. shares: whether a part of a sequence can be copied and dropped. n_vocab: tokens of the
    vocabulary. sampling_defaults: what the file recommends, by the names of SamplingParams.
    """

    n_context: int
    n_cells: int
    has_flash_attention: bool
    n_sequences: int
    max_batch: int
    shares: bool
    n_vocab: int
    sampling_defaults: dict[str, float | int]
    chat_template: str | None
    bos_text: str
    eos_text: str
    adds_bos: bool
    description: str

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes: ...

    def is_end(self, token: int) -> bool: ...

    def json_grammar(self, schema: dict[str, Any] | None) -> str:
        """GBNF of a JSON Schema, or of any JSON object. Raises ValueError for what cannot be expressed."""

    def check_grammar(self, grammar: str) -> None:
        """Raises ValueError unless the grammar can be used."""

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Compute a step. Raises NoRoom if the cache is full, ModelError if this step cannot be computed, and
        ModelFatal if none can any more."""

    def copy(self, source: int, target: int, n: int) -> None: ...

    def forget(self, sequence: int, start: int) -> bool:
        """Drop a sequence from position `start` on; from 0 always. False: only a part, which this model cannot drop."""

    def logprob(self, index: int, token: int, n_top: int) -> TokenLogprob:
        """How likely the token was after row `index`, and the n_top likeliest ones."""

    def make_sampler(self, params: SamplingParams, seed: int, prompt: Sequence[int]) -> Sampler:
        """Raises ValueError for a grammar that cannot be used."""

    def save(self, sequence: int, tokens: Sequence[int], path: Path) -> None:
        """Write a sequence's computed state. Raises OSError."""

    def restore(self, sequence: int, tokens: Sequence[int], path: Path) -> bool:
        """Read it back into an empty sequence. False if the file is of other tokens or not usable."""

    def close(self) -> None: ...


def import_binding() -> Any:
    """The binding's low-level module, without its package's own __init__, which would import numpy, Jinja and every
    chat format it knows: 0.3 s of CPU at each start (2 cores of an AMD EPYC, November 2026) for what nobody here calls.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None  # library.load has compared its version
        sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("llama_cpp.llama_cpp")


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


class LlamaModel:
    """A GGUF file in llama.cpp, through the binding's low-level functions, with one KV cache for all sequences
    (is_unified; else each has its part of the cells, and copies cost: for comparison).

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
        self._lib = llama_cpp = import_binding()
        llama_cpp.llama_backend_init()

        self._model = self._context = self._pool = None
        model_params = llama_cpp.llama_model_default_params()
        model_params.use_extra_bufts = repacks
        load = functools.partial(llama_cpp.llama_model_load_from_file, os.fsencode(path), model_params)
        self._model = self._listen(load, is_quiet)
        if not self._model:
            raise ModelFatal(f"{path}: llama.cpp cannot load this file; its own log lines say why")
        if llama_cpp.llama_model_has_encoder(self._model) or not llama_cpp.llama_model_has_decoder(self._model):
            raise ModelFatal(f"{path}: not a text generation model (it has an encoder or no decoder)")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._bytes: dict[int, bytes] = {}  # of the tokens that were asked for
        self.shares = not (
            llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
        )

        n_trained = llama_cpp.llama_model_n_ctx_train(self._model)
        self.n_context = n_context or min(n_trained, max_auto_context)
        if self.n_context > n_trained:
            log.warning("LLM_CONTEXT=%d: the model was trained for %d tokens", self.n_context, n_trained)
        self.n_cells = max(n_cells or self._choose_cells(cache_type), self.n_context)
        self.max_batch = min(max_batch, self.n_context)
        self.n_sequences = min(n_sequences, llama_cpp.llama_max_parallel_sequences(), self.max_batch)
        self._settings = (n_threads, cache_type, is_unified)
        if has_flash_attention is None:
            has_flash_attention = attention_kind.is_flash_faster(*self._describe_heads())
        self._make_context(has_flash_attention, is_quiet)

        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._special_text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(llama_cpp.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        self.sampling_defaults = self._read_sampling_defaults()
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, len(buffer))
        # llama.cpp knows the names of sizes that were trained by others; of the rest it says "?B"
        n_params = llama_cpp.llama_model_n_params(self._model)
        size = f"{n_params / 1e9:.1f}B" if n_params >= 1e9 else f"{n_params / 1e6:.1f}M"
        self.description = buffer.value.decode("utf-8", "replace").replace("?B", size)

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
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._piece(token, special=False)
        return known

    def is_end(self, token: int) -> bool:
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def json_grammar(self, schema: dict[str, Any] | None) -> str:
        from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf

        if schema is None:
            return JSON_GBNF
        try:
            return json_schema_to_gbnf(json.dumps(schema))
        except Exception as error:  # the converter raises whatever happens to go wrong in it
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def check_grammar(self, grammar: str) -> None:
        self._lib.llama_sampler_free(self._make_grammar(grammar))

    def decode(self, chunks: Sequence[Chunk]) -> None:
        n_rows = self._rows.fill(chunks)
        status = self._lib.llama_decode(self._context, self._rows.batch)
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

    def _make_context(self, has_flash_attention: bool, is_quiet: bool) -> None:
        self._free_context()
        llama_cpp, (n_threads, cache_type, is_unified) = self._lib, self._settings
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.n_cells
        params.n_batch = params.n_ubatch = self.max_batch
        params.n_seq_max = self.n_sequences
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = 1 if has_flash_attention else 0
        params.type_k = params.type_v = _CACHE_TYPES[cache_type][0]
        params.kv_unified = is_unified
        params.swa_full = True  # a window alone could not be reused by another request
        params.no_perf = True
        make = functools.partial(llama_cpp.llama_init_from_model, self._model, params)
        self._context = self._listen(make, is_quiet)
        if not self._context:
            raise ModelFatal(
                f"LLM_CONTEXT={self.n_context} LLM_CACHE_TOKENS={self.n_cells}: llama.cpp cannot make this context; "
                "is there enough memory?"
            )
        self.n_cells = llama_cpp.llama_n_ctx(self._context)
        self.has_flash_attention = has_flash_attention
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._attach_threads(n_threads)
        self._rows = _Rows(llama_cpp, self.max_batch, self.n_sequences)

    def copy(self, source: int, target: int, n: int) -> None:
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, n)

    def forget(self, sequence: int, start: int) -> bool:
        return bool(self._lib.llama_memory_seq_rm(self._memory, sequence, start or -1, -1))

    def logprob(self, index: int, token: int, n_top: int) -> TokenLogprob:
        import numpy as np

        logits = np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, index), (self.n_vocab,))
        shifted = logits.astype(np.float64) - float(logits.max())
        logprobs = shifted - np.log(np.exp(shifted).sum())
        best = np.argpartition(-logprobs, n_top - 1)[:n_top] if n_top else np.empty(0, int)
        top = sorted(((int(i), float(logprobs[i])) for i in best), key=lambda pair: (-pair[1], pair[0]))
        return TokenLogprob(
            token,
            self._piece(token, special=True),
            float(logprobs[token]),
            tuple((i, self._piece(i, special=True), value) for i, value in top),
        )

    def make_sampler(self, params: SamplingParams, seed: int, prompt: Sequence[int]) -> Sampler:
        grammar = self._make_grammar(params.grammar) if params.grammar else None
        return LlamaSampler(self._lib, self._context, self.n_vocab, self.n_context, params, seed, prompt, grammar)

    def save(self, sequence: int, tokens: Sequence[int], path: Path) -> None:
        part = path.with_suffix(".part")
        array = (self._lib.llama_token * len(tokens))(*tokens)
        if not self._lib.llama_state_seq_save_file(self._context, os.fsencode(part), sequence, array, len(tokens)):
            raise OSError(f"{path}: llama.cpp could not write it")
        os.replace(part, path)

    def restore(self, sequence: int, tokens: Sequence[int], path: Path) -> bool:
        found, n_found = (self._lib.llama_token * (len(tokens) + 1))(), ctypes.c_size_t()
        n = self._lib.llama_state_seq_load_file(
            self._context, os.fsencode(path), sequence, found, len(tokens) + 1, ctypes.byref(n_found)
        )
        if n and list(found[: n_found.value]) == list(tokens):
            return True
        self.forget(sequence, 0)
        return False

    def close(self) -> None:
        """Free everything. Safe to call twice and on a half-made model."""
        self._free_context()
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def _listen(self, begin: Callable[[], Any], is_quiet: bool) -> Any:
        """What `begin` makes. llama.cpp's words go to the log; quietly only if it makes nothing, and then by a second
        try. While a model loads they are 1,800, each of which waits until no other thread is in Python: 0.2 s of a cold
        start beside the imports (2 cores of an AMD EPYC, November 2026)."""
        lib = self._lib
        if not _log_callbacks:
            nothing = ctypes.CDLL(None).abs  # does nothing with a log level, and is no Python
            _log_callbacks.extend([lib.llama_log_callback(_forward_log), ctypes.cast(nothing, lib.llama_log_callback)])
        forward, drop = _log_callbacks
        lib.llama_log_set(drop if is_quiet else forward, ctypes.c_void_p(0))
        made = begin()
        lib.llama_log_set(forward, ctypes.c_void_p(0))
        return made or (begin() if is_quiet else None)

    def _free_context(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None
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
            llama.llama_attach_threadpool(self._context, self._pool, self._pool)

    def _choose_cells(self, cache_type: str) -> int:
        lib, model = self._lib, self._model
        n_head = max(lib.llama_model_n_head(model), 1)
        width = lib.llama_model_n_embd(model) * lib.llama_model_n_head_kv(model) // n_head
        cell_bytes = max(2 * lib.llama_model_n_layer(model) * width * _CACHE_TYPES[cache_type][1], 1)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min(int(memory // CACHE_MEMORY_SHARE // cell_bytes), AUTO_CACHE_CONTEXTS * self.n_context)

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

    def _make_grammar(self, grammar: str) -> Any:
        link = self._lib.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root") if grammar.strip() else None
        if not link:
            raise ValueError("llama.cpp cannot parse this grammar (GBNF with a rule named root)")
        return link

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


class LlamaSampler:
    """One request's chain of llama.cpp's samplers: bias -> penalties -> top-k -> top-p -> min-p -> temperature -> draw.

    Temperature 0 takes the likeliest token. A grammar is asked only about the chosen token, and about all of them only
    if it refuses that one: asking for every token of the vocabulary each time would cost more than the model does.
    """

    def __init__(
        self,
        lib: Any,
        context: Any,
        n_vocab: int,
        n_context: int,
        params: SamplingParams,
        seed: int,
        prompt: Sequence[int],
        grammar: Any,
    ) -> None:
        self._lib, self._context, self._n_vocab, self._grammar = lib, context, n_vocab, grammar
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in self._make_links(n_context, params, seed, prompt):
            lib.llama_sampler_chain_add(self._chain, link)

    def sample(self, index: int) -> int:
        if not self._grammar:
            return int(self._lib.llama_sampler_sample(self._chain, self._context, index))
        token = self._draw(index, is_bound=False)
        one = (self._lib.llama_token_data * 1)(self._lib.llama_token_data(token, 1.0, 0.0))
        choice = self._lib.llama_token_data_array(one, 1, -1, False)
        self._lib.llama_sampler_apply(self._grammar, ctypes.byref(choice))
        if one[0].logit == float("-inf"):
            token = self._draw(index, is_bound=True)
        self._lib.llama_sampler_accept(self._grammar, token)
        self._lib.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            self._lib.llama_sampler_free(self._grammar)
            self._grammar = None

    def _draw(self, index: int, is_bound: bool) -> int:
        """What the chain chooses, from all tokens or from those that the grammar allows."""
        import numpy as np

        logits = np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, index), (self._n_vocab,))
        table = np.zeros(self._n_vocab, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        table["id"] = np.arange(self._n_vocab, dtype=np.int32)
        table["logit"] = logits
        data = table.ctypes.data_as(ctypes.POINTER(self._lib.llama_token_data))
        choice = self._lib.llama_token_data_array(data, self._n_vocab, -1, False)
        if is_bound:
            self._lib.llama_sampler_apply(self._grammar, ctypes.byref(choice))
        self._lib.llama_sampler_apply(self._chain, ctypes.byref(choice))
        return int(choice.data[choice.selected].id)

    def _make_links(self, n_context: int, params: SamplingParams, seed: int, prompt: Sequence[int]) -> list[Any]:
        lib, links = self._lib, []
        if params.logit_bias:
            biases = (lib.llama_logit_bias * len(params.logit_bias))(*params.logit_bias)
            links.append(lib.llama_sampler_init_logit_bias(self._n_vocab, len(biases), biases))
        if params.repeat_penalty != 1:  # of prompt and answer, as in llama.cpp
            link = lib.llama_sampler_init_penalties(self._n_vocab, REPEAT_WINDOW, params.repeat_penalty, 0.0, 0.0)
            for token in prompt[-REPEAT_WINDOW:]:
                lib.llama_sampler_accept(link, token)
            links.append(link)
        if params.frequency_penalty or params.presence_penalty:  # of the answer so far, as OpenAI defines them
            frequency, presence = params.frequency_penalty, params.presence_penalty
            links.append(lib.llama_sampler_init_penalties(self._n_vocab, n_context, 1.0, frequency, presence))
        if params.temperature == 0:
            return [*links, lib.llama_sampler_init_greedy()]
        return [
            *links,
            lib.llama_sampler_init_top_k(params.top_k),
            lib.llama_sampler_init_top_p(params.top_p, 1),
            lib.llama_sampler_init_min_p(params.min_p, 1),
            lib.llama_sampler_init_temp(params.temperature),
            lib.llama_sampler_init_dist(seed),
        ]


# GGML_TYPE_F16 and GGML_TYPE_Q8_0, and bytes per value (a Q8_0 block is 34 bytes for 32 values)
_CACHE_TYPES = {"f16": (1, 2.0), "q8_0": (8, 34 / 32)}

_SAMPLING_KEYS = {
    "general.sampling.temp": ("temperature", float),
    "general.sampling.top_k": ("top_k", int),
    "general.sampling.top_p": ("top_p", float),
    "general.sampling.min_p": ("min_p", float),
    "general.sampling.penalty_repeat": ("repeat_penalty", float),
}

_log_callbacks: list[Any] = []  # kept for good: llama.cpp holds only a bare pointer

# enum ggml_log_level as this llama.cpp has it (the binding's comment is older). Its `info` (2) is talkative: our debug.
_LEVELS = {3: logging.WARNING, 4: logging.ERROR}


def _forward_log(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and line != "." and "n_ctx_seq" not in line:  # it takes the cache of all sequences for one's context
        log_llama.log(_LEVELS.get(level, logging.DEBUG), "%s", line)
