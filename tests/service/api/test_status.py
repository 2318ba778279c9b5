"""What /status.json tells: the last minutes in rows, and of the image only what anybody may know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.api import status
from service.api.status import COLUMNS, EVERY_S, N_ROWS, Status
from service.metrics import Metrics
from tests.fakes import FakeClock

NOWHERE = Path("/nonexistent")


def read_rows(given: Status) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in given.body("ready", {}, {})["history"]["rows"]]


def test_rows_are_differences_of_the_numbers():
    metrics, clock = Metrics(), FakeClock()
    metrics.watch("llm_requests_running", "running", lambda: 2.0)
    watched = Status(metrics, image=NOWHERE, clock=clock)
    watched.beat(clock())
    clock.now += EVERY_S
    metrics.output_tokens.inc(10)
    metrics.ttft_s.observe(0.5)
    metrics.ttft_s.observe(1.5)
    watched.beat(clock())
    clock.now += EVERY_S
    watched.beat(clock())
    first, second = read_rows(watched)
    assert (first["running"], first["tokens_per_s"], first["ttft_s"], first["age_s"]) == (2, 10 / EVERY_S, 1, EVERY_S)
    assert (second["tokens_per_s"], second["ttft_s"], second["age_s"]) == (0, None, 0)


def test_rows_come_at_their_time_and_not_with_each_beat():
    clock = FakeClock()
    watched = Status(Metrics(), image=NOWHERE, clock=clock)
    for _ in range(21):
        watched.beat(clock())
        clock.now += EVERY_S / 4
    assert len(read_rows(watched)) == 5


def test_rows_are_bounded():
    clock = FakeClock()
    watched = Status(Metrics(), image=NOWHERE, clock=clock)
    for _ in range(N_ROWS + 20):
        watched.beat(clock())
        clock.now += EVERY_S
    assert len(read_rows(watched)) == N_ROWS


def test_numbers_do_not_tell_how_much_of_a_prompt_was_known():
    """Whoever reads them before and after a guess would know."""
    metrics = Metrics()
    cells = [1000.0]
    metrics.watch("llm_kv_cache_tokens", "", lambda: cells[0])
    metrics.watch("llm_kv_cache_usage_ratio", "", lambda: cells[0] / 32768)
    given = Status(metrics, image=NOWHERE)
    before = given.body("ready", {}, {})["metrics"]
    cells[0] += 20
    metrics.cached_tokens.inc(20)
    metrics.rows.observe(20)
    assert given.body("ready", {}, {})["metrics"] == before
    assert before["llm_kv_cache_tokens"] == 1024 and before["llm_kv_cache_usage_ratio"] == 0.03


def test_uptime_is_told():
    clock = FakeClock()
    watched = Status(Metrics(), image=NOWHERE, clock=clock)
    clock.now += 61.25
    assert watched.body("ready", {}, {})["uptime_s"] == pytest.approx(61.25, abs=0.1)


def test_image_tells_known_facts_only(tmp_path: Path):
    path = tmp_path / "image.json"
    path.write_text(json.dumps({"version": "0.1.0", "model": {"name": "demo"}, "secret": "x"}))
    body = Status(Metrics(), image=path).body("ready", {}, {})
    assert body["image"] == {"version": "0.1.0", "model": {"name": "demo"}}


@pytest.mark.parametrize("text", ["{broken", "7", "null"])
def test_broken_image_file_is_no_end(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "image.json"
    path.write_text(text)
    assert status.read_image(path) is None
    assert "image.json: cannot be read" in caplog.text
