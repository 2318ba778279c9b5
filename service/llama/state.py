"""A sequence's computed state as bytes, and back. Belongs to the engine thread.

llama.cpp aborts the process on some bytes that it did not write itself: whoever keeps them must know that they are.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ..errors import ModelError


def save(lib: Any, context: Any, sequence: int) -> Any:
    """Its state, bytes-like. Raises ModelError if llama.cpp cannot tell it."""
    size = lib.llama_state_seq_get_size(context, sequence)
    data = (ctypes.c_uint8 * size)()
    n = lib.llama_state_seq_get_data(context, data, size, sequence)
    if not n:
        raise ModelError(f"llama_state_seq_get_data answered 0 for {size} bytes")
    return memoryview(data).cast("B")[:n]


def restore(lib: Any, context: Any, sequence: int, data: memoryview) -> bool:
    """Read what `save` gave back into an empty sequence. False if llama.cpp refuses it; the sequence may then hold a
    part."""
    array = (ctypes.c_uint8 * len(data)).from_buffer(data)
    return bool(lib.llama_state_seq_set_data(context, array, len(data), sequence) == len(data))
