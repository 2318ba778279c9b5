"""What all chats begin with, on the fake model."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.engine.prefix import PrefixCache
from service.engine.system_prompt import pin
from service.errors import ModelFatal
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
    (tmp_path / "prompt.bin").write_text("[1, 2]")
    model, cache = make()
    pin(model, cache, TOKENS, tmp_path / "prompt.bin")
    assert model.batches == [16, 16, 8]


def test_disk_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    model, cache = make()
    pin(model, cache, TOKENS, tmp_path / "nowhere" / "prompt.bin")
    assert "not saved" in caplog.text and cache.match([*TOKENS, 1]).n == 40


def test_prompt_that_fills_the_context_is_a_fault_to_correct():
    with pytest.raises(ModelFatal, match="LLM_SYSTEM_PROMPT: uses 100 tokens; the context holds 100"):
        pin(*make(), [7] * 100, None)


@pytest.mark.parametrize(("tokens", "shares"), [([], True), (TOKENS, False)])
def test_nothing_is_computed_where_nothing_can_be_shared(tokens: list[int], shares: bool):
    model, cache = make(shares=shares)
    pin(model, cache, tokens, None)
    assert model.batches == [] and cache.sequences == []
