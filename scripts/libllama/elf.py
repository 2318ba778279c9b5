"""What ELF files need of others, offer to others, and whether their code uses one instruction. Reads by `readelf`.

Works on files of any machine. Knows nothing of llama.cpp. Standard library only: runs before any venv exists.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Elf:
    """`soname`: the name others ask for ("" for a program). `needed`: libraries it asks for. `wants`: library -> symbol
    versions taken from it, such as GLIBC_2.34. `offers`: symbol versions it defines itself."""

    soname: str
    needed: tuple[str, ...]
    wants: Mapping[str, frozenset[str]]
    offers: frozenset[str]


def read(path: Path) -> Elf:
    return parse(_readelf("-dVW", path))


def parse(text: str) -> Elf:
    """Read what `readelf -dVW` prints."""
    soname = re.search(r"\(SONAME\).*\[(.*)\]", text)
    wants: dict[str, set[str]] = {}
    offers: set[str] = set()
    section = library = ""
    for line in text.splitlines():
        if line.startswith("Version "):
            section = line.split()[1]  # symbols, definition or needs
        elif section == "needs" and (file := re.search(r"File: (\S+)", line)):
            library = file[1]
        elif name := re.search(r"Name: (\S+)", line):
            if section == "needs":
                wants.setdefault(library, set()).add(name[1])
            elif section == "definition":
                offers.add(name[1])
    return Elf(
        soname=soname[1] if soname else "",
        needed=tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", text)),
        wants={library: frozenset(versions) for library, versions in wants.items()},
        offers=frozenset(offers),
    )


def find_unmet(files: Mapping[str, Elf], root: Path) -> list[str]:
    """What `files` (name -> Elf, found beside each other) need and neither have nor find below `root`, as sentences."""
    unmet = []
    offers: dict[str, frozenset[str] | None] = {}
    for name, elf in files.items():
        for library in elf.needed:
            if library in files:
                continue
            if library not in offers:
                found = sorted(root.glob(f"**/{library}"))
                offers[library] = read(found[0]).offers if found else None
            if offers[library] is None:
                unmet.append(f"{name} needs {library}")
            elif missing := elf.wants.get(library, frozenset()) - offers[library]:
                unmet.append(f"{name} needs {', '.join(sorted(missing))} of {library}")
    return unmet


def highest_versions(files: Mapping[str, Elf]) -> dict[str, str]:
    """The newest C and C++ library that `files` need: {"GLIBC": "2.34", "GLIBCXX": "3.4.30"}."""
    highest: dict[str, tuple[int, ...]] = {}
    for elf in files.values():
        for version in frozenset().union(*elf.wants.values()):
            if found := re.fullmatch(r"(GLIBC|GLIBCXX)_([\d.]+)", version):
                number = tuple(map(int, found[2].split(".")))
                highest[found[1]] = max(highest.get(found[1], ()), number)
    return {kind: ".".join(map(str, number)) for kind, number in sorted(highest.items())}


def read_text_section(path: Path) -> bytes:
    """The machine code of a file."""
    row = re.search(r" \.text\s+PROGBITS\s+\w+ (\w+) (\w+)", _readelf("-SW", path))
    if not row:
        raise ValueError(f"{path} has no .text section")
    offset, size = (int(number, 16) for number in row.groups())
    return path.read_bytes()[offset : offset + size]


def has_smmla(code: bytes) -> bool:
    """Whether AArch64 code uses SMMLA (Arm ARM, C7.2: 8-bit matrix product, FEAT_I8MM), whatever its registers."""
    words = memoryview(code[: len(code) // 4 * 4]).cast("I")
    return any(word & 0xFFE0FC00 == 0x4E80A400 for word in words)


def _readelf(options: str, path: Path) -> str:
    return subprocess.check_output(["readelf", options, path], text=True, env={**os.environ, "LC_ALL": "C"})
