"""When first tokens will come, against what the simulator then sees."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import forecast
from service.engine.cost import StepCost
from service.engine.forecast import MAX_EVENTS, Load, first_tokens_s
from service.engine.scheduler import Scheduler
from tests.service.engine.simulator import AVX2, TABLES, Machine, Simulation

REQUESTS = st.lists(st.tuples(st.integers(2, 600), st.integers(1, 80)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(TABLES)), REQUESTS, st.integers(1, 16))
def test_prediction_is_what_happens(name: str, requests: list[tuple[int, int]], max_streams: int):
    """Where lengths are known: half of the first tokens within a fifth of all or one step, all within a quarter or
    two."""
    table = TABLES[name]
    simulation = Simulation(Machine(table), known=table, max_streams=max_streams, max_wait_s=1e9)
    jobs = [job for request in requests if (job := simulation.submit(*request))]
    loads = [Load(job.n_prompt, job.n_output) for job in jobs]
    predicted = first_tokens_s(simulation.scheduler, [], loads, max_streams)
    while simulation.running or simulation.waiting:
        simulation.step()
    step_s = max(step.seconds for step in simulation.steps)
    misses = sorted(abs(said - (job.first_at or 0)) for said, job in zip(predicted, jobs, strict=True))
    last = max(job.first_at or 0 for job in jobs)
    assert misses[len(misses) // 2] <= max(0.2 * last, step_s)
    assert misses[-1] <= max(0.25 * last, 2 * step_s)


def test_short_question_waits_for_a_step_and_not_for_the_long_prompt_before_it():
    """Symptom: 503, "about 75 s", for what would have waited one step."""
    simulation = Simulation(Machine(AVX2), known=AVX2)
    simulation.submit(4000, 10)
    simulation.step()
    assert simulation.submit(10, 10)
    assert simulation.predict_s(simulation.waiting)[0] < 3


def test_who_has_no_stream_waits_for_an_answer_to_end():
    simulation = Simulation(Machine(AVX2), known=AVX2)
    busy = [Load(1, 100), Load(1, 50)]
    (first_s,) = first_tokens_s(simulation.scheduler, busy, [Load(10, 5)], 2)
    assert 50 * 0.08 < first_s < 50 * 0.08 + 0.5


def test_without_prices_nothing_takes_time():
    assert first_tokens_s(Scheduler(StepCost(0.35, 256), 256), [], [Load(100, 5)], 4) == [0.0]


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch):
    n_looks = 0

    def share_out(*args):
        nonlocal n_looks
        n_looks += 1
        return real(*args)

    real = forecast.share_out
    monkeypatch.setattr(forecast, "share_out", share_out)
    simulation = Simulation(Machine(AVX2), known=AVX2)
    waits = first_tokens_s(simulation.scheduler, [], [Load(10**6 + i, 10**6) for i in range(48)], 16)
    assert n_looks <= 2 * 48 and waits == sorted(waits)
    n_looks = 0
    waits = first_tokens_s(simulation.scheduler, [], [Load(50 + i % 7, 50 + i % 5) for i in range(5000)], 4)
    assert n_looks == MAX_EVENTS and waits[-1] == max(waits)
