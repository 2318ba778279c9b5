"""What all chats begin with: computed once, or read back from an earlier start, and kept.

A state that was kept is checked before the model sees it, and is away while the model tries it: whatever it does to the
process, it does once. Knows the model's calls for it, the cache and one file. Knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import logging
from array import array
from collections.abc import Callable
from pathlib import Path

from .. import store
from ..chat.prompt import Prompter
from ..errors import ConfigError, ModelError, ServiceError
from ..protocol import Chunk, Model
from .prefix import CacheSequence, Match, PrefixCache
from .retention import count_common

log = logging.getLogger(__name__)

STATE_PREFIX = "prompt-"


def state_name(has_flash_attention: bool) -> str:
    """Each kind of attention has its own layout."""
    return f"{STATE_PREFIX}{'flash' if has_flash_attention else 'plain'}.bin"


def encode(prompter: Prompter, text: str) -> list[int]:
    """The tokens that every chat with this system message begins with, whatever is asked. Raises ConfigError if there
    can be no such chat."""
    if not text:
        return []
    try:
        heads = [
            prompter.encode_chat([{"role": "system", "content": text}, {"role": "user", "content": word}])
            for word in "ab"
        ]
    except ServiceError as error:
        raise ConfigError([f"LLM_SYSTEM_PROMPT: no chat can begin with it: {error.message}"]) from error
    return heads[0][: count_common(heads[0], heads[1], len(heads[0]))]


def pin(
    model: Model,
    cache: PrefixCache,
    tokens: list[int],
    path: Path | None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """path: where the computed state is kept between starts; None for nowhere. is_wanted: asked between two steps; if
    not, nothing is pinned. Raises ConfigError if the tokens leave no room for a chat."""
    if len(tokens) >= model.n_context:
        raise ConfigError([f"LLM_SYSTEM_PROMPT: uses {len(tokens)} tokens; the context holds {model.n_context}"])
    if not tokens or not model.shares:
        return
    cache.keep(tokens)
    sequence = cache.open(tokens, Match(None, 0))
    assert sequence is not None
    is_restored = path is not None and _read_back(model, sequence, path)
    for start in [] if is_restored else range(0, len(tokens), model.max_batch):
        if not is_wanted():
            cache.drop(sequence)
            return
        model.decode([Chunk(sequence.id, start, tokens[start : start + model.max_batch])])
        sequence.n_computed = min(start + model.max_batch, len(tokens))
    sequence.n_computed = len(tokens)
    cache.pin(sequence)
    if path and not is_restored:
        _save(model, sequence, path)
    log.info("system prompt: %d tokens %s", len(tokens), "read back" if is_restored else "computed")


def _read_back(model: Model, sequence: CacheSequence, path: Path) -> bool:
    is_restored = False
    try:
        data = store.unseal(path, _name(sequence))
        if data is not None:
            with store.forget(path):
                is_restored = model.restore(sequence.id, data)
                if not is_restored:
                    raise ValueError("the model refuses it")
    except (OSError, ValueError) as error:
        log.warning("%s: %s: %s", path, "cannot be kept" if is_restored else "not used", error)
    return is_restored


def _save(model: Model, sequence: CacheSequence, path: Path) -> None:
    """Beside it nothing stays that no start reads any more: other settings and models, and what a crash left."""
    try:
        for old in path.parent.glob(f"{STATE_PREFIX}*"):
            with contextlib.suppress(OSError):
                old.unlink()
        store.seal(path, _name(sequence), model.save(sequence.id))
    except (OSError, ModelError) as error:
        log.warning("%s: not saved: %s", path, error)


def _name(sequence: CacheSequence) -> bytes:
    return array("i", sequence.tokens).tobytes()
