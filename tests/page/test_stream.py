"""stream.js in the browser: events cut anywhere are the same events."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from tests.page.door import run_module
from tests.runtime.door import Nginx
from tests.service.door import Running

READ = """
  const chunks = given.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  const stream = new ReadableStream({ start(to) { for (const chunk of chunks) to.enqueue(chunk); to.close(); } });
  const events = [];
  try {
    for await (const event of room.readEvents(stream)) events.push(event);
    return [events, null];
  } catch (error) {
    return [events, error instanceof room.Broken ? error.message : String(error)];
  }
"""
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def text_page(browser: Browser, free_node: tuple[Nginx, Running]):
    context = browser.new_context()
    page = context.new_page()
    page.goto(free_node[0].url)
    yield page
    context.close()


def read(page: Page, *chunks: bytes) -> tuple[list[Any], str | None]:
    events, fault = run_module(page, "stream.js", READ, [base64.b64encode(chunk).decode() for chunk in chunks])
    return events, fault


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=8), max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_cut_anywhere_are_the_same(text_page: Page, texts: list[str], end: str, data: st.DataObject):
    """Inside a character of UTF-8, between \\r and \\n, in the middle of a word."""
    lines = [f": ping{end}{end}", *(f"data: {json.dumps(text, ensure_ascii=False)}{end}{end}" for text in texts)]
    whole = "".join(lines).encode("utf-8", "replace") + f"data: [DONE]{end}{end}x".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    expected = [json.loads(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) for text in texts]
    assert read(text_page, *chunks) == (expected, None)


def test_one_byte_at_a_time(text_page: Page):
    whole = 'data: {"a":"é🦙"}\r\n\r\n'.encode() + DONE
    assert read(text_page, *(bytes([byte]) for byte in whole)) == ([{"a": "é🦙"}], None)


def test_several_data_lines_are_one_event(text_page: Page):
    assert read(text_page, b"event: x\nid: 1\ndata: [1,\ndata:2]\n\n" + DONE) == ([[1, 2]], None)


def test_error_event_is_an_event(text_page: Page):
    body = {"error": {"message": "m", "code": "model_failed"}}
    events, fault = read(text_page, f"data: {json.dumps(body)}\n\n".encode())
    assert events == [body] and fault == "the stream ended early"


@pytest.mark.parametrize(
    ("chunk", "fault"),
    [
        (b"", "the stream ended early"),
        (b"data: 1\n\ndata: 2\n", "the stream ended early"),
        (b"data: 1\n\ndata: {broken\n\n", "an event is not JSON"),
        (b"data: 1\n\ndata: [DONE]", "the stream ended early"),
    ],
)
def test_stream_without_its_end_is_broken(text_page: Page, chunk: bytes, fault: str):
    events, told = read(text_page, chunk)
    assert told == fault and events in ([], [1])


def test_nothing_after_the_end_is_read(text_page: Page):
    assert read(text_page, b"data: 1\n\n" + DONE + b"data: 2\n\n") == ([1], None)
