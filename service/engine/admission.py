"""May a request come in, and how long would it wait for its first token?

One client may fill the queue, and then a client of whom nothing waits is still taken, up to half as many again: nobody
is sent away because another one asks a lot.

The prediction: the prompt tokens in front of it at the measured price per row, or, if all streams are taken, the time
until enough of them end, whichever is longer. Prompts are discounted by the share that recent ones reused.
Knows numbers and limits. Knows nothing of threads, tokens' meaning or llama.cpp; the engine calls it under its lock.
"""

from __future__ import annotations

import math

from ..errors import BadRequest, QueueFull

MAX_RETRY_AFTER_S = 60
MEMORY = 8  # requests that the running means look back on, roughly


class Admission:
    """max_queue: requests that may wait. max_queue_tokens: prompt tokens that may wait. max_wait_s: longest expected
    time to a first token."""

    def __init__(self, max_queue: int, max_queue_tokens: int, max_wait_s: float) -> None:
        self._max_queue = max_queue
        self._max_queue_tokens = max_queue_tokens
        self._max_wait_s = max_wait_s
        self._mean_run_s = 1.0
        self._new_share = 1.0

    def observe_end(self, run_s: float) -> None:
        """A request ran so long."""
        self._mean_run_s += (run_s - self._mean_run_s) / MEMORY

    def observe_start(self, n_prompt: int, n_cached: int) -> None:
        """A request began with n_cached of its n_prompt tokens already computed."""
        self._new_share += ((n_prompt - n_cached) / n_prompt - self._new_share) / MEMORY

    def predict_s(self, n_tokens: int, n_over: int, max_streams: int, row_s: float | None) -> float:
        """Seconds until a first token: n_tokens prompt tokens are to be computed until then, n_over requests must end
        first, row_s is the price of a token (None: not measured yet, counts as nothing)."""
        compute_s = n_tokens * self._new_share * (row_s or 0.0)
        return max(compute_s, max(n_over, 0) * self._mean_run_s / max_streams)

    def check(
        self,
        n_new: int,
        n_waiting: int,
        n_running: int,
        max_streams: int,
        n_tokens: int,
        wait_s: float,
        is_first: bool = False,
    ) -> None:
        """Raises QueueFull, with an honest time to come back, if n_new requests more are too many, and BadRequest if
        they would be at any time.

        n_tokens: prompt tokens that would wait, the new ones' included; wait_s: predicted for the new ones; is_first:
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
        if n_waiting + n_new > max_queue + max(max_streams - n_running, 0):
            raise QueueFull(
                f"the node is busy: {n_waiting} requests wait and LLM_MAX_QUEUE={self._max_queue} may; ask again later",
                retry_after_s=_round(max(wait_s, self._mean_run_s) / 2),
            )
        if n_waiting and n_tokens > max_queue_tokens:
            raise QueueFull(
                f"the node is busy: {n_tokens} prompt tokens would wait and "
                f"LLM_MAX_QUEUE_TOKENS={self._max_queue_tokens} may; ask again later",
                retry_after_s=_round(wait_s / 2),
            )
        if (n_waiting or n_running) and wait_s > self._max_wait_s:
            raise QueueFull(
                f"the node is busy: a first token would take about {wait_s:.0f} s and "
                f"LLM_MAX_WAIT_S={self._max_wait_s:g} is the limit; ask again later",
                retry_after_s=_round(wait_s - self._max_wait_s),
            )


def reserve(n: int) -> int:
    """Of a queue of n: what is kept for clients of whom nothing waits."""
    return n // 2


def _round(seconds: float) -> int:
    return max(1, min(MAX_RETRY_AFTER_S, math.ceil(seconds)))
