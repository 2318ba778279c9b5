"""Settings: the LLM_* environment variables as one frozen Config.

SETTINGS is the one table of names, defaults and ranges: `load` checks by it, `--help` prints it, and the tests hold
/etc/llm/llm.env and NGINX's limits to it. Reports every fault at once; an unknown LLM_* name is a fault too, because a
misspelled setting that does nothing is worse than no start. The only reader of the environment.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from .errors import ConfigError

PREFIX = "LLM_"
AUTO = "auto"
MAX_AUTO_CONTEXT = 4096
MAX_TEXT = 8192


@dataclass(frozen=True)
class Setting:
    """One row: `kind` is a key of _CHECKS; `default` is written as in the environment."""

    name: str
    kind: str
    default: str
    help: str
    low: int = 0
    high: int = 0
    has_auto: bool = False
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """The same setting's name in Config: LLM_MAX_QUEUE -> max_queue."""
        return self.name.removeprefix(PREFIX).lower()

    @property
    def allowed(self) -> str:
        """What may be written, as the messages and the help say it."""
        if self.kind == "count":
            return f"a whole number from {self.low} to {self.high}" + (f", or {AUTO}" if self.has_auto else "")
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        return {
            "file": "the path of a GGUF file",
            "directory": "the path of a directory",
            "word": "1 to 128 letters, digits or ._:/@+-" + (f", or {AUTO}" if self.has_auto else ""),
            "address": "an IPv4 or IPv6 address",
            "text": f"text of at most {MAX_TEXT} characters",
            "optional directory": "the path of a directory, or nothing",
            "optional file": "the path of a file that can be read, or nothing",
        }[self.kind]


SETTINGS = (
    Setting("LLM_MODEL", "file", "", "the model; there is no default"),
    Setting("LLM_MODEL_NAME", "word", AUTO, "name in /v1/models and in answers; auto: the file's name", has_auto=True),
    Setting("LLM_HOST", "address", "127.0.0.1", "address to listen on; llm.service allows loopback only"),
    Setting("LLM_PORT", "count", "8080", "port to listen on (NGINX expects 8080); 0 takes a free one", 0, 65535),
    Setting("LLM_THREADS", "count", AUTO, "threads of the model; auto: the cores this process may use", 1, 512, True),
    Setting(
        "LLM_CONTEXT",
        "count",
        AUTO,
        f"tokens of prompt and answer together; auto: the model's own number, at most {MAX_AUTO_CONTEXT}",
        64,
        1048576,
        True,
    ),
    Setting(
        "LLM_CACHE_TOKENS",
        "count",
        AUTO,
        "tokens in the KV cache, streams and what is kept for reuse together; auto: up to a quarter of the memory",
        64,
        1048576,
        True,
    ),
    Setting("LLM_CACHE_TYPE", "choice", "f16", "how the KV cache is stored", choices=("f16", "q8_0")),
    Setting(
        "LLM_FLASH_ATTN",
        "choice",
        AUTO,
        "flash attention; auto: on if heads share keys or the cache is q8_0, else measured",
        choices=("on", "off", AUTO),
    ),
    Setting("LLM_REPACK", "choice", "on", "rearrange weights for this CPU at load", choices=("on", "off")),
    Setting("LLM_BLAS", "choice", AUTO, "library set with OpenBLAS", choices=("on", "off", AUTO)),
    Setting("LLM_LIB_DIR", "directory", "/opt/llamakiln/lib", "where the library sets are"),
    Setting(
        "LLM_STATE_DIR",
        "optional directory",
        "",
        "where measurements of this machine and the computed system prompt are kept; empty: nowhere",
    ),
    Setting("LLM_SYSTEM_PROMPT", "text", "", "put before every chat that brings no system message of its own"),
    Setting("LLM_MAX_TOKENS", "count", "2048", "most tokens of an answer, and how many if none is asked", 1, 1048576),
    Setting(
        "LLM_MAX_STREAMS", "count", AUTO, "answers generated at once; auto: by measurement, at most 16", 1, 64, True
    ),
    Setting("LLM_STEP_MS", "count", "350", "how long one step may keep running answers waiting, in ms", 10, 5000),
    Setting("LLM_SPECULATE", "choice", AUTO, "guess tokens from the prompt when it pays", choices=("off", AUTO)),
    Setting("LLM_MAX_QUEUE", "count", "32", "requests that may wait; one more gets 503 with Retry-After", 0, 512),
    Setting("LLM_MAX_QUEUE_TOKENS", "count", "65536", "prompt tokens that may wait in all", 64, 1048576),
    Setting(
        "LLM_MAX_WAIT_S", "count", "60", "longest expected wait for others before a first token; beyond it 503", 1, 280
    ),
    Setting("LLM_MAX_BODY_BYTES", "count", "1048576", "largest request body; NGINX allows the highest", 1024, 1048576),
    Setting("LLM_REQUEST_TIMEOUT_S", "count", "240", "seconds a request may wait and run; NGINX waits longer", 1, 280),
    Setting("LLM_DRAIN_S", "count", "30", "seconds that running answers get to finish after SIGTERM", 0, 300),
    Setting(
        "LLM_API_KEYS_FILE", "optional file", "", "keys that clients must bring, one a line; empty: everybody may ask"
    ),
    Setting("LLM_LOG_LEVEL", "choice", "info", "lowest level logged", choices=("debug", "info", "warning", "error")),
)


