"""One request that has begun: its tokens, its place in the cache, its sampler and its text.

Turns sampled tokens into pieces for whoever waits, and says when the answer is complete. Knows the model's vocabulary
and the request. Knows nothing of other requests, steps, rows of others or threads; belongs to the engine thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..chat.text import TextStream
from ..protocol import NO_TOKEN, Model, Sampler
from ..request import FinishReason, Piece, Request, TokenLogprob
from .lookup import Guess
from .prefix import CacheSequence


@dataclass(eq=False)
class Run:
    """`tokens` are prompt and answer; sequence is None while it is put back for lack of cache, and sampler until it has
    begun; draft are guessed tokens that the next step checks."""

    request: Request
    tokens: list[int]
    text: TextStream
    sampler: Sampler | None = None
    sequence: CacheSequence | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    n_told: int = 0  # of the tokens that were found, when it got its sequence, those that its client is told of
    guess: Guess = field(default_factory=Guess)
    last_token_at: float = 0.0

    @classmethod
    def of(cls, request: Request) -> Run:
        return cls(request, list(request.prompt_tokens), TextStream(request.params.stop))

    @property
    def n_gap(self) -> int:
        assert self.sequence is not None
        return self.sequence.n_gap

    @property
    def n_left(self) -> int:
        """Tokens that the answer may still have."""
        return self.request.params.max_tokens - self.request.n_output_tokens

    def sample(self, row: int) -> int:
        assert self.sampler is not None
        return self.sampler.sample(row)

    def take(self, model: Model, token: int, row: int) -> FinishReason | None:
        """Add a token, sampled after a row of the last step, to the answer, and deliver what text is ready. Returns why
        the answer is complete, None if it goes on."""
        if token == NO_TOKEN or model.is_end(token):
            return FinishReason.STOP
        self.tokens.append(token)
        self.request.n_output_tokens += 1
        if self.request.params.n_logprobs is not None:
            self.logprobs.append(model.logprob(row, token, self.request.params.n_logprobs))
        self._send(self.text.push(model.token_bytes(token)))
        if self.text.is_stopped:
            return FinishReason.STOP
        return None if self.n_left and len(self.tokens) < model.n_context else FinishReason.LENGTH

    def flush(self) -> None:
        """Deliver what was held back: the answer is complete. Tokens that were cut off have their probabilities too."""
        self._send(self.text.flush(), is_last=True)

    def close(self) -> None:
        if self.sampler:
            self.sampler.close()

    def _send(self, text: str, *, is_last: bool = False) -> None:
        if text or (is_last and self.logprobs):
            self.request.deliver(Piece(text, tuple(self.logprobs), self.request.index))
            self.logprobs = []


@dataclass(frozen=True)
class Lead:
    """A prefix that somebody else is about to compute: n tokens of `sequence`, as long as it has these `tokens`."""

    sequence: CacheSequence
    tokens: list[int]
    n: int

    @property
    def is_coming(self) -> bool:
        return self.sequence.is_busy and self.sequence.tokens is self.tokens and self.sequence.n_computed < self.n
