"""The step: who gets how many rows, one decode for all of them, and a new token for whoever has caught up.

If a decode fails, each part of it is computed alone, so that one fault ends one request. Knows the runs, the cache, the
price table and the model. Knows nothing of queues, locks or how requests come and go: for that it calls its owner.
Belongs to the engine thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from ..errors import ModelFatal, NoRoom, ServiceError
from ..log import describe
from ..metrics import Metrics
from ..protocol import Chunk, Model
from ..request import FinishReason
from . import lookup
from .cost import StepCost
from .prefix import PrefixCache
from .run import Run
from .scheduler import Scheduler

log = logging.getLogger(__name__)

MAX_FAULTS = 3  # requests in a row that the model fails before the process gives up on it

Plan = list[tuple[Run, int]]  # rows of each run


class Owner(Protocol):
    """Each of them may take runs out of the list that the batch was given."""

    def complete(self, run: Run, reason: FinishReason) -> None:
        """Its answer is complete."""

    def fail(self, run: Run, error: ServiceError | None = None) -> None:
        """It cannot go on: by an error of its own, or because the model failed on it. What it computed cannot be
        trusted."""

    def put_back_youngest(self) -> None:
        """The cache is full of running requests. One that is alone and has no room fails."""

    def report(self, run: Run) -> None:
        """A part of its prompt was computed, and it asked to be told now and then."""


class Batch:
    """runs: oldest first; the list belongs to the owner and changes between and within steps."""

    def __init__(
        self,
        model: Model,
        cache: PrefixCache,
        cost: StepCost,
        metrics: Metrics,
        clock: Callable[[], float],
        runs: list[Run],
        owner: Owner,
        *,
        speculates: bool,
    ) -> None:
        self._model, self._cache, self._cost = model, cache, cost
        self._metrics, self._clock = metrics, clock
        self._runs, self._owner = runs, owner
        self._speculates = speculates and model.shares  # without, a wrong guess would cost the whole sequence
        self.scheduler = Scheduler(cost, model.max_batch)
        self._n_faults = 0
        self.n_cells_used = 0

    def schedule(self) -> Plan:
        """Who gets how many rows, with room in the cache made for all of them."""
        while self._runs:
            gaps = [run.n_gap for run in self._runs]
            rows = self.scheduler.plan(gaps, self._count_attended())
            if self._cache.make_room(sum(rows), is_last=len(self._runs) == 1):
                plan = [(run, self._cut(run, n)) for run, n in zip(self._runs, rows, strict=True) if n]
                return self._guess(plan) if self._speculates else plan
            self._owner.put_back_youngest()
        return []

    def _count_attended(self) -> int:
        """Cells that a row of the next step reads: all in use, or its own: as the longest prompt, which gets most rows,
        or as all on average if that is more."""
        if not self._model.has_flash_attention:
            return self.n_cells_used
        own = [(run.sequence.n_computed, run.n_gap) for run in self._runs if run.sequence]
        return max([sum(n for n, _ in own) // len(own), *(n for n, gap in own if gap > 1)])

    def _cut(self, run: Run, n: int) -> int:
        """With a seed, the same request must give the same text again. Then its prompt is in the cache, and only its
        last token is computed, by kernels whose last bits differ from those for many rows: so it is always alone."""
        return n - 1 if run.request.params.seed is not None and n == run.n_gap > 1 else n

    def _guess(self, plan: Plan) -> Plan:
        """Add guessed tokens to streams where that has paid; a guess takes rows behind the stream's own."""
        if len(plan) > lookup.MAX_STREAMS or any(run.n_gap > 1 for run, _ in plan):
            return plan
        guessed = []
        for run, n in plan:
            room = min(self._model.n_context - len(run.tokens), run.n_left) - 1
            is_free = run.request.params.seed is None  # guesses change the last bits too
            size = run.guess.choose_size(self._cost, len(plan), room) if is_free else 0
            draft = lookup.find(run.tokens, size) if size else []
            run.draft = draft if self._cache.make_room(len(plan) * (1 + len(draft))) else []
            guessed.append((run, n + len(run.draft)))
        return guessed

    def compute(self, plan: Plan) -> None:
        """Decode one step and hand each run that caught up its new token."""
        chunks = [self._make_chunk(run, n) for run, n in plan]
        n_rows = sum(n for _, n in plan)
        started = self._clock()
        try:
            self._model.decode(chunks)
        except ModelFatal:
            raise
        except Exception as error:
            self._recover(plan, error)
            return
        decode_s = self._clock() - started
        self._cost.observe(n_rows, decode_s, self._sum_attended(plan))
        self._metrics.decode_s.observe(decode_s)
        self._metrics.rows.observe(n_rows)
        self._advance_all(plan)
        self.n_cells_used = self._cache.count_cells()

    def _sum_attended(self, plan: Plan) -> int:
        """Cells that all rows of a plan read."""
        if not self._model.has_flash_attention:
            return sum(n for _, n in plan) * self.n_cells_used
        return sum(n * run.sequence.n_computed for run, n in plan if run.sequence)

    def _make_chunk(self, run: Run, n: int) -> Chunk:
        assert run.sequence is not None
        start = run.sequence.n_computed
        if run.draft:
            return Chunk(run.sequence.id, start, [*run.tokens[start:], *run.draft], n)
        return Chunk(run.sequence.id, start, run.tokens[start : start + n], int(n == run.n_gap))

    def _advance_all(self, plan: Plan) -> None:
        """All are sampled before the first gets its token, guesses apart: whoever is handed one wakes up and takes the
        interpreter whenever llama.cpp is called."""
        sampled: list[tuple[Run, int, int]] = []
        end = 0
        for run, n in plan:
            end += n
            try:
                token = self._advance(run, n, end)
                if token is None:
                    self._n_faults = 0
                else:
                    sampled.append((run, token, end - 1))
            except Exception as error:
                self._fail(run, error)
        for run, token, row in sampled:
            try:
                self._deliver(run, token, row)
                self._n_faults = 0
            except Exception as error:
                self._fail(run, error)

    def _advance(self, run: Run, n: int, end: int) -> int | None:
        """n rows of a run were computed, the last of them is row end - 1 of the step. Returns its new token, if it has
        caught up."""
        assert run.sequence is not None
        if run.draft:
            self._check_draft(run, end - n)
            return None
        run.sequence.n_computed += n
        if run.n_gap == 0:
            return run.sample(end - 1)
        if run.request.wants_progress:
            self._owner.report(run)
        return None

    def _check_draft(self, run: Run, row: int) -> None:
        """Sample after each guessed token as long as the guesses are what was sampled: the answer is the same as
        without them, token for token."""
        assert run.sequence is not None
        draft, run.draft = run.draft, []
        n_right = 0
        reason = None
        for guess in [*draft, -1]:
            run.sequence.n_computed += 1
            token = run.sample(row + n_right)
            reason = self._take(run, token, row + n_right)
            if token != guess or reason:
                break
            n_right += 1
        self._metrics.drafted.inc(len(draft))
        self._metrics.accepted.inc(n_right)
        run.guess.observe(len(draft), n_right)
        self._cache.rewind(run.sequence, run.sequence.n_computed)
        if reason:
            self._owner.complete(run, reason)

    def _deliver(self, run: Run, token: int, row: int) -> None:
        """Hand a run its new token, and end it if that was the last."""
        reason = self._take(run, token, row)
        if reason:
            self._owner.complete(run, reason)

    def _take(self, run: Run, token: int, row: int) -> FinishReason | None:
        """Hand a run its new token. Returns why its answer is complete, None if it goes on."""
        request, now = run.request, self._clock()
        if request.first_token_at is None:
            request.first_token_at = now
            self._metrics.ttft_s.observe(now - request.submitted_at)
        else:
            self._metrics.itl_s.observe(now - run.last_token_at)
        run.last_token_at = now
        n_before = request.n_output_tokens
        reason = run.take(self._model, token, row)
        self._metrics.output_tokens.inc(request.n_output_tokens - n_before)
        return reason

    def _recover(self, plan: Plan, error: Exception) -> None:
        """A step failed. Find out whose fault it is by computing each part alone: one fault ends one request only."""
        for run, _ in plan:  # an aborted step may have left a part
            assert run.sequence is not None
            run.draft = []
            self._cache.rewind(run.sequence, run.sequence.n_computed)
        if isinstance(error, NoRoom) and (len(self._runs) > 1 or self._cache.empty()):
            if len(self._runs) > 1:
                self._owner.put_back_youngest()
            return
        log.warning("a step of %d requests failed: %s", len(plan), describe(error))
        if len(plan) == 1:
            self._fail(plan[0][0], error)
            return
        for run, n in plan:
            n = min(n, run.n_gap)
            try:
                self._model.decode([self._make_chunk(run, n)])
                self._advance_all([(run, n)])
            except ModelFatal:
                raise
            except Exception as own:
                self._fail(run, own)

    def _fail(self, run: Run, error: Exception) -> None:
        """A fault ends this request only; a fatal one, or too many in a row, ends the process. A request's own error
        is no fault."""
        if isinstance(error, ServiceError):
            self._owner.fail(run, error)
            return
        log.error("request %s: %s", run.request.id, describe(error), exc_info=error)
        self._n_faults += 1
        self._owner.fail(run)
        if isinstance(error, ModelFatal):
            raise error
        if self._n_faults >= MAX_FAULTS:
            raise ModelFatal(f"{self._n_faults} requests in a row failed") from error
