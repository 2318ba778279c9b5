"""Choose which requests get tokens in the next step.

Each running request has a gap: how many of its tokens are not computed yet. A gap of one is a stream that waits for its
next token; a longer gap is a prompt. There is no other difference. Gaps of one go first, so a long prompt never stalls
a stream; what is left of the step's budget goes to prompts, and never less than a few rows, so streams never starve a
prompt.

Knows gaps and budgets as integers. Knows nothing of text, HTTP, threads, clocks or llama.cpp. Called only from the
engine thread.
"""

from __future__ import annotations

from collections.abc import Sequence

SURE_ROWS = 16  # for prompts in every step: the group of rows that CPU kernels compute almost at the price of a few
OLDEST_SHARE = 4  # the oldest prompt is sure of a quarter of the room, the rest goes to the shortest


def plan(gaps: Sequence[int], budget: int, max_rows: int) -> list[int]:
    """Rows for each gap, in the same order; gaps are given oldest first and are 1 or more.

    budget: rows the step should have. max_rows: rows it can have, more than there are gaps of one.
    """
    rows = [1 if gap == 1 else 0 for gap in gaps]
    n_streams = sum(rows)
    assert n_streams < max_rows, f"{n_streams} streams in a step of {max_rows} rows"
    prompts = [i for i, gap in enumerate(gaps) if gap > 1]
    if not prompts:
        return rows
    room = min(max(budget - n_streams, SURE_ROWS), max_rows - n_streams)
    oldest = prompts[0]
    rows[oldest] = min(gaps[oldest], -(-room // OLDEST_SHARE))
    room -= rows[oldest]
    for i in sorted(prompts, key=lambda i: (gaps[i], i)):
        more = min(gaps[i] - rows[i], room)
        rows[i] += more
        room -= more
    return rows
