"""Work that recurses as deep as its text is long, in a stack of that depth."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from service.llama.deep_stack import LONG_BYTES, NICENESS, SHORT_BYTES, STACK_PER_BYTE, call_deep


def read_stack_bytes() -> int:
    """Of the calling thread, by pthread_getattr_np."""
    pthread = ctypes.CDLL(None)
    attributes, address, size = ctypes.create_string_buffer(64), ctypes.c_void_p(), ctypes.c_size_t()
    pthread.pthread_self.restype = ctypes.c_ulong
    assert pthread.pthread_getattr_np(ctypes.c_ulong(pthread.pthread_self()), attributes) == 0
    assert pthread.pthread_attr_getstack(attributes, ctypes.byref(address), ctypes.byref(size)) == 0
    return size.value


@pytest.mark.parametrize("n_bytes", [SHORT_BYTES + 1, 50_000, 1 << 20])
def test_stack_grows_with_the_text(n_bytes: int):
    """50 kB of one word ended the process with three families' tokenizers."""
    before = threading.stack_size()
    assert call_deep(read_stack_bytes, n_bytes) >= STACK_PER_BYTE * n_bytes
    assert threading.stack_size() == before


def test_short_text_stays_in_its_thread():
    assert call_deep(threading.get_ident, SHORT_BYTES) == threading.get_ident()


def test_long_text_steps_behind_the_others():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert call_deep(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), 1 << 20) == NICENESS
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_fault_comes_out_where_it_was_asked():
    with pytest.raises(ZeroDivisionError):
        call_deep(lambda: 1 // 0, 1 << 20)


@pytest.mark.parametrize(("n_bytes", "n_at_once"), [(LONG_BYTES, 2), (LONG_BYTES + 1, 1)])
def test_few_at_a_time(n_bytes: int, n_at_once: int):
    running, most = 0, []
    lock = threading.Lock()

    def work() -> None:
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1

    threads = [threading.Thread(target=call_deep, args=(work, n_bytes)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 6 and max(most) <= n_at_once


def test_ordinary_prompt_does_not_wait_for_a_megabyte():
    is_read, may_end = threading.Event(), threading.Event()
    long = threading.Thread(target=call_deep, args=(may_end.wait, 1 << 20))
    long.start()
    call_deep(is_read.set, SHORT_BYTES + 1)
    assert is_read.is_set() and long.is_alive()
    may_end.set()
    long.join()
