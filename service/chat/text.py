"""Token bytes -> text pieces that are safe to show.

Holds back the bytes of an unfinished character and text that may be the beginning of a stop string, so the pieces put
together equal the whole decode up to the first stop string, however the bytes were cut. Knows nothing of tokens,
models, threads or HTTP.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """One answer's bytes on their way to text. Bytes that are not UTF-8 become U+FFFD, as in a whole decode.

    The stop string that is complete first wins, the longer one if two end together: this does not depend on how the
    bytes were cut into tokens.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(sorted(stop, key=len, reverse=True))
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def push(self, data: bytes) -> str:
        """Take the next token's bytes; return the text that can be shown now, often empty."""
        return self._release(self._decoder.decode(data))

    def flush(self) -> str:
        """The answer ended: return what was held back."""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.is_stopped:
            text += self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.is_stopped:
            return ""
        text = self._held + text
        start = self._find_stop(text)
        if start is not None:
            self.is_stopped = True
            self._held = ""
            return text[:start]
        n_safe = len(text) - self._count_half_seen(text)
        self._held = text[n_safe:]
        return text[:n_safe]

    def _find_stop(self, text: str) -> int | None:
        """Where the stop string that is complete first begins, or None."""
        first_end, first_start = len(text) + 1, None
        for stop in self._stop:  # longest first: of two that end together the longer begins earlier
            start = text.find(stop)
            if start >= 0 and start + len(stop) < first_end:
                first_end, first_start = start + len(stop), start
        return first_start

    def _count_half_seen(self, text: str) -> int:
        """How many characters at the end could still become a stop string."""
        longest = 0
        for stop in self._stop:
            for n in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:n]):
                    longest = n
                    break
        return longest
