"""Ask a person before something is changed that costs money or is lost.

Knows the terminal. Knows nothing of what is asked for.
"""

from __future__ import annotations

import sys

from .problem import Problem


def agree(question: str, is_given: bool) -> bool:
    """Whether the person typed yes; `is_given` (YES=1) answers for them. Without a terminal there is nobody to ask."""
    if is_given:
        return True
    if not sys.stdin.isatty():
        raise Problem(f"{question} There is no terminal to ask on, so nothing was done", "YES=1, once you have looked")
    print(f"{question} Type yes to go on: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"
