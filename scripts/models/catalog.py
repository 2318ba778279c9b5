"""Read packer/models.toml, the model catalogue, and check every row.

The one reader of that file: scripts and tests ask here for a model by name. Knows what a row may hold. Knows nothing of
the network, of the cache, or whether a model's file is there.

As a command: without a name prints the known names; with one, that row as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from service import config

from ..files import REPOSITORY
from ..problem import Problem, run

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

CATALOG = REPOSITORY / "packer" / "models.toml"

# gguf: the chat template inside the file. phi-2: that file has none, so the Instruct/Output form its makers describe.
TEMPLATES = ("gguf", "phi-2")
CONTEXT_MIN, CONTEXT_MAX = 128, 131072


@dataclasses.dataclass(frozen=True)
class Model:
    """One row: `repo` and `revision` say where the file is on a hub, or `path` where it is in this repository."""

    name: str
    file: str  # path inside the hub repository, or the file's name when `path` is set
    sha256: str
    bytes: int
    license: str
    template: str
    context: int
    repo: str = ""
    revision: str = ""
    path: str = ""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the engine, as `make tune` found them

    @property
    def file_name(self) -> str:
        """The name the file has in the cache and on the image."""
        return self.file.rsplit("/", 1)[-1]


def _matches(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


_SAFE_PATH = r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._+ -]*(/[A-Za-z0-9][A-Za-z0-9._+ -]*)*\.gguf"
_NAME = r"[a-z0-9]([a-z0-9._-]{0,58}[a-z0-9])?"

# field -> (is this value right?, what is allowed). The message is built from the same line as the check.
_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "file": (_matches(_SAFE_PATH), "a relative path that ends in .gguf, without '..'"),
    "sha256": (_matches(r"[0-9a-f]{64}"), "64 lower-case hexadecimal digits"),
    "bytes": (_is_whole(1, 400 * 10**9), "a whole number from 1 to 400000000000"),
    "license": (_matches(r"\S.{0,99}"), "1 to 100 characters, an SPDX name where there is one"),
    "template": (lambda value: value in TEMPLATES, "one of " + ", ".join(TEMPLATES)),
    "context": (_is_whole(CONTEXT_MIN, CONTEXT_MAX), f"a whole number of tokens from {CONTEXT_MIN} to {CONTEXT_MAX}"),
    "repo": (_matches(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"), "OWNER/NAME as on the hub"),
    "revision": (_matches(r"[0-9a-f]{40}"), "a commit of 40 lower-case hexadecimal digits, never a branch or tag"),
    "path": (_matches(_SAFE_PATH), "a path inside this repository that ends in .gguf, without '..'"),
}
# Settings of the engine that a row may carry: those `make tune` compares. Each is a row of service/config.py.
TUNED = ("LLM_FLASH_ATTN", "LLM_REPACK", "LLM_CACHE_TYPE", "LLM_THREADS", "LLM_BLAS")
_ALWAYS = ("sha256", "bytes", "license", "template", "context")


def check_name(name: str) -> str:
    """Return what is wrong with a row's name, or ''. The name is part of the image's file name."""
    if re.fullmatch(_NAME, name):
        return ""
    return f"[{name}]: a name must be 1 to 60 of a-z 0-9 . _ - and begin and end with a letter or digit"


def _check_row(name: str, row: object) -> list[str]:
    faults = [fault] if (fault := check_name(name)) else []
    if not isinstance(row, Mapping):
        return [*faults, f"[{name}]: must be a table of fields, not the value {row!r}"]
    for field, value in row.items():
        if field == "settings":
            faults += _check_settings(name, value)
            continue
        if isinstance(value, Mapping):  # [qwen2.5-x] means table 5-x inside table qwen2
            return [f'[{name}.{field}]: a name with a dot must be quoted: ["{name}.{field}"]']
        if field not in _FIELDS:
            faults.append(f"[{name}] {field}: unknown field; allowed are {', '.join((*_FIELDS, 'settings'))}")
        elif not _FIELDS[field][0](value):
            faults.append(f"[{name}] {field} = {value!r}: must be {_FIELDS[field][1]}")
    if "path" in row:
        required = _ALWAYS
        if also := [field for field in ("repo", "revision", "file") if field in row]:
            faults.append(f"[{name}] {also[0]}: a row with path names a file in this repository and takes no {also[0]}")
    else:
        required = ("repo", "revision", "file", *_ALWAYS)
    faults += [f"[{name}] {field}: missing; must be {_FIELDS[field][1]}" for field in required if field not in row]
    return faults


def _check_settings(name: str, settings: object) -> list[str]:
    if not isinstance(settings, Mapping):
        return [f"[{name}] settings = {settings!r}: must be a table of {', '.join(TUNED)}"]
    faults = []
    for setting, value in settings.items():
        if setting not in TUNED:
            faults.append(f"[{name}] settings.{setting}: unknown; allowed are {', '.join(TUNED)}")
        elif fault := config.check(setting, value if isinstance(value, str) else ""):
            faults.append(f"[{name}] settings.{fault}")
    return faults


def parse_catalog(text: str, source: str = "models.toml") -> dict[str, Model]:
    """Turn the catalogue's text into models by name, in the file's order; raises Problem listing every fault."""
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{source} is not valid TOML: {error}") from error
    faults = [fault for name, row in rows.items() for fault in _check_row(name, row)]
    if faults:
        raise Problem(f"{source}:\n  " + "\n  ".join(faults))
    return {
        name: Model(name=name, **{"file": row["path"].rsplit("/", 1)[-1] if "path" in row else row["file"], **row})
        for name, row in rows.items()
    }


def load_catalog(path: Path = CATALOG) -> dict[str, Model]:
    """Read and check the catalogue; raises Problem when it cannot be read or a row is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {path}: {error}") from error
    return parse_catalog(text, str(path))


def closest(wanted: str, known: Iterable[str]) -> str:
    """'; did you mean X?' when something known looks like `wanted`, else ''."""
    near = difflib.get_close_matches(wanted.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def find_model(name: str, models: Mapping[str, Model]) -> Model:
    """The model of that name; raises Problem naming the known ones and the likeliest."""
    if name in models:
        return models[name]
    raise Problem(
        f"MODEL={name}: no such model{closest(name, models)}",
        f"one of {', '.join(models)}; or add a row: make lock-model REPO=<owner/name> FILE=<file.gguf>",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="print this row as JSON (default: print the names)")
    parser.add_argument("--catalog", type=Path, default=CATALOG, help="the file to read (default: %(default)s)")
    options = parser.parse_args()
    models = load_catalog(options.catalog)
    if options.name is None:
        print("\n".join(models))
    else:
        json.dump(dataclasses.asdict(find_model(options.name, models)), sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    run(main)
