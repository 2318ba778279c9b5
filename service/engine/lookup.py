"""Guess the next tokens from what was said before, when that pays.

Prompt lookup: if the last tokens of a stream occurred before, what followed them then may follow again (quotes, code,
names). A step computes the guessed tokens along with the stream's own, and every right guess saves a step. A step of
more rows costs more, so a guess is only made while the measured share of right ones pays for the measured price.

Knows tokens as integers and prices. Knows nothing of requests, text or llama.cpp.
"""

from __future__ import annotations

from .cost import StepCost

MAX_STREAMS = 2  # beyond that the rows are better spent on streams
MAX_ROWS = 8  # of one step with guesses
N_KEY = 3  # tokens that must have occurred before
SIZES = (3, 1)  # guessed tokens: with the stream's own row 4 or 2, sizes that are measured
WEIGHT = 0.2  # of a new observation in the running share
PROBE_EVERY = 32  # tokens after which a stream that stopped guessing tries again


class Guess:
    """One stream's record of guessing."""

    def __init__(self) -> None:
        self._right_share = 0.6  # a stream starts as one that may pay
        self._n_skipped = 0

    def observe(self, n_guessed: int, n_right: int) -> None:
        self._right_share += WEIGHT * (n_right / n_guessed - self._right_share)

    def choose_size(self, cost: StepCost, n_streams: int, room: int) -> int:
        """How many tokens to guess: as many as pay by the record and the prices, at most room; 0 for none."""
        alone_s = cost.seconds(n_streams)
        for size in SIZES:
            rows = n_streams * (1 + size)
            step_s = cost.seconds(rows)
            if size > room or rows > MAX_ROWS or not alone_s or not step_s:
                continue
            expected = 1 + sum(self._right_share**i for i in range(1, size + 1))
            if expected * alone_s > step_s:
                return size
        self._n_skipped += 1
        return SIZES[-1] if room >= SIZES[-1] and alone_s and self._n_skipped % PROBE_EVERY == 0 else 0


def find(tokens: list[int], size: int) -> list[int]:
    """What followed the last N_KEY tokens when they occurred most recently before; empty if they did not."""
    if len(tokens) <= N_KEY:
        return []
    key = tokens[-N_KEY:]
    last = key[-1]
    for end in range(len(tokens) - 2, N_KEY - 2, -1):
        if tokens[end] == last and tokens[end - N_KEY + 1 : end + 1] == key:
            return tokens[end + 1 : end + 1 + size]
    return []
