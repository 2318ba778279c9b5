"""Does the engine still step? Told by the age of its last beat, held against what a step may cost on this machine.

A node that is emulated or throttled takes seconds for a step and is well; one whose thread hangs is not. So the limit
follows the dearest step that is known, and is never less than FLOOR_S. Knows two numbers and a clock.
"""

from __future__ import annotations

from collections.abc import Callable

FLOOR_S = 10.0  # a beat every second is the rule, and a busy host may take all cores away for some
TIMES = 5.0  # the largest step that is not measured yet is at most four times the largest that is


class Pulse:
    """dearest_s: seconds of the dearest step known, 0 for none. clock: seconds, never goes back. Any thread may ask;
    `beat` belongs to the engine thread."""

    def __init__(self, clock: Callable[[], float], dearest_s: Callable[[], float]) -> None:
        self._clock, self._dearest_s = clock, dearest_s
        self._last = clock()

    def beat(self) -> None:
        self._last = self._clock()

    @property
    def age_s(self) -> float:
        return self._clock() - self._last

    @property
    def is_felt(self) -> bool:
        return self.age_s <= max(FLOOR_S, TIMES * self._dearest_s())
