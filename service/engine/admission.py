"""May a request come in, and how long would it wait for its first token?

One client may fill the queue, and then a client of whom nothing waits is still taken, up to half as many again: nobody
is sent away because another one asks a lot.

What is predicted is what the scheduler will do (`forecast`), with what recent requests teach: how much of a prompt is
computed already, and how long answers are. Who would wait longer for others than the limit is refused at once; what a
prompt takes by itself is no waiting.
Knows numbers and limits. Knows nothing of threads or tokens' meaning; the engine calls it under its lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import BadRequest, QueueFull
from .forecast import Load

MAX_RETRY_AFTER_S = 60
MEMORY = 8  # requests that the running means look back on, roughly
OUTPUT_MEMORY = 32  # and for the length of answers, which differs more
UNKNOWN_SHARE = 0.5  # of max_tokens that an answer is taken for, as long as none has ended


class Admission:
    """max_queue: requests that may wait. max_queue_tokens: prompt tokens that may wait. max_wait_s: how much later than
    alone on this node a first token may be expected."""

    def __init__(self, max_queue: int, max_queue_tokens: int, max_wait_s: float) -> None:
        self._max_queue = max_queue
        self._max_queue_tokens = max_queue_tokens
        self._max_wait_s = max_wait_s
        self._mean_run_s = 1.0
        self._mean_output = 0.0
        self._n_ended = 0
        self._new_share = 1.0

    def observe_end(self, run_s: float, n_output: int) -> None:
        """A request ran so long and its answer has so many tokens."""
        self._mean_run_s += (run_s - self._mean_run_s) / MEMORY
        self._n_ended += 1
        self._mean_output += (n_output - self._mean_output) / min(self._n_ended, OUTPUT_MEMORY)

    def observe_start(self, n_prompt: int, n_cached: int) -> None:
        """A request began with n_cached of its n_prompt tokens already computed."""
        self._new_share += ((n_prompt - n_cached) / n_prompt - self._new_share) / MEMORY

    def expect(self, n_prompt: int, max_tokens: int) -> Load:
        """What a request that waits will be: its prompt as new and its answer as long as those of others."""
        return Load(max(n_prompt * self._new_share, 2), max(self._expect_output(max_tokens), 1))

    def expect_rest(self, n_gap: int, n_said: int, max_tokens: int) -> Load:
        """What is left of one that runs. An answer that is longer than most goes on half as long as they are."""
        expected = self._expect_output(max_tokens)
        n_left = expected - n_said if n_said < expected else min(expected / 2, max_tokens - n_said)
        return Load(n_gap, max(n_left, 1))

    def _expect_output(self, max_tokens: int) -> float:
        return min(self._mean_output, max_tokens) if self._n_ended else UNKNOWN_SHARE * max_tokens

    def check(
        self,
        n_new: int,
        n_waiting: int,
        n_running: int,
        max_streams: int,
        n_tokens: int,
        predict_s: Callable[[], tuple[float, float]],
        is_first: bool = False,
    ) -> None:
        """Raises QueueFull, with an honest time to come back, if n_new requests more are too many, and BadRequest if
        they would be at any time.

        n_tokens: prompt tokens that would wait, the new ones' included. predict_s: the seconds until the new ones'
        first token, and what these would be alone; asked only if nothing else refuses them. is_first:
        nothing of this client waits. A request that comes alone is always taken: waiting would not make it shorter.
        """
        max_queue, max_queue_tokens = self._max_queue, self._max_queue_tokens
        if is_first:
            max_queue, max_queue_tokens = max_queue + reserve(max_queue), max_queue_tokens + reserve(max_queue_tokens)
        if n_new > self._max_queue + max_streams:
            raise BadRequest(
                f"{n_new} answers at once: this node runs {max_streams} and LLM_MAX_QUEUE={self._max_queue} may wait, "
                f"so at most {self._max_queue + max_streams}",
                param="n",
            )
        turn_s = self._mean_run_s * max(n_waiting, 1) / max_streams
        if n_waiting + n_new > max_queue + max(max_streams - n_running, 0):
            raise QueueFull(
                f"the node is busy: {n_waiting} requests wait and LLM_MAX_QUEUE={self._max_queue} may; ask again later",
                retry_after_s=_round(turn_s / 2),
            )
        if n_waiting and n_tokens > max_queue_tokens:
            raise QueueFull(
                f"the node is busy: {n_tokens} prompt tokens would wait and "
                f"LLM_MAX_QUEUE_TOKENS={self._max_queue_tokens} may; ask again later",
                retry_after_s=_round(turn_s / 2),
            )
        if not (n_waiting or n_running):
            return
        first_s, alone_s = predict_s()
        if first_s - alone_s > self._max_wait_s:
            raise QueueFull(
                f"the node is busy: a first token would take about {first_s:.0f} s, {alone_s:.0f} s of them for this "
                f"prompt, and LLM_MAX_WAIT_S={self._max_wait_s:g} is the limit for the rest; ask again later",
                retry_after_s=_round(first_s - alone_s - self._max_wait_s),
            )


def reserve(n: int) -> int:
    """Of a queue of n: what is kept for clients of whom nothing waits."""
    return n // 2


def _round(seconds: float) -> int:
    return max(1, min(MAX_RETRY_AFTER_S, math.ceil(seconds)))
