"""What all chats begin with: computed once, or read back from an earlier start, and kept for good.

Knows the model's calls for it, the cache and one file. Knows nothing of requests.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..chat.prompt import Prompter
from ..errors import ModelFatal
from ..protocol import Chunk, Model
from .prefix import Match, PrefixCache
from .retention import count_common

log = logging.getLogger(__name__)


def encode(prompter: Prompter, text: str) -> list[int]:
    """The tokens that every chat with this system message begins with, whatever is asked."""
    heads = [
        prompter.encode_chat([{"role": "system", "content": text}, {"role": "user", "content": word}]) for word in "ab"
    ]
    return heads[0][: count_common(heads[0], heads[1], len(heads[0]))]


def pin(model: Model, cache: PrefixCache, tokens: list[int], path: Path | None) -> None:
    """path: where the computed state is kept between starts; None for nowhere. Raises ModelFatal if it is longer than
    the context."""
    if not tokens or not model.shares:
        return
    if len(tokens) >= model.n_context:
        raise ModelFatal(f"LLM_SYSTEM_PROMPT: uses {len(tokens)} tokens; the context holds {model.n_context}")
    sequence = cache.open(tokens, Match(None, 0))
    assert sequence is not None
    is_restored = path is not None and path.exists() and model.restore(sequence.id, tokens, path)
    for start in [] if is_restored else range(0, len(tokens), model.max_batch):
        model.decode([Chunk(sequence.id, start, tokens[start : start + model.max_batch])])
    sequence.n_computed = len(tokens)
    sequence.is_pinned, sequence.is_busy = True, False
    if path and not is_restored:
        try:
            model.save(sequence.id, tokens, path)
        except OSError as error:
            log.warning("%s: not saved: %s", path, error)
    log.info("system prompt: %d tokens %s", len(tokens), "read back" if is_restored else "computed")
