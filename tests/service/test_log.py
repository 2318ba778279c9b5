"""What a log line never tells: text of clients, whatever breaks."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from service.errors import ConfigError, ModelError, ServiceError
from service.log import FORM, Formatter, describe
from tests.fakes import FakeModel
from tests.service.door import run_service

SECRET = "sentinel-8461"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """All that the process would write to its log, at the lowest level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(FORM))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def log_exception(error: BaseException, name: str = "service.x") -> None:
    try:
        raise error
    except BaseException:
        logging.getLogger(name).exception("it failed")


def test_exception_tells_its_kind_and_its_place_and_not_its_words(written: io.StringIO):
    try:
        {}[SECRET]
    except KeyError as error:
        log_exception(ValueError(SECRET).with_traceback(error.__traceback__))
    text = written.getvalue()
    assert "ERROR service.x: it failed" in text and "ValueError" in text and "KeyError" in text
    assert "in log_exception" in text and "test_log.py" in text
    assert SECRET not in text


@pytest.mark.parametrize("error", [ModelError("no room"), ConfigError(["no room"]), OSError(28, "no room")])
def test_our_own_words_are_told(error: Exception):
    assert "no room" in describe(error)


@pytest.mark.parametrize("error", [KeyError(SECRET), ServiceError(SECRET), UnicodeError(SECRET), Exception(SECRET)])
def test_words_that_may_be_a_clients_are_not(error: Exception):
    assert describe(error) == type(error).__name__


def test_waitress_does_not_name_paths(written: io.StringIO):
    logging.getLogger("waitress.queue").warning("Exception while serving %s", f"/{SECRET}")
    assert "WARNING waitress.queue: in test_log.test_waitress" in written.getvalue()
    assert SECRET not in written.getvalue()


BODIES = [
    {"prompt": SECRET},
    {"prompt": SECRET, "stream": True, "max_tokens": 3},
    {"prompt": SECRET, "temperature": 9},
    {"prompt": "x", SECRET: 1},
    {"prompt": "x", "stop": [SECRET, 5]},
    {"prompt": "x", "grammar": SECRET},
    {"prompt": "x", "json_schema": {"type": "hiccup", "title": SECRET}},
    {"prompt": "x", "logit_bias": {SECRET: 1}},
    {"prompt": SECRET * 3000},
    {"messages": [{"role": "user", "content": SECRET}]},
    {"messages": [{"role": SECRET, "content": "x"}]},
    {"content": SECRET, "with_pieces": True},
    {"tokens": [SECRET]},
    SECRET.encode(),
    SECRET.encode() + b"\xff",
]


@pytest.mark.parametrize("fault", [None, KeyError(SECRET), ModelError("poison"), RuntimeError(SECRET)])
def test_no_route_and_no_fault_logs_what_a_client_wrote(written: io.StringIO, fault: Exception | None):
    model = FakeModel()
    with run_service(model) as service:
        for path in ("/generate", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", f"/{SECRET}"):
            for body in BODIES:
                model.fault = fault
                service.door.post(
                    path, body, Authorization=f"Bearer {SECRET}", User_Agent=SECRET, X_Request_Id=f"<{SECRET}>"
                )
        model.fault = None
        for path in (f"/v1/models/{SECRET}", f"/healthz?{SECRET}", f"/static/{SECRET}/chat.js"):
            service.door.get(path, Host="localhost")
        service.door.get("/healthz", Host=f"{SECRET}.example")
    assert "reason=" in written.getvalue()
    assert SECRET not in written.getvalue()


@pytest.mark.parametrize("place", ["tokenize", "token_bytes", "make_sampler", "is_end"])
def test_no_fault_in_our_own_code_logs_what_a_client_wrote(
    written: io.StringIO, place: str, monkeypatch: pytest.MonkeyPatch
):
    model = FakeModel()

    def fail(*_args: object, **_more: object) -> None:
        raise KeyError(SECRET)

    with run_service(model) as service:
        monkeypatch.setattr(model, place, fail)
        reply = service.door.post("/generate", {"prompt": SECRET, "json_schema": {"title": SECRET}})
        assert reply.status >= 400 and SECRET not in reply.body.decode()
    assert SECRET not in written.getvalue()
