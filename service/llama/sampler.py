"""A request's sampler: llama.cpp's chain over the logits of one row, and how likely tokens were.

Belongs to the engine thread.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

from ..errors import ConstraintFailed, ModelError
from ..protocol import NO_TOKEN
from ..request import SamplingParams, TokenLogprob
from .vocabulary import LlamaVocabulary

REPEAT_WINDOW = 64  # tokens that repeat_penalty looks back on, llama.cpp's default


class LlamaSampler:
    """One request's chain of llama.cpp's samplers: bias -> penalties -> top-k -> top-p -> min-p -> temperature -> draw.

    Temperature 0 takes the likeliest token. A constraint is asked only about the chosen token, and which ones it allows
    only if it refuses that one. Drawing again from those is drawing from those at once: a token's share of what is
    refused is its share of what is allowed.
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
    ) -> None:
        self._lib, self._context, self._n_vocab = lib, context, n_vocab
        self._constraint = params.constraint
        self._banned = sorted({token for token, bias in params.logit_bias if bias == -math.inf})
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in self._make_links(n_context, params, seed, prompt):
            lib.llama_sampler_chain_add(self._chain, link)

    def sample(self, index: int) -> int:
        constraint = self._constraint
        if not constraint and len(self._banned) < self._n_vocab:
            return int(self._lib.llama_sampler_sample(self._chain, self._context, index))
        token = self._draw(index, None)
        if constraint and (token == NO_TOKEN or not constraint.accept(token)):
            token = self._draw(index, constraint.mask())
            if token == NO_TOKEN and not constraint.is_complete:
                raise ConstraintFailed(
                    "the answer cannot go on: every token its grammar allows is banned by logit_bias"
                )
            if token != NO_TOKEN and not constraint.accept(token):
                raise ModelError(f"token {token} is in the mask and refused")
        if token != NO_TOKEN:
            self._lib.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None

    def _draw(self, index: int, mask: bytes | None) -> int:
        """What the chain chooses, from all tokens or from those of a mask; NO_TOKEN if there are none. The chain must
        not get tokens of which none can be: it would end the process."""
        import numpy as np

        logits = np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, index), (self._n_vocab,))
        if mask is None and not self._banned:
            tokens: Any = np.arange(self._n_vocab, dtype=np.int32)
        else:
            bits = np.frombuffer(mask, np.uint8) if mask else np.full(self._n_vocab // 8 + 1, 255, np.uint8)
            is_allowed = np.unpackbits(bits, count=self._n_vocab, bitorder="little")
            is_allowed[self._banned] = 0
            tokens = np.flatnonzero(is_allowed.view(bool))
            logits = logits.take(tokens)
        if not len(tokens):
            return NO_TOKEN
        table = np.empty(len(tokens), dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        table["id"], table["logit"], table["p"] = tokens, logits, 0
        data = table.ctypes.data_as(ctypes.POINTER(self._lib.llama_token_data))
        choice = self._lib.llama_token_data_array(data, len(tokens), -1, False)
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


def read_logprob(
    lib: Any, context: Any, vocabulary: LlamaVocabulary, index: int, token: int, n_top: int
) -> TokenLogprob:
    """How likely the token was after row `index` of the last decode, and the n_top likeliest ones."""
    import numpy as np

    # A vocabulary of 152,000 takes 1 ms of the engine's thread so, and 6 ms in double precision with argpartition
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, index), (vocabulary.n_vocab,))
    peak = logits.max()
    total = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    best: list[int] = []
    if n_top:
        least = np.partition(logits, -n_top)[-n_top]
        best = [*np.flatnonzero(logits > least), *np.flatnonzero(logits == least)[:n_top]]  # however many are equal
    top = sorted(((int(i), float(logits[i]) - total) for i in best), key=lambda pair: (-pair[1], pair[0]))[:n_top]
    return TokenLogprob(
        token,
        vocabulary.piece(token, special=True),
        float(logits[token]) - total,
        tuple((i, vocabulary.piece(i, special=True), value) for i, value in top),
    )
