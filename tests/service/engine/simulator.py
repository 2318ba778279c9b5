"""The engine's schedule against a machine of given prices, in virtual time: the judge of cost, scheduler, forecast and
admission together.

Machine says what a step takes; Simulation lets requests arrive, be admitted, begin, be planned and be computed, as
Engine and Batch do, without model, cache, text or threads. One thing is left out: prefixes that are computed already.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from service.engine.admission import Admission
from service.engine.cost import GRID, Measured, StepCost
from service.engine.forecast import first_tokens_s
from service.engine.scheduler import Scheduler
from service.errors import QueueFull

# Seconds by rows. AVX2: an EPYC 7003, two cores, as issue 16 tells it (one row 72 ms; 8, 16 and 512 rows at 59, 77 and
# 83 rows/s), whole tiles of 16 and 8 between. VNNI: a Xeon with Q4_0 (63, 36 and 35 ms; 206 and 300 rows/s). ARM: four
# cores and tiles of four, about as estimated for Q4_K.
AVX2 = {
    **{1: 0.072, 2: 0.080, 4: 0.090, 8: 0.136, 12: 0.190, 16: 0.208, 24: 0.342, 32: 0.405, 48: 0.60},
    **{64: 0.80, 96: 1.18, 128: 1.57, 192: 2.34, 256: 3.10},
}
VNNI = {
    **{1: 0.036, 2: 0.036, 4: 0.035, 8: 0.039, 12: 0.055, 16: 0.066, 24: 0.085, 32: 0.107, 48: 0.155},
    **{64: 0.205, 96: 0.305, 128: 0.40, 192: 0.60, 256: 0.79},
}
ARM = {rows: 0.020 + 0.0145 * (-(-rows // 4) * 4) for rows in GRID}
SLOW = {rows: 0.45 + 0.13 * (-(-rows // 2) * 2) for rows in GRID}
TABLES: Mapping[str, Mapping[int, float]] = {"avx2": AVX2, "vnni": VNNI, "arm": ARM, "slow": SLOW}


@dataclass
class Machine:
    """table: seconds by rows; a number between takes what the next takes. noise: standard deviation of a step's time.
    load: how many times as slow it is at a time."""

    table: Mapping[int, float]
    noise: float = 0.0
    load: Callable[[float], float] = lambda now: 1.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def seconds(self, rows: int) -> float:
        sizes = sorted(self.table)
        return self.table[sizes[bisect_left(sizes, rows)]]

    def step_s(self, rows: int, now: float) -> float:
        return self.seconds(rows) * self.load(now) * max(self.rng.gauss(1, self.noise), 0.5)


@dataclass(eq=False)
class Job:
    """One request. first_at, ended_at: None until then. predicted_s: what admission expected of its first token."""

    n_prompt: int
    n_output: int
    max_tokens: int
    arrived_at: float = 0.0
    n_computed: int = 0
    n_said: int = 0
    first_at: float | None = None
    ended_at: float | None = None
    predicted_s: float = 0.0

    @property
    def n_gap(self) -> int:
        return self.n_prompt + self.n_said - self.n_computed


@dataclass(frozen=True)
class Step:
    rows: int
    n_streams: int  # that waited
    n_prompt_rows: int
    has_prompts: bool
    seconds: float
    at: float


class Simulation:
    def __init__(
        self,
        machine: Machine,
        *,
        goal_s: float = 0.35,
        known: Mapping[int, float] | None = None,
        max_streams: int = 16,
        max_queue: int = 32,
        max_wait_s: float = 8.0,
        max_rows: int = 256,
    ) -> None:
        moments = {rows: [seconds] for rows, seconds in (known or {}).items()}
        self.machine = machine
        self.cost = StepCost(goal_s, max_rows, Measured(moments, 0.0 if moments else None))
        self.scheduler = Scheduler(self.cost, max_rows)
        self.admission = Admission(max_queue, 1 << 30, max_wait_s)
        self.max_streams = max_streams
        self.now = 0.0
        self.running: list[Job] = []
        self.waiting: list[Job] = []
        self.done: list[Job] = []
        self.n_refused = 0
        self.steps: list[Step] = []
        self._began: dict[Job, float] = {}

    def submit(self, n_prompt: int, n_output: int, max_tokens: int | None = None) -> Job | None:
        """None: refused."""
        job = Job(n_prompt, n_output, max_tokens or n_output, self.now)

        def predict_s() -> tuple[float, float]:
            own = self.admission.expect(job.n_prompt, job.max_tokens)
            job.predicted_s = self.predict_s([*self.waiting, job])[-1]
            return job.predicted_s, first_tokens_s(self.scheduler, [], [own], self.max_streams)[0]

        n_requests = (1, len(self.waiting), len(self.running))
        try:
            self.admission.check(*n_requests, self.max_streams, 0, predict_s)
        except QueueFull:
            self.n_refused += 1
            return None
        self.waiting.append(job)
        return job

    def predict_s(self, waiting: Sequence[Job]) -> list[float]:
        running = [self.admission.expect_rest(job.n_gap, job.n_said, job.max_tokens) for job in self.running]
        new = [self.admission.expect(job.n_prompt, job.max_tokens) for job in waiting]
        return first_tokens_s(self.scheduler, running, new, self.max_streams)

    def step(self) -> list[Job]:
        """Begin, plan, compute. Returns who has ended."""
        while self.waiting and len(self.running) < self.max_streams:
            job = self.waiting.pop(0)
            self.running.append(job)
            self._began[job] = self.now
            self.admission.observe_start(job.n_prompt, 0)
        gaps = [job.n_gap for job in self.running]
        rows = self.scheduler.plan(gaps)
        n_rows = sum(rows)
        seconds = self.machine.step_s(n_rows, self.now)
        n_prompt_rows = sum(n for n, gap in zip(rows, gaps, strict=True) if gap > 1)
        has_prompts = any(gap > 1 for gap in gaps)
        self.steps.append(Step(n_rows, gaps.count(1), n_prompt_rows, has_prompts, seconds, self.now))
        self.now += seconds
        self.cost.observe(n_rows, seconds)
        ended = []
        for job, n in zip(list(self.running), rows, strict=True):
            job.n_computed += n
            if n and not job.n_gap:
                job.n_said += 1
                job.first_at = job.first_at or self.now
                if job.n_said == job.n_output:
                    job.ended_at = self.now
                    self.running.remove(job)
                    self.admission.observe_end(self.now - self._began[job], job.n_said)
                    ended.append(job)
        self.done += ended
        return ended

    def run_closed(self, jobs: Sequence[tuple[int, int]], n_clients: int) -> float:
        """So many clients ask one after the other. Returns the seconds."""
        left = list(jobs)
        for job in left[:n_clients]:
            self.submit(*job)
        del left[:n_clients]
        while self.running or self.waiting:
            for _ in self.step():
                if left:
                    self.submit(*left.pop(0))
        return self.now

    def run_open(self, draw: Callable[[], tuple[int, int, int]], per_s: float, seconds: float) -> None:
        """Requests of the sizes that `draw` gives arrive at a rate, whatever happens to others; then all end."""
        gaps = self.machine.rng
        next_at = gaps.expovariate(per_s)
        while next_at < seconds or self.running or self.waiting:
            while next_at <= self.now and next_at < seconds:
                arrived_at, now = next_at, self.now
                job = self.submit(*draw())
                if job:
                    job.arrived_at = min(arrived_at, now)
                next_at += gaps.expovariate(per_s)
            if self.running or self.waiting:
                self.step()
            elif next_at < seconds:
                self.now = max(self.now, next_at)

    def start_anew(self) -> None:
        """Time begins again, and what was learnt stays."""
        self.now = 0.0
        self.done, self.steps, self.n_refused = [], [], 0

    def goodput(self, seconds: float, max_ttft_s: float = 10.0, max_tpot_s: float = 0.5) -> float:
        """Tokens per second of the answers within the service level (tests/bench/workloads.py)."""
        good = 0
        for job in self.done:
            assert job.first_at is not None and job.ended_at is not None
            is_first_in_time = job.first_at - job.arrived_at <= max_ttft_s
            if is_first_in_time and job.ended_at - job.first_at <= max_tpot_s * max(job.n_said - 1, 1):
                good += job.n_said
        return good / seconds
