"""What x86-64 code has stored in memory when it comes to an instruction, followed in objdump's text.

Knows moves and zeroing, which is all that compilers use to lay out a small struct; what anything else computes is
unknown. Branches are not taken: for functions that go straight to the instruction.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

SIZES = {"BYTE": 1, "WORD": 2, "DWORD": 4, "QWORD": 8, "XMMWORD": 16, "YMMWORD": 32, "ZMMWORD": 64}
UNKNOWN: list[int | None] = [None] * 64


def read_by(mnemonic: str, library: Path) -> list[int | None]:
    """The 64 bytes that the first instruction of this name reads; None: never stored, or nobody knows what."""
    memory: dict[tuple[str, int], int | None] = {}  # base register ("": none) and offset -> byte
    registers: dict[str, list[int | None]] = {}
    for address, dump in re.findall(r"^ ([0-9a-f]+) ((?:[0-9a-f]{2,8} ){1,4})", _objdump(library, "-s"), re.M):
        memory |= {("", int(address, 16) + i): byte for i, byte in enumerate(bytes.fromhex(dump))}
    for line in _objdump(library, "-d", "-M", "intel", "--no-show-raw-insn").splitlines():
        parsed = re.match(r"\s+[0-9a-f]+:\t(\S+)\s+([^#]+)(?:#\s*([0-9a-f]+))?", line)
        if not parsed:
            continue
        operands = parsed[2].strip().split(",")
        target, source = operands[0], operands[-1]
        places = [_place(operand, parsed[3]) for operand in (target, source)]
        if parsed[1] == mnemonic:
            base, offset = places[0]
            return [memory.get((base, offset + i)) for i in range(64)]
        size = next((n for word, n in SIZES.items() for each in operands if each.startswith(f"{word} PTR")), 0)
        value = UNKNOWN
        if re.match(r"v?p?xor", parsed[1]) and len(set(map(_name, operands))) == 1:
            value = [0] * 64
        elif re.match(r"v?mov", parsed[1]) and len(operands) == 2:
            if re.fullmatch(r"(0x)?[0-9a-f]+", source):
                value = list((int(source, 16) % 2**64).to_bytes(64, "little"))
            elif places[1]:
                base, offset = places[1]
                value = [memory.get((base, offset + i)) if i < size else 0 for i in range(64)]
            else:
                value = registers.get(_name(source), UNKNOWN)
        if places[0]:
            base, offset = places[0]
            memory |= {(base, offset + i): value[i] for i in range(size)}
        else:
            registers[_name(target)] = value
    raise AssertionError(f"no {mnemonic} in {library}")


def _objdump(library: Path, *options: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        ["objdump", *options, library], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def _place(operand: str, resolved: str | None) -> tuple[str, int] | None:
    """Where a memory operand is; None for others. resolved: the address that objdump found for one beside the code."""
    if "[rip" in operand and resolved:
        return "", int(resolved, 16)
    found = re.search(r"\[(\w+)([+-]0x[0-9a-f]+)?\]", operand)
    return (found[1], int(found[2] or "0", 16)) if found else None


def _name(register: str) -> str:
    """One for all widths of a register."""
    return re.sub(r"^[xyz]mm", "v", register) if "mm" in register else re.sub(r"^[re]|d$", "", register)
