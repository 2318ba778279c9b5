"""Choose the llama.cpp library set for this CPU, and make sure that it is the one the Python binding was written for.

A set is a directory with libllama and a set.json saying which machine and CPU features it was compiled for (see
scripts/libllama/build.py). Compiled for more than the CPU has, it dies with SIGILL; for less, it is slow. The binding
finds symbols by name but trusts its own struct layouts, so a library of another llama.cpp corrupts memory silently:
both are compared before the binding is imported. Knows nothing of models.

`python -m service.llama.library` prints the choice, for the tools beside the service.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import json
import logging
import os
import platform
import sys
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

BINDING = "llama-cpp-python"
LIB_PATH_VARIABLE = "LLAMA_CPP_LIB_PATH"  # where the binding looks when it is imported
CPUINFO = Path("/proc/cpuinfo")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LibrarySet:
    """One set.json: `features` are the CPU flags it needs; of the sets that fit, the highest `rank` is the fastest."""

    path: Path
    name: str
    machine: str
    blas: bool
    features: frozenset[str]
    rank: int
    llama_cpp_python: str
    llama_cpp_commit: str


def load(lib_dir: Path, blas: str) -> LibrarySet:
    """Choose the set for this machine, check it, and point the binding at it; call before llama_cpp is imported.

    Raises ConfigError if no set fits or if the binding belongs to another llama.cpp.
    """
    if "llama_cpp" in sys.modules:
        raise AssertionError("llama_cpp was imported before a library set was chosen")
    chosen = choose_library(lib_dir, blas, platform.machine(), read_cpu_features(CPUINFO.read_text()))
    check_match(chosen, read_binding_version(), read_commit(chosen))
    os.environ[LIB_PATH_VARIABLE] = str(chosen.path)
    log.info("library set %s (LLM_BLAS=%s), llama.cpp %s", chosen.name, blas, chosen.llama_cpp_commit)
    return chosen


def read_chosen() -> str | None:
    """The name of the set that the binding was pointed at, if it was."""
    path = os.environ.get(LIB_PATH_VARIABLE)
    return Path(path).name if path else None


@functools.cache
def read_binding_version() -> str:
    """Of the installed binding, from the name of the folder that says so: importlib.metadata would bring a parser of
    e-mail along, 20 ms of each start. Raises ConfigError if there is none."""
    spec = importlib.util.find_spec("llama_cpp")
    prefix = BINDING.replace("-", "_") + "-"
    folder = next(Path(spec.origin).parents[1].glob(f"{prefix}*.dist-info"), None) if spec and spec.origin else None
    if folder is None:
        raise ConfigError([f"{BINDING} is not installed"])
    return folder.stem.removeprefix(prefix)


def choose_library(lib_dir: Path, blas: str, machine: str, cpu_features: Set[str]) -> LibrarySet:
    """The best set below `lib_dir` that this CPU can run.

    blas: "on" or "off" takes sets with or without OpenBLAS only; "auto" prefers one without, because OpenBLAS slows
    k-quants (Q4_K_M prefill 94 instead of 125 tokens/s, measured in November 2026 on 2 cores of EPYC Zen 4).
    machine: as platform.machine() says it. Raises ConfigError saying what is there and what each lacks.
    """
    sets = read_sets(lib_dir)
    fitting = [
        each
        for each in sets
        if each.machine == machine and each.features <= cpu_features and blas in ("auto", "on" if each.blas else "off")
    ]
    if not fitting:
        reasons = [f"{each.name} {_describe_misfit(each, blas, machine, cpu_features)}" for each in sets]
        raise ConfigError([f"LLM_LIB_DIR={lib_dir}: no library set fits: {'; '.join(reasons) or 'it holds none'}"])
    return max(fitting, key=lambda each: (each.rank, not each.blas, each.name))


def read_sets(lib_dir: Path) -> list[LibrarySet]:
    """Every set below `lib_dir`, by name. Raises ConfigError naming each set.json that cannot be read."""
    sets, faults = [], []
    for file in sorted(lib_dir.glob("*/set.json")):
        try:
            row = json.loads(file.read_text())
            sets.append(
                LibrarySet(
                    path=file.parent,
                    name=row["name"],
                    machine=row["machine"],
                    blas=row["blas"],
                    features=frozenset(row["features"]),
                    rank=row["rank"],
                    llama_cpp_python=row["llama_cpp_python"],
                    llama_cpp_commit=row["llama_cpp_commit"],
                )
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            faults.append(f"{file}: not the description of a library set ({type(error).__name__}: {error})")
    if faults:
        raise ConfigError(faults)
    return sets


def read_cpu_features(cpuinfo: str) -> frozenset[str]:
    """The flags that all cores have, from the text of /proc/cpuinfo ("Features" on Arm, "flags" on x86-64)."""
    lines = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    cores = [frozenset(value.split()) for name, value in lines if name.strip() in ("Features", "flags")]
    return frozenset.intersection(*cores) if cores else frozenset()


def read_commit(chosen: LibrarySet) -> str:
    """The llama.cpp commit that the library itself reports. Raises ConfigError if it cannot be loaded or asked."""
    path = chosen.path / "libllama.so"
    try:
        ggml_commit = ctypes.CDLL(str(path)).ggml_commit
    except (OSError, AttributeError) as error:
        raise ConfigError([f"{path}: cannot be used: {error}"]) from error
    ggml_commit.restype = ctypes.c_char_p
    return ggml_commit().decode("ascii", "replace")


def check_match(chosen: LibrarySet, binding_version: str, commit: str) -> None:
    """Raise ConfigError unless the binding and the library's own commit are the ones set.json was written for."""
    faults = []
    if binding_version != chosen.llama_cpp_python:
        faults.append(f"{chosen.path}: made for {BINDING} {chosen.llama_cpp_python}, not {binding_version}")
    if commit != chosen.llama_cpp_commit:
        faults.append(f"{chosen.path}: libllama says commit {commit}, set.json says {chosen.llama_cpp_commit}")
    if faults:
        raise ConfigError(faults)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m service.llama.library", description="Print the library set's directory."
    )
    parser.add_argument("--lib-dir", type=Path, required=True)
    parser.add_argument("--blas", choices=["on", "off", "auto"], default="auto")
    args = parser.parse_args()
    try:
        features = read_cpu_features(CPUINFO.read_text())
        print(choose_library(args.lib_dir, args.blas, platform.machine(), features).path)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


def _describe_misfit(each: LibrarySet, blas: str, machine: str, cpu_features: Set[str]) -> str:
    reasons = []
    if each.machine != machine:
        reasons.append(f"is for {each.machine}, this is {machine}")
    elif missing := each.features - cpu_features:
        reasons.append(f"needs {' '.join(sorted(missing))}, which this CPU lacks")
    if blas == ("off" if each.blas else "on"):
        reasons.append(f"has {'' if each.blas else 'no '}OpenBLAS, but LLM_BLAS={blas}")
    return " and ".join(reasons)


if __name__ == "__main__":
    main()
