"""Requests between being accepted and their one end: who waits, who runs, who was put back.

Any thread may submit, cancel, enter a phase and read the properties. The lists belong to the engine thread, which moves
requests while it holds `changed`. Knows how many tokens wait, and asks the schedule when they are computed. Knows
nothing of the model, the cache or steps.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from ..errors import ClientGone, Draining, NotReady
from ..metrics import Metrics
from ..request import Done, Failed, Request, State
from .admission import Admission
from .fairness import Fairness
from .forecast import Load, first_tokens_s
from .run import Run
from .scheduler import Scheduler

log = logging.getLogger(__name__)


class Phase(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class RequestQueue:
    """max_streams: how many may run. scheduler: whose rule says who waits how long. runs: oldest first. has_newcomers:
    whether somebody has come since it was set back."""

    def __init__(
        self,
        admission: Admission,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        max_streams: int,
        scheduler: Callable[[], Scheduler],
    ) -> None:
        self._admission, self._metrics, self._clock, self._scheduler = admission, metrics, clock, scheduler
        self.max_streams = max_streams
        self.fairness = Fairness()
        self.phase = Phase.LOADING
        self.waiting: list[Request] = []
        self.put_back: list[Run] = []
        self.runs: list[Run] = []
        self.has_newcomers = False
        self.changed = threading.Condition()  # guards phase and the lists

    @property
    def n_waiting(self) -> int:
        return len(self.waiting) + len(self.put_back)

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self.put_back or self.runs)

    def require_open(self) -> None:
        """Raises Unavailable."""
        if self.phase is Phase.LOADING:
            raise NotReady("the model is still loading; ask again in a moment", retry_after_s=5)
        if self.phase is not Phase.READY:
            raise Draining("this node is shutting down; ask again", retry_after_s=5)

    def enter(self, phase: Phase) -> None:
        """The next phase; there is no way back."""
        with self.changed:
            if list(Phase).index(phase) > list(Phase).index(self.phase):
                self.phase = phase
            self.changed.notify_all()

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept all or none: from here on each ends in exactly one terminal event. Raises Unavailable instead."""
        with self.changed:
            self.require_open()
            ahead = self._list_ahead(requests)

            def predict_s() -> tuple[float, float]:
                alone = first_tokens_s(self._scheduler(), [], map(self._expect, requests), self.max_streams)
                return self.predict_s(ahead)[-1], max(alone)

            n_requests = (len(requests), self.n_waiting, len(self.runs))
            n_tokens = _count_tokens((*self.waiting, *requests))
            client = requests[0].client
            is_first = bool(client) and all(other.client != client for other in self.waiting)
            self._admission.check(*n_requests, self.max_streams, n_tokens, predict_s, is_first)
            for request in requests:
                request.submitted_at = self._clock()
                request.state = State.QUEUED
                request.siblings = requests
                self.waiting.append(request)
            self.has_newcomers = True
            self.changed.notify_all()

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more. Ends a waiting request at once and a running one after its current step."""
        with self.changed:
            request.is_cancelled = True
            if request in self.waiting:
                self.waiting.remove(request)
                self.end(request, Failed(ClientGone("the client went away"), request.index))
                self.changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing waits or runs. Returns False if the time was too short."""
        with self.changed:
            return self.changed.wait_for(lambda: self.is_empty, timeout_s)

    def predict_s(self, waiting: Sequence[Request]) -> list[float]:
        """Expected seconds until each of them has its first token, if they begin in this order."""
        running, back = [], []
        for run in list(self.runs):
            if run.sequence:
                n_said, max_tokens = run.request.n_output_tokens, run.request.params.max_tokens
                running.append(self._admission.expect_rest(run.n_gap, n_said, max_tokens))
        for run in list(self.put_back):
            back.append(self._admission.expect_rest(len(run.tokens), 0, run.n_left))
        new = map(self._expect, waiting)
        return first_tokens_s(self._scheduler(), running, [*back, *new], self.max_streams)[len(back) :]

    def _expect(self, request: Request) -> Load:
        return self._admission.expect(len(request.prompt_tokens), request.params.max_tokens)

    def _list_ahead(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Who would have begun when the last of these, all of one client, begins: they too, and whoever waits longer or
        was served less."""
        running = [run.request for run in self.runs]
        self.fairness.arrive(requests[0].client, [*self.waiting, *(run.request for run in self.put_back), *running])
        ordered = self.fairness.order([*self.waiting, *requests], running)
        return ordered[: max(map(ordered.index, requests)) + 1]

    def leave(self, run: Run) -> None:
        """It neither runs nor waits to run again."""
        for runs in (self.runs, self.put_back):
            if run in runs:
                runs.remove(run)

    def end_all(self) -> None:
        with self.changed:
            left = [*self.waiting, *(run.request for run in (*self.runs, *self.put_back))]
            self.waiting.clear()
            for request in left:
                stopped = Draining("this node stopped before the answer was complete", retry_after_s=5)
                self.end(request, Failed(stopped, request.index))

    def end(self, request: Request, event: Done | Failed) -> None:
        """The one place where requests end: one terminal event, one log line, never any text."""
        if not request.finish(event):
            return
        self.fairness.settle(request)
        reason = event.reason.value if isinstance(event, Done) else str(event.error.code)
        now = self._clock()
        queue_s = (request.started_at or now) - request.submitted_at
        ttft_s = None if request.first_token_at is None else request.first_token_at - request.submitted_at
        self._metrics.finished.labels(reason).inc()
        self._metrics.queue_s.observe(queue_s)
        self._metrics.total_s.observe(now - request.submitted_at)
        log.info(
            "request %s: prompt_tokens=%d cached_tokens=%d output_tokens=%d queue_ms=%d ttft_ms=%s total_ms=%d reason=%s",  # noqa: E501
            request.id,
            len(request.prompt_tokens),
            request.n_reused_tokens,
            request.n_output_tokens,
            queue_s * 1e3,
            "-" if ttft_s is None else round(ttft_s * 1e3),
            (now - request.submitted_at) * 1e3,
            reason,
        )


def _count_tokens(requests: Iterable[Request]) -> int:
    return sum(len(request.prompt_tokens) for request in requests)
