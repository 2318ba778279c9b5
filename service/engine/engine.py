"""The engine: the one thread that owns the model. Takes requests, lets them begin, steps, and ends each exactly once.

A running request has tokens, and its sequence knows how many of them are computed. Each step hands out rows so that
this number catches up; whoever has caught up gets a new token. There is no prefill phase and no decode phase.

What happens in a step is in `step`, what can be reused in `prefix`, what a step costs in `cost`, who may come in in
`admission`. Knows nothing of HTTP, JSON or llama.cpp.

Any thread may call submit, cancel, drain, stop and read the properties. load, step and close belong to the engine
thread (or to a test, which then needs no thread and no sleep).
"""

from __future__ import annotations

import enum
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat.prompt import Prompter
from ..errors import ClientGone, ConfigError, Draining, NotReady, ServiceError, TimedOut
from ..metrics import Metrics
from ..protocol import Chunk, Model
from ..request import Done, Failed, FinishReason, Progress, Request, SamplingParams, State, Timings
from . import cost, system_prompt
from .admission import Admission
from .calibration import Calibration
from .cost import StepCost
from .forecast import first_tokens_s
from .prefix import PrefixCache
from .retention import Retention
from .run import Lead, Run
from .step import Batch

log = logging.getLogger(__name__)

IDLE_S = 1.0  # how long the thread sleeps without work between two heartbeats
UNKNOWN_CELL_PRICE = 2e-4  # 2 us of attention to one cell / 10 ms per row: TinyLlama's shape, November 2026
TELL_S = 1.0  # between two words to a request on how far it is
RENEW_S = 60.0  # how often the system prompt is rendered anew
REST_S = 1.0  # how long nobody may have wanted anything before the machine is measured


