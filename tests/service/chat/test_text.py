"""Bytes to text: whole characters, no stop string, nothing lost, however the bytes were cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.chat.text import TextStream

# Few letters, so that stop strings and their beginnings happen; several bytes per character, so that cuts fall inside
TEXTS = st.text("abé€🦙", max_size=24)
STOPS = st.lists(st.text("abé🦙", min_size=1, max_size=4), max_size=3)


ANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


def run(pieces: list[bytes], stop: list[str] | tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    shown = [stream.push(piece) for piece in pieces]
    return [*shown, stream.flush()], stream.is_stopped


def expected(text: str, stop: list[str]) -> str:
    """The plain meaning: read character by character until a stop string is complete, then take it away again."""
    for end in range(1, len(text) + 1):
        ending = [each for each in stop if text[:end].endswith(each)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@ANY
@given(TEXTS, STOPS, st.lists(st.integers(0, 200)))
def test_pieces_together_are_the_text_up_to_the_first_stop_string(text: str, stop: list[str], places: list[int]):
    shown, is_stopped = run(cut(text.encode(), places), stop)
    assert "".join(shown) == expected(text, stop)
    assert is_stopped == any(each in text for each in stop)


@ANY
@given(TEXTS, STOPS, st.lists(st.integers(0, 200)))
def test_no_stop_string_is_ever_shown(text: str, stop: list[str], places: list[int]):
    shown, _ = run(cut(text.encode(), places), stop)
    assert not any(each in "".join(shown) for each in stop)


@ANY
@given(st.binary(max_size=40), st.lists(st.integers(0, 200)))
def test_any_bytes_decode_as_they_would_in_one_go(data: bytes, places: list[int]):
    shown, _ = run(cut(data, places))
    assert "".join(shown) == data.decode("utf-8", "replace")


def test_unfinished_character_is_held_back():
    stream = TextStream()
    assert [stream.push(bytes([byte])) for byte in "é".encode()] == ["", "é"]


def test_half_seen_stop_string_is_held_back_and_given_when_it_was_none():
    stream = TextStream(["END"])
    assert stream.push(b"the E") == "the "
    assert stream.push(b"N") == ""
    assert stream.push(b"vy") == "ENvy"
    assert not stream.is_stopped


def test_answer_cut_in_a_character_ends_with_the_replacement():
    stream = TextStream()
    assert stream.push("€".encode()[:2]) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize("tail", [b"more", b"END", b"\xff"])
def test_nothing_comes_after_a_stop_string(tail: bytes):
    stream = TextStream(["END"])
    assert stream.push(b"oneENDtwo") == "one"
    assert stream.is_stopped
    assert stream.push(tail) == "" and stream.flush() == ""
