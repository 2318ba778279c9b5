"""A sequence's computed state in a file, between two starts. Belongs to the engine thread."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def save(lib: Any, context: Any, sequence: int, tokens: Sequence[int], path: Path) -> None:
    """Write it. Raises OSError."""
    part = path.with_suffix(".part")
    array = (lib.llama_token * len(tokens))(*tokens)
    if not lib.llama_state_seq_save_file(context, os.fsencode(part), sequence, array, len(tokens)):
        raise OSError(f"{path}: llama.cpp could not write it")
    os.replace(part, path)


def restore(lib: Any, context: Any, sequence: int, tokens: Sequence[int], path: Path) -> bool:
    """Read it back into an empty sequence. False if the file is of other tokens or not usable; the sequence may then
    hold a part of it."""
    found, n_found = (lib.llama_token * (len(tokens) + 1))(), ctypes.c_size_t()
    n = lib.llama_state_seq_load_file(
        context, os.fsencode(path), sequence, found, len(tokens) + 1, ctypes.byref(n_found)
    )
    return bool(n and list(found[: n_found.value]) == list(tokens))
