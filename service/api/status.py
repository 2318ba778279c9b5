"""/status.json: what this node is, what it does now, and the last minutes, for the page at /status.

The numbers are those of /metrics. `beat` is called from the engine thread and keeps one row every EVERY_S; everything
else may be called from any thread. Holds no text of anybody's, no path, no address and no key.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..metrics import Metrics

EVERY_S = 2.0
N_ROWS = 150  # five minutes
# The difference between two readings would tell how much of a prompt somebody else had asked before
PRIVATE = ("llm_prompt_tokens_cached_total", "llm_step_rows_sum", "llm_step_rows_count")
COARSE = {"llm_kv_cache_tokens": 256, "llm_kv_cache_usage_ratio": 0.01}
IMAGE = Path("/etc/llm/image.json")  # written by the bake; anywhere else there is none
IMAGE_FACTS = ("version", "created", "base", "git_commit", "llama_cpp_commit", "model")
COLUMNS = ("age_s", "running", "waiting", "tokens_per_s", "ttft_s", "cache")

log = logging.getLogger(__name__)


class Status:
    """library_set: the name of the libraries in use. binding: its version. clock: seconds, of a clock that never goes
    back."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        library_set: str | None = None,
        binding: str = "",
        image: Path = IMAGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._library_set, self.binding = library_set, binding
        self._image = read_image(image)
        self._clock = clock
        self._started = clock()
        self._rows: deque[tuple[float, ...]] = deque(maxlen=N_ROWS)
        self._last: tuple[float, dict[str, Any]] | None = None

    def beat(self, now: float) -> None:
        """Keep a row if it is time for one. now: the clock's seconds."""
        if self._last is None:
            self._last = now, self._metrics.numbers()
        elif now - self._last[0] >= EVERY_S:
            before, (then, numbers) = self._last[1], (now, self._metrics.numbers())
            self._rows.append((then, *_describe_span(before, numbers, then - self._last[0])))
            self._last = then, numbers

    def body(self, state: str, model: dict[str, Any], prices: dict[str, Any]) -> dict[str, Any]:
        """state: the engine's phase. model: as in /v1/models. prices: what a step costs here."""
        now = self._clock()
        return {
            "status": state,
            "uptime_s": round(now - self._started, 1),
            "model": model,
            "image": self._image,
            "library_set": self._library_set,
            "llama_cpp_python": self.binding,
            "prices": prices,
            "metrics": {
                name: _coarsen(name, value) for name, value in self._metrics.numbers().items() if name not in PRIVATE
            },
            "history": {
                "every_s": EVERY_S,
                "columns": list(COLUMNS),
                "rows": [[round(now - at, 1), *(_short(value) for value in row)] for at, *row in list(self._rows)],
            },
        }


def read_image(path: Path) -> dict[str, Any] | None:
    """What was baked; None where nothing was. A file that cannot be read is a line in the log and not an end."""
    try:
        facts = json.loads(path.read_text())
        return {name: facts[name] for name in IMAGE_FACTS if name in facts}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: cannot be read: %s", path, error)
        return None


def _describe_span(before: dict[str, Any], after: dict[str, Any], seconds: float) -> tuple[float | None, ...]:
    """What COLUMNS say of the time between two readings, but for age_s. ttft_s: a mean, None without one."""
    ttft = "llm_time_to_first_token_seconds"
    n_first = after[f"{ttft}_count"] - before[f"{ttft}_count"]
    n_tokens = after["llm_generation_tokens_total"] - before["llm_generation_tokens_total"]
    return (
        after.get("llm_requests_running", 0.0),
        after.get("llm_requests_waiting", 0.0),
        n_tokens / seconds,
        (after[f"{ttft}_sum"] - before[f"{ttft}_sum"]) / n_first if n_first else None,
        _coarsen("llm_kv_cache_usage_ratio", after.get("llm_kv_cache_usage_ratio", 0.0)),
    )


def _coarsen(name: str, value: float) -> float:
    step = COARSE.get(name)
    return value if step is None else round(round(value / step) * step, 4)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
