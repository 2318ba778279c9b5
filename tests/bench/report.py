"""What the benchmark says in the end: one table with ratios, goals and verdicts, the same as JSON, and a picture.

ROWS is the one list of what is shown and what is promised. Knows the numbers of each server by workload, as
`__main__` collects them. Knows nothing of how they came about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

BEST_PEER, LLAMA_SERVER, ITSELF = "best peer", "llama-server", "itself"
Numbers = Mapping[str, Mapping[str, float]]  # workload -> name -> value


@dataclass(frozen=True)
class Row:
    """One line. scale: from seconds to the unit shown. against: whom `goal` compares with; for ITSELF it is a bound of
    our own number, else of the ratio ours / theirs. It is a floor where more is better, else a ceiling."""

    workload: str
    number: str
    label: str
    unit: str
    is_more_better: bool
    against: str = BEST_PEER
    goal: float | None = None
    scale: float = 1.0
    has_ratio: bool = True


ROWS = (
    Row("single", "itl_p50_s", "single stream: ITL p50", "ms", False, LLAMA_SERVER, 1.03, 1e3),
    Row("single", "ttft_p50_s", "single stream: TTFT p50", "ms", False, LLAMA_SERVER, 1.03, 1e3),
    Row("shared-8", "tok_s", "shared prefix, 8 clients: throughput", "tok/s", True, BEST_PEER, 1.5),
    Row("shared-8", "ttft_p95_s", "shared prefix, 8 clients: TTFT p95", "s", False, BEST_PEER, 0.35),
    Row("shared-8", "itl_p95_s", "shared prefix, 8 clients: ITL p95", "ms", False, scale=1e3),
    Row("shared-16", "tok_s", "shared prefix, 16 clients: throughput", "tok/s", True),
    Row("shared-16", "ttft_p95_s", "shared prefix, 16 clients: TTFT p95", "s", False),
    Row("distinct-8", "tok_s", "distinct prompts, 8 clients: throughput", "tok/s", True, BEST_PEER, 1.15),
    Row("distinct-8", "ttft_p95_s", "distinct prompts, 8 clients: TTFT p95", "s", False),
    Row("structured-8", "tok_s", "JSON of a schema, 8 clients: throughput", "tok/s", True),
    Row(
        "structured-8",
        "of_free",
        "JSON of a schema: time / time of free answers",
        "x",
        False,
        ITSELF,
        1.1,
        has_ratio=False,
    ),
    Row("turns-4", "tok_s", "multi-turn, 4 clients: throughput", "tok/s", True, BEST_PEER, 1.4),
    Row("turns-4", "ttft_p95_s", "multi-turn, 4 clients: TTFT p95", "s", False),
    Row("long-prompt", "largest_gap_s", "long prompt among streams: largest gap", "s", False, ITSELF, 0.4),
    Row("long-prompt", "long_ttft_s", "long prompt among streams: its TTFT", "s", False),
    Row("vanish", "tok_s", "30 % of clients vanish: throughput of the rest", "tok/s", True),
    Row("start", "first_token_s", "exec to first token, page cache warm", "s", False, LLAMA_SERVER, 1.2),
    Row("overload", "peak_tok_s", "16 clients, short prompts: peak", "tok/s", True),
    Row("overload", "goodput_tok_s", "4x overload: goodput", "tok/s", True),
    Row("overload", "goodput_of_peak", "4x overload: goodput / own peak", "%", True, ITSELF, 0.9, 100, False),
    Row(
        "overload",
        "n_disorderly",
        "4x overload: not 200, nor 429/503 + Retry-After",
        "",
        False,
        ITSELF,
        0,
        has_ratio=False,
    ),
    Row("overload", "health_p99_s", "4x overload: health check p99", "ms", False, ITSELF, 0.2, 1e3),
    Row("distinct-8", "python_share", "Python's share of a step, 8 streams", "%", False, ITSELF, 0.03, 100, False),
    Row("all", "n_broken", "answers that broke off, overload aside", "", False, has_ratio=False),
    Row("all", "n_short", "answers that the model ended early", "", False, has_ratio=False),
)
# The lines that the picture shows.
PICTURED = (
    ("shared-8", "tok_s"),
    ("shared-8", "ttft_p95_s"),
    ("distinct-8", "tok_s"),
    ("turns-4", "tok_s"),
    ("long-prompt", "largest_gap_s"),
    ("single", "itl_p50_s"),
)


@dataclass(frozen=True)
class Finding:
    """One row with its numbers: by server, the ratio to whom it is compared with, and what became of the goal."""

    row: Row
    values: dict[str, float]
    cut: frozenset[str]
    ratio: float
    verdict: str


def judge(results: Mapping[str, Numbers], ours: str) -> list[Finding]:
    """results: server -> workload -> name -> value. Rows that nobody has are left out, unless they have a goal."""
    findings = []
    for row in ROWS:
        values = {}
        for server, numbers in results.items():
            value = numbers.get(row.workload, {}).get(row.number, math.nan)
            if not math.isnan(value):
                values[server] = value
        was_run = any(row.workload in numbers for numbers in results.values())
        if not was_run:
            continue
        cut = frozenset(s for s in values if results[s][row.workload].get("n_cut"))
        rivals = [
            v for s, v in values.items() if s != ours and (row.against != LLAMA_SERVER or s.startswith("llama-server"))
        ]
        best = (max if row.is_more_better else min)(rivals, default=math.nan)
        mine = values.get(ours, math.nan)
        ratio = mine / best if best else math.nan
        findings.append(Finding(row, values, cut, ratio, _decide(row, mine, ratio)))
    return findings


def _decide(row: Row, mine: float, ratio: float) -> str:
    if row.goal is None:
        return ""
    if math.isnan(mine):
        return "not reported"
    value = mine if row.against == ITSELF else ratio
    if math.isnan(value):
        return "no peer"
    return "met" if (value >= row.goal if row.is_more_better else value <= row.goal) else "MISSED"


def format_table(findings: Sequence[Finding], servers: Sequence[str]) -> str:
    """Plain text. The ratio is ours / the best peer's, or the best llama-server's where the goal says so."""
    head = ["", "unit", *servers, "ratio", "goal", "verdict"]
    lines = [head]
    for finding in findings:
        row = finding.row
        cells = [_format_value(finding, server) for server in servers]
        ratio = "" if math.isnan(finding.ratio) or not row.has_ratio else f"{finding.ratio:.2f}x"
        lines.append([row.label, row.unit, *cells, ratio, _format_goal(row), finding.verdict])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = []
    for line in lines:
        cells = [
            cell.ljust(w) if i < 2 or i == len(head) - 1 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    if any(finding.cut for finding in findings):
        text.append("* not finished within the workload's time limit: measured until then, TTFT at least this")
    return "\n".join(text)


def _format_value(finding: Finding, server: str) -> str:
    value = finding.values.get(server)
    if value is None:
        return "-"
    return format_number(value * finding.row.scale) + ("*" if server in finding.cut else "")


def format_number(value: float) -> str:
    """Three digits that matter."""
    if math.isinf(value):
        return "no answer"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _format_goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = ">=" if row.is_more_better else "<="
    if row.against == ITSELF:
        return f"{sign} {row.goal * row.scale:g} {row.unit}".rstrip()
    return f"{sign} {row.goal:g}x of {row.against}"


STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.h{font-weight:600}.s{fill:#57606a;font-size:11px}"
    ".ours{fill:#c2410c}.peer{fill:#94a3b8}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9da7b3}.ours{fill:#fb923c}.peer{fill:#64748b}}"
)
PANEL_WIDTH, BAR_HEIGHT, NAME_WIDTH, VALUE_WIDTH, COLUMNS = 400, 18, 130, 70, 2


def draw(findings: Sequence[Finding], servers: Sequence[str], ours: str, caption: str) -> str:
    """An SVG of bar charts, one panel for each pictured row; readable on light and on dark ground."""
    pictured = [f for key in PICTURED for f in findings if (f.row.workload, f.row.number) == key]
    panel_height = 34 + BAR_HEIGHT * len(servers) + 14
    height = panel_height * math.ceil(len(pictured) / COLUMNS) + 24
    parts = []
    for i, finding in enumerate(pictured):
        x, y = i % COLUMNS * (PANEL_WIDTH + 20), i // COLUMNS * panel_height
        row = finding.row
        parts.append(f'<g transform="translate({x} {y})"><text class="h" y="16">{escape(row.label)}</text>')
        which = "more is better" if row.is_more_better else "less is better"
        parts.append(f'<text class="s" x="{PANEL_WIDTH}" y="16" text-anchor="end">{row.unit}, {which}</text>')
        most = max((v for v in finding.values.values() if math.isfinite(v)), default=0) or 1
        for line, server in enumerate(servers):
            top = 26 + line * BAR_HEIGHT
            value = finding.values.get(server, math.nan)
            length = value / most * (PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH) if math.isfinite(value) else 0
            kind = "ours" if server == ours else "peer"
            shown = _format_value(finding, server)
            parts.append(f'<text class="{"h" if server == ours else "s"}" y="{top + 12}">{escape(server)}</text>')
            parts.append(
                f'<rect class="{kind}" x="{NAME_WIDTH}" y="{top + 2}" width="{length:.1f}" height="12" rx="2"/>'
            )
            parts.append(f'<text x="{NAME_WIDTH + length + 6:.1f}" y="{top + 12}">{shown}</text>')
        parts.append("</g>")
    width = COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * 20
    parts.append(f'<text class="s" y="{height - 8}">{escape(caption)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="Llamakiln and other servers compared"><style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
