"""What travels between the HTTP threads and the engine thread: a Request and its events.

A Request is handed to the engine once. Its events are any number of Piece and then exactly one Done or Failed, whoever
ends it first: `finish` says whether the caller was the one. Knows nothing of HTTP, JSON, text rules or llama.cpp.
"""

from __future__ import annotations

import enum
import queue
import threading
from dataclasses import dataclass, field

from .errors import ServiceError


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to end. The ranges live in schema.py, which checks them."""

    max_tokens: int
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    seed: int | None = None
    stop: tuple[str, ...] = ()


class FinishReason(str, enum.Enum):
    """OpenAI's words: `stop` for the model's own end or a stop string, `length` for a limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Piece:
    """Text that is safe to show: never half a character, never part of a stop string."""

    text: str


@dataclass(frozen=True)
class Done:
    reason: FinishReason
    n_prompt_tokens: int
    n_output_tokens: int


@dataclass(frozen=True)
class Failed:
    error: ServiceError


Event = Piece | Done | Failed


class State(enum.Enum):
    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """One accepted question: token ids in, events out. Times are the engine clock's seconds."""

    id: str
    prompt_tokens: list[int]
    params: SamplingParams
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    state: State = State.NEW
    is_cancelled: bool = False
    submitted_at: float = 0.0
    started_at: float | None = None
    first_piece_at: float | None = None
    n_output_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def deliver(self, text: str) -> None:
        """Put a Piece before the end; after the end it is dropped."""
        with self._lock:
            if self.state is not State.FINISHED:
                self.events.put(Piece(text))

    def finish(self, event: Done | Failed) -> bool:
        """Put the terminal event if there is none yet. Returns whether this call ended the request."""
        with self._lock:
            if self.state is State.FINISHED:
                return False
            self.state = State.FINISHED
            self.events.put(event)
            return True
