"""Whatever a grammar does to the library, it does it to the helper."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from service.chat import trial as module
from service.chat.schema import to_grammar
from service.chat.trial import HelperBusy, Trial

GOOD = to_grammar({"type": "object", "properties": {"a": {"type": "integer"}}})


@pytest.fixture
def trial() -> Iterator[Trial]:
    trial = Trial()
    yield trial
    trial.close()


def chain(n: int) -> dict[str, Any]:
    """A definition that refers to the next one, n times."""
    definitions: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}
    return {"$defs": {**definitions, f"d{n}": {"type": "null"}}, "$ref": "#/$defs/d0"}


ENDLESS = {"allOf": [{"type": "string", "pattern": f"(a|b){{{i}}}c"} for i in range(1, 40)]}
HUGE = {"type": "integer", "multipleOf": 999983}


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (to_grammar(ENDLESS), "too complex: takes more than 1 s of CPU"),
        (to_grammar(HUGE), "too complex: takes more than 1 s of CPU"),
        (to_grammar(chain(2000)), "too complex: takes more than 512 MB or nests too deeply"),
    ],
)
def test_grammar_that_ends_the_helper_ends_nothing_else(
    trial: Trial, grammar: str, reason: str, capfd: pytest.CaptureFixture[str]
):
    """Patterns kept the process for minutes, without an answer to health checks or SIGTERM; deep ones ended it."""
    with pytest.raises(ValueError, match=reason):
        trial.check(grammar, True)
    trial.check(GOOD, True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "schema",
    [chain(100), {"type": "string", "pattern": "^((((a?){0,50}){0,50}){0,50}){0,50}$"}, {"enum": ["é\n😀"] * 999}],
)
def test_what_can_be_made_passes(trial: Trial, schema: dict[str, Any]):
    trial.check(to_grammar(schema), True)


def test_words_of_the_library_come_back(trial: Trial):
    with pytest.raises(ValueError, match="Unimplemented keys"):
        trial.check(to_grammar({"not": {}}), True)
    with pytest.raises(ValueError, match="unknown name"):
        trial.check("start: nothing", False)


def test_helper_that_somebody_killed_is_no_grammars_fault(trial: Trial):
    trial.check(GOOD, True)
    assert trial._helper is not None
    os.kill(trial._helper.pid, signal.SIGKILL)
    trial._helper.wait()
    trial.check(to_grammar({"type": "null"}), True)


def test_one_helper_serves_many(trial: Trial):
    trial.check(GOOD, True)
    helper = trial._helper
    trial.check(to_grammar({"type": "null"}), True)
    assert trial._helper is helper


def test_who_waits_too_long_for_the_helper_may_ask_again(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WALL_S", 0.0)
    with trial._lock, pytest.raises(HelperBusy):
        trial.check(GOOD, True)


def test_helper_that_does_not_answer_is_ended(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as hurried:
        hurried.setattr(module, "WALL_S", 0.0)
        with pytest.raises(HelperBusy):
            trial.check(GOOD, True)
    assert trial._helper is not None and trial._helper.poll() == -signal.SIGKILL
    trial.check(GOOD, True)


def test_what_was_found_is_remembered(trial: Trial, monkeypatch: pytest.MonkeyPatch):
    bad = to_grammar({"not": {}})
    asked: list[bytes] = []
    ask = trial._ask
    monkeypatch.setattr(trial, "_ask", lambda question: asked.append(question) or ask(question))
    for _ in range(3):
        trial.check(GOOD, True)
        with pytest.raises(ValueError, match="Unimplemented keys"):
            trial.check(bad, True)
    assert len(asked) == 2
    monkeypatch.setattr(module, "MAX_KNOWN", 1)
    trial.check(to_grammar({"type": "null"}), True)
    trial.check(GOOD, True)
    assert len(asked) == 4 and len(trial._known) == 2


def test_helper_ends_with_its_input(trial: Trial):
    trial.check(GOOD, True)
    assert trial._helper is not None and trial._helper.stdin is not None
    trial._helper.stdin.close()
    assert trial._helper.wait(60) == 0


def test_grammar_of_many_bytes_gets_through_the_pipe(trial: Trial):
    schema = {"enum": [f"a rather long value, number {i}" for i in range(5000)]}
    assert len(json.dumps(to_grammar(schema))) > 1 << 17
    trial.check(to_grammar(schema), True)
