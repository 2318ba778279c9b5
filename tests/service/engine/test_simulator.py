"""What the schedule promises, on machines of any price, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.engine.cost import GRID, N_FACTOR, Measured, StepCost
from tests.service.engine.simulator import AVX2, TABLES, Machine, Simulation

DISTINCT = [(110, 32)] * 24  # prompt and answer


@st.composite
def tables(draw: st.DrawFn) -> dict[int, float]:
    """Seconds by rows: no size takes less than a smaller one, nor more than two of half its rows."""
    table = {1: draw(st.floats(0.005, 0.5))}
    for before, rows in pairwise(GRID):
        most = table[before] * rows / before
        table[rows] = draw(st.floats(table[before], most))
    return table


def draw_job(rng: random.Random) -> tuple[int, int, int]:
    return round(rng.uniform(2, 400)), rng.randint(1, 60), 60


@settings(deadline=None, max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(tables(), st.integers(1, 12), st.booleans(), st.floats(0.02, 1.0), st.integers(0, 99))
def test_no_step_keeps_streams_waiting_longer_than_promised(
    table: dict[int, float], max_streams: int, is_known: bool, goal_s: float, seed: int
):
    """The goal, or what the streams' own rows take, and one row: from the first step on, whether or not the machine was
    measured; 99 of 100 steps where their times differ by 2 %."""
    known, rng = table if is_known else None, random.Random(seed)
    simulation = Simulation(Machine(table, 0.02, rng=rng), goal_s=goal_s, known=known, max_streams=max_streams)
    simulation.admission._max_wait_s = 1e9
    simulation.run_closed([draw_job(rng)[:2] for _ in range(12)], max_streams)
    watched = [step for step in simulation.steps if step.n_streams]
    late = [
        step
        for step in watched
        if step.seconds > max(goal_s, simulation.machine.seconds(step.n_streams) * 1.06) + table[1]
    ]
    assert len(late) <= 0.01 * len(watched) + (0 if is_known else 2)
    assert len(simulation.done) == 12


@pytest.mark.parametrize(("name", "least"), [("avx2", 1.25), ("arm", 1.1), ("vnni", 0.99)])
@pytest.mark.parametrize("n_clients", [4, 8, 16])
def test_distinct_prompts_take_less_time_than_with_a_sure_number_of_rows(name: str, least: float, n_clients: int):
    """BEFORE is the schedule that gave prompts 16 rows of every step and took the fewest rows within 5 % of the best
    price, in the same simulation."""
    before_s = {"avx2": {4: 63.2, 8: 58.1, 16: 58.1}, "arm": {4: 66.6, 8: 61.8, 16: 61.8}}
    before_s["vnni"] = {4: 14.5, 8: 12.0, 16: 11.6}
    simulation = Simulation(Machine(TABLES[name]), known=TABLES[name], max_wait_s=1e9)
    assert simulation.run_closed(DISTINCT, n_clients) * least <= before_s[name][n_clients]


@pytest.mark.parametrize("name", ["avx2", "arm", "vnni"])
def test_machine_that_nobody_measured_is_nearly_as_fast(name: str):
    table = TABLES[name]
    known, unknown = (Simulation(Machine(table), known=each, max_wait_s=1e9) for each in (table, None))
    assert unknown.run_closed(DISTINCT, 8) <= 1.1 * known.run_closed(DISTINCT, 8)


def measure_overload(
    table: Mapping[int, float], n_prompt: int, n_output: int, load: Callable[[float], float], seconds: float
) -> tuple[float, Simulation]:
    """Goodput at four times the load that 16 clients reach, as a share of what these reach in the time that the machine
    gives: at half its speed, half. With the limit of who promises a first token in 10 s."""

    def make(load: Callable[[float], float]) -> Simulation:
        streams = StepCost(0.35, 256, Measured({rows: [s] for rows, s in table.items()}, 0.0)).choose_streams()
        return Simulation(Machine(table, 0.05, load), known=table, max_streams=streams, max_wait_s=1e9)

    peak = make(lambda now: 1.0)
    n_peak = 4 * peak.max_streams
    per_s = n_peak / peak.run_closed([(n_prompt, n_output)] * n_peak, 16)
    simulation = make(load)
    simulation.run_closed([(n_prompt, n_output)] * 32, 16)  # the node has seen such answers
    simulation.start_anew()
    simulation.admission._max_wait_s = 5.0
    simulation.run_open(lambda: (n_prompt, n_output, n_output), 4 * per_s, seconds)
    end = max(job.ended_at or 0.0 for job in simulation.done)
    work_s = sum(1 / load(tenth / 10) for tenth in range(int(end * 10))) / 10
    return simulation.goodput(work_s) / (per_s * n_output), simulation


@pytest.mark.parametrize("is_disturbed", [False, True])
@pytest.mark.parametrize(("n_prompt", "n_output", "seconds"), [(45, 24, 60), (60, 150, 400)])
@pytest.mark.parametrize("name", ["avx2", "arm", "vnni"])
def test_overload_leaves_the_goodput_where_the_peak_was(
    name: str, n_prompt: int, n_output: int, seconds: float, is_disturbed: bool
):
    if name == "vnni":
        seconds /= 4
    load = (lambda now: 2.0 if 10 <= now < 20 else 1.0) if is_disturbed else (lambda now: 1.0)
    share, simulation = measure_overload(TABLES[name], n_prompt, n_output, load, seconds)
    assert share >= 0.9
    assert simulation.n_refused > len(simulation.done)


@pytest.mark.parametrize("name", ["avx2", "arm", "vnni"])
def test_prediction_holds_for_the_median_request(name: str):
    """Within a factor of two, where nobody knows how long answers will be, and shorter prompts that come later go
    first."""
    table, rng = TABLES[name], random.Random(7)
    simulation = Simulation(Machine(table, 0.05), known=table, max_wait_s=30.0)
    simulation.run_open(lambda: draw_job(rng), 1.0 if name != "vnni" else 4.0, 60)
    ratios = sorted(
        (job.first_at - job.arrived_at) / job.predicted_s
        for job in simulation.done
        if job.first_at is not None and job.predicted_s > 1
    )
    assert len(ratios) > 20
    assert 0.5 <= ratios[len(ratios) // 2] <= 2


def test_machine_that_slows_down_by_half_breaks_the_goal_for_a_few_steps_only():
    simulation = Simulation(Machine(AVX2, load=lambda now: 2.0 if now > 5 else 1.0), known=AVX2, max_wait_s=1e9)
    simulation.run_closed([(400, 100)] * 12, 4)
    late = [step.at for step in simulation.steps if step.n_streams and step.seconds > 0.35 + AVX2[1]]
    assert len(late) <= N_FACTOR and all(at < 10 for at in late)


def test_prompt_beside_full_streams_gets_its_share():
    """No chunk fits beside 16 streams that take 300 of 350 ms: a quarter of the time is the prompt's."""
    table = {rows: max(0.3 * rows / 16, 0.05) for rows in GRID}
    simulation = Simulation(Machine(table), known=table, max_wait_s=1e9)
    for _ in range(15):
        simulation.submit(2, 2000)
    for _ in range(20):
        simulation.step()
    began = simulation.now
    job = simulation.submit(160, 1)
    while job and job.first_at is None:
        simulation.step()
    assert simulation.now - began <= 160 * table[16] / 16 / 0.25 + 2.5