class Phase(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Limits:
    """What the engine is allowed; the settings of the same names say what they mean. max_streams None: by
    measurement. measures: whether the machine is measured when idle."""

    max_streams: int | None = None
    max_queue: int = 32
    max_queue_tokens: int = 65536
    max_wait_s: float = 60
    timeout_s: float = 240
    step_s: float = 0.2
    speculates: bool = True
    measures: bool = True
    system_prompt: str = ""


class Engine:
    """load_model: makes the model, called in the engine thread. state_path: where something of a name is kept between
    starts, None for nowhere. on_ready, on_fatal, on_beat: called in the engine thread when the first token was
    generated, when it cannot go on, and after every step (with the clock's seconds)."""

    def __init__(
        self,
        load_model: Callable[[], Model],
        *,
        limits: Limits,
        metrics: Metrics,
        state_path: Callable[[str], Path | None] = lambda name: None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_fatal: Callable[[BaseException], None] = lambda error: None,
        on_beat: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._load_model = load_model
        self._limits = limits
        self._metrics = metrics
        self._state_path = state_path
        self._clock = clock
        self._rng = rng or random.Random()
        self._on_ready, self._on_fatal, self._on_beat = on_ready, on_fatal, on_beat

        self._model: Model | None = None
        self._prompter: Prompter | None = None
        self._cache: PrefixCache | None = None
        self._retention = Retention()
        self._calibration: Calibration | None = None  # while something is left to measure
        self._cost = StepCost(limits.step_s, 1)
        self._admission = Admission(limits.max_queue, limits.max_queue_tokens, limits.max_wait_s)
        self._max_streams = limits.max_streams or self._cost.choose_streams()
        self._phase = Phase.LOADING
        self._waiting: list[Request] = []
        self._put_back: list[Run] = []
        self._runs: list[Run] = []  # oldest first
        self._followers: dict[Request, Lead] = {}  # who waits for whose prefix
        self._busy_at = self._renewed_at = 0.0
        self._has_newcomers = False
        self._told_at = 0.0
        self._changed = threading.Condition()  # guards phase, waiting, put_back and runs
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

        metrics.watch("llm_requests_waiting", "Requests that wait", lambda: float(self.n_waiting))
        metrics.watch("llm_requests_running", "Requests that run", lambda: float(self.n_running))
        metrics.watch("llm_ready", "1 when a request would be taken", lambda: float(self.is_ready))
        metrics.watch("llm_max_streams", "Most requests that run at once", lambda: float(self._max_streams))
        metrics.watch("llm_kv_cache_tokens", "Tokens in the KV cache", lambda: float(self._n_cells_used()))
        metrics.watch(
            "llm_kv_cache_usage_ratio",
            "Share of the KV cache in use, kept prefixes included",
            lambda: self._n_cells_used() / self._cache.n_cells if self._cache else 0.0,
        )
        self._batch: Batch | None = None

    # Any thread

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def is_ready(self) -> bool:
        return self._phase is Phase.READY

    @property
    def n_waiting(self) -> int:
        return len(self._waiting) + len(self._put_back)

    @property
    def n_running(self) -> int:
        return len(self._runs)

    @property
    def max_streams(self) -> int:
        return self._max_streams

    @property
    def prices(self) -> dict[str, Any]:
        """What a step costs here, for whoever reads it: milliseconds by rows on the machine at rest, microseconds per
        row and attended cell (None: not measured), and how many times as much it is just now. Two digits: single steps
        of others are nobody's business."""
        cell_s = self._cost.cell_s
        return {
            "ms_by_rows": {str(rows): float(f"{seconds * 1e3:.2g}") for rows, seconds in self._cost.table.items()},
            "us_per_cell": None if cell_s is None else float(f"{cell_s * 1e6:.2g}"),
            "factor": round(self._cost.factor, 1),
            "goal_ms": round(self._limits.step_s * 1e3),
        }

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
            waiting = [*self._waiting, *requests]
            n_requests = (len(requests), self.n_waiting, self.n_running)
            n_tokens = sum(len(request.prompt_tokens) for request in waiting)
            predict_s = functools.partial(self._predict_last_s, waiting, len(requests))
            self._admission.check(*n_requests, self._max_streams, n_tokens, predict_s)
            for request in requests:
                request.submitted_at = self._clock()
                request.state = State.QUEUED
                request.siblings = requests
                self._waiting.append(request)
            self._has_newcomers = True
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
            return self._changed.wait_for(lambda: not (self._waiting or self._put_back or self._runs), timeout_s)

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

    def _n_cells_used(self) -> int:
        return self._batch.n_cells_used if self._batch else 0

    def _require_open(self) -> None:
        if self._phase is Phase.LOADING:
            raise NotReady("the model is still loading; ask again in a moment", retry_after_s=5)
        if self._phase is not Phase.READY:
            raise Draining("this node is shutting down; ask again", retry_after_s=5)

    def _predict_s(self, waiting: Iterable[Request]) -> list[float]:
        """Expected seconds until each of them has its first token; they begin in this order."""
        assert self._batch is not None
        running = [
            self._admission.expect_rest(run.n_gap, run.request.n_output_tokens, run.request.params.max_tokens)
            for run in list(self._runs)
            if run.sequence
        ]
        back = [self._admission.expect_rest(len(run.tokens), 0, run.n_left) for run in list(self._put_back)]
        new = [self._admission.expect(len(r.prompt_tokens), r.params.max_tokens) for r in waiting]
        found = first_tokens_s(self._batch.scheduler, running, [*back, *new], self._max_streams)
        return found[len(back) :]

    def _predict_last_s(self, waiting: Sequence[Request], n_new: int) -> tuple[float, float]:
        """Expected seconds until the last n_new of them have their first tokens, and what that would be without
        anybody else."""
        assert self._batch is not None
        own = [self._admission.expect(len(r.prompt_tokens), r.params.max_tokens) for r in waiting[-n_new:]]
        alone = first_tokens_s(self._batch.scheduler, [], own, self._max_streams)
        return max(self._predict_s(waiting)[-n_new:]), max(alone)

    # Engine thread: life

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
        self._model = model = self._load_model()
        self._prompter = Prompter(model)
        known = cost.load(self._state_path(cost.STATE_NAME))
        self._cost = StepCost(self._limits.step_s, model.max_batch, known)
        self._retention.cell_price = self._cell_price()
        self._cache = PrefixCache(
            model, model.n_sequences, model.n_cells, retention=self._retention, shares=model.shares
        )
        parts = (model, self._cache, self._cost, self._metrics, self._clock, self._runs)
        self._batch = Batch(*parts, self, speculates=self._limits.speculates)
        self._max_streams = self._choose_streams()
        loaded = self._clock()
        self._warm_up(model)
        self._pin_system_prompt()
        if self._limits.measures:
            self._calibration = Calibration(model, self._cache, self._cost, self._clock)
        self._busy_at = self._renewed_at = self._clock()
        with self._changed:
            if self._phase is Phase.LOADING:
                self._phase = Phase.READY
        log.info(
            "ready after %.2f s (load %.2f s, first token %.2f s): %s, context %d, cache %d tokens, %d streams",
            self._clock() - started,
            loaded - started,
            self._clock() - loaded,
            model.description,
            model.n_context,
            model.n_cells,
            self._max_streams,
        )
        self._on_ready()

    def close(self) -> None:
        """Fail everything that is left and free the model."""
        with self._changed:
            self._phase = Phase.STOPPED
            self._end_all()
            for run in (*self._runs, *self._put_back):
                run.close()
            self._runs.clear()
            self._put_back.clear()
            self._changed.notify_all()
        if self._model:
            self._model.close()

    def _warm_up(self, model: Model) -> None:
        """Every weight is touched and the whole way to a token is gone once."""
        assert self._cache is not None
        tokens = model.tokenize("Hello", add_special=True, parse_special=False)[: model.max_batch]
        sequence = self._cache.lend()
        assert sequence is not None
        model.decode([Chunk(sequence.id, 0, tokens, 1)])
        sampler = model.make_sampler(SamplingParams(max_tokens=1, temperature=0), 0, tokens)
        try:
            sampler.sample(len(tokens) - 1)
        finally:
            sampler.close()
            self._cache.drop(sequence)

    def _pin_system_prompt(self) -> None:
        assert self._model is not None and self._cache is not None and self._prompter is not None
        tokens = system_prompt.encode(self._prompter, self._limits.system_prompt)
        path = self._state_path(system_prompt.state_name(self._model.has_flash_attention))
        is_wanted = lambda: self._phase in (Phase.LOADING, Phase.READY)  # noqa: E731
        system_prompt.pin(self._model, self._cache, tokens, path, is_wanted)

    def _renew_system_prompt(self, now: float) -> None:
        """Some templates write the date: what was pinned yesterday, no chat begins with today."""
        assert self._cache is not None and self._prompter is not None
        if self._limits.system_prompt and now - self._renewed_at >= RENEW_S:
            self._renewed_at = now
            try:
                self._cache.keep(system_prompt.encode(self._prompter, self._limits.system_prompt))
            except ConfigError as error:
                log.warning("the system prompt stays as it is: %s", error)

    def _cell_price(self) -> float:
        """What a kept cell costs the rows of others. Unmeasured it counts as on 2 cores of an x86-64 Xeon."""
        assert self._model is not None
        if self._model.has_flash_attention:
            return 0.0
        return self._cost.cell_price if self._cost.is_measured else UNKNOWN_CELL_PRICE

    def _choose_streams(self) -> int:
        assert self._model is not None
        limit = min(self._model.n_sequences, self._model.max_batch) // 2  # as much again for prompts and for the cache
        return min(self._limits.max_streams or self._cost.choose_streams(), limit)

    # Engine thread: the step

    def step(self, idle_s: float = IDLE_S) -> None:
        """Intake -> schedule -> decode -> sample -> deliver. Without work it measures this machine, or sleeps."""
        self._intake(idle_s)
        started = self._clock()
        self._renew_system_prompt(started)
        plan = self._batch.schedule() if self._batch else []
        if self._batch and plan:
            self._batch.compute(plan)
            self._busy_at = self._clock()
            self._metrics.step_s.observe(self._busy_at - started)
        elif self._wants_measuring:
            self._measure()
        self._on_beat(self._clock())

    def _intake(self, idle_s: float) -> None:
        """Sweep out what nobody waits for any more; let in what can begin."""
        with self._changed:
            is_idle = not (self._waiting or self._put_back or self._runs) and self._phase is not Phase.STOPPED
            if is_idle and not self._wants_measuring:
                self._changed.wait(idle_s)
            now = self._clock()
            for run in (*self._runs, *self._put_back):
                if run.request.is_cancelled:
                    self._free(run, Failed(ClientGone("the client went away"), run.request.index))
            self._end_late(now)
            self._begin_all(now)
            self._tell_waiting(now)

    def _end_late(self, now: float) -> None:
        """At its deadline an answer is what there is of it. Only one that has no text in any of its choices fails."""
        waiting = [request for request in self._waiting if self._is_late(request, now)]
        runs = [run for run in (*self._runs, *self._put_back) if self._is_late(run.request, now)]
        for run in runs:
            run.flush()
        for request in waiting:
            self._waiting.remove(request)
            if request.has_answer:
                self._end(request, Done(FinishReason.LENGTH, len(request.prompt_tokens), 0, index=request.index))
            else:
                self._end(request, Failed(self._timed_out(), request.index))
        for run in runs:
            if run.request.has_answer:
                self.complete(run, FinishReason.LENGTH)
            else:
                self._free(run, Failed(self._timed_out(), run.request.index))

    def _is_late(self, request: Request, now: float) -> bool:
        return now - request.submitted_at >= self._limits.timeout_s

    @property
    def _wants_measuring(self) -> bool:
        is_resting = self.is_ready and not self.n_waiting and self._clock() - self._busy_at >= REST_S
        return is_resting and self._calibration is not None and self._calibration.can_go_on()

    def _begin_all(self, now: float) -> None:
        for run in list(self._put_back):
            if not self._place(run):
                return
            self._put_back.remove(run)
        self._followers = {r: held for r, held in self._followers.items() if r.state is State.QUEUED}
        for request in list(self._waiting):
            if len(self._runs) >= self._max_streams or not self._begin(request, now):
                return

    def _begin(self, request: Request, now: float) -> bool:
        """Start a waiting request. False: there is no room, so none behind it can start either."""
        assert self._model is not None
        lead = self._followers.get(request)
        if lead and lead.is_coming:
            return True
        run = Run.of(request)
        if not self._place(run):
            return request in self._followers
        self._waiting.remove(request)
        request.state = State.RUNNING
        request.started_at = run.last_token_at = now
        assert run.sequence is not None
        request.n_reused_tokens, request.n_cached_tokens = run.sequence.n_computed, run.n_told
        self._admission.observe_start(len(request.prompt_tokens), request.n_reused_tokens)
        self._metrics.prompt_tokens.inc(len(request.prompt_tokens))
        self._metrics.cached_tokens.inc(request.n_reused_tokens)
        seed = self._rng.getrandbits(32) if request.params.seed is None else request.params.seed
        try:
            run.sampler = self._model.make_sampler(request.params, seed, request.prompt_tokens)
        except Exception as error:
            log.error("request %s: no sampler: %s: %s", request.id, type(error).__name__, error)
            self._free(run, Failed(_model_failed(), request.index))
        return True

    def _place(self, run: Run) -> bool:
        """Give a run a sequence that begins with the longest computed prefix, unless somebody is about to compute a
        longer one, or there is no room for all of its tokens now."""
        assert self._cache is not None
        request = run.request
        match = self._cache.match(run.tokens, request.namespace, request.client)
        if match.leader:
            self._followers[request] = Lead(match.leader, match.leader.tokens, match.n_leader)
            return False
        self._followers.pop(request, None)
        n_claimed = sum(other.n_gap for other in self._runs) + len(self._runs)
        n_used = self._cache.count_cells(is_evictable_free=True)
        is_counted = match.source and (match.source.is_busy or match.source.is_pinned)
        n_new = len(run.tokens) + 1 - (match.n if is_counted else 0)
        if self._runs and n_used + n_claimed + n_new > self._cache.n_cells:
            return False
        run.sequence = self._cache.open(run.tokens, match, request.namespace, request.client)
        if run.sequence is None:
            return False
        run.n_told = match.n_told
        self._runs.append(run)
        return True

    # Engine thread: what the step asks of its owner

    def complete(self, run: Run, reason: FinishReason) -> None:
        run.flush()
        request, now = run.request, self._clock()
        started, first = request.started_at or now, request.first_token_at or now
        timings = Timings(started - request.submitted_at, first - started, now - first)
        n_prompt, n_output, n_cached = len(request.prompt_tokens), request.n_output_tokens, request.n_cached_tokens
        self._free(run, Done(reason, n_prompt, n_output, n_cached, timings, request.index))

    def fail(self, run: Run) -> None:
        self._free(run, Failed(_model_failed(), run.request.index), is_kept=False)

    def report(self, run: Run) -> None:
        """What others had computed is not told, so it is as if the request had begun with its own alone."""
        assert run.sequence is not None
        request = run.request
        n_computed = run.sequence.n_computed - (request.n_reused_tokens - request.n_cached_tokens)
        n_computed = max(n_computed, request.n_cached_tokens)
        wait_s = (len(request.prompt_tokens) - n_computed) * (self._cost.row_s() or 0.0)
        self._tell(request, 0, wait_s, n_computed)

    def put_back_youngest(self) -> None:
        """The cache is full of running requests: the one that began last starts again when there is room."""
        assert self._cache is not None
        if len(self._runs) == 1:
            log.error("request %s: alone, and has no room in the cache", self._runs[0].request.id)
            self.fail(self._runs[0])
            return
        with self._changed:
            run = self._runs.pop()
            assert run.sequence is not None
            self._cache.retire(run.sequence)
            run.sequence, run.draft = None, []
            self._put_back.insert(0, run)
            self._metrics.preemptions.inc()

    def _free(self, run: Run, event: Done | Failed, *, is_kept: bool = True) -> None:
        """Give back all that a run holds, keep what it computed as cache, then tell its end."""
        assert self._cache is not None
        with self._changed:
            run.close()
            if run in self._runs:
                self._runs.remove(run)
            if run in self._put_back:
                self._put_back.remove(run)
            if run.sequence and is_kept:
                self._cache.retire(run.sequence)
            elif run.sequence:
                self._cache.drop(run.sequence)
            if isinstance(event, Done):
                self._admission.observe_end(
                    self._clock() - (run.request.started_at or 0.0), run.request.n_output_tokens
                )
            self._end(run.request, event)
            self._changed.notify_all()

    def _measure(self) -> None:
        """Nobody waits: one step of learning about this machine. What is found is kept at once."""
        assert self._calibration is not None and self._model is not None
        if not self._calibration.step():
            return
        found = cost.Measured(self._cost.points, self._cost.cell_s, self._model.has_flash_attention)
        cost.save(self._state_path(cost.STATE_NAME), found)
        if self._calibration.has_all:
            self._max_streams = self._choose_streams()
            self._retention.cell_price = self._cell_price()
            kind = "flash" if self._model.has_flash_attention else "plain"
            log.info("steps measured: %s; %s attention, %d streams", self._cost, kind, self._max_streams)
        if self._calibration.is_done:
            self._calibration.close()
            self._calibration = None

    # Engine thread: telling

    def _tell_waiting(self, now: float) -> None:
        """Looks at the queue once per TELL_S, and when somebody has come: not in every step. Who could begin but for
        another's prefix is told nothing: that there is such another is not its business."""
        if not self._has_newcomers and now - self._told_at < TELL_S:
            return
        self._has_newcomers, self._told_at = False, now
        first_s = self._predict_s(self._waiting) if any(r.wants_progress for r in self._waiting) else []
        for place, request in enumerate(self._waiting, 1):
            is_free = len(self._runs) < self._max_streams and request in self._followers
            if request.wants_progress and not is_free:
                self._tell(request, place, first_s[place - 1], 0)

    def _tell(self, request: Request, place: int, wait_s: float, n_computed: int) -> None:
        """On change, and at most once per TELL_S: each event wakes a thread, and that one takes the interpreter."""
        now, what = self._clock(), (place, round(wait_s), n_computed)
        if request.told is None or (what != request.told[1:] and now - request.told[0] >= TELL_S):
            request.told = (now, *what)
            request.deliver(Progress(place, wait_s, n_computed, request.n_cached_tokens, request.index))

    # Both

    def _end_all(self) -> None:
        with self._changed:
            left = [*self._waiting, *(run.request for run in (*self._runs, *self._put_back))]
            self._waiting.clear()
            for request in left:
                stopped = Draining("this node stopped before the answer was complete", retry_after_s=5)
                self._end(request, Failed(stopped, request.index))

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"no complete answer within {self._limits.timeout_s:g} s (LLM_REQUEST_TIMEOUT_S)")

    def _end(self, request: Request, event: Done | Failed) -> None:
        """The one place where requests end: one terminal event, one log line, never any text."""
        if not request.finish(event):
            return
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


def _model_failed() -> ServiceError:
    return ServiceError("the model failed on this request; other requests go on", code="model_failed")
