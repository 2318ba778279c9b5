"""GBNF, llama.cpp's grammar language, as a Lark grammar for llguidance, of exactly the same texts.

llguidance reads a text in two floors: a lexer that takes the longest match of a terminal, and a parser of rules. GBNF
has one. So what is regular becomes a terminal, a whole grammar if it can, but only where the longest match loses no
text: `lexemes` checks that, and what fails is cut into smaller parts, at last single characters. (The package's own
gbnf_to_lark makes terminals unchecked: `root ::= w "x"`, `w ::= [a-z]*` then never ends.) Recursion at an end of a rule
becomes a repetition, which costs the parser less. Knows no tokens and no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import lexemes
from .lexemes import Alt, Chars, Node, Ref, Repeat, Seq

MAX_CODE = 0x10FFFF
EMPTY = Seq(())
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX = {"x": 2, "u": 4, "U": 8}


def to_lark(gbnf: str) -> str:
    """Raises ValueError with the place and the reason."""
    rules = _Reader(gbnf).read()
    if "root" not in rules:
        raise ValueError("there is no rule named root")
    rules = {name: _unroll(name, node) for name, node in _reachable(rules).items()}
    return lexemes.write(rules, "root")


@dataclass
class _Reader:
    """llama.cpp's own parser, rule for rule. Errors show a few characters, never the grammar."""

    text: str
    at: int = 0

    def read(self) -> dict[str, Node]:
        rules = {}
        self._skip(True)
        while self.at < len(self.text):
            name = self._name()
            self._skip(False)
            self._expect("::=")
            self._skip(True)
            rules[name] = self._alternatives(False)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                raise self._fault("a new line or the end")
            self._skip(True)
        return rules

    def _alternatives(self, is_nested: bool) -> Node:
        options = [self._sequence(is_nested)]
        while self._peek() == "|":
            self.at += 1
            self._skip(True)
            options.append(self._sequence(is_nested))
        return Alt(tuple(options)) if len(options) > 1 else options[0]

    def _sequence(self, is_nested: bool) -> Node:
        items: list[Node] = []
        while sign := self._peek():
            if sign in "*+?{":
                if not items:
                    raise self._fault("something to repeat")
                least, most = self._counts(is_nested)
                items[-1] = Repeat(items[-1], least, most) if most != 0 else EMPTY
            elif sign == '"':
                items.append(self._literal())
            elif sign == "[":
                items.append(self._class())
            elif sign == "(":
                self.at += 1
                self._skip(True)
                items.append(self._alternatives(True))
                self._expect(")")
            elif sign == ".":
                self.at += 1
                items.append(Chars(((0, MAX_CODE),)))
            elif _is_word(sign):
                items.append(Ref(self._name()))
            elif sign in "<!":
                raise self._fault("text: tokens (<...>) cannot be kept")
            else:
                break
            self._skip(is_nested)
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _counts(self, is_nested: bool) -> tuple[int, int | None]:
        sign = self.text[self.at]
        self.at += 1
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        self._skip(is_nested)
        least = self._number()
        self._skip(is_nested)
        most: int | None = least
        if self._peek() == ",":
            self.at += 1
            self._skip(is_nested)
            most = self._number() if self._peek().isdigit() else None
            self._skip(is_nested)
        self._expect("}")
        if most is not None and most < least:
            raise ValueError(f"{{{least},{most}}}: the second number must not be less than the first")
        return least, most

    def _literal(self) -> Node:
        self.at += 1
        items = []
        while self._peek() != '"':
            code = self._char()
            items.append(Chars(((code, code),)))
        self.at += 1
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _class(self) -> Node:
        self.at += 1
        is_negated = self._peek() == "^"
        self.at += is_negated
        ranges = []
        while self._peek() != "]":
            low = high = self._char()
            if self._peek() == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high = self._char()
            ranges.append((low, high))
        if not ranges or any(low > high for low, high in ranges):
            raise self._fault("a class that holds characters, ranges from the lower to the higher")
        self.at += 1
        merged = lexemes.merge(ranges)
        chars = lexemes.complement(merged) if is_negated else merged
        if not chars:
            raise self._fault("a class that leaves a character")
        return Chars(chars)

    def _char(self) -> int:
        sign = self._peek()
        if not sign:
            raise self._fault("more")
        self.at += 1
        if sign != "\\":
            return ord(sign)
        kind = self._peek()
        self.at += 1
        if kind in _HEX:
            digits = self.text[self.at : self.at + _HEX[kind]]
            self.at += len(digits)
            try:
                code = int(digits, 16) if len(digits) == _HEX[kind] else -1
            except ValueError:
                code = -1
            if not 0 <= code <= MAX_CODE or 0xD800 <= code <= 0xDFFF:
                raise self._fault(f"a character of {_HEX[kind]} hexadecimal digits before this")
            return code
        if kind not in _ESCAPES:
            raise self._fault('an escape of \\ that GBNF has (t r n x u U \\ " [ ] -) before this')
        return ord(_ESCAPES[kind])

    def _name(self) -> str:
        start = self.at
        while _is_word(self._peek()):
            self.at += 1
        if start == self.at:
            raise self._fault("a name")
        return self.text[start : self.at]

    def _number(self) -> int:
        start = self.at
        while "0" <= self._peek() <= "9":
            self.at += 1
        if start == self.at:
            raise self._fault("a number")
        return int(self.text[start : self.at])

    def _skip(self, takes_lines: bool) -> None:
        while sign := self._peek():
            if sign == "#":
                while self._peek() not in ("", "\r", "\n"):
                    self.at += 1
            elif sign in " \t" or (takes_lines and sign in "\r\n"):
                self.at += 1
            else:
                break

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _expect(self, sign: str) -> None:
        if not self.text.startswith(sign, self.at):
            raise self._fault(sign)
        self.at += len(sign)

    def _fault(self, expected: str) -> ValueError:
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - self.text.rfind("\n", 0, self.at)
        found = repr(self.text[self.at : self.at + 12]) if self.at < len(self.text) else "the end"
        return ValueError(f"line {line}, column {column}: found {found}, expected {expected}")


