"""Choose which requests get tokens in the next step.

Each running request has a gap: how many of its tokens are not computed yet. A gap of one is a stream that waits for its
next token; a longer gap is a prompt. There is no other difference. Gaps of one go first, so a long prompt never stalls
a stream; what is left of the step's budget goes to prompts, and every few steps a prompt gets a chunk even if streams
alone fill the budget, so it cannot starve.

Knows gaps and budgets as integers. Knows nothing of text, HTTP, threads, clocks or llama.cpp. Called only from the
engine thread.
"""

from __future__ import annotations

from collections.abc import Sequence

SURE_EVERY = 4  # steps after which a waiting prompt gets a chunk whatever the streams take
SURE_ROWS = 8  # that chunk: one group of rows costs a CPU kernel about as much as one row
OLDEST_SHARE = 4  # the oldest prompt is sure of a quarter of the room, the rest goes to the shortest


class Scheduler:
    def __init__(self) -> None:
        self._n_steps_without_prompt = 0

    def plan(self, gaps: Sequence[int], budget: int, max_rows: int) -> list[int]:
        """Rows for each gap, in the same order; gaps are given oldest first and are 1 or more.

        budget: rows the step should have. max_rows: rows a step can have; streams may fill the step up to it, because
        each of them waits for one token only. The sum is 1 to max_rows unless there are no gaps.
        """
        rows = [1 if gap == 1 else 0 for gap in gaps]
        n_streams = sum(rows)
        if n_streams > max_rows:  # more streams than a step can hold: the oldest first
            rows = [1 if row and sum(rows[:i]) < max_rows else 0 for i, row in enumerate(rows)]
            n_streams = max_rows
        prompts = [i for i, gap in enumerate(gaps) if gap > 1]
        if not prompts:
            self._n_steps_without_prompt = 0
            return rows
        room = min(budget, max_rows) - n_streams
        if room < SURE_ROWS and self._n_steps_without_prompt >= SURE_EVERY - 1:
            room = min(SURE_ROWS, max_rows - n_streams)
        is_full = n_streams == max_rows
        if room < 1 and is_full and self._n_steps_without_prompt >= SURE_EVERY - 1:  # the youngest gives up its turn
            rows[max(i for i, row in enumerate(rows) if row)] = 0
            room = 1
        if room < 1:
            self._n_steps_without_prompt += 1
            return rows
        self._n_steps_without_prompt = 0
        oldest = prompts[0]
        rows[oldest] = min(gaps[oldest], -(-room // OLDEST_SHARE))
        room -= rows[oldest]
        for i in sorted(prompts, key=lambda i: (gaps[i], i)):
            more = min(gaps[i] - rows[i], room)
            rows[i] += more
            room -= more
        return rows
