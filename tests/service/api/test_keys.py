"""API keys: what a file may hold, what a header must bring, and that no message tells a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.api import keys
from service.api.keys import Keys
from service.errors import ConfigError, Unauthorized

KEY, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_without_a_file_everybody_may_ask():
    loaded = keys.load(None)
    assert not loaded
    loaded.check("")


def test_any_key_of_the_file_opens(tmp_path: Path):
    loaded = keys.load(write(tmp_path, f"# of the team\n\n{KEY}\n  {OTHER}  \r\n"))
    assert loaded
    for header in (f"Bearer {KEY}", f"bearer {OTHER}", f"Bearer  {KEY} "):
        loaded.check(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        "Bearer # of the team",
        "Bearer \xff",
    ],
)
def test_nothing_else_opens_and_no_message_tells_a_key(header: str):
    with pytest.raises(Unauthorized) as caught:
        Keys([KEY]).check(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert KEY[:8] not in caught.value.message


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", [": holds no key; must hold one a line"]),
        ("# only this\n\n", [": holds no key; must hold one a line"]),
        (f"{KEY}\nshort-key\n\ntoo short\n", [": line 2: a key of 9 characters", ": line 4: a key of 9 characters"]),
        ("has a space in its middle\n", [": line 1: a key of 25 characters, must be at least 16 without spaces"]),
        ("sk-0123456789\x00abcdef\n", [": line 1: a key of"]),
        (b"sk-0123456789abcdef\xe9\n", [": byte 19 is not ASCII"]),
    ],
)
def test_faults_of_the_file_name_lines_and_never_a_key(tmp_path: Path, text: str | bytes, faults: list[str]):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        keys.load(path)
    assert len(caught.value.faults) == len(faults)
    for fault, part in zip(caught.value.faults, faults, strict=True):
        assert fault.startswith(f"LLM_API_KEYS_FILE={path}{part}")
        assert "short-key" not in fault and "sk-" not in fault


def test_file_that_vanished_is_a_fault(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        keys.load(tmp_path / "nothing")


def test_keys_are_not_kept(tmp_path: Path):
    loaded = keys.load(write(tmp_path, KEY))
    assert KEY not in repr(vars(loaded))


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch):
    """No early end: the time of an answer tells nothing of the place of a key."""
    compared = []
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    Keys([KEY, OTHER]).check(f"Bearer {KEY}")
    assert len(compared) == 2
