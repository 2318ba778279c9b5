"""Tell those who asked for it how far they are: their place in the queue, then how much of the prompt is computed.

On change, and at most once per TELL_S each: every event wakes a thread, and that one takes the interpreter from the
engine's. What others had computed is not told. Belongs to the engine thread.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from ..request import Progress, Request
from .request_queue import RequestQueue
from .run import Run

TELL_S = 1.0


class Teller:
    def __init__(self, queue: RequestQueue, clock: Callable[[], float]) -> None:
        self._queue, self._clock = queue, clock
        self._looked_at = 0.0

    def tell_waiting(self, followers: Container[Request]) -> None:
        """Looks at the queue once per TELL_S, and when somebody has come: not in every step. followers: who waits for
        another's prefix. One that could begin but for that is told nothing: that there is such another is not its
        business."""
        queue, now = self._queue, self._clock()
        if not queue.has_newcomers and now - self._looked_at < TELL_S:
            return
        queue.has_newcomers, self._looked_at = False, now
        is_full = len(queue.runs) >= queue.max_streams
        first_s = queue.predict_s(queue.waiting) if any(each.wants_progress for each in queue.waiting) else []
        for place, request in enumerate(queue.waiting, 1):
            if request.wants_progress and (is_full or request not in followers):
                self._tell(request, place, first_s[place - 1], 0)

    def tell_running(self, run: Run, row_s: float) -> None:
        """As if it had begun with what its client may know of, and no more. row_s: what a prompt token costs."""
        assert run.sequence is not None
        request = run.request
        n_hidden = request.n_reused_tokens - request.n_cached_tokens
        n_computed = max(run.sequence.n_computed - n_hidden, request.n_cached_tokens)
        self._tell(request, 0, (len(request.prompt_tokens) - n_computed) * row_s, n_computed)

    def _tell(self, request: Request, place: int, wait_s: float, n_computed: int) -> None:
        now, what = self._clock(), (place, round(wait_s), n_computed)
        if request.told is None or (what != request.told[1:] and now - request.told[0] >= TELL_S):
            request.told = (now, *what)
            request.deliver(Progress(place, wait_s, n_computed, request.n_cached_tokens, request.index))
