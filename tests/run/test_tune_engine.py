"""`make tune`: what it recommends, from speeds given by hand, and one real measurement of the demo model."""

from __future__ import annotations

import os

import pytest

from scripts.files import REPOSITORY
from scripts.models.catalog import load_catalog
from scripts.problem import Problem
from scripts.run import tune_engine

BASE = {"prefill": 100.0, "decode 1": 20.0, "decode 4": 50.0, "decode 8": 60.0}


def speeds(factor: float) -> dict[str, float]:
    return {key: value * factor for key, value in BASE.items()}


def tune(monkeypatch: pytest.MonkeyPatch, tmp_path, answers: dict[str, object]) -> dict[str, str]:
    """Settings not named in `answers` are as fast as the defaults."""
    monkeypatch.setattr(tune_engine, "measure_apart", lambda settings: answers.get(tune_engine.name(settings), BASE))
    return tune_engine.tune({"LLM_LIB_DIR": str(tmp_path)})


def test_mix_is_prompts_and_then_streams():
    assert tune_engine.score(BASE) == pytest.approx(8 * 256 / 100 + 8 * 64 / 60)


def test_defaults_stay_when_nothing_pays(monkeypatch, tmp_path):
    assert tune(monkeypatch, tmp_path, {"LLM_REPACK=off": speeds(1.01)}) == {}


def test_what_pays_alone_and_together_is_recommended(monkeypatch, tmp_path):
    answers = {
        "LLM_REPACK=off": speeds(1.2),
        "LLM_FLASH_ATTN=on": speeds(1.1),
        "LLM_FLASH_ATTN=on LLM_REPACK=off": speeds(1.3),
    }
    assert tune(monkeypatch, tmp_path, answers) == {"LLM_REPACK": "off", "LLM_FLASH_ATTN": "on"}


def test_best_alone_wins_when_together_is_slower(monkeypatch, tmp_path, capsys):
    answers = {
        "LLM_REPACK=off": speeds(1.2),
        "LLM_FLASH_ATTN=on": speeds(1.1),
        "LLM_FLASH_ATTN=on LLM_REPACK=off": speeds(1.0),
    }
    assert tune(monkeypatch, tmp_path, answers) == {"LLM_REPACK": "off"}
    assert "1.20x" in capsys.readouterr().out


def test_setting_that_does_not_work_is_shown_and_left(monkeypatch, tmp_path, capsys):
    assert tune(monkeypatch, tmp_path, {"LLM_CACHE_TYPE=q8_0": "no memory"}) == {}
    assert "not possible: no memory" in capsys.readouterr().out


def test_defaults_that_do_not_work_are_an_error(monkeypatch, tmp_path):
    with pytest.raises(Problem, match="the defaults cannot be measured: broken"):
        tune(monkeypatch, tmp_path, {"defaults": "broken"})


def test_recommendation_is_stored_in_the_row_and_taken_away_again(tmp_path):
    catalog = tmp_path / "models.toml"
    before = tune_engine.CATALOG.read_text()
    catalog.write_text(before)
    tune_engine.store(catalog, "phi-2-q4_k_m", {"LLM_REPACK": "off", "LLM_THREADS": "3"})
    changed = load_catalog(catalog)
    assert changed.pop("phi-2-q4_k_m").settings == {"LLM_REPACK": "off", "LLM_THREADS": "3"}
    assert not any(model.settings for model in changed.values())
    added = [line for line in catalog.read_text().splitlines() if line not in before.splitlines()]
    assert added == ['settings = {LLM_REPACK = "off", LLM_THREADS = "3"}']
    tune_engine.store(catalog, "phi-2-q4_k_m", {})
    assert load_catalog(catalog) == load_catalog()


def test_demo_model_is_really_measured(monkeypatch):
    """In a process of its own, as every setting is."""
    monkeypatch.setenv("LLM_MODEL", str(REPOSITORY / "packer/models/demo.gguf"))
    assert os.environ["LLM_LIB_DIR"]
    figures = tune_engine.measure_apart({"LLM_THREADS": "1"})
    assert isinstance(figures, dict) and list(figures) == list(BASE) and all(value > 0 for value in figures.values())
    assert isinstance(tune_engine.measure_apart({tune_engine.UNIFIED: "off", "LLM_THREADS": "1"}), dict)
    assert "LLM_THREADS=0" in str(tune_engine.measure_apart({"LLM_THREADS": "0"}))
