"""The engine: the one thread that owns the model. Takes requests, computes, samples, delivers, frees.

One request runs at a time; the others wait in a bounded queue. A request has tokens and n_computed, and each step
computes at most one batch of the gap between them, so a step is short whether it prefills or decodes, and a cancelled
request is noticed after each. Knows nothing of HTTP, JSON or llama.cpp.

Any thread may call submit, cancel, drain, stop and read the properties. load, step and close belong to the engine
thread (or to a test, which then needs no thread and no sleep).
"""

from __future__ import annotations

import enum
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import ClientGone, Draining, ModelFatal, NotReady, QueueFull, ServiceError, TimedOut
from .metrics import Metrics
from .model import Entry, Model, Sampler
from .prompt import Prompter
from .request import Done, Failed, FinishReason, Piece, Request, SamplingParams, State
from .text import TextStream

log = logging.getLogger(__name__)

IDLE_S = 1.0  # how long the thread sleeps without work between two heartbeats
MAX_FAULTS = 3  # requests in a row that the model fails before the process gives up on it
MAX_RETRY_AFTER_S = 60
WARM_UP_ID = "warm-up"


class Phase(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass
class Run:
    """What the engine keeps of the running request."""

    request: Request
    tokens: list[int]
    sampler: Sampler
    text: TextStream
    n_computed: int = 0

    @property
    def n_gap(self) -> int:
        return len(self.tokens) - self.n_computed


class Engine:
    """load_model: makes the model, called in the engine thread. max_queue: requests that may wait besides the running
    one. timeout_s: how long one may wait and run. on_ready, on_fatal, on_beat: called in the engine thread when the
    first token was generated, when it cannot go on, and after every step (with the clock's seconds)."""

    def __init__(
        self,
        load_model: Callable[[], Model],
        *,
        max_queue: int,
        timeout_s: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_fatal: Callable[[BaseException], None] = lambda error: None,
        on_beat: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._load_model = load_model
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._clock = clock
        self._rng = rng or random.Random()
        self._on_ready, self._on_fatal, self._on_beat = on_ready, on_fatal, on_beat

        self._model: Model | None = None
        self._prompter: Prompter | None = None
        self._phase = Phase.LOADING
        self._waiting: deque[Request] = deque()
        self._run: Run | None = None
        self._n_faults = 0
        self._mean_run_s = 1.0
        self._changed = threading.Condition()  # guards phase, waiting and run
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

        metrics.watch("llm_queue_length", "Requests that wait", lambda: float(self.n_waiting))
        metrics.watch("llm_running", "Requests that run", lambda: float(self._run is not None))
        metrics.watch("llm_ready", "1 when a request would be taken", lambda: float(self.is_ready))

    # Any thread

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def is_ready(self) -> bool:
        return self._phase is Phase.READY

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def model(self) -> Model:
        """The loaded model, for reading its vocabulary. Raises NotReady before it is loaded."""
        self._require_open()
        assert self._model is not None
        return self._model

    @property
    def prompter(self) -> Prompter:
        self._require_open()
        assert self._prompter is not None
        return self._prompter

    def start(self) -> None:
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept all or none: from here on each ends in exactly one terminal event. Raises Unavailable instead."""
        with self._changed:
            self._require_open()
            if len(self._waiting) + len(requests) > self._max_queue + (self._run is None):
                raise QueueFull(
                    f"the node is busy: one request runs, {len(self._waiting)} wait, and only "
                    f"LLM_MAX_QUEUE={self._max_queue} may; ask again later",
                    retry_after_s=self._estimate_wait_s(),
                )
            for request in requests:
                request.submitted_at = self._clock()
                request.state = State.QUEUED
                self._waiting.append(request)
            self._changed.notify_all()

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more. Ends a waiting request at once and a running one after its current step."""
        with self._changed:
            request.is_cancelled = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._end(request, Failed(ClientGone("the client went away"), request.index))
                self._changed.notify_all()

    def drain(self) -> None:
        """Take nothing new; what was accepted goes on."""
        with self._changed:
            if self._phase is not Phase.STOPPED:
                self._phase = Phase.DRAINING
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing waits or runs. Returns False if the time was too short."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and self._run is None, timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; what still waits or runs fails, even if that step never ends.

        Returns whether the thread ended in time.
        """
        with self._changed:
            self._phase = Phase.STOPPED
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._end_all()
        return not self._thread.is_alive()

    def _require_open(self) -> None:
        if self._phase is Phase.LOADING:
            raise NotReady("the model is still loading; ask again in a moment", retry_after_s=5)
        if self._phase is not Phase.READY:
            raise Draining("this node is shutting down; ask again", retry_after_s=5)

    def _estimate_wait_s(self) -> int:
        n_before = len(self._waiting) + 1
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(self._mean_run_s * n_before / 2)))

    # Engine thread

    def _live(self) -> None:
        try:
            self.load()
            while self._phase is not Phase.STOPPED:
                self.step()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            log.critical("the engine cannot go on: %s: %s", type(error).__name__, error)
            self._on_fatal(error)
        finally:
            self.close()

    def load(self) -> None:
        """Load the model and generate one token: only then is the node ready."""
        started = self._clock()
        self._model = self._load_model()
        self._prompter = Prompter(self._model)
        self._warm_up(self._model)
        with self._changed:
            if self._phase is Phase.LOADING:
                self._phase = Phase.READY
        log.info(
            "ready after %.1f s: %s, context %d",
            self._clock() - started,
            self._model.description,
            self._model.n_context,
        )
        self._on_ready()

    def step(self, idle_s: float = IDLE_S) -> None:
        """Intake -> decode -> sample -> deliver, for one batch. Sleeps up to idle_s when there is no work."""
        run = self._intake(idle_s)
        if run:
            started = self._clock()
            try:
                self._decode(run)
                if run.n_gap == 0:
                    self._deliver(run, run.sampler.sample(self._last_index))
                self._n_faults = 0
            except Exception as error:
                self._fail(run, error)
            self._metrics.step_s.observe(self._clock() - started)
        self._on_beat(self._clock())

    def close(self) -> None:
        """Fail everything that is left and free the model."""
        with self._changed:
            self._phase = Phase.STOPPED
            self._end_all()
            if self._run:
                self._run.sampler.close()
                self._run = None
            self._changed.notify_all()
        if self._model:
            self._model.close()

    def _warm_up(self, model: Model) -> None:
        """Every weight is touched and the whole way to a token is gone once."""
        tokens = model.tokenize("Hello", add_special=True, parse_special=False)[: model.max_batch]
        self._compute(model, tokens, 0)
        sampler = model.make_sampler(SamplingParams(max_tokens=1, temperature=0), 0)
        try:
            sampler.sample(self._last_index)
        finally:
            sampler.close()
            model.forget(0)

    def _intake(self, idle_s: float) -> Run | None:
        """Sweep out what nobody waits for any more; return the request to work on."""
        with self._changed:
            if not self._waiting and self._run is None and self._phase is not Phase.STOPPED:
                self._changed.wait(idle_s)
            now = self._clock()
            for request in [r for r in self._waiting if now - r.submitted_at >= self._timeout_s]:
                self._waiting.remove(request)
                self._end(request, Failed(self._timed_out(), request.index))
            if self._run:
                self._sweep(self._run, now)
            while self._run is None and self._waiting:
                self._begin(self._waiting.popleft(), now)
            return self._run

    def _begin(self, request: Request, now: float) -> None:
        assert self._model is not None
        request.state = State.RUNNING
        request.started_at = now
        seed = self._rng.getrandbits(32) if request.params.seed is None else request.params.seed
        try:
            sampler = self._model.make_sampler(request.params, seed)
        except Exception as error:
            log.error("request %s: no sampler: %s: %s", request.id, type(error).__name__, error)
            self._end(request, Failed(_model_failed(), request.index))
            return
        self._run = Run(request, list(request.prompt_tokens), sampler, TextStream(request.params.stop))

    def _sweep(self, run: Run, now: float) -> None:
        if run.request.is_cancelled:
            self._free(run, Failed(ClientGone("the client went away"), run.request.index))
        elif now - run.request.submitted_at >= self._timeout_s:
            self._free(run, Failed(self._timed_out(), run.request.index))

    def _decode(self, run: Run) -> None:
        assert self._model is not None
        run.n_computed = self._compute(self._model, run.tokens, run.n_computed)

    def _compute(self, model: Model, tokens: list[int], start: int) -> int:
        """Decode the next batch of tokens from `start`; logits only for the last of all. Returns how far it came."""
        end = min(len(tokens), start + model.max_batch)
        model.decode([Entry(tokens[i], i, wants_logits=i == len(tokens) - 1) for i in range(start, end)])
        self._last_index = end - start - 1
        return end

    def _deliver(self, run: Run, token: int) -> None:
        """Turn one sampled token into text, and end the request if it is the last."""
        assert self._model is not None
        request = run.request
        if self._model.is_end(token):
            self._complete(run, FinishReason.STOP)
            return
        run.tokens.append(token)
        request.n_output_tokens += 1
        self._send(run, run.text.push(self._model.token_bytes(token)))
        if run.text.is_stopped:
            self._complete(run, FinishReason.STOP)
        elif request.n_output_tokens >= request.params.max_tokens or len(run.tokens) >= self._model.n_context:
            self._complete(run, FinishReason.LENGTH)

    def _send(self, run: Run, text: str) -> None:
        if text:
            if run.request.first_token_at is None:
                run.request.first_token_at = self._clock()
            run.request.deliver(Piece(text, index=run.request.index))

    def _complete(self, run: Run, reason: FinishReason) -> None:
        self._send(run, run.text.flush())
        self._free(
            run, Done(reason, len(run.request.prompt_tokens), run.request.n_output_tokens, index=run.request.index)
        )

    def _fail(self, run: Run, error: Exception) -> None:
        """A fault ends this request only; a fatal one, or too many in a row, ends the process."""
        log.error("request %s: %s: %s", run.request.id, type(error).__name__, error, exc_info=error)
        self._n_faults += 1
        self._free(run, Failed(_model_failed(), run.request.index))
        if isinstance(error, ModelFatal):
            raise error
        if self._n_faults >= MAX_FAULTS:
            raise ModelFatal(f"{self._n_faults} requests in a row failed") from error

    def _free(self, run: Run, event: Done | Failed) -> None:
        """Give back all that a running request holds, then tell its end."""
        assert self._model is not None
        with self._changed:
            run.sampler.close()
            self._model.forget(0)
            self._run = None
            self._mean_run_s += (self._clock() - (run.request.started_at or 0.0) - self._mean_run_s) / 8
            self._end(run.request, event)
            self._changed.notify_all()

    # Both

    def _end_all(self) -> None:
        with self._changed:
            left = [*self._waiting, *([self._run.request] if self._run else [])]
            self._waiting.clear()
            for request in left:
                stopped = Draining("this node stopped before the answer was complete", retry_after_s=5)
                self._end(request, Failed(stopped, request.index))

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"no complete answer within {self._timeout_s:g} s (LLM_REQUEST_TIMEOUT_S)")

    def _end(self, request: Request, event: Done | Failed) -> None:
        """The one place where requests end: one terminal event, one log line, never any text."""
        if not request.finish(event):
            return
        reason = event.reason.value if isinstance(event, Done) else str(event.error.code)
        now = self._clock()
        total_s = now - request.submitted_at
        queue_s = (request.started_at or now) - request.submitted_at
        ttft_s = None if request.first_token_at is None else request.first_token_at - request.submitted_at
        self._metrics.count_end(reason, len(request.prompt_tokens), request.n_output_tokens, queue_s, ttft_s, total_s)
        log.info(
            "request %s: prompt_tokens=%d cached_tokens=0 output_tokens=%d queue_ms=%d ttft_ms=%s total_ms=%d reason=%s",  # noqa: E501
            request.id,
            len(request.prompt_tokens),
            request.n_output_tokens,
            queue_s * 1e3,
            "-" if ttft_s is None else round(ttft_s * 1e3),
            total_s * 1e3,
            reason,
        )


def _model_failed() -> ServiceError:
    return ServiceError("the model failed on this request; other requests go on", code="model_failed")
