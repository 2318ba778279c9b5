"""Settings: every fault at once, in words that say the value and what is allowed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from service import config
from service.errors import EXIT_CONFIG, ConfigError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF....")
    return {"LLM_MODEL": str(tmp_path / "tiny.gguf"), "LLM_LIB_DIR": str(tmp_path), "PATH": "/bin"}


def faults(environ: dict[str, str], **changes: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config.load({**environ, **changes})
    return caught.value.faults


def test_defaults(environ: dict[str, str]):
    loaded = config.load(environ)
    assert (loaded.host, loaded.port, loaded.context, loaded.model_name) == ("127.0.0.1", 8080, None, "tiny")
    assert loaded.threads == len(os.sched_getaffinity(0))


def test_empty_value_means_the_default(environ: dict[str, str]):
    assert config.load({**environ, "LLM_PORT": " "}).port == 8080


def test_every_fault_is_reported_at_once(environ: dict[str, str]):
    found = faults(environ, LLM_PORT="x", LLM_BLAS="maybe", LLM_TREADS="2", LLM_MODEL="/nope.gguf")
    assert found == (
        "LLM_TREADS: no such setting; did you mean LLM_THREADS?",
        "LLM_MODEL=/nope.gguf: must be the path of a GGUF file (No such file or directory)",
        "LLM_PORT=x: must be a whole number from 0 to 65535",
        "LLM_BLAS=maybe: must be one of on, off, auto",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LLM_MAX_QUEUE", "-1", "must be a whole number from 0 to 512"),
        ("LLM_MAX_QUEUE", "513", "must be a whole number from 0 to 512"),
        ("LLM_MAX_QUEUE", "1.5", "must be a whole number from 0 to 512"),
        ("LLM_MAX_QUEUE", "٣", "must be a whole number from 0 to 512"),
        ("LLM_THREADS", "0", "must be a whole number from 1 to 512, or auto"),
        ("LLM_CONTEXT", "9" * 5000, "must be a whole number from 64 to 1048576, or auto"),
        ("LLM_HOST", "localhost", "must be an IPv4 or IPv6 address"),
        ("LLM_MODEL_NAME", "a b", "must be 1 to 128 letters"),
        ("LLM_LIB_DIR", "/nope", "must be the path of a directory (no such directory)"),
        ("LLM_LOG_LEVEL", "loud", "must be one of debug, info, warning, error"),
        ("LLM_SYSTEM_PROMPT", "caf\udce9", "must be text of at most 8192 characters (it is not UTF-8)"),
        ("LLM_WHATEVER_ELSE", "1", "no such setting"),
    ],
)
def test_fault_names_value_and_what_is_allowed(environ: dict[str, str], name: str, text: str, message: str):
    (fault,) = faults(environ, **{name: text})
    assert fault.startswith(name) and message in fault


def test_model_must_be_set_and_be_gguf(environ: dict[str, str], tmp_path: Path):
    assert faults({"LLM_LIB_DIR": str(tmp_path)}) == ("LLM_MODEL=: must be the path of a GGUF file (it is not set)",)
    (tmp_path / "page.html").write_bytes(b"<html>")
    assert "begins with b'<htm'" in faults(environ, LLM_MODEL=str(tmp_path / "page.html"))[0]


@pytest.mark.parametrize("setting", [row for row in config.SETTINGS if row.kind == "count"], ids=lambda row: row.name)
def test_both_ends_of_each_range_are_allowed(environ: dict[str, str], setting: config.Setting):
    for number in (setting.low, setting.high):
        assert getattr(config.load({**environ, setting.name: str(number)}), setting.field) == number


def test_table_and_dataclass_have_the_same_names():
    fields = [field.name for field in dataclasses.fields(config.Config)]
    assert fields == [setting.field for setting in config.SETTINGS] + ["notify_socket", "watchdog_s"]


def test_systemds_variables_are_read(environ: dict[str, str]):
    loaded = config.load({**environ, "NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "120000000"})
    assert (loaded.notify_socket, loaded.watchdog_s) == ("@x", 120)


def test_help_shows_every_setting_with_its_range():
    shown = config.describe()
    for setting in config.SETTINGS:
        assert f"  {setting.name}={setting.default}\n" in shown and setting.allowed in shown


def test_exit_code_is_ex_config():
    assert EXIT_CONFIG == os.EX_CONFIG
