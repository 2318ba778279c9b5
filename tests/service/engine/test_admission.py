"""Who may come in, with plain numbers."""

from __future__ import annotations

import pytest

from service.engine.admission import Admission
from service.errors import BadRequest, QueueFull

IDLE = {"n_new": 1, "n_waiting": 0, "n_running": 0, "max_streams": 4, "n_tokens": 100, "wait_s": 1.0}


def make() -> Admission:
    return Admission(max_queue=3, max_queue_tokens=1000, max_wait_s=60)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_waiting": 3, "n_running": 3},  # three wait, and one stream is free
        {"n_new": 7},  # four run, three wait
        {"n_tokens": 5000, "wait_s": 500},  # alone it is taken, however long
        {"n_waiting": 2, "n_running": 4, "n_tokens": 1000, "wait_s": 60},
    ],
)
def test_taken(changes: dict[str, float]):
    make().check(**{**IDLE, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_waiting": 3, "n_running": 4}, "3 requests wait and LLM_MAX_QUEUE=3 may"),
        ({"n_new": 2, "n_waiting": 2, "n_running": 4}, "LLM_MAX_QUEUE=3"),
        ({"n_waiting": 1, "n_running": 4, "n_tokens": 1001}, "1001 prompt tokens would wait and LLM_MAX_QUEUE_TOKENS"),
        ({"n_running": 1, "wait_s": 60.5}, "a first token would take about 60 s and LLM_MAX_WAIT_S=60 is the limit"),
    ],
)
def test_refused_with_numbers_and_a_time_to_come_back(changes: dict[str, float], message: str):
    with pytest.raises(QueueFull, match=message) as caught:
        make().check(**{**IDLE, **changes})
    assert 1 <= caught.value.retry_after_s <= 60


def test_more_answers_than_there_can_ever_be_room_for_are_no_matter_of_waiting():
    with pytest.raises(BadRequest, match=r"8 answers at once: .* at most 7"):
        make().check(**{**IDLE, "n_new": 8})


def test_retry_after_is_the_time_beyond_the_limit():
    with pytest.raises(QueueFull) as caught:
        make().check(**{**IDLE, "n_waiting": 1, "wait_s": 75.2})
    assert caught.value.retry_after_s == 16


def test_wait_is_the_prompts_in_front_or_the_streams_that_must_end():
    admission = make()
    assert admission.predict_s(1000, 0, 4, 0.01) == pytest.approx(10)
    for _ in range(100):
        admission.observe_end(20)
    assert admission.predict_s(1000, 4, 4, 0.01) == pytest.approx(20, rel=0.01)
    assert admission.predict_s(1000, -3, 4, None) == 0


def test_prompts_that_are_mostly_cached_count_less():
    admission = make()
    for _ in range(100):
        admission.observe_start(100, 90)
    assert admission.predict_s(1000, 0, 4, 0.01) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("n_waiting", "n_tokens", "is_taken"), [(3, 1500, True), (4, 100, False), (3, 1501, False)])
def test_a_full_queue_still_takes_a_client_of_whom_nothing_waits(n_waiting: int, n_tokens: int, is_taken: bool):
    changes = {**IDLE, "n_waiting": n_waiting, "n_running": 4, "n_tokens": n_tokens, "is_first": True}
    if is_taken:
        make().check(**changes)
    else:
        with pytest.raises(QueueFull):
            make().check(**changes)
