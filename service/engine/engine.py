"""The engine: the one thread that owns the model. Lets requests begin, steps, and ends each exactly once.

A running request has tokens, and its sequence knows how many of them are computed. Each step hands out rows so that
this number catches up; whoever has caught up gets a new token. There is no prefill phase and no decode phase.

Who waits and runs is in `request_queue`, who may come in in `admission`, what happens in a step in `step`, what can be
reused in `prefix`, what a step costs in `cost`. Knows nothing of HTTP, JSON or llama.cpp.

Any thread may call submit, cancel, drain, stop and read the properties. load, step and close belong to the engine
thread (or to a test, which then needs no thread and no sleep).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat.constraint import Constrainer
from ..chat.prompt import Prompter
from ..errors import ClientGone, ConfigError, ServiceError, TimedOut
from ..log import describe
from ..metrics import Metrics
from ..protocol import Chunk, Model
from ..request import Done, Failed, FinishReason, Request, SamplingParams, State, Timings
from . import cost, system_prompt
from .admission import Admission
from .calibration import Calibration
from .cost import StepCost
from .fairness import find_yielding
from .prefix import PrefixCache
from .pulse import Pulse
from .request_queue import Phase, RequestQueue
from .retention import Retention
from .run import Lead, Run
from .scheduler import Scheduler
from .step import Batch
from .teller import Teller

log = logging.getLogger(__name__)

IDLE_S = 1.0  # how long the thread sleeps without work between two heartbeats
UNKNOWN_CELL_PRICE = 2e-4  # 2 us of attention to one cell / 10 ms per row: TinyLlama's shape, November 2026
RENEW_S = 60.0  # how often the system prompt is rendered anew
REST_S = 1.0  # how long nobody may have wanted anything before the machine is measured


STUCK = "stuck"


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
        self._constrainer: Constrainer | None = None
        self._cache: PrefixCache | None = None
        self._retention = Retention()
        self._calibration: Calibration | None = None  # while something is left to measure
        self._cost = StepCost(limits.step_s, 1)
        self._admission = Admission(limits.max_queue, limits.max_queue_tokens, limits.max_wait_s)
        self._queue = queue = RequestQueue(
            self._admission,
            metrics,
            clock,
            max_streams=limits.max_streams or self._cost.choose_streams(),
            scheduler=lambda: self._batch.scheduler if self._batch else Scheduler(self._cost, 1),
        )
        self._teller = Teller(queue, clock)
        self._followers: dict[Request, Lead] = {}  # who waits for whose prefix
        self._busy_at = self._renewed_at = 0.0
        self._pulse = Pulse(clock, lambda: self._cost.dearest_s())
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

        metrics.watch("llm_requests_waiting", "Requests that wait", lambda: float(self.n_waiting))
        metrics.watch("llm_requests_running", "Requests that run", lambda: float(self.n_running))
        metrics.watch("llm_ready", "1 when a request would be taken and computed", lambda: float(self.is_ready))
        metrics.watch(
            "llm_engine_stuck", "1 when the engine's thread does not beat", lambda: float(self.state == STUCK)
        )
        metrics.watch("llm_max_streams", "Most requests that run at once", lambda: float(self.max_streams))
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
        return self._queue.phase

    @property
    def state(self) -> str:
        """The phase, or `stuck`: ready, but its thread has not beaten for longer than any step takes."""
        return STUCK if self.phase is Phase.READY and not self._pulse.is_felt else self.phase.value

    @property
    def is_ready(self) -> bool:
        return self.state == Phase.READY.value

    @property
    def n_waiting(self) -> int:
        return self._queue.n_waiting

    @property
    def n_running(self) -> int:
        return len(self._queue.runs)

    @property
    def max_streams(self) -> int:
        return self._queue.max_streams

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
        self._queue.require_open()
        assert self._model is not None
        return self._model

    @property
    def prompter(self) -> Prompter:
        self._queue.require_open()
        assert self._prompter is not None
        return self._prompter

    @property
    def constrainer(self) -> Constrainer:
        self._queue.require_open()
        assert self._constrainer is not None
        return self._constrainer

    def start(self) -> None:
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept all or none: from here on each ends in exactly one terminal event. Raises Unavailable instead."""
        self._queue.submit(requests)

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more. Ends a waiting request at once and a running one after its current step."""
        self._queue.cancel(request)

    def drain(self) -> None:
        """Take nothing new; what was accepted goes on."""
        self._queue.enter(Phase.DRAINING)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing waits or runs. Returns False if the time was too short."""
        return self._queue.wait_idle(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; what still waits or runs fails, even if that step never ends.

        Returns whether the thread ended in time.
        """
        self._queue.enter(Phase.STOPPED)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._queue.end_all()
        return not self._thread.is_alive()

    def _n_cells_used(self) -> int:
        return self._batch.n_cells_used if self._batch else 0

    # Engine thread: life

    def _live(self) -> None:
        try:
            self.load()
            while self._queue.phase is not Phase.STOPPED:
                self.step()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            log.critical("the engine cannot go on: %s", describe(error))
            self._on_fatal(error)
        finally:
            self.close()

    def load(self) -> None:
        """Load the model and generate one token: only then is the node ready."""
        started = self._clock()
        self._model = model = self._load_model()
        self._prompter = Prompter(model)
        self._constrainer = Constrainer(model)
        known = cost.load(self._state_path(cost.STATE_NAME))
        self._cost = StepCost(self._limits.step_s, model.max_batch, known)
        self._retention.cell_price = self._cell_price()
        self._cache = PrefixCache(
            model, model.n_sequences, model.n_cells, retention=self._retention, shares=model.shares
        )
        parts = (model, self._cache, self._cost, self._metrics, self._clock, self._queue.runs)
        self._batch = Batch(*parts, self, speculates=self._limits.speculates)
        self._queue.max_streams = self._choose_streams()
        loaded = self._clock()
        self._warm_up(model)
        self._pin_system_prompt()
        if self._limits.measures:
            self._calibration = Calibration(model, self._cache, self._cost, self._clock)
        self._busy_at = self._renewed_at = self._clock()
        self._pulse.beat()
        self._queue.enter(Phase.READY)
        log.info(
            "ready after %.2f s (load %.2f s, first token %.2f s): %s, context %d, cache %d tokens, %d streams",
            self._clock() - started,
            loaded - started,
            self._clock() - loaded,
            model.description,
            model.n_context,
            model.n_cells,
            self._queue.max_streams,
        )
        self._on_ready()

    def close(self) -> None:
        """Fail everything that is left and free the model."""
        with self._queue.changed:
            self._queue.enter(Phase.STOPPED)
            self._queue.end_all()
            for run in (*self._queue.runs, *self._queue.put_back):
                run.close()
                self._queue.leave(run)
        if self._constrainer:
            self._constrainer.close()
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
        is_wanted = lambda: self._queue.phase in (Phase.LOADING, Phase.READY)  # noqa: E731
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
        self._pulse.beat()
        self._on_beat(self._clock())

    def _intake(self, idle_s: float) -> None:
        """Sweep out what nobody waits for any more; let in what can begin."""
        with self._queue.changed:
            is_idle = self._queue.is_empty and self.phase is not Phase.STOPPED
            if is_idle and not self._wants_measuring:
                self._queue.changed.wait(idle_s)
            now = self._clock()
            for run in (*self._queue.runs, *self._queue.put_back):
                if run.request.is_cancelled:
                    self._free(run, Failed(ClientGone("the client went away"), run.request.index))
            self._end_late(now)
            self._begin_all(now)
            self._teller.tell_waiting(self._followers)

    def _end_late(self, now: float) -> None:
        """At its deadline an answer is what there is of it. Only one that has no text in any of its choices fails."""
        waiting = [request for request in self._queue.waiting if self._is_late(request, now)]
        runs = [run for run in (*self._queue.runs, *self._queue.put_back) if self._is_late(run.request, now)]
        for run in runs:
            run.flush()
        for request in waiting:
            self._queue.waiting.remove(request)
            if request.has_answer:
                self._queue.end(request, Done(FinishReason.LENGTH, len(request.prompt_tokens), 0, index=request.index))
            else:
                self._queue.end(request, Failed(self._timed_out(), request.index))
        for run in runs:
            if run.request.has_answer:
                self.complete(run, FinishReason.LENGTH)
            else:
                self._free(run, Failed(self._timed_out(), run.request.index))

    def _is_late(self, request: Request, now: float) -> bool:
        return now - request.submitted_at >= self._limits.timeout_s

    @property
    def _wants_measuring(self) -> bool:
        is_resting = self.phase is Phase.READY and not self.n_waiting and self._clock() - self._busy_at >= REST_S
        return is_resting and self._calibration is not None and self._calibration.can_go_on()

    def _begin_all(self, now: float) -> None:
        """In the order of fairness; of one client first what was put back. Who has no room blocks those behind, or many
        short ones would keep a long one out for ever."""
        queue = self._queue
        self._followers = {r: held for r, held in self._followers.items() if r.state is State.QUEUED}
        put_back = {run.request: run for run in queue.put_back}
        ordered = queue.fairness.order([*put_back, *queue.waiting], [run.request for run in queue.runs])
        queue.waiting[:] = [request for request in ordered if request not in put_back]
        for request in ordered:
            if len(queue.runs) >= queue.max_streams and not self._make_way(request):
                return
            if not (self._resume(put_back[request]) if request in put_back else self._begin(request, now)):
                return

    def _make_way(self, request: Request) -> bool:
        """All places are taken, and nothing of this client runs: the youngest of who has most of them is put back."""
        lead, runs = self._followers.get(request), self._queue.runs
        yielding = find_yielding([run.request for run in runs], request.client)
        if yielding is None or (lead and lead.is_coming):
            return False
        self._set_aside(next(run for run in runs if run.request is yielding))
        return True

    def _resume(self, run: Run) -> bool:
        if not self._place(run):
            return False
        self._queue.put_back.remove(run)
        return True

    def _begin(self, request: Request, now: float) -> bool:
        """Start a waiting request. False: there is no room, so none behind it can start either."""
        assert self._model is not None
        lead = self._followers.get(request)
        if lead and lead.is_coming:
            return True
        run = Run.of(request)
        if not self._place(run):
            return request in self._followers
        self._queue.waiting.remove(request)
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
            log.error("request %s: no sampler: %s", request.id, describe(error))
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
        n_claimed = sum(other.n_gap for other in self._queue.runs) + len(self._queue.runs)
        n_used = self._cache.count_cells(is_evictable_free=True)
        is_counted = match.source and (match.source.is_busy or match.source.is_pinned)
        n_new = len(run.tokens) + 1 - (match.n if is_counted else 0)
        if self._queue.runs and n_used + n_claimed + n_new > self._cache.n_cells:
            return False
        run.sequence = self._cache.open(run.tokens, match, request.namespace, request.client)
        if run.sequence is None:
            return False
        run.n_told = match.n_told
        self._queue.runs.append(run)
        return True

    # Engine thread: what the step asks of its owner

    def complete(self, run: Run, reason: FinishReason) -> None:
        run.flush()
        request, now = run.request, self._clock()
        started, first = request.started_at or now, request.first_token_at or now
        timings = Timings(started - request.submitted_at, first - started, now - first)
        n_prompt, n_output, n_cached = len(request.prompt_tokens), request.n_output_tokens, request.n_cached_tokens
        self._free(run, Done(reason, n_prompt, n_output, n_cached, timings, request.index))

    def fail(self, run: Run, error: ServiceError | None = None) -> None:
        self._free(run, Failed(error or _model_failed(), run.request.index), is_kept=False)

    def report(self, run: Run) -> None:
        self._teller.tell_running(run, self._cost.row_s() or 0.0)

    def put_back_youngest(self) -> None:
        """The cache is full of running requests: the one that began last starts again when there is room."""
        if len(self._queue.runs) == 1:
            log.error("request %s: alone, and has no room in the cache", self._queue.runs[0].request.id)
            self.fail(self._queue.runs[0])
            return
        self._set_aside(self._queue.runs[-1])

    def _set_aside(self, run: Run) -> None:
        """What it computed stays as cache, as long as there is room, and it goes on when its turn comes."""
        assert self._cache is not None and run.sequence is not None
        with self._queue.changed:
            self._queue.runs.remove(run)
            self._cache.retire(run.sequence)
            run.sequence, run.draft = None, []
            self._queue.put_back.insert(0, run)
            self._metrics.preemptions.inc()

    def _free(self, run: Run, event: Done | Failed, *, is_kept: bool = True) -> None:
        """Give back all that a run holds, keep what it computed as cache, then tell its end."""
        assert self._cache is not None
        with self._queue.changed:
            run.close()
            self._queue.leave(run)
            if run.sequence and is_kept:
                self._cache.retire(run.sequence)
            elif run.sequence:
                self._cache.drop(run.sequence)
            if isinstance(event, Done):
                run_s = self._clock() - (run.request.started_at or 0.0)
                self._admission.observe_end(run_s, run.request.n_output_tokens)
            self._queue.end(run.request, event)
            self._queue.changed.notify_all()

    def _measure(self) -> None:
        """Nobody waits: one step of learning about this machine. What is found is kept at once."""
        assert self._calibration is not None and self._model is not None
        if not self._calibration.step():
            return
        found = cost.Measured(self._cost.points, self._cost.cell_s, self._model.has_flash_attention)
        cost.save(self._state_path(cost.STATE_NAME), found)
        if self._calibration.has_all:
            self._queue.max_streams = self._choose_streams()
            self._retention.cell_price = self._cell_price()
            kind = "flash" if self._model.has_flash_attention else "plain"
            log.info("steps measured: %s; %s attention, %d streams", self._cost, kind, self._queue.max_streams)
        if self._calibration.is_done:
            self._calibration.close()
            self._calibration = None

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"no complete answer within {self._limits.timeout_s:g} s (LLM_REQUEST_TIMEOUT_S)")


def _model_failed() -> ServiceError:
    return ServiceError("the model failed on this request; other requests go on", code="model_failed")
