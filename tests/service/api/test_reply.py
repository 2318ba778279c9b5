"""Bodies and events out, in OpenAI's shapes and with llama-server's extras."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import reply
from service.api.reply import ChatReply, CompletionReply, GenerateReply
from service.errors import ServiceError
from service.request import Done, FinishReason, Piece, Progress, Timings, TokenLogprob
from tests.fakes import FakeClock

DONE = Done(FinishReason.STOP, 10, 2, 4, Timings(prompt_s=0.5, output_s=0.25))
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 2,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
}
TIMINGS = {
    "cache_n": 4,
    "prompt_n": 6,
    "prompt_ms": 500.0,
    "prompt_per_token_ms": 83.333,
    "prompt_per_second": 12.0,
    "predicted_n": 2,
    "predicted_ms": 250.0,
    "predicted_per_token_ms": 125.0,
    "predicted_per_second": 8.0,
}
SAID = TokenLogprob(7, b"hi", -0.5, ((7, b"hi", -0.5), (8, b"\xf0\x9f", -math.inf)))
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 9, "model": "m", "system_fingerprint": "b1"}


def chat(**changes: Any) -> ChatReply:
    return ChatReply("1", "m", **{"prompt_lengths": (10,), "fingerprint": "b1", "created": 9, **changes})


def choice(delta: dict[str, Any], reason: str | None = None, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def done(index: int, n_output: int, n_cached: int, seconds: float = 1.0) -> Done:
    return Done(FinishReason.LENGTH, 10, n_output, n_cached, Timings(0, seconds, seconds), index)


def test_error_body_is_openais():
    error = ServiceError("no", param="p", code="c")
    assert reply.error_body(error) == {"error": {"message": "no", "type": "server_error", "param": "p", "code": "c"}}


def test_event_is_one_line_of_data():
    """A newline in the text must not end the event."""
    assert reply.sse({"text": "a\n\nb"}) == b'data: {"text":"a\\n\\nb"}\n\n'


def test_chat_chunks_are_openais():
    written = chat()
    assert written.opening() == [{**HEAD, "choices": [choice({"role": "assistant", "content": ""})]}]
    assert written.piece(Piece("a")) == {**HEAD, "choices": [choice({"content": "a"})]}
    assert written.closing(DONE) == [{**HEAD, "choices": [choice({}, "stop")], "timings": TIMINGS}]


def test_usage_comes_in_a_last_chunk_without_choices_and_is_null_before():
    written = chat(wants_usage=True)
    assert written.opening()[0]["usage"] is None and written.piece(Piece("a"))["usage"] is None
    last, usage = written.closing(DONE)
    assert last == {**HEAD, "choices": [choice({}, "stop")], "usage": None}
    assert usage == {**HEAD, "choices": [], "usage": USAGE, "timings": TIMINGS}


def test_whole_answers_are_openais():
    whole = chat().whole([Piece("h"), Piece("i")], [DONE])
    message = {"role": "assistant", "content": "hi", "refusal": None}
    assert whole == {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
        "timings": TIMINGS,
    }
    text = CompletionReply("1", "m", created=9).whole([Piece("hi")], [DONE])
    assert text["object"] == "text_completion" and text["id"] == "cmpl-1"
    assert text["choices"] == [{"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}]


def test_generate_has_a_simpler_shape():
    written = GenerateReply("1", "m")
    end = {"finish_reason": "stop", "usage": USAGE, "timings": TIMINGS}
    assert written.opening() == [] and written.piece(Piece("a")) == {"text": "a"}
    assert written.closing(DONE) == [{"text": "", **end}] and written.is_complete
    assert GenerateReply("1", "m").whole([Piece("hi")], [DONE]) == {"id": "1", "model": "m", "text": "hi", **end}


def test_choices_end_one_by_one_and_the_stream_with_the_last():
    written = chat(n=2, wants_usage=True)
    assert [chunk["choices"][0]["index"] for chunk in written.opening()] == [0, 1]
    assert written.piece(Piece("a", index=1))["choices"] == [choice({"content": "a"}, index=1)]
    (first,) = written.closing(done(1, 3, 9))
    assert first["choices"] == [choice({}, "length", 1)] and "timings" not in first and not written.is_complete
    last, usage = written.closing(done(0, 4, 0))
    assert last["choices"] == [choice({}, "length", 0)] and written.is_complete and usage["timings"]


def test_shared_prompt_counts_once():
    """Choice 1 found all of the prompt computed by choice 0: that is no saving the client had."""
    written = CompletionReply("1", "m", prompt_lengths=(10, 10), n=2)
    ends = [done(1, 5, 9), done(0, 5, 2, 3.0), done(3, 5, 9), done(2, 5, 4)]
    whole = written.whole([Piece("d", index=3), Piece("a"), Piece("b", index=1), Piece("a")], ends)
    assert [(c["index"], c["text"]) for c in whole["choices"]] == [(0, "aa"), (1, "b"), (2, ""), (3, "d")]
    assert whole["usage"]["prompt_tokens"] == 20 and whole["usage"]["completion_tokens"] == 20
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}
    timings = whole["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (6, 14, 20)
    assert timings["prompt_ms"] == timings["predicted_ms"] == 3000.0


def test_answer_that_took_no_time_has_no_speed():
    assert reply.ChatReply("1", "m").whole([], [Done(FinishReason.STOP, 3, 0, 3)])["timings"] == {
        **dict.fromkeys(TIMINGS, 0),
        "cache_n": 3,
    }


def test_chat_logprobs_are_openais():
    likely = {"token": "hi", "logprob": -0.5, "bytes": [104, 105]}
    never = {"token": "bytes:\\xf0\\x9f", "logprob": -9999.0, "bytes": [0xF0, 0x9F]}
    logprobs = {"content": [{**likely, "top_logprobs": [likely, never]}], "refusal": None}
    piece = Piece("hi", (SAID,))
    assert chat().piece(piece)["choices"] == [choice({"content": "hi"}, logprobs=logprobs)]
    whole = chat().whole([piece, piece], [DONE])
    assert whole["choices"][0]["logprobs"]["content"] == logprobs["content"] * 2


def test_completion_logprobs_have_openais_older_shape():
    written = CompletionReply("1", "m", n=2)
    said = {"tokens": ["hi"], "token_logprobs": [-0.5], "top_logprobs": [{"hi": -0.5, "bytes:\\xf0\\x9f": -9999.0}]}
    for index, offset in ((0, 0), (0, 2), (1, 0)):
        (told,) = written.piece(Piece("hi", (SAID,), index))["choices"]
        assert told["logprobs"] == {**said, "text_offset": [offset]}


def test_text_offset_counts_characters_however_tokens_cut_them():
    tokens = [TokenLogprob(0, data, -1.0) for data in (b"a", b"\xf0\x9f", b"\xa4\x97", b"b")]
    (told,) = CompletionReply("1", "m").piece(Piece("a🤗b", tuple(tokens)))["choices"]
    assert told["logprobs"]["text_offset"] == [0, 1, 1, 2]


@pytest.mark.parametrize("make", [ChatReply, CompletionReply, GenerateReply])
def test_progress_is_llama_servers_and_tells_the_queue(make: Any):
    clock = FakeClock()
    written = make("1", "m", prompt_lengths=(300,), clock=clock)
    waits = written.progress(Progress(2, 1.5, 0, 0))
    assert waits["queue"] == {"place": 2, "wait_s": 1.5}
    clock.now += 5
    assert written.progress(Progress(0, 1.0, 40, 40))["prompt_progress"]["time_ms"] == 0
    clock.now += 0.25
    runs = written.progress(Progress(0, 0.5, 168, 40))
    assert runs["prompt_progress"] == {"total": 300, "cache": 40, "processed": 168, "time_ms": 250}
    assert runs["queue"] == {"place": 0, "wait_s": 0.5}
    shown = runs["choices"][0] if "choices" in runs else runs
    assert not (shown.get("text") or shown.get("delta"))


def test_pieces_of_tokens_are_text_or_bytes():
    body = reply.tokens_body([1, 2], [b"hi", b"\xf0\x9f"])
    assert body == {"tokens": [{"id": 1, "piece": "hi"}, {"id": 2, "piece": [0xF0, 0x9F]}]}
    assert reply.tokens_body([1, 2], None) == {"tokens": [1, 2]}


def test_bodies_are_json_for_every_logprob():
    assert "Infinity" not in reply.dump(json.loads(reply.dump(chat().piece(Piece("hi", (SAID,))))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@given(JSON, st.integers(1, 3))
def test_pieces_together_are_the_same_json(body: Any, batch: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reply, "BATCH", batch)
        patch.setattr(reply, "MAX_CHARACTERS", 2)
        assert "".join(reply.pieces(body)) == reply.dump(body)


def test_no_piece_holds_more_than_a_batch():
    """8 choices of 4096 tokens with 20 likeliest beside each are 700,000 objects."""
    logprob = {"token": "x", "logprob": -1.5, "bytes": [120], "top_logprobs": [{"token": "y"}] * 20}
    choices = [{"index": i, "logprobs": {"content": [logprob] * 300}} for i in range(2)]
    size = len(reply.dump(logprob))
    assert max(map(len, reply.pieces({"choices": choices, "text": "x" * 10**6}))) <= max(
        (size + 1) * reply.BATCH, reply.MAX_CHARACTERS
    )


@given(st.binary(), st.integers(1, 4))
def test_bytes_of_tokens_are_decoded_as_one(data: bytes, size: int):
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    assert reply.decode(parts) == data.decode("utf-8", "replace")
