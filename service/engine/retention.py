"""How many cells are worth keeping for sequences that nobody runs.

Where attention reads every cell in use, whoever's it is, a kept prefix makes each computed row dearer; where a request
begins with it, it saves the price of its rows. So as much is kept as saves what it costs:

    saved rows per request = kept cells x rows per request x price of a cell

with both means running over the last requests. What was forgotten is remembered as bare tokens for a while: a request
that would have begun with it says that too little is kept.

Knows tokens, counts and one price. Knows nothing of sequences, the model, threads or clocks.
"""

from __future__ import annotations

from collections import deque

MEMORY = 8  # requests that the running means look back on, roughly
N_FORGOTTEN = 64  # sequences that are remembered
FIRST_SAVED = 64.0  # rows saved per request, as long as nothing is known: a chat that goes on
FIRST_ROWS = 128.0  # rows computed per request, as long as nothing is known


class Retention:
    """cell_price: what one kept cell adds to the cost of a computed row, as a share of that cost. 0: nothing."""

    def __init__(self, cell_price: float = 0.0) -> None:
        self.cell_price = cell_price
        self._n_saved = FIRST_SAVED
        self._n_rows = FIRST_ROWS
        self._forgotten: deque[tuple[str, list[int]]] = deque(maxlen=N_FORGOTTEN)

    def n_kept(self, n_cells: int) -> int:
        """Most cells that only retired sequences should hold, of n_cells in all."""
        cost = self._n_rows * self.cell_price
        return n_cells if cost <= 0 else min(n_cells, int(self._n_saved / cost))

    def forget(self, tokens: list[int], namespace: str = "") -> None:
        """These computed tokens were given up; only a request of the same namespace could have begun with them."""
        if self.cell_price:
            self._forgotten.append((namespace, tokens))

    def observe_start(self, tokens: list[int], n_found: int, n_used: int, namespace: str = "") -> None:
        """A request begins: the first n_found of its tokens are computed, and the first n_used were so in any case,
        because somebody uses them."""
        if not self.cell_price:
            return
        limit = len(tokens) - 1
        lost = [each for own, each in self._forgotten if own == namespace]
        would_have = max((count_common(each, tokens, limit) for each in lost), default=0)
        n_saved = max(n_found, would_have) - n_used
        self._n_saved += (max(n_saved, 0) - self._n_saved) / MEMORY

    def observe_end(self, n_rows: int) -> None:
        """A request ended after n_rows were computed for it."""
        self._n_rows += (n_rows - self._n_rows) / MEMORY


def count_common(a: list[int], b: list[int], limit: int) -> int:
    """Length of the common prefix of a and b, at most limit. Halves the range and compares slices, which is C."""
    low, high = 0, min(len(a), len(b), limit)
    if high <= 0 or a[0] != b[0]:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
