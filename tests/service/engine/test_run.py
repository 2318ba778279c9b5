"""One running request by itself: tokens in, pieces and an end out."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.prefix import CacheSequence
from service.engine.run import Lead, Run
from service.protocol import NO_TOKEN
from service.request import Event, FinishReason, Piece, Request, SamplingParams
from tests.fakes import EOS, FakeModel


def make(text: str = "ab", **params: Any) -> Run:
    return Run.of(Request("r", list(text.encode()), SamplingParams(**{"max_tokens": 10, **params})))


def delivered(run: Run) -> list[Event]:
    return [run.request.events.get() for _ in range(run.request.events.qsize())]


def take(run: Run, data: bytes, model: FakeModel | None = None) -> list[FinishReason | None]:
    return [run.take(model or FakeModel(), byte, 0) for byte in data]


def test_tokens_become_pieces_of_whole_characters():
    run = make()
    assert take(run, "né".encode()) == [None] * 3
    assert [piece.text for piece in delivered(run)] == ["n", "é"]
    assert run.tokens == list("abné".encode()) and run.request.n_output_tokens == 3


def test_prompt_of_the_request_stays_as_it_was():
    run = make()
    take(run, b"x")
    assert run.request.prompt_tokens == list(b"ab")


@pytest.mark.parametrize(
    ("params", "data", "reasons"),
    [
        ({}, bytes([97]), [None]),
        ({"max_tokens": 2}, b"xy", [None, FinishReason.LENGTH]),
        ({"stop": ("yz",)}, b"xyz", [None, None, FinishReason.STOP]),
    ],
)
def test_answer_is_complete_at_a_limit_or_a_stop_string(params: dict, data: bytes, reasons: list):
    assert take(make(**params), data) == reasons


def test_end_of_the_model_is_no_text():
    run = make()
    assert run.take(FakeModel(), EOS, 0) is FinishReason.STOP
    assert run.tokens == list(b"ab") and run.request.n_output_tokens == 0


def test_answer_that_no_token_can_end_ends():
    assert make().take(FakeModel(), NO_TOKEN, 0) is FinishReason.STOP


def test_full_context_ends_the_answer():
    assert take(make(), b"xy", FakeModel(n_context=4)) == [None, FinishReason.LENGTH]


def test_text_held_back_for_a_stop_string_comes_at_the_end():
    run = make(stop=("yz",))
    take(run, b"xy")
    assert delivered(run) == [Piece("x")]
    run.flush()
    assert delivered(run) == [Piece("y")]


def test_logprobs_travel_with_the_text_they_belong_to():
    run = make(n_logprobs=1, stop=("yz",))
    take(run, b"xyw")
    assert [(piece.text, len(piece.logprobs)) for piece in delivered(run)] == [("x", 1), ("yw", 2)]


def test_prefix_is_coming_as_long_as_its_leader_computes_it():
    tokens = [1] * 50
    leader = CacheSequence(0, tokens, n_computed=10, is_busy=True)
    lead = Lead(leader, tokens, 40)
    assert lead.is_coming
    leader.n_computed = 40
    assert not lead.is_coming
    leader.n_computed, leader.is_busy = 10, False
    assert not lead.is_coming
    leader.is_busy, leader.tokens = True, [2] * 50  # somebody else's sequence now
    assert not lead.is_coming
