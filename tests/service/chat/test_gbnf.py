"""GBNF means to us what it means to llama.cpp, text for text."""

from __future__ import annotations

import random

import pytest

from service.chat import gbnf
from service.chat.constraint import Constrainer, Grammar, Matcher
from service.chat.lexemes import Alt, Chars, Node, Ref, Repeat, Seq
from service.errors import BadRequest
from tests.fakes import FakeModel


@pytest.fixture(scope="module")
def constrainer() -> Constrainer:
    return Constrainer(FakeModel(), check=lambda text, is_json: None)


def takes(matcher: Matcher, text: str) -> bool:
    matcher = matcher.copy()
    return all(matcher.accept(byte) for byte in text.encode()) and matcher.is_complete


JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws   # a comment
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
LISP = 'root ::= e\ne ::= "(" ws e* ")" ws | atom ws\natom ::= [a-z0-9]+ | "\\"" [^"]* "\\""\nws ::= [ \\n]*'


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ("root ::= word word\nword ::= [a-z]+", ["ab", "abc"], ["a", ""]),
        ('root ::= w "x"\nw ::= [a-z]*', ["x", "abx", "xx"], ["ab", ""]),
        ('root ::= "abc" | x\nx ::= [a-z] x | "!"', ["abc", "abx!", "!"], ["abx"]),
        ('root ::= "(" root ")" w "!" | "x"\nw ::= [a-z]*', ["x", "((x)a!)bc!"], ["(x)!!", "(x"]),
        (r'root ::= "\u00e9" [\u00e0-\u00ff] "\U0001F600" "\x41"', ["éü😀A"], ["éa😀A"]),
        ("root ::= . [^a] [-a] [a-]", ["\nb--", "😀\naa"], ["ba--"]),
        (r'root ::= "\"\\[]\n\r\t" [\]\-\\]', ['"\\[]\n\r\t]', '"\\[]\n\r\t-'], ['"\\[]\n\r\ta']),
        ('root ::= "a"{2,3} "b"{2} "c"{1,} "d"? "e"{0}', ["aabbc", "aaabbccd"], ["abbc", "aabbce"]),
        ('root ::= ("a" |\n "b")+ | # comment\n  "c"', ["ab", "c"], ["ac", ""]),
        ('root ::= "" | "a"', ["", "a"], ["b"]),
        ('root ::= start start-2 Start\nstart ::= "a"\nstart-2 ::= "b"\nStart ::= "c"', ["abc"], ["abb"]),
        ('root ::= fooBar foo-bar\nfooBar ::= "a"\nfoo-bar ::= "b"', ["ab"], ["ba"]),
        ('root ::= root "x" | "y"', ["y", "yxx"], ["x", "xy"]),
        ('root ::= "a" root | "b"', ["b", "aab"], ["a"]),
        ('root ::= ("a" root)?', ["", "aaa"], ["b"]),
        ('root ::= "\\x00"', ["\0"], ["0"]),
        ('root ::= "a" root "b" | "a" root "c" | "a" root "d" | "e"', ["aaebd", "e"], ["aeb" * 2, "ae"]),
        ('root ::= e root "x" | "y"\ne ::= "z"?', ["zzyxx", "yx", "y"], ["zzyx"]),
        ('root ::= a\na ::= b "x" | "y"\nb ::= a "z" | "w"', ["y", "yzx", "wx", "wxzx"], ["z"]),
        (JSON, ['{"a": [1, -2.5e3, {"b\\n": null}]}', "{ }"], ['{"a": }', '{"a\n": 1}', "[]"]),
        (LISP, ['(ab "x y" (c) 12)', "a"], ["(a", "()b"]),
        ('root ::= "%" "{" "/" "}" "start:"', ["%{/}start:"], ["%{}"]),
    ],
)
def test_texts_are_in_or_out(constrainer: Constrainer, grammar: str, good: list[str], bad: list[str]):
    """`e ::= "z"?` in a recursion hung the engine's thread, and so did three ways to begin alike."""
    matcher = constrainer.make(Grammar("x", gbnf=grammar))
    assert [text for text in good if not takes(matcher, text)] == []
    assert [text for text in bad if takes(matcher, text)] == []


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("", "there is no rule named root"),
        ('answer ::= "a"', "there is no rule named root"),
        ("root ::= nothing", "rule nothing is used and not defined"),
        ("root ::= root root", "no text satisfies it"),
        ("root ::= {" + " " * 1000, "line 1, column 10: found '{           ', expected something to repeat"),
        ("root ::= <[999999]>", "tokens (<...>) cannot be kept"),
        ("root ::= !<think>", "tokens (<...>) cannot be kept"),
        ("this is (not valid GBNF", "line 1, column 6: found 'is (not vali', expected ::="),
        ('root ::= "a', "found the end, expected more"),
        ("root ::= [a", "found the end, expected more"),
        ("root ::= []", "expected a class that holds characters"),
        ("root ::= [z-a]", "expected a class that holds characters"),
        (r'root ::= "\q"', "expected an escape"),
        (r'root ::= "\ud800"', "expected a character of 4 hexadecimal digits"),
        (r'root ::= "\u12"', "expected a character of 4 hexadecimal digits"),
        ('root ::= "a"{3,2}', "the second number must not be less than the first"),
        ('root ::= "a"{,2}', "expected a number"),
        ('root ::= ("a"', "found the end, expected )"),
        ('root ::= "a"\n  | "b"', "line 2, column 3: found '| \"b\"', expected a name"),
        ("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "nests too deeply"),
        (
            'root ::= r0 root r0 | "x"\n'
            + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40))
            + '\nr40 ::= "a"',
            "too large, or too ambiguous, to be checked",
        ),
    ],
)
def test_faults_name_the_place_and_show_little(constrainer: Constrainer, grammar: str, words: str):
    """`root ::= {` and a thousand blanks froze the process for minutes, `<[999999]>` and `\\x00` ended it."""
    with pytest.raises(BadRequest) as caught:
        constrainer.make(Grammar("grammar", gbnf=grammar))
    assert words in caught.value.message and caught.value.param == "grammar"