def _is_word(sign: str) -> bool:
    return sign.isascii() and (sign.isalnum() or sign == "-")


def _reachable(rules: dict[str, Node]) -> dict[str, Node]:
    """Only those, root first; what may be undefined elsewhere is nobody's fault."""
    found: dict[str, Node] = {}
    left = ["root"]
    while left:
        name = left.pop()
        if name not in rules:
            raise ValueError(f"rule {name} is used and not defined")
        if name not in found:
            found[name] = rules[name]
            left += lexemes.refs(rules[name])
    return found


def _unroll(name: str, node: Node) -> Node:
    """A rule that ends, or begins, with itself says what a repetition says: a = x a | y is x* y."""
    options = list(_options(node))
    same = (Ref(name),)
    options = [option for option in options if option != same]
    last = [option[:-1] for option in options if option[-1:] == same]
    first = [option[1:] for option in options if option[:1] == same]
    if bool(last) == bool(first) or len(last) + len(first) == len(options):
        return node
    rest = _join([option for option in options if option[-1:] != same and option[:1] != same])
    loop = Repeat(_join(last or first), 0, None)
    return Seq((loop, rest) if last else (rest, loop))


def _options(node: Node) -> Iterator[tuple[Node, ...]]:
    """The alternatives of a rule as sequences, also those in a group or behind a question mark."""
    if isinstance(node, Alt):
        for option in node.options:
            yield from _options(option)
    elif isinstance(node, Repeat) and (node.least, node.most) == (0, 1):
        yield from _options(node.item)
        yield ()
    else:
        yield node.items if isinstance(node, Seq) else (node,)


def _join(options: list[tuple[Node, ...]]) -> Node:
    nodes = [option[0] if len(option) == 1 else Seq(option) for option in options]
    return nodes[0] if len(nodes) == 1 else Alt(tuple(nodes))
