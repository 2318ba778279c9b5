"""Show how far a long transfer is: one moving line on a terminal, a line every few seconds in a log.

Knows counts and seconds. Knows nothing of what the bytes are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from .files import human_size

TERMINAL_EVERY_S = 0.2
LOG_EVERY_S = 5.0


class Progress:
    """Counts towards `total_bytes` from `done_bytes`; call `add` for each piece and `close` once."""

    def __init__(
        self,
        label: str,
        total_bytes: int,
        done_bytes: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.label = label
        self.total_bytes = total_bytes
        self.done_bytes = done_bytes
        self._stream = stream or sys.stderr
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._began = self._shown = clock()
        self._began_at_bytes = done_bytes

    def add(self, n_bytes: int) -> None:
        """Count `n_bytes` more (negative: these came to nothing) and show the line when it is due."""
        self.done_bytes += n_bytes
        now = self._clock()
        if now - self._shown >= (TERMINAL_EVERY_S if self._is_terminal else LOG_EVERY_S):
            self._shown = now
            self._show(now)

    def close(self) -> None:
        """Show where it ended."""
        self._show(self._clock())
        if self._is_terminal:
            self._stream.write("\n")
        self._stream.flush()

    def _show(self, now: float) -> None:
        line = f"{self.label}: {human_size(self.done_bytes)} of {human_size(self.total_bytes)}"
        if self.total_bytes:
            line += f" ({100 * self.done_bytes // self.total_bytes} %)"
        rate = (self.done_bytes - self._began_at_bytes) / (now - self._began) if now > self._began else 0
        if rate > 0:
            line += f", {human_size(rate)}/s"
            if self.done_bytes < self.total_bytes:
                line += f", {(self.total_bytes - self.done_bytes) / rate:.0f} s left"
        self._stream.write(f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n")
        self._stream.flush()