@dataclass(frozen=True)
class Config:
    """Checked settings, one field per row of SETTINGS, and what systemd told us. None stands for auto or nothing."""

    model: Path
    model_name: str
    host: str
    port: int
    threads: int
    context: int | None
    cache_tokens: int | None
    cache_type: str
    flash_attn: str
    repack: str
    blas: str
    lib_dir: Path
    state_dir: Path | None
    system_prompt: str
    max_tokens: int
    max_streams: int | None
    step_ms: int
    speculate: str
    max_queue: int
    max_queue_tokens: int
    max_wait_s: int
    max_body_bytes: int
    request_timeout_s: int
    drain_s: int
    api_keys_file: Path | None
    log_level: str
    notify_socket: str = ""
    watchdog_s: float = 0.0


def load(environ: Mapping[str, str]) -> Config:
    """Read and check everything. Raises ConfigError with every fault found."""
    faults = [_describe_unknown(name) for name in sorted(environ) if name.startswith(PREFIX) and name not in _NAMES]
    values: dict[str, object] = {}
    for setting in SETTINGS:
        text = environ.get(setting.name, "").strip() or setting.default
        try:
            values[setting.field] = _read(setting, text)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError(faults)
    if values["model_name"] is None:
        values["model_name"] = Path(str(values["model"])).stem
    if values["cache_type"] != "f16" and values["flash_attn"] == "off":
        raise ConfigError([f"LLM_CACHE_TYPE={values['cache_type']}: needs LLM_FLASH_ATTN=on"])
    if values["cache_type"] != "f16":
        values["flash_attn"] = "on"
    values["threads"] = values["threads"] or len(os.sched_getaffinity(0))
    return Config(
        **values,  # type: ignore[arg-type]
        notify_socket=environ.get("NOTIFY_SOCKET", ""),
        watchdog_s=int(environ.get("WATCHDOG_USEC") or 0) / 1e6,
    )


def check(name: str, text: str) -> str:
    """What is wrong with one setting's value by itself, or ''."""
    try:
        _read(next(setting for setting in SETTINGS if setting.name == name), text)
    except ValueError as error:
        return str(error)
    return ""


def describe() -> str:
    """All settings with defaults and ranges, for --help."""
    lines = ["Settings, read from the environment:", ""]
    for setting in SETTINGS:
        lines += [f"  {setting.name}={setting.default}", f"      {setting.help}", f"      {setting.allowed}"]
    return "\n".join(lines)


def describe_file() -> str:
    """The same as /etc/llm/llm.env, every setting commented out with its default (--env prints it)."""
    blocks = [
        "# Settings of llm.service. Every line shows its default: remove the # to change it, then\n"
        "# `systemctl restart llm`. Wrong or unknown settings keep the service from starting, and\n"
        "# `journalctl -u llm` lists every fault at once."
    ]
    for setting in SETTINGS:
        blocks.append(f"# {setting.help}\n# {setting.allowed}\n#{setting.name}={setting.default}")
    return "\n\n".join(blocks) + "\n"


_NAMES = frozenset(setting.name for setting in SETTINGS)
_WORD_MARKS = frozenset("._:/@+-")


def _read(setting: Setting, text: str) -> object:
    """Raises ValueError with the setting, its value and what is allowed."""
    try:
        return _CHECKS[setting.kind](setting, text)
    except ValueError as error:
        reason = f" ({error})" if str(error) else ""
        shown = text if len(text) <= 200 else text[:200] + "..."
        raise ValueError(f"{setting.name}={shown}: must be {setting.allowed}{reason}") from None


def _describe_unknown(name: str) -> str:
    close = difflib.get_close_matches(name, sorted(_NAMES), n=1)
    return f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else "; --help lists them all")


def _check_count(setting: Setting, text: str) -> int | None:
    if setting.has_auto and text == AUTO:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or not setting.low <= int(text) <= setting.high:
        raise ValueError
    return int(text)


def _check_choice(setting: Setting, text: str) -> str:
    if text not in setting.choices:
        raise ValueError
    return text


def _check_word(setting: Setting, text: str) -> str | None:
    if setting.has_auto and text == AUTO:
        return None
    if len(text) > 128 or not all(mark.isascii() and (mark.isalnum() or mark in _WORD_MARKS) for mark in text):
        raise ValueError
    return text


def _check_address(_setting: Setting, text: str) -> str:
    return str(ip_address(text))


def _check_file(_setting: Setting, text: str) -> Path:
    if not text:
        raise ValueError("it is not set")
    try:
        with open(text, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ValueError(error.strerror) from error
    if magic != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, not b'GGUF'")
    return Path(text)


def _check_text(_setting: Setting, text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has {len(text)}")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it is not UTF-8")
    return text


def _check_optional_file(_setting: Setting, text: str) -> Path | None:
    if not text:
        return None
    try:
        with open(text, "rb"):
            return Path(text)
    except OSError as error:
        raise ValueError(error.strerror) from error


def _check_optional_directory(setting: Setting, text: str) -> Path | None:
    return _check_directory(setting, text) if text else None


def _check_directory(_setting: Setting, text: str) -> Path:
    if not os.path.isdir(text):
        raise ValueError("no such directory")
    return Path(text)


_CHECKS = {
    "count": _check_count,
    "choice": _check_choice,
    "word": _check_word,
    "address": _check_address,
    "file": _check_file,
    "directory": _check_directory,
    "text": _check_text,
    "optional file": _check_optional_file,
    "optional directory": _check_optional_directory,
}
