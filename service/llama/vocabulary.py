"""The model's vocabulary: text to token ids, token ids to bytes.

Read-only once loaded, so any thread may use it.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ..errors import ModelError
from .deep_stack import call_deep


class LlamaVocabulary:
    """lib: the binding. model: llama.cpp's, which must outlive this."""

    def __init__(self, lib: Any, model: Any) -> None:
        self._lib = lib
        self._vocab = lib.llama_model_get_vocab(model)
        self._bytes: dict[int, bytes] = {}  # of the tokens that were asked for
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        template = lib.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        self.bos_text = self._special_text(lib.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(lib.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text -> token ids. add_special: put BOS/EOS where the vocabulary wants them; parse_special: read markers."""
        data = text.encode()
        return call_deep(lambda: self._tokenize(data, add_special, parse_special), len(data))

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; markers such as <|im_end|> stand for none. May be part of a character."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self.piece(token, special=False)
        return known

    def is_end(self, token: int) -> bool:
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def piece(self, token: int, special: bool) -> bytes:
        """The bytes of a token; special: markers too."""
        n_room = 32
        while True:
            buffer = ctypes.create_string_buffer(n_room)
            n = self._lib.llama_token_to_piece(self._vocab, token, buffer, n_room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            n_room = -n

    def _special_text(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        n_room = len(data) + 2  # every token but BOS and EOS spends at least one byte
        while True:
            tokens = (self._lib.llama_token * n_room)()
            n = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, n_room, add_special, parse_special)
            if n >= 0:
                return list(tokens[:n])
            if -n <= n_room:
                raise ModelError(f"llama_tokenize answered {n} for {len(data)} bytes")
            n_room = -n
