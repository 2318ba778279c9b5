"""An engine that hangs is told from one that is slow, with plain numbers."""

from __future__ import annotations

import pytest

from service.engine.pulse import FLOOR_S, TIMES, Pulse
from tests.fakes import FakeClock


@pytest.mark.parametrize(
    ("dearest_s", "age_s", "is_felt"),
    [
        (0.0, FLOOR_S, True),
        (0.0, FLOOR_S + 0.1, False),
        (0.05, FLOOR_S, True),  # a fast node is not asked for more than a busy host gives it
        (8.0, 8.0 * TIMES, True),  # emulated: a step of 8 s is its normal life
        (8.0, 8.0 * TIMES + 0.1, False),
    ],
)
def test_limit_follows_the_dearest_step_and_has_a_floor(dearest_s: float, age_s: float, is_felt: bool):
    clock = FakeClock()
    pulse = Pulse(clock, lambda: dearest_s)
    clock.now += age_s
    assert pulse.is_felt is is_felt


def test_a_beat_brings_it_back():
    clock = FakeClock()
    pulse = Pulse(clock, lambda: 0.0)
    clock.now += 1000
    assert not pulse.is_felt and pulse.age_s == 1000
    pulse.beat()
    assert pulse.is_felt and pulse.age_s == 0
