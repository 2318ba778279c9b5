"""Learn a small BPE vocabulary and encode text exactly as llama.cpp's "llama" (SentencePiece) tokenizer does.

Knows pieces, scores and roles. Knows nothing of the corpus, the network or GGUF. Text that no piece covers falls back
to its UTF-8 bytes, so any input can be encoded; the one loss: U+2581, the mark for a space, comes back as a space.
"""

import heapq
from collections import Counter
from itertools import pairwise

SPACE = "\u2581"
UNKNOWN, BEGIN, END, SYSTEM, USER, ASSISTANT = (
    "<|unk|>",
    "<|begin|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
CONTROL = (UNKNOWN, BEGIN, END, SYSTEM, USER, ASSISTANT)
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
ASCII = tuple(SPACE if code == 32 else chr(code) for code in range(32, 127))


def split_words(text: str) -> list[str]:
    """Split text in front of each space and around each character that is no letter: no piece spans such a border."""
    words: list[str] = []
    for char in text.replace(" ", SPACE):
        joins = words and words[-1][-1] != "\n" and (char.isalpha() and (words[-1][-1].isalpha() or words[-1] == SPACE))
        if joins:
            words[-1] += char
        else:
            words.append(char)
    return words


def learn_pieces(texts: Counter[str], n_pieces: int) -> list[str]:
    """Return `n_pieces` pieces in the order of their ids: control, bytes, characters, then merges, most frequent first.

    A merge needs two occurrences; ties are broken by the pieces themselves, so the result depends on `texts` alone.
    """
    counts: Counter[str] = Counter()
    for text, n in texts.items():
        for word in split_words(text):
            counts[word] += n
    words = [(list(word), n) for word, n in sorted(counts.items())]
    pairs: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = {}  # in which words a pair may occur
    for i, (symbols, n) in enumerate(words):
        for pair in pairwise(symbols):
            pairs[pair] += n
            places.setdefault(pair, set()).add(i)
    pieces = [*CONTROL, *BYTES, *ASCII]
    while len(pieces) < n_pieces:
        pair, n = max(pairs.items(), key=lambda item: (item[1], item[0]))
        if n < 2:
            raise ValueError(f"n_pieces={n_pieces}: the corpus only yields {len(pieces)} pieces")
        merged = "".join(pair)
        if merged not in pieces:
            pieces.append(merged)
        for i in places.pop(pair):
            symbols, n = words[i]
            for old in pairwise(symbols):
                pairs[old] -= n
            j = 0
            while j < len(symbols) - 1:
                if (symbols[j], symbols[j + 1]) == pair:
                    symbols[j : j + 2] = [merged]
                j += 1
            for new in pairwise(symbols):
                pairs[new] += n
                places.setdefault(new, set()).add(i)
        del pairs[pair]
    return pieces


class Tokenizer:
    """Encode and decode with a list of pieces; a piece's id is its place, and earlier merges win."""

    def __init__(self, pieces: list[str]):
        self.pieces = pieces
        self.ids = {piece: i for i, piece in enumerate(pieces)}
        self.first_merge = len(CONTROL) + len(BYTES)
        self.scores = [0.0 if i < self.first_merge else float(self.first_merge - i) for i in range(len(pieces))]
        self._mergeable = {piece: -self.scores[i] for i, piece in enumerate(pieces) if i >= self.first_merge}
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; role marks in it are text like any other."""
        ids: list[int] = []
        for word in split_words(text):
            if word not in self._cache:
                self._cache[word] = self._encode_word(word)
            ids += self._cache[word]
        return ids

    def _encode_word(self, word: str) -> list[int]:
        symbols: list[str] = list(word)
        following = list(range(1, len(symbols) + 1))
        before = list(range(-1, len(symbols) - 1))
        heap: list[tuple[float, int, str]] = []

        def offer(left: int) -> None:
            if left >= 0 and following[left] < len(symbols):
                merged = symbols[left] + symbols[following[left]]
                if merged in self._mergeable:
                    heapq.heappush(heap, (self._mergeable[merged], left, merged))

        for i in range(len(symbols)):
            offer(i)
        while heap:
            _, left, merged = heapq.heappop(heap)
            right = following[left]
            if not symbols[left] or right >= len(symbols) or symbols[left] + symbols[right] != merged:
                continue  # one of the two was merged with another neighbour since
            symbols[left], symbols[right] = merged, ""
            following[left] = following[right]
            if following[left] < len(symbols):
                before[following[left]] = left
            offer(before[left])
            offer(left)
        ids = []
        for symbol in filter(None, symbols):
            if symbol in self._mergeable:
                ids.append(self.ids[symbol])
            else:
                ids += [len(CONTROL) + byte for byte in symbol.encode("utf-8")]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`, without control pieces."""
        data = b""
        for i in ids:
            if i >= self.first_merge:
                data += self.pieces[i].replace(SPACE, " ").encode("utf-8")
            elif i >= len(CONTROL):
                data += bytes([i - len(CONTROL)])
        return data.decode("utf-8", errors="replace")
