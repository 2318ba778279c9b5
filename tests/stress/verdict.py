"""What was measured, held against what was promised, as lines of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEALTH_P99_S = 0.2
GAP_S = 1.0  # two steps of LLM_STEP_MS=350, and 0.25 s in which a worker may hold the interpreter
FAIR_SHARE = 0.7
WIDTH = 100


@dataclass(frozen=True)
class Check:
    """ok None: told, and nothing was promised."""

    what: str
    found: str
    budget: str = ""
    ok: bool | None = None


def at_most(what: str, found: float, budget: float, unit: str = "") -> Check:
    """Nothing found (nan) is a failure: what was not seen was not kept."""
    return Check(what, f"{found:.3g}{unit}", f"<= {budget:g}{unit}", found <= budget)


def at_least(what: str, found: float, budget: float, unit: str = "") -> Check:
    return Check(what, f"{found:.3g}{unit}", f">= {budget:g}{unit}", found >= budget)


def tell(what: str, found: object) -> Check:
    return Check(what, str(found))


def shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def write_table(rows: Sequence[tuple[str, Check]]) -> str:
    cells = [("scenario", "what", "found", "budget", "")]
    last = ""
    for name, check in rows:
        word = "" if check.ok is None else "pass" if check.ok else "FAIL"
        cells.append(("" if name == last else name, check.what, shorten(check.found), check.budget, word))
        last = name
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
