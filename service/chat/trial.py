"""Whether llguidance can make a matcher of a grammar, tried in a process of its own before it is made here.

The library limits most of its work, and the rest not at all: some hundred bytes of patterns keep it busy for minutes
and take gigabytes, and deep ones may end the stack. A helper that has a limit of CPU time, of memory and of stack does
it first; whatever ends the helper ends nothing else. Run as a program this file is that helper, which needs nothing of
this package. Knows grammars as llguidance's text. Knows no vocabulary, no requests and no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import Any

CPU_S = (
    1.0  # 900 properties take 0.2 s on a core of an AMD EPYC (November 2026), and 0.5 s on a Neoverse N1 by its clock
)
MEMORY_BYTES = 512 << 20
STACK_BYTES = 4 << 20  # half of what a thread has here
MAX_KNOWN = 256  # grammars
MAX_WORDS = 400  # characters
WALL_S = 20.0  # the helper shares its cores with the model

# So that nobody's token costs the others a step: a mask takes at most 0.04 s with the first, 0.07 s with the second
# (152,000 tokens, a core of an AMD EPYC, November 2026). Fuel is work on expressions, 14,000 in a millisecond; a state
# of the lexer takes up to 2 kB. A place of the parser has four items for each of 900 optional properties; where it
# takes characters one by one, as a client's own grammar may have it, there are many small places, each of less cost.
_LIMITS = {"step_lexer_fuel": 100_000, "max_lexer_states": 20_000, "verbose_errors": False}
LIMITS = {
    True: {**_LIMITS, "max_items_in_row": 4000, "step_max_items": 20_000},  # of JSON
    False: {**_LIMITS, "max_items_in_row": 300, "step_max_items": 200_000},
}


def make_matcher(tokenizer: Any, grammar: str, is_json: bool) -> Any:
    """llguidance's matcher, which lets at least one token through. Raises ValueError with the library's words, which
    never hold the grammar whole."""
    import llguidance

    limits = llguidance.LLParserLimits(**LIMITS[is_json])
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(describe_error(matcher))
    return matcher


def describe_error(matcher: Any) -> str:
    """One line of what a matcher in error says, and not more than its beginning."""
    words = " ".join(matcher.get_error()[:MAX_WORDS].replace("<non-verbose/>", "").split())
    return "no text satisfies it" if words.startswith("NoExtension") else words


class HelperBusy(Exception):
    """Others' grammars keep the helper busy."""


class Trial:
    """The helper, started when it is needed and again when a grammar has ended it. Any thread may call `check`; one is
    served at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._helper: subprocess.Popen[bytes] | None = None
        self._known: dict[bytes, str] = {}  # the reason against a grammar, empty for none

    def check(self, grammar: str, is_json: bool) -> None:
        """Raises ValueError with the reason why no matcher can be made, and HelperBusy after WALL_S. What was found is
        remembered, for clients ask again."""
        question = json.dumps([grammar, is_json]).encode()
        key = hashlib.blake2b(question, digest_size=16).digest()
        reason = self._known.get(key)
        if reason is None:
            if not self._lock.acquire(timeout=WALL_S):
                raise HelperBusy
            try:
                reason = self._ask(question)
                self._known[key] = reason
                if len(self._known) > MAX_KNOWN:
                    del self._known[next(iter(self._known))]
            finally:
                self._lock.release()
        if reason:
            raise ValueError(reason)

    def close(self) -> None:
        """End the helper, even in the middle of its work."""
        helper = self._helper
        if helper:
            helper.kill()
            helper.wait()

    def _ask(self, question: bytes) -> str:
        if not self._helper or self._helper.poll() is not None:
            self._helper = _start_helper()
        helper = self._helper
        assert helper.stdin is not None
        try:
            helper.stdin.write(question + b"\n")
            helper.stdin.flush()
            reply = _read_line(helper)
            if reply:
                return str(json.loads(reply))
        except TimeoutError:  # before OSError, which it is: no fault of the grammar
            helper.kill()
            helper.wait()
            raise HelperBusy from None
        except OSError:  # it ended
            pass
        is_late = helper.wait() == -signal.SIGVTALRM
        spent = f"more than {CPU_S:g} s of CPU" if is_late else f"more than {MEMORY_BYTES >> 20} MB or nests too deeply"
        return f"too complex: takes {spent}"


def _start_helper() -> subprocess.Popen[bytes]:
    """-I: nothing of this process's settings. A session of its own: Ctrl-C is for the service, which ends it."""
    return subprocess.Popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # how Rust says its last words, which may hold a client's
        start_new_session=True,
    )


def _read_line(helper: subprocess.Popen[bytes]) -> bytes:
    """What it answers; empty if it ended. Raises TimeoutError."""
    assert helper.stdout is not None
    data, deadline = b"", time.monotonic() + WALL_S
    with selectors.DefaultSelector() as selector:
        selector.register(helper.stdout, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            if not selector.select(deadline - time.monotonic()):
                raise TimeoutError
            part = os.read(helper.stdout.fileno(), 65536)
            if not part:
                return b""
            data += part
    return data


def _serve() -> None:
    """A line in is a grammar and whether it is JSON's, a line out the reason why it cannot be made, empty if it can.
    Ends with its standard input."""
    import llguidance

    tokenizer = llguidance.LLTokenizer("byte")
    for line in sys.stdin.buffer:
        grammar, is_json = json.loads(line)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)  # of CPU time; its signal ends the process
        reason = ""
        try:
            make_matcher(tokenizer, grammar, is_json)
        except BaseException as error:  # a panic of Rust is none of Exception
            reason = str(error) or type(error).__name__
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.write(json.dumps(reason) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    threading.stack_size(STACK_BYTES)
    worker = threading.Thread(target=_serve)
    worker.start()
    worker.join()
