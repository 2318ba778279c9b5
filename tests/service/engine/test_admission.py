"""Who may come in, with plain numbers."""

from __future__ import annotations

import pytest

from service.engine.admission import Admission
from service.errors import BadRequest, QueueFull

IDLE = {"n_new": 1, "n_waiting": 0, "n_running": 0, "max_streams": 4, "n_tokens": 100}


def make() -> Admission:
    return Admission(max_queue=3, max_queue_tokens=1000, max_wait_s=60)


def check(first_s: float = 1.0, alone_s: float = 0.5, **changes: int) -> None:
    make().check(**{**IDLE, **changes}, predict_s=lambda: (first_s, alone_s))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_waiting": 3, "n_running": 3},  # three wait, and one stream is free
        {"n_new": 7},  # four run, three wait
        {"n_tokens": 5000, "first_s": 500},  # alone it is taken, however long
        {"n_running": 1, "first_s": 200, "alone_s": 150},  # what it takes by itself is no waiting
        {"n_waiting": 2, "n_running": 4, "n_tokens": 1000, "first_s": 60},
    ],
)
def test_taken(changes: dict[str, float]):
    check(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_waiting": 3, "n_running": 4}, "3 requests wait and LLM_MAX_QUEUE=3 may"),
        ({"n_new": 2, "n_waiting": 2, "n_running": 4}, "LLM_MAX_QUEUE=3"),
        ({"n_waiting": 1, "n_running": 4, "n_tokens": 1001}, "1001 prompt tokens would wait and LLM_MAX_QUEUE_TOKENS"),
        (
            {"n_running": 1, "first_s": 75.4, "alone_s": 12},
            "a first token would take about 75 s, 12 s of them for this prompt, and LLM_MAX_WAIT_S=60 is the limit",
        ),
    ],
)
def test_refused_with_numbers_and_a_time_to_come_back(changes: dict[str, float], message: str):
    with pytest.raises(QueueFull, match=message) as caught:
        check(**changes)
    assert 1 <= caught.value.retry_after_s <= 60


def test_more_answers_than_there_can_ever_be_room_for_are_no_matter_of_waiting():
    with pytest.raises(BadRequest, match=r"8 answers at once: .* at most 7"):
        check(n_new=8)


def test_retry_after_is_the_time_beyond_the_limit():
    with pytest.raises(QueueFull) as caught:
        check(n_waiting=1, first_s=76.2, alone_s=1)
    assert caught.value.retry_after_s == 16


def test_full_queue_is_refused_without_a_forecast():
    def predict_s() -> tuple[float, float]:
        raise AssertionError("asked")

    with pytest.raises(QueueFull):
        make().check(**{**IDLE, "n_waiting": 3, "n_running": 4}, predict_s=predict_s)


def test_prompts_that_are_mostly_cached_count_less():
    admission = make()
    assert admission.expect(1000, 10).n_gap == 1000
    for _ in range(100):
        admission.observe_start(100, 90)
    assert admission.expect(1000, 10).n_gap == pytest.approx(100, rel=0.01)


def test_answers_are_as_long_as_the_last_ones_were():
    admission = make()
    assert admission.expect(10, 200).n_left == 100  # half of what may be, as long as none has ended
    for _ in range(40):
        admission.observe_end(1.0, 30)
    assert admission.expect(10, 200).n_left == pytest.approx(30)
    assert admission.expect(10, 20).n_left == 20
    assert admission.expect_rest(1, 10, 200).n_left == pytest.approx(20)


def test_answer_longer_than_most_goes_on_but_not_beyond_its_limit():
    admission = make()
    for _ in range(40):
        admission.observe_end(1.0, 30)
    assert admission.expect_rest(1, 90, 200).n_left == pytest.approx(15)
    assert admission.expect_rest(1, 199, 200).n_left == 1


@pytest.mark.parametrize(("n_waiting", "n_tokens", "is_taken"), [(3, 1500, True), (4, 100, False), (3, 1501, False)])
def test_a_full_queue_still_takes_a_client_of_whom_nothing_waits(n_waiting: int, n_tokens: int, is_taken: bool):
    changes = {"n_waiting": n_waiting, "n_running": 4, "n_tokens": n_tokens, "is_first": True}
    if is_taken:
        check(**changes)
    else:
        with pytest.raises(QueueFull):
            check(**changes)
