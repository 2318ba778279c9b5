"""What travels between the HTTP threads and the engine thread: a Request and its events.

A Request is handed to the engine once. Its events are any number of Progress and Piece and then exactly one Done or
Failed, whoever ends it first: `finish` says whether the caller was the one. Knows nothing of HTTP, JSON, text rules or
llama.cpp.
"""

from __future__ import annotations

import enum
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .errors import ServiceError


class Constraint(Protocol):
    """What an answer must be, asked token by token. It goes along with one answer and belongs to whoever has that: the
    engine's thread once the request is submitted. Raises ConstraintFailed when it cannot say."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""

    def accept(self, token: int) -> bool:
        """Take the next token. False if it may not come, and nothing has changed then. One that ends the answer is
        only answered for."""

    def mask(self) -> bytes:
        """Which tokens may come next: a bit for each, the lowest of the first byte is token 0."""

    def copy(self) -> Constraint:
        """One for another answer, as far along as this."""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to end. The ranges live in api/body.py, which checks them.

    logit_bias: (token, bias added to its logit). n_logprobs: likeliest tokens to report beside each chosen one, None
    for no report at all. constraint: of this answer alone, for it remembers what was said.
    """

    max_tokens: int
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_logprobs: int | None = None
    constraint: Constraint | None = None


class FinishReason(str, enum.Enum):
    """OpenAI's words: `stop` for the model's own end or a stop string, `length` for a limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class TokenLogprob:
    """A chosen token with its natural logarithm of probability before any sampling rule, and the likeliest ones as
    (token, bytes, logprob), best first."""

    token: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True)
class Timings:
    """Seconds a request spent waiting, until its prompt was computed, and generating."""

    queue_s: float = 0.0
    prompt_s: float = 0.0
    output_s: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a request is that has no text yet. place: requests that start before it (0: it runs); wait_s: expected
    seconds until its first token; n_computed: prompt tokens computed so far, of which n_cached were reused."""

    place: int
    wait_s: float
    n_computed: int
    n_cached: int
    index: int = 0


@dataclass(frozen=True)
class Piece:
    """Text that is safe to show: never half a character, never part of a stop string. `logprobs`: of the tokens that
    ended in this piece, if asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0


@dataclass(frozen=True)
class Done:
    """n_cached_tokens: how many of the prompt's tokens were reused from an earlier request of the same client, or from
    the operator's system prompt."""

    reason: FinishReason
    n_prompt_tokens: int
    n_output_tokens: int
    n_cached_tokens: int = 0
    timings: Timings = Timings()
    index: int = 0


@dataclass(frozen=True)
class Failed:
    error: ServiceError
    index: int = 0


Event = Progress | Piece | Done | Failed


class State(enum.Enum):
    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """One accepted question: token ids in, events out. Times are the engine clock's seconds.

    Several requests may share one `events` queue (the choices of one answer): `index` in each event tells them apart.
    namespace: only what was computed in the same one is reused. client: who asks, by a digest of its key or by address;
    requests of one client share its turns. n_reused_tokens: of the prompt, found computed; n_cached_tokens: of these,
    what the client is told. siblings: all that were submitted together, with itself. told: when it was last told how
    far it is, and what.
    """

    id: str
    prompt_tokens: list[int]
    params: SamplingParams
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    index: int = 0
    namespace: str = ""
    client: str = ""
    wants_progress: bool = False
    state: State = State.NEW
    is_cancelled: bool = False
    submitted_at: float = 0.0
    started_at: float | None = None
    first_token_at: float | None = None
    n_reused_tokens: int = 0
    n_cached_tokens: int = 0
    n_output_tokens: int = 0
    siblings: Sequence[Request] = field(default=(), repr=False)
    has_text: bool = False
    told: tuple[float, int, int, int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def deliver(self, event: Progress | Piece) -> None:
        """Put an event before the end; after the end it is dropped."""
        with self._lock:
            if self.state is not State.FINISHED:
                self.has_text |= isinstance(event, Piece) and bool(event.text)
                self.events.put(event)

    @property
    def has_answer(self) -> bool:
        """Whether somebody has got text of it, or of a choice beside it."""
        return any(request.has_text for request in self.siblings or (self,))

    def finish(self, event: Done | Failed) -> bool:
        """Put the terminal event if there is none yet. Returns whether this call ended the request."""
        with self._lock:
            if self.state is State.FINISHED:
                return False
            self.state = State.FINISHED
            self.events.put(event)
            return True
