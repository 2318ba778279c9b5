"""Choose the base an image is baked on, and say how its disk gets into the cache.

A base is a dated cloud image, verified by checksum, or a disk built from packages. Reads packer/bases.toml, the one
home of what a base is. Knows servers, checksums and the cache; nothing of what the bake does with the disk.
"""

from __future__ import annotations

import difflib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..files import REPOSITORY, cache_root, hash_file
from ..problem import Problem

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

BASES = REPOSITORY / "packer" / "bases.toml"
BUILDER = REPOSITORY / "scripts" / "bake" / "make_debian_base.sh"
REACH_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Base:
    """One row of bases.toml; `url` and `sha256` are empty for a base built from packages."""

    name: str
    release: str
    suite: str
    python: str
    user: str
    url: str = ""
    sha256: str = ""
    auto: int = 0

    @property
    def disk(self) -> Path:
        """Where the cache keeps the disk; the key is its content, or what it is built by."""
        key = self.sha256[:16] if self.url else hash_file(BUILDER)[:16]
        return cache_root() / "base" / f"{self.name}-{key}" / "disk.qcow2"


def read_bases(path: Path = BASES) -> dict[str, Base]:
    """The rows of bases.toml by name. Raises Problem for a row that is not a base."""
    bases = {}
    for name, row in tomllib.loads(path.read_text()).items():
        try:
            bases[name] = Base(name=name, **row)
        except TypeError as error:
            raise Problem(f"{path}: [{name}] is not a base: {error}", "compare it with the other rows") from None
        if bool(row.get("url")) != (len(row.get("sha256", "")) == 64):
            raise Problem(f"{path}: [{name}] needs url and sha256 (64 hexadecimal digits) together, or neither")
    return bases


def why_unreachable(url: str) -> str:
    """Ask for the head of `url`; "" when its server has it, else the reason in words."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} for {url}"
    except (OSError, urllib.error.URLError) as error:
        return str(getattr(error, "reason", error))


def choose_base(name: str, bases: dict[str, Base], why_not: Callable[[str], str] = why_unreachable) -> tuple[Base, str]:
    """The base called `name`, or for "auto" the best one that can be had; and the reason, one line for a person.

    Raises Problem for an unknown name.
    """
    if name != "auto":
        if name not in bases:
            near = difflib.get_close_matches(name, bases, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise Problem(f"BASE={name}: unknown; allowed are auto, {', '.join(bases)}", f"{hint}make image BASE=auto")
        return bases[name], "as asked"
    first, fallback = sorted((base for base in bases.values() if base.auto), key=lambda base: base.auto)[:2]
    if first.disk.exists():
        return first, "in the cache"
    reason = why_not(first.url)
    if not reason:
        return first, "reachable"
    return (
        fallback,
        f"the stand-in for {first.name}, because {urlsplit(first.url).hostname} cannot be reached ({reason})",
    )


def fetch_command(base: Base) -> list[str]:
    """The command that leaves the base's disk at `base.disk`, complete or not at all."""
    base.disk.parent.mkdir(parents=True, exist_ok=True)
    if base.url:
        script = '. scripts/lib.sh && fetch_verified "$@"'
        return ["bash", "-euc", script, "fetch", base.url, base.sha256, str(base.disk)]
    command = ["bash", str(BUILDER), base.suite, str(base.disk)]
    # mmdebstrap mounts /proc and /dev below its root; in a mount namespace of their own they go away however it ends.
    may_unshare = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    return ["unshare", "--mount", *command] if may_unshare else command