# By chance, against a recogniser that is too simple to be wrong


def _node(rng: random.Random, depth: int) -> str:
    choice = rng.random()
    if depth == 0 or choice < 0.3:
        return rng.choice(['"a"', '"b"', "[ab]", '"ab"', '"aba"', "[a-c]", '"c"', "[^a]"])
    if choice < 0.5:
        return rng.choice("xyz")
    if choice < 0.7:
        return "(" + " ".join(_node(rng, depth - 1) for _ in range(rng.randint(1, 3))) + ")"
    if choice < 0.85:
        return "(" + " | ".join(_node(rng, depth - 1) for _ in range(rng.randint(2, 3))) + ")"
    return "(" + _node(rng, depth - 1) + ")" + rng.choice(["*", "+", "?", "{2}", "{0,2}", "{1,}", "{1,3}"])


def make_grammar(rng: random.Random) -> str:
    def rule() -> str:
        options = (" ".join(_node(rng, 2) for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 3)))
        return " | ".join(options)

    return "\n".join(f"{name} ::= {rule()}" for name in ("root", "x", "y", "z"))


def recognises(rules: dict[str, Node], text: str) -> bool:
    """Where each rule can end, from each place, until nothing is new."""
    ends: dict[tuple[str, int], set[int]] = {}

    def walk(node: Node, at: int) -> set[int]:
        if isinstance(node, Chars):
            return {at + 1} if at < len(text) and any(a <= ord(text[at]) <= b for a, b in node.ranges) else set()
        if isinstance(node, Ref):
            return ends.get((node.name, at), set())
        if isinstance(node, Alt):
            return {end for option in node.options for end in walk(option, at)}
        places = {at}
        if isinstance(node, Seq):
            for item in node.items:
                places = {end for place in places for end in walk(item, place)}
            return places
        assert isinstance(node, Repeat)
        found = {at} if node.least == 0 else set()
        for n in range(1, (node.most or 2 * len(text) + node.least + 2) + 1 if node.most != 0 else 1):
            places = {end for place in places for end in walk(node.item, place)}
            found |= places if n >= node.least else set()
        return found

    is_new = True
    while is_new:
        is_new = False
        for name, node in rules.items():
            for at in range(len(text) + 1):
                before = ends.setdefault((name, at), set())
                found = walk(node, at)
                is_new |= not found <= before
                before |= found
    return len(text) in ends["root", 0]


@pytest.mark.parametrize("block", range(8))
def test_grammars_mean_what_they_say(constrainer: Constrainer, block: int):
    """The lexer of llguidance is greedy; what is cut for it must lose no text."""
    n_in = 0
    for seed in range(15 * block, 15 * block + 15):
        rng = random.Random(seed)
        grammar = make_grammar(rng)
        rules = gbnf._Reader(grammar).read()
        texts = ["".join(rng.choices("abc", k=rng.randint(0, 7))) for _ in range(25)]
        try:
            matcher = constrainer.make(Grammar("x", gbnf=grammar))
        except BadRequest as error:
            assert "no text satisfies it" in error.message and not any(recognises(rules, text) for text in texts)
            continue
        for text in texts:
            is_in = recognises(rules, text)
            assert takes(matcher, text) == is_in, (grammar, text)
            n_in += is_in
    assert n_in > 10
