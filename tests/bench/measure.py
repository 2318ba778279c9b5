"""The benchmark's definitions: from the times of one answer's pieces to the numbers in the table.

Definitions are the usual ones (vLLM's benchmark, DistServe for goodput) and are seen from the client:

- TTFT, time to first token: from the moment the client asks (connecting and any wait for a retry included) to the first
  piece of text.
- ITL, inter-token latency: each gap between two pieces of one answer; its percentiles are over all gaps of all answers.
- TPOT, time per output token: (last piece - first piece) / (tokens - 1) of one answer.
- Throughput: output tokens that arrived / time from the first question to the last piece.
- Goodput: the same, counting only the tokens of complete answers within the service level: TTFT and TPOT both met.
- Percentiles interpolate linearly between the two nearest values.

Knows numbers only: no HTTP, no servers. All times are seconds on one clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class Answer:
    """What one question came to. pieces: when each piece of text arrived. status: 0 if no status line came.

    n_asked: tokens asked for; n_tokens: tokens received. has_finished: the server said that the answer is at its end.
    was_cut: the benchmark ended before the answer did. has_vanished: this client left on purpose. has_retry_after: a
    refusal that says when to ask again.
    """

    sent_at: float
    n_asked: int
    status: int = 0
    pieces: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    n_tokens: int = 0
    text: str = ""
    fault: str = ""
    has_finished: bool = False
    was_cut: bool = False
    has_vanished: bool = False
    has_retry_after: bool = False
    n_refusals: int = 0

    @property
    def ttft_s(self) -> float | None:
        return self.pieces[0] - self.sent_at if self.pieces else None

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.pieces)]

    @property
    def tpot_s(self) -> float:
        return (self.pieces[-1] - self.pieces[0]) / (self.n_tokens - 1) if self.n_tokens > 1 else 0.0

    @property
    def is_complete(self) -> bool:
        """The answer came to its own end: the server said so."""
        return self.status == 200 and not self.fault and self.has_finished

    @property
    def is_short(self) -> bool:
        """Complete, but with fewer tokens than asked for: the model ended it."""
        return self.is_complete and self.n_tokens < self.n_asked

    @property
    def is_orderly(self) -> bool:
        """Answered in full, or refused with a word on when to ask again."""
        return self.is_complete or (self.status in (429, 503) and self.has_retry_after)


def percentile(values: Iterable[float], percent: float) -> float:
    """NaN if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def ttfts_s(answers: Sequence[Answer]) -> list[float]:
    """One per answer. Where the benchmark ended before any came: how long the client had waited, a lower bound."""
    return [
        answer.ttft_s if answer.ttft_s is not None else answer.ended_at - answer.sent_at
        for answer in answers
        if answer.pieces or answer.was_cut
    ]


def itls_s(answers: Sequence[Answer]) -> list[float]:
    return [gap for answer in answers for gap in answer.gaps_s]


def span_s(answers: Sequence[Answer]) -> float:
    """From the first question to the last piece, or to the cut if there was one."""
    ends = [
        answer.ended_at if answer.was_cut else answer.pieces[-1]
        for answer in answers
        if answer.was_cut or answer.pieces
    ]
    return max(ends) - min(answer.sent_at for answer in answers) if ends else 0.0


def throughput(answers: Sequence[Answer]) -> float:
    """Tokens per second; 0 if nothing came."""
    span = span_s(answers)
    return sum(answer.n_tokens for answer in answers) / span if span else 0.0


def goodput(answers: Sequence[Answer], max_ttft_s: float, max_tpot_s: float) -> float:
    """Tokens per second of answers within the service level."""
    span = span_s(answers)
    good = [
        answer
        for answer in answers
        if answer.is_complete
        and answer.ttft_s is not None
        and answer.ttft_s <= max_ttft_s
        and answer.tpot_s <= max_tpot_s
    ]
    return sum(answer.n_tokens for answer in good) / span if span else 0.0


def largest_gap_s(streams: Sequence[Answer], since: float) -> float:
    """The longest that a stream stood still after `since`, waiting for its first piece included; 0 if none ran."""
    gaps = [0.0]
    for stream in streams:
        marks = [stream.sent_at, *stream.pieces, *([stream.ended_at] if stream.was_cut else [])]
        gaps += [after - max(before, since) for before, after in pairwise(marks) if after > since]
    return max(gaps)


def python_share(before: str, after: str) -> float:
    """The part of a step that is not inside llama.cpp, between two readings of /metrics; NaN if it is not reported."""
    step, decode = (
        _read_counter(after, name) - _read_counter(before, name)
        for name in ("llm_step_seconds_sum", "llm_decode_seconds_sum")
    )
    return 1 - decode / step if step > 0 else math.nan


def _read_counter(text: str, name: str) -> float:
    values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith((name + " ", name + "{"))]
    return sum(map(float, values)) if values else math.nan
