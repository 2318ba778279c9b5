"""What the floors ask of a model, whoever computes it: the engine of its sequences, chat of its vocabulary.

`llama` answers with llama.cpp, the tests with a model without weights. Knows tokens, positions and sequences. Knows
nothing of requests, text rules, queues or HTTP.

Threads: a Vocabulary is read-only, so any thread may use it, as long as it likes, after `close` too; what Model adds to
it belongs to the engine thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .request import SamplingParams, TokenLogprob

NO_TOKEN = -1  # a sampler's answer when nothing may come any more


@dataclass(frozen=True)
class Chunk:
    """Tokens of one sequence to compute in a step, from position `start`; the last n_logits of them get logits."""

    sequence: int
    start: int
    tokens: Sequence[int]
    n_logits: int = 0


class Sampler(Protocol):
    def sample(self, index: int) -> int:
        """Choose the token after row `index` of the last decode; the row must have had logits. NO_TOKEN if the answer
        is complete and no token is left that could end it. Raises ConstraintFailed if it must go on and cannot."""

    def close(self) -> None: ...


class Vocabulary(Protocol):
    """n_vocab: tokens there are. bos_text, eos_text: how the model writes its begin and end. adds_bos: whether prompts
    begin with BOS. chat_template: the file's own, None without one."""

    n_vocab: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    adds_bos: bool

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text -> token ids. add_special: put BOS/EOS where the vocabulary wants them; parse_special: read markers."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; markers such as <|im_end|> stand for none. May be part of a character."""

    def is_end(self, token: int) -> bool:
        """Whether the answer ends with this token."""


class Model(Vocabulary, Protocol):
    """n_context: positions of one sequence. n_cells: tokens that all sequences hold together. n_sequences: how many
    there are. max_batch: rows of one decode. has_flash_attention: without it a row's attention costs by all cells in
    use, whoever's they are. shares: whether a part of a sequence can be copied and dropped. sampling_defaults: what the
    file recommends, by the names of SamplingParams. description: family, size and quantisation, for people.
    """

    n_context: int
    n_cells: int
    has_flash_attention: bool
    n_sequences: int
    max_batch: int
    shares: bool
    sampling_defaults: dict[str, float | int]
    description: str

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Compute a step. Raises NoRoom if the cache is full, ModelError if this step cannot be computed, and
        ModelFatal if none can any more."""

    def copy(self, source: int, target: int, n: int) -> None: ...

    def forget(self, sequence: int, start: int) -> bool:
        """Drop a sequence from position `start` on; from 0 always. False: only a part, which this model cannot drop."""

    def logprob(self, index: int, token: int, n_top: int) -> TokenLogprob:
        """How likely the token was after row `index`, and the n_top likeliest ones."""

    def make_sampler(self, params: SamplingParams, seed: int, prompt: Sequence[int]) -> Sampler: ...

    def save(self, sequence: int) -> memoryview:
        """A sequence's computed state."""

    def restore(self, sequence: int, data: memoryview) -> bool:
        """Take back what `save` gave, and nothing else, into an empty sequence. False if it cannot; it is empty
        then."""

    def close(self) -> None: ...
