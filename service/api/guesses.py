"""How many wrong keys an address may bring: a bucket of BURST that fills by one every EVERY_S.

While it is empty, nobody at the address is asked for a key: the right one is refused too, or a guess would be told from
a hit. Holds at most MAX_ADDRESSES, the latest. Knows addresses and a clock; any thread may call it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ..errors import TooManyGuesses

BURST = 20
EVERY_S = 6.0
MAX_ADDRESSES = 4096


class Guesses:
    """clock: seconds, of a clock that never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when the bucket would be full again
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises TooManyGuesses, with the time until the next guess."""
        with self._lock:
            missing = (self._full_at.get(address, 0.0) - self._clock()) / EVERY_S
        if missing > BURST - 1:
            raise TooManyGuesses(
                f"too many wrong keys from this address: at most {BURST}, and then one every {EVERY_S:g} s",
                retry_after_s=math.ceil((missing - (BURST - 1)) * EVERY_S),
            )

    def note(self, address: str) -> None:
        """A wrong key was brought."""
        with self._lock:
            now = self._clock()
            self._full_at[address] = max(self._full_at.pop(address, 0.0), now) + EVERY_S
            if len(self._full_at) > MAX_ADDRESSES:
                self._full_at.popitem(last=False)
