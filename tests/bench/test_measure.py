"""The definitions, on timelines made by hand."""

import math

import pytest

from tests.bench import measure
from tests.bench.measure import Answer


def answered(sent_at: float, *pieces: float, **changes) -> Answer:
    """A complete answer with one token a piece."""
    values = {
        "n_asked": len(pieces),
        "status": 200,
        "pieces": list(pieces),
        "n_tokens": len(pieces),
        "ended_at": max([sent_at, *pieces]),
        "has_finished": True,
    }
    return Answer(sent_at, **{**values, **changes})


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 95, 7),
        ([1, 2, 3, 4, 5], 50, 3),
        ([5, 1], 50, 3),
        ([0, 10], 95, 9.5),
        ([1, 2, 3, 4], 0, 1),
        ([1, 9], 100, 9),
    ],
)
def test_percentile_interpolates_between_neighbours(values, percent, expected):
    assert measure.percentile(values, percent) == pytest.approx(expected)


def test_percentile_of_nothing_is_no_number():
    assert math.isnan(measure.percentile([], 50))


def test_ttft_counts_from_the_question_and_itl_between_pieces():
    answer = answered(10, 12, 12.5, 14)
    assert answer.ttft_s == 2
    assert measure.itls_s([answer, answered(0, 1, 4)]) == [0.5, 1.5, 3]


def test_tpot_divides_by_tokens_even_if_a_piece_holds_several():
    assert answered(0, 1, 5, n_tokens=9).tpot_s == 0.5
    assert answered(0, 1).tpot_s == 0


def test_ttft_of_an_answer_that_never_began_is_the_time_waited():
    waiting = answered(2, ended_at=12, was_cut=True, has_finished=False)
    refused = answered(0, status=503)
    assert measure.ttfts_s([waiting, refused, answered(0, 1)]) == [10, 1]


def test_throughput_is_tokens_from_first_question_to_last_piece():
    assert measure.throughput([answered(0, 1, 2), answered(1, 3, 5)]) == 4 / 5
    assert measure.throughput([answered(0, status=503)]) == 0


def test_throughput_of_a_cut_workload_ends_at_the_cut():
    assert (
        measure.throughput([answered(0, 1, 2), answered(0, 4, ended_at=10, was_cut=True, has_finished=False)]) == 3 / 10
    )


@pytest.mark.parametrize(
    ("late", "why"),
    [
        (answered(0, 5, 6), "first token too late"),
        (answered(0, 1, 6), "tokens too slow"),
        (answered(0, 1, 6, n_tokens=20, has_finished=False), "broke off"),
        (answered(0, 1, 6, n_tokens=20, fault="reset"), "failed"),
    ],
)
def test_goodput_counts_only_complete_answers_within_the_service_level(late, why):
    good = answered(0, 2, 3, 4)
    assert measure.goodput([good], 2, 1) == 3 / 4
    assert measure.goodput([good, late], 2, 1) == 3 / 6, why


def test_largest_gap_sees_only_what_comes_after_the_long_prompt():
    streams = [answered(0, 1, 5, 5.5, 8), answered(0, 7, 7.5)]
    assert measure.largest_gap_s(streams, since=5.5) == 2.5
    assert measure.largest_gap_s(streams, since=4) == 3, "the second stream waits for its first piece"
    assert measure.largest_gap_s(streams, since=9) == 0


def test_largest_gap_of_a_stream_that_never_went_on_lasts_until_the_cut():
    assert measure.largest_gap_s([answered(0, 1, ended_at=20, was_cut=True)], since=2) == 18


def test_refusal_is_orderly_only_with_a_word_on_when_to_ask_again():
    assert answered(0, 1).is_orderly
    assert answered(0, status=503, has_retry_after=True, fault="busy", has_finished=False).is_orderly
    assert not answered(0, status=503, fault="busy", has_finished=False).is_orderly
    assert not answered(0, status=500, has_retry_after=True, fault="oops", has_finished=False).is_orderly
    assert not answered(0, 1, has_finished=False).is_orderly


def test_share_of_python_is_what_a_step_takes_beside_decoding():
    before = "llm_step_seconds_sum 10.0\nllm_decode_seconds_sum 9.5\n"
    after = "# TYPE llm_step_seconds histogram\nllm_step_seconds_sum 20.0\nllm_decode_seconds_sum 19.3\n"
    assert measure.python_share(before, after) == pytest.approx(0.02)


@pytest.mark.parametrize("text", ["", "llm_step_seconds_sum 10.0\n", '{"error": "metrics are off"}'])
def test_share_of_python_is_no_number_where_it_is_not_reported(text):
    assert math.isnan(measure.python_share(text, text))
