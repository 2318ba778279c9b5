"""Whose request begins next: the client's that was served least.

A virtual token counter per client (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024): it counts what
was computed for it, OUTPUT_WORTH for a token of an answer, 1 for one of a prompt. Who comes anew starts at the least
of those who are here, so nobody saves up, and nobody pays for what was done while the node was his alone.

Knows requests by client, lengths and what was generated. Knows nothing of threads, rows or the cache; the engine calls
it under its lock.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from ..request import Request

OUTPUT_WORTH = 2.0  # the paper's: a row of an answer is computed in smaller steps than one of a prompt


class Fairness:
    def __init__(self) -> None:
        self._settled: dict[str, float] = {}  # of what ended

    def arrive(self, client: str, here: Sequence[Request]) -> None:
        """A client asks. here: all requests that wait or run already."""
        served = self._count(here)
        if client not in served:
            least = min(served.values(), default=0.0)
            kept = self._settled.get(client, 0.0)
            # Whoever is gone and was served less than all who are here would start where a stranger does: forgotten
            self._settled = {one: n for one, n in self._settled.items() if one in served or n > least} if served else {}
            self._settled[client] = max(kept, least) if served else 0.0

    def settle(self, request: Request) -> None:
        """A request ended, whatever it had."""
        self._settled[request.client] = self._settled.get(request.client, 0.0) + cost(request)

    def order(self, waiting: Sequence[Request], running: Sequence[Request]) -> list[Request]:
        """Those that wait, as they should begin: each costs its client at least its prompt before the next is chosen.
        Among one client's, and between equals, who came first is first."""
        served = self._count([*waiting, *running])
        queues: dict[str, deque[tuple[int, Request]]] = defaultdict(deque)
        for place, request in enumerate(waiting):
            queues[request.client].append((place, request))
        heads = [(served[client], queue[0][0], client) for client, queue in queues.items()]
        heapq.heapify(heads)
        ordered = []
        while heads:
            n, _, client = heapq.heappop(heads)
            _, request = queues[client].popleft()
            ordered.append(request)
            if queues[client]:
                heapq.heappush(heads, (n + len(request.prompt_tokens) + OUTPUT_WORTH, queues[client][0][0], client))
        return ordered

    def _count(self, requests: Iterable[Request]) -> dict[str, float]:
        served: dict[str, float] = {}
        for request in requests:
            n = served.get(request.client)
            served[request.client] = (self._settled.get(request.client, 0.0) if n is None else n) + cost(request)
        return served


def cost(request: Request) -> float:
    """What was computed for it so far."""
    if request.started_at is None:
        return 0.0
    return len(request.prompt_tokens) - request.n_reused_tokens + OUTPUT_WORTH * request.n_output_tokens


def find_yielding(running: Sequence[Request], client: str) -> Request | None:
    """Nothing of this client runs and no place is free: the youngest request of whoever has most of them, if he has two
    or more, makes way. None: nobody has."""
    n_running: dict[str, int] = defaultdict(int)
    for request in running:
        n_running[request.client] += 1
    if client in n_running or not n_running or max(n_running.values()) < 2:
        return None
    greediest = max(n_running, key=lambda one: n_running[one])
    return next(request for request in reversed(running) if request.client == greediest)
