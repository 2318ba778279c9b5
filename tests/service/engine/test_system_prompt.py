"""What all chats begin with, on the fake model."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from service.chat.prompt import Prompter
from service.engine.prefix import PrefixCache
from service.engine.system_prompt import encode, pin
from service.errors import ConfigError
from tests.fakes import FakeModel

TOKENS = [7] * 40


def make(**changes: bool) -> tuple[FakeModel, PrefixCache]:
    model = FakeModel(n_context=100, max_batch=16, **changes)
    return model, PrefixCache(model, model.n_sequences, model.n_cells, shares=model.shares)


def test_it_is_computed_in_parts_and_matches_from_then_on():
    model, cache = make()
    pin(model, cache, TOKENS, None)
    assert model.batches == [16, 16, 8]
    assert cache.match([*TOKENS, 1, 2]).n == 40


def test_it_is_read_back_at_the_next_start(tmp_path: Path):
    for batches in ([16, 16, 8], []):
        model, cache = make()
        pin(model, cache, TOKENS, tmp_path / "prompt.bin")
        assert model.batches == batches and cache.match([*TOKENS, 1]).n == 40


def test_another_prompt_in_the_file_is_computed_anew(tmp_path: Path):
    for tokens in ([8] * 40, TOKENS):
        model, cache = make()
        pin(model, cache, tokens, tmp_path / "prompt.bin")
        assert model.batches == [16, 16, 8]


@pytest.mark.parametrize("n", [0, 1, 40, -1])
def test_file_cut_short_is_computed_anew_and_written_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture, n: int):
    """A state file cut short (one byte is enough) aborted the process at every start, for ever."""
    path = tmp_path / "prompt-flash.bin"
    pin(*make(), TOKENS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:n])
    model, cache = make()
    pin(model, cache, TOKENS, path)
    assert model.batches == [16, 16, 8] and cache.match([*TOKENS, 1]).n == 40
    assert "not used" in caplog.text and path.read_bytes() == whole


def test_state_that_kills_the_process_kills_it_once(tmp_path: Path):
    """The file was tried again at every start."""
    path = tmp_path / "prompt-flash.bin"
    pin(*make(), TOKENS, path)
    model, cache = make()
    model.on_restore = lambda: (_ for _ in ()).throw(SystemExit("as good as abort()"))
    with pytest.raises(SystemExit):
        pin(model, cache, TOKENS, path)
    model, cache = make()
    pin(model, cache, TOKENS, path)
    assert model.batches == [16, 16, 8]
    assert [each.name for each in tmp_path.iterdir()] == ["prompt-flash.bin"]


def test_state_that_the_model_refuses_is_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pin(*make(), TOKENS, tmp_path / "prompt.bin")
    monkeypatch.setattr(FakeModel, "restore", lambda *a: False)
    model, cache = make()
    pin(model, cache, TOKENS, tmp_path / "prompt.bin")
    assert model.batches == [16, 16, 8] and cache.match([*TOKENS, 1]).n == 40


def test_states_that_no_start_reads_any_more_are_deleted(tmp_path: Path):
    """Each change of a setting left a file of hundreds of megabytes for ever."""
    for name in ("prompt-flash-of-other-settings.bin", "prompt-plain.bin.tried", "steps-1.json"):
        (tmp_path / name).touch()
    pin(*make(), TOKENS, tmp_path / "prompt-flash.bin")
    assert {each.name for each in tmp_path.iterdir()} == {"prompt-flash.bin", "steps-1.json"}


@pytest.mark.parametrize("fails", ["open", "replace", "fsync"])
def test_disk_that_is_read_only_or_full_is_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fails: str
):
    def fail(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    pin(*make(), TOKENS, tmp_path / "prompt-flash.bin")
    monkeypatch.setattr(os, fails, fail)
    model, cache = make()
    pin(model, cache, TOKENS, tmp_path / "prompt-flash.bin")
    assert cache.match([*TOKENS, 1]).n == 40
    assert "Read-only file system" in caplog.text


def test_place_that_is_a_directory_or_nowhere_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "prompt.bin").mkdir()
    for path in (tmp_path / "prompt.bin", tmp_path / "nowhere" / "prompt.bin"):
        model, cache = make()
        pin(model, cache, TOKENS, path)
        assert cache.match([*TOKENS, 1]).n == 40
    assert caplog.text.count("not saved") == 2


@pytest.mark.parametrize("shares", [True, False])
def test_prompt_that_fills_the_context_is_a_setting_to_correct(shares: bool):
    """The process ended with 70 for ever instead of 78; where nothing is shared it began, and refused every chat."""
    with pytest.raises(ConfigError, match="LLM_SYSTEM_PROMPT: uses 100 tokens; the context holds 100"):
        pin(*make(shares=shares), [7] * 100, None)


@pytest.mark.parametrize("template", ["{{ raise_exception('no system') }}", "{{ messages[9].content + 1 }}"])
def test_prompt_that_the_template_refuses_is_a_setting_to_correct(template: str):
    """The process ended with 70 for ever instead of 78 with a sentence."""
    prompter = Prompter(FakeModel(chat_template="{% if messages[0].role == 'system' %}" + template + "{% endif %}"))
    with pytest.raises(ConfigError, match="LLM_SYSTEM_PROMPT: no chat can begin with it: "):
        encode(prompter, "Be kind.")


def test_stop_ends_the_computing_within_a_step():
    model, cache = make()
    pin(model, cache, TOKENS, None, lambda: len(model.batches) < 1)
    assert model.batches == [16] and cache.sequences == [] and model.n_used_cells == 0


@pytest.mark.parametrize(("tokens", "shares"), [([], True), (TOKENS, False)])
def test_nothing_is_computed_where_nothing_can_be_shared(tokens: list[int], shares: bool):
    model, cache = make(shares=shares)
    pin(model, cache, tokens, None)
    assert model.batches == [] and cache.sequences == []
