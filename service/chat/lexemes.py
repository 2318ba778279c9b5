"""A grammar of characters, cut into what llguidance's lexer takes at once and what its parser puts together.

The lexer goes on as long as any terminal could, and looks back at none that was complete before. A terminal is safe if,
wherever it is complete and another (or itself) could take one more character, that character cannot follow it. This is
checked for each pair by walking both at once; who would take too much is cut into its parts. Knows no syntax of GBNF.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

Ranges = tuple[tuple[int, int], ...]  # of code points, sorted, apart

MAX_WORK = 200_000  # pairs of places looked at, a microsecond or two each
MAX_CODE = 0x10FFFF


@dataclass(frozen=True)
class Chars:
    ranges: Ranges


@dataclass(frozen=True)
class Ref:
    name: str


@dataclass(frozen=True)
class Seq:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """most None: without an end."""

    item: Node
    least: int
    most: int | None


Node = Chars | Ref | Seq | Alt | Repeat


def write(rules: dict[str, Node], root: str) -> str:
    """The Lark grammar. rules: all that root reaches, and no other. Raises ValueError if it is too large to check."""
    return _Writer(rules, _find_regular(rules)).write(root)


def refs(node: Node) -> Iterator[str]:
    """The rules that a rule names."""
    left = [node]
    while left:
        each = left.pop()
        if isinstance(each, Ref):
            yield each.name
        elif isinstance(each, Repeat):
            left.append(each.item)
        elif not isinstance(each, Chars):
            left += each.items if isinstance(each, Seq) else each.options


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    starts = [0, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), MAX_CODE]
    return tuple((low, high) for low, high in zip(starts, ends, strict=True) if low <= high)


def _overlap(one: Ranges, other: Ranges) -> bool:
    i = j = 0
    while i < len(one) and j < len(other):
        if one[i][1] < other[j][0]:
            i += 1
        elif other[j][1] < one[i][0]:
            j += 1
        else:
            return True
    return False


def _find_regular(rules: dict[str, Node]) -> set[str]:
    """The rules that reach no recursion: who reaches only regular ones is regular."""
    needs = {name: set(refs(node)) for name, node in rules.items()}
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, used in needs.items():
        for each in used:
            users[each].append(name)
    regular: set[str] = set()
    ready = [name for name, used in needs.items() if not used]
    while ready:
        name = ready.pop()
        regular.add(name)
        for user in users[name]:
            needs[user].discard(name)
            if not needs[user]:
                ready.append(user)
    return regular


@dataclass
class _Lexeme:
    """A terminal, and which parts of the grammar it stands for; follow: bits of the terminals that may come next."""

    node: Node
    keys: list[Hashable] = field(default_factory=list)
    follow: int = 0


# What a rule is made of once its regular parts are terminals: (kind, parts, ...).
_Part = tuple


@dataclass
class _Writer:
    rules: dict[str, Node]
    regular: set[str]
    cut: set[Hashable] = field(default_factory=set)  # parts that are no terminals
    lexemes: list[_Lexeme] = field(default_factory=list)
    numbers: dict[Node, int] = field(default_factory=dict)  # of lexemes
    parts: dict[str, _Part] = field(default_factory=dict)  # of rules

    def write(self, root: str) -> str:
        work = _Work()
        while True:
            self._lower_all(root)
            found = list(self._find_conflicts(work)) if len(self.parts) > 1 or self.parts[root][0] != "lexeme" else []
            if not found:
                return self._print(root)
            for lexeme in found:
                self.cut.update(lexeme.keys)

    # Into parts

    def _lower_all(self, root: str) -> None:
        self.lexemes, self.numbers, self.parts = [], {}, {}
        left = [root]
        while left:
            name = left.pop()
            if name not in self.parts:
                part = self.parts[name] = self._lower(self.rules[name], name)
                left += _names(part)

    def _lower(self, node: Node, key: Hashable) -> _Part:
        """key: what this part of the grammar is called in `cut`."""
        if isinstance(node, Chars) or (self._is_regular(node) and key not in self.cut):
            return self._lexeme(node, key)
        if isinstance(node, Ref):
            return ("rule", node.name)
        if isinstance(node, Repeat):
            return ("repeat", self._lower(node.item, (key, 0)), node.least, node.most)
        if isinstance(node, Alt):
            regular = tuple(option for option in node.options if self._is_regular(option))
            if len(regular) > 1 and (key, "regular") not in self.cut:
                options = [self._lexeme(Alt(regular), (key, "regular"))]
                left = [(i, option) for i, option in enumerate(node.options) if not self._is_regular(option)]
            else:
                options, left = [], list(enumerate(node.options))
            return ("alt", [*options, *(self._lower(option, (key, i)) for i, option in left)])
        return ("seq", [self._lower_run(key, *run) for run in self._runs(node, key)])

    def _runs(self, node: Seq, key: Hashable) -> Iterator[tuple[int, tuple[Node, ...]]]:
        """Neighbours that are one terminal together, and the others one by one; each with its place."""
        start = 0
        while start < len(node.items):
            end = start + 1
            if self._is_regular(node.items[start]) and (key, start, "run") not in self.cut:
                while end < len(node.items) and self._is_regular(node.items[end]):
                    end += 1
            yield start, node.items[start:end]
            start = end

    def _lower_run(self, key: Hashable, start: int, items: tuple[Node, ...]) -> _Part:
        if len(items) > 1:
            return self._lexeme(Seq(items), (key, start, "run"))
        return self._lower(items[0], (key, start))

    def _lexeme(self, node: Node, key: Hashable) -> _Part:
        number = self.numbers.setdefault(node, len(self.lexemes))
        if number == len(self.lexemes):
            self.lexemes.append(_Lexeme(node))
        self.lexemes[number].keys.append(key)
        return ("lexeme", number)

    def _is_regular(self, node: Node) -> bool:
        return all(name in self.regular for name in refs(node))

    # Who would take too much

    def _find_conflicts(self, work: _Work) -> Iterator[_Lexeme]:
        walks = [_Walk.of(lexeme.node, self.rules, work) for lexeme in self.lexemes]
        self._find_follow([walk.is_nullable for walk in walks])
        for one, walk in zip(self.lexemes, walks, strict=True):
            after = merge(
                code
                for i, other in enumerate(walks)
                if one.follow >> i & 1
                for p in other.first
                for code in other.chars[p]
            )
            for other, other_walk in zip(self.lexemes, walks, strict=True):
                if after and _takes_too_much(walk, other_walk, after, work):
                    yield other

    def _find_follow(self, nullable: list[bool]) -> None:
        """By repetition until nothing is new: what begins each rule, then what follows each terminal."""
        begins: dict[str, tuple[int, bool]] = dict.fromkeys(self.parts, (0, False))
        is_new = True
        while is_new:
            is_new = False
            for name, part in self.parts.items():
                found = _begin(part, begins, nullable)
                is_new |= found != begins[name]
                begins[name] = found
        follows = dict.fromkeys(self.parts, 0)
        is_new = True
        while is_new:
            before = dict(follows)
            for name, part in self.parts.items():
                self._follow(part, follows[name], begins, nullable, follows)
            is_new = follows != before

    def _follow(
        self,
        part: _Part,
        after: int,
        begins: dict[str, tuple[int, bool]],
        nullable: list[bool],
        follows: dict[str, int],
    ) -> None:
        kind = part[0]
        if kind == "lexeme":
            self.lexemes[part[1]].follow |= after
        elif kind == "rule":
            follows[part[1]] |= after
        elif kind == "alt":
            for option in part[1]:
                self._follow(option, after, begins, nullable, follows)
        elif kind == "repeat":
            again = 0 if part[3] == 1 else _begin(part[1], begins, nullable)[0]
            self._follow(part[1], after | again, begins, nullable, follows)
        else:
            for item in reversed(part[1]):
                self._follow(item, after, begins, nullable, follows)
                first, is_nullable = _begin(item, begins, nullable)
                after = first | (after if is_nullable else 0)

    # As Lark

    def _print(self, root: str) -> str:
        names = {name: f"r{i}" for i, name in enumerate(self.parts)}
        terminals: dict[str, str] = {}  # of regular rules
        lines = [f"start: {names[root]}"]
        lines += [f"{names[name]}: {self._show(part, names)}" for name, part in self.parts.items()]
        lines += [f"L{i}: {_show_regular(lexeme.node, terminals)}" for i, lexeme in enumerate(self.lexemes)]
        shown = 0
        while shown < len(terminals):
            name = list(terminals)[shown]
            lines.append(f"{terminals[name]}: {_show_regular(self.rules[name], terminals)}")
            shown += 1
        return "\n".join(lines) + "\n"

    def _show(self, part: _Part, names: dict[str, str]) -> str:
        kind = part[0]
        if kind == "lexeme":
            return f"L{part[1]}"
        if kind == "rule":
            return names[part[1]]
        if kind == "repeat":
            return f"({self._show(part[1], names)}){_show_counts(part[2], part[3])}"
        if kind == "alt":
            return "(" + " | ".join(self._show(option, names) for option in part[1]) + ")"
        return " ".join(self._show(item, names) for item in part[1]) or '""'


def _names(part: _Part) -> Iterator[str]:
    left = [part]
    while left:
        each = left.pop()
        if each[0] == "rule":
            yield each[1]
        elif each[0] == "repeat":
            left.append(each[1])
        elif each[0] != "lexeme":
            left += each[1]


def _begin(part: _Part, begins: dict[str, tuple[int, bool]], nullable: list[bool]) -> tuple[int, bool]:
    """Bits of the terminals that a part can begin with, and whether it can be empty."""
    kind = part[0]
    if kind == "lexeme":
        return 1 << part[1], nullable[part[1]]
    if kind == "rule":
        return begins[part[1]]
    if kind == "repeat":
        first, is_nullable = _begin(part[1], begins, nullable)
        return first, is_nullable or part[2] == 0
    found = [_begin(each, begins, nullable) for each in part[1]]
    first = 0
    for own, is_nullable in found:
        first |= own
        if kind == "seq" and not is_nullable:
            return first, False
    return first, kind == "seq" or any(is_nullable for _, is_nullable in found)


class _Work:
    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, n: int = 1) -> None:
        self.left -= n
        if self.left < 0:
            raise ValueError("too large, or too ambiguous, to be checked")


@dataclass
class _Walk:
    """The places of a terminal at which it can be, after Glushkov: one for each class of characters in it."""

    chars: list[Ranges] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    is_nullable: bool = False

    @classmethod
    def of(cls, node: Node, rules: dict[str, Node], work: _Work) -> _Walk:
        walk = cls()
        walk.is_nullable, walk.first, walk.last = walk._add(node, rules, work)
        return walk

    def _add(self, node: Node, rules: dict[str, Node], work: _Work) -> tuple[bool, set[int], set[int]]:
        work.spend()
        if isinstance(node, Ref):
            return self._add(rules[node.name], rules, work)
        if isinstance(node, Chars):
            self.chars.append(node.ranges)
            self.follow.append(set())
            place = {len(self.chars) - 1}
            return False, place, place
        if isinstance(node, Repeat):  # counted or not: going on too long finds too much, never too little
            is_nullable, first, last = self._add(node.item, rules, work)
            if node.most != 1:
                self._link(last, first, work)
            return is_nullable or node.least == 0, first, last
        found = [self._add(each, rules, work) for each in (node.items if isinstance(node, Seq) else node.options)]
        if isinstance(node, Alt):
            work.spend(sum(len(first) + len(last) for _, first, last in found))
            return (
                any(each[0] for each in found),
                set().union(*(f for _, f, _ in found)),
                set().union(*(t for _, _, t in found)),
            )
        is_nullable, begin, end = True, set[int](), set[int]()
        for empty, first, last in found:
            self._link(end, first, work)
            begin = begin | first if is_nullable else begin
            end = end | last if empty else last
            is_nullable = is_nullable and empty
        return is_nullable, begin, end

    def _link(self, places: set[int], to: set[int], work: _Work) -> None:
        work.spend(len(places) * len(to))
        for place in places:
            self.follow[place] |= to


def _takes_too_much(one: _Walk, other: _Walk, after: Ranges, work: _Work) -> bool:
    """Whether `other` can go on with a character of `after` where `one` is complete: that character would be lost."""
    left = [(p, q) for p in one.first for q in other.first]
    seen = set(left)
    while left:
        p, q = left.pop()
        work.spend()
        if not _overlap(one.chars[p], other.chars[q]):
            continue
        if p in one.last and any(_overlap(other.chars[r], after) for r in other.follow[q]):
            return True
        pairs = {(r, s) for r in one.follow[p] for s in other.follow[q]} - seen
        work.spend(len(pairs))
        seen |= pairs
        left += pairs
    return False


def _show_counts(least: int, most: int | None) -> str:
    return {(0, None): "*", (1, None): "+", (0, 1): "?"}.get(
        (least, most)
    ) or f"{{{least},{'' if most is None else most}}}"


def _show_regular(node: Node, terminals: dict[str, str]) -> str:
    if isinstance(node, Chars):
        return f"/{_show_class(node.ranges)}/"
    if isinstance(node, Ref):
        return terminals.setdefault(node.name, f"T{len(terminals)}")
    if isinstance(node, Repeat):
        return f"({_show_regular(node.item, terminals)}){_show_counts(node.least, node.most)}"
    if isinstance(node, Alt):
        return "(" + " | ".join(_show_regular(option, terminals) for option in node.options) + ")"
    shown: list[str] = []
    for item in node.items:  # neighbours in one expression: a long text is not long for the library then
        text = _show_regular(item, terminals)
        if isinstance(item, Chars) and shown and shown[-1].endswith("/"):
            shown[-1] = shown[-1][:-1] + text[1:]
        else:
            shown.append(text)
    return " ".join(shown) or '""'


def _show_class(ranges: Ranges) -> str:
    """As a Rust regex has it, which knows no surrogates."""
    parts = []
    for low, high in ranges:
        for start, end in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
            if start <= end:
                parts.append(f"\\x{{{start:x}}}" + (f"-\\x{{{end:x}}}" if end > start else ""))
    return parts[0] if len(parts) == 1 and "-" not in parts[0] else f"[{''.join(parts)}]"
