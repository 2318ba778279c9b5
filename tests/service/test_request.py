"""A request ends once, whoever ends it."""

from __future__ import annotations

import threading

from service.errors import ClientGone
from service.request import Done, Failed, FinishReason, Piece, Request, SamplingParams


def make() -> Request:
    return Request("r", [1], SamplingParams(max_tokens=1))


def drain(request: Request) -> list[object]:
    events = []
    while not request.events.empty():
        events.append(request.events.get())
    return events


def test_only_the_first_end_counts():
    request = make()
    request.deliver(Piece("a"))
    assert request.finish(Done(FinishReason.STOP, 1, 1))
    assert not request.finish(Failed(ClientGone("late")))
    request.deliver(Piece("b"))
    assert drain(request) == [Piece("a"), Done(FinishReason.STOP, 1, 1)]


def test_many_threads_make_one_end():
    request = make()
    barrier = threading.Barrier(8)
    won = []

    def end() -> None:
        barrier.wait()
        won.append(request.finish(Failed(ClientGone("gone"))))

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won.count(True) == 1 and len(drain(request)) == 1
