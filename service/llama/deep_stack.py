"""Run what recurses as deep as a text is long: in a thread with a stack of that depth, few at a time.

Several tokenizers split text by std::regex, which calls itself for each character of an unbroken run: 1 MB of one word
needs between 256 and 512 MB of stack with DeepSeek's (measured, llama-cpp-python 0.3.36, November 2026), and the 8 MB
of an ordinary thread end the process at 50 kB. A stack is address space until it is touched, and goes with its thread.

A megabyte takes up to 10 s of a core. So the longest go one at a time behind the model's threads, in a lane of their
own: nobody's ordinary prompt waits for them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

SHORT_BYTES = 4096  # what any thread may do on its own stack: at most 2 MB of 8
STACK_PER_BYTE = 512 * 2  # twice what was measured
STACK_BYTES = 8 << 20  # and what any thread has
LONG_BYTES = 64 << 10  # from here on in the slow lane; a context of 4096 tokens of English has 16 kB
NICENESS = 10  # of the slow lane: a tenth of a core while the model wants all of them (sched(7))

_fast_lane = threading.Semaphore(2)
_slow_lane = threading.Semaphore(1)
_starting = threading.Lock()  # the size of new stacks is one number for the whole process


def call_deep(work: Callable[[], Result], n_bytes: int) -> Result:
    """What `work`, which reads n_bytes of text, returns or raises."""
    if n_bytes <= SHORT_BYTES:
        return work()
    box: list[Result] = []
    fault: list[BaseException] = []

    is_long = n_bytes > LONG_BYTES

    def run() -> None:
        if is_long:
            with contextlib.suppress(OSError):  # not allowed here: it goes on at everybody's priority
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            box.append(work())
        except BaseException as error:
            fault.append(error)

    thread = threading.Thread(target=run, name="deep", daemon=True)
    with _slow_lane if is_long else _fast_lane:
        with _starting:
            before = threading.stack_size(STACK_BYTES + STACK_PER_BYTE * n_bytes)
            try:
                thread.start()
            finally:
                threading.stack_size(before)
        thread.join()
    if fault:
        raise fault[0]
    return box[0]
