"""API keys: who may ask. The file is read once, at start; an empty set lets everybody ask.

Keeps digests, not keys, and compares with every one of them in constant time, so neither memory nor the time of an
answer tells a key. Knows the header's form and nothing else of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from ..errors import ConfigError, Unauthorized, WrongKey

MIN_CHARACTERS = 16


class Keys:
    def __init__(self, keys: list[str] | None = None) -> None:
        self._digests = [_digest(key) for key in keys or []]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str) -> str:
        """The Authorization header's value, empty if there is none. Returns the key's name, which tells nothing of the
        key; empty if none is asked for. Raises Unauthorized, and WrongKey if a key was brought."""
        if not self:
            return ""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("Authorization: is missing, must be Bearer and an API key of this node")
        digest = _digest(key.strip())
        if sum([hmac.compare_digest(digest, known) for known in self._digests]) == 0:  # no early end
            raise WrongKey("Authorization: this is not an API key of this node")
        return digest.hex()


def load(path: Path | None) -> Keys:
    """One key a line; blank lines and lines that begin with # are passed over. No file means no keys are asked for.

    Raises ConfigError with every fault, which names lines and never a key.
    """
    if path is None:
        return Keys()
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"byte {error.start} is not ASCII"
        raise ConfigError([f"LLM_API_KEYS_FILE={path}: {reason}"]) from error
    keys = {number: line.strip() for number, line in enumerate(lines, 1)}
    keys = {number: key for number, key in keys.items() if key and not key.startswith("#")}
    faults = [
        f"LLM_API_KEYS_FILE={path}: line {number}: a key of {len(key)} characters, must be at least {MIN_CHARACTERS} "
        "without spaces"
        for number, key in keys.items()
        if len(key) < MIN_CHARACTERS or not key.isprintable() or " " in key
    ]
    if not keys:
        faults.append(f"LLM_API_KEYS_FILE={path}: holds no key; must hold one a line")
    if faults:
        raise ConfigError(faults)
    return Keys(list(keys.values()))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
