"""A `pattern` of JSON Schema (ECMA-262) as Rust's regex reads it, so that each match is one for ECMA and for Python.

Classes of characters differ by language; here each means what they have in common. Inside a class only ECMA's own signs
have a meaning. And U+0000 is taken out of every class, because llguidance 1.9.1 quotes a class that holds all control
characters as if it held `"` and `\\` too. What is left is copied as it is. Knows nothing of schemas.
"""

from __future__ import annotations

import re

_PROPERTY = re.compile(r"\\[pP](?:\{[^}]*\}|[A-Za-z])")
_LETTERS = r"\p{L}\p{N}_"
_BLANKS = r"\s\x1c-\x1f\x{85}\x{feff}"
# What may be in the text, and in a class that is negated what may not.
_FEW = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": r"[ \t\n\r\x0b\x0c]"}
_FEW |= {"D": r"[^\p{Nd}]", "W": f"[^{_LETTERS}]", "S": f"[^{_BLANKS}]"}
_MANY = {"d": r"[\p{Nd}]", "w": f"[{_LETTERS}]", "s": f"[{_BLANKS}]"}
_MANY |= {"D": "[^0-9]", "W": "[^0-9A-Za-z_]", "S": r"[^ \t\n\r\x0b\x0c]"}
_NO_NUL = r"&&[^\x00]]"
_ANY = r"[^\x00\n\r\x{2028}\x{2029}]"  # the dot


def rewrite(pattern: str) -> str:
    """Raises ValueError for a class that has no counterpart."""
    out: list[str] = []
    i, names = 0, None  # names: what \d and its like mean inside the class, None outside
    while i < len(pattern):
        sign = pattern[i]
        if sign == "\\":
            spoken = _PROPERTY.match(pattern, i)
            taken = spoken.group() if spoken else pattern[i : i + 2]
            meant = (_FEW if names is None else names).get(taken[1:], taken)
            is_class = names is None and (spoken or meant is not taken)
            out.append(f"[{meant}{_NO_NUL}" if is_class else meant)
            i += len(taken)
            continue
        if names is None and sign == "[":
            is_negated = pattern.startswith("^", i + 1)
            i += is_negated
            if pattern.startswith("]", i + 1):
                raise ValueError("pattern: [] and [^] cannot be kept; write [\\s\\S] for any character")
            names = _MANY if is_negated else _FEW
            out.append("[[^" if is_negated else "[[")
        elif names is None:
            out.append(_ANY if sign == "." else sign)
        elif sign == "]":
            names = None
            out.append("]" + _NO_NUL)
        elif sign in "[&~":  # Rust's own signs
            out.append("\\" + sign)
        else:
            out.append(sign)
        i += 1
    return "".join(out)
