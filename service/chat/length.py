"""Is a text too long for the context? Found out without reading all of it.

A megabyte of text can cost a tokenizer ten seconds. So its beginning is tokenized first, then twice as much, until the
tokens are certainly too many or the whole is read: what is refused costs about what the longest text that is taken
would cost. Knows the vocabulary and nothing of templates, requests or HTTP.
"""

from __future__ import annotations

from ..protocol import Vocabulary

FIRST_CHARACTERS = 8  # per token that there is room for: above what most texts have, 4 in English
# The end of a beginning may be cut in the middle of a word, or of a run that merges as a whole
SLACK = 1.1
SLACK_TOKENS = 64


def is_too_long(vocabulary: Vocabulary, text: str, n_room: int, *, parse_special: bool) -> bool:
    """Whether the text certainly has more than n_room tokens. False says nothing about texts that were read whole.
    parse_special: as it will be tokenized, since a marker may be one token or ten."""
    n_characters = FIRST_CHARACTERS * n_room
    while n_characters < len(text):
        head = vocabulary.tokenize(text[:n_characters], add_special=False, parse_special=parse_special)
        if len(head) > SLACK * n_room + SLACK_TOKENS:
            return True
        n_characters *= 2
    return False
