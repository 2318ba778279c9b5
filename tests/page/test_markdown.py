"""What a model may make the page show: never markup of its own, and thousands of tokens without end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from tests.fakes import Gate
from tests.page.door import STATIC, ask, last_answer, run_module, wait_answered
from tests.runtime.door import Nginx
from tests.service.door import Running

Node = tuple[Nginx, Running]

ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg onload=alert(1)><animate onbegin=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:alert(1))",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    '![x"onerror="alert(1)](http://192.0.2.1/x.png)',
    '[x](http://192.0.2.1/"onmouseover="alert(1))',
    "[x](http://192.0.2.1/ '\"><img src=x onerror=alert(1)>')",
    "```<img src=x onerror=alert(1)>\n</code></pre><img src=x onerror=alert(1)>\n```",
    "`<img src=x onerror=alert(1)>`",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
    "- [ ] <img src=x onerror=alert(1)>",
    "<style>*{display:none}</style>",
    "<form action=http://192.0.2.1><input name=q></form>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=alert(1)&gt;'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "[a]: javascript:alert(1)\n\n[a]",
    "<base href=http://192.0.2.1><link rel=prefetch href=http://192.0.2.1/x>",
]
# What no text may bring into the document, read as attributes and tags
LOOK = """(root) => [...root.querySelectorAll('*')].flatMap((e) => [
  ...(/^(script|img|svg|iframe|style|form|input|link|base|math|object|embed|video|audio)$/i.test(e.tagName) ? [e.tagName] : []),
  ...[...e.attributes].filter((a) => /^on|^style$|^src/.test(a.name)
    || (a.name === 'href' && !/^(https?|mailto):/.test(a.value))).map((a) => a.name),
])"""  # noqa: E501
MARKS = "# > - 1. ``` ~~~ | |---| ** _ ` [a] (http://x.y) ![b] <b> \\"
SHAPES = st.lists(
    st.sampled_from([*MARKS.split(), "\n", "\n\n", " ", "word"]) | st.sampled_from(ATTACKS), max_size=12
).map("".join)


@pytest.mark.parametrize("attack", ATTACKS)
def test_markup_of_the_model_never_becomes_the_pages(text_page: Page, attack: str):
    found = run_module(
        text_page,
        "markdown.js",
        f"const box = document.createElement('div'); box.append(room.render(given)); return ({LOOK})(box);",
        attack,
    )
    assert found == []


@pytest.fixture(scope="module")
def text_page(browser: Browser, free_node: Node):
    """One page for all that asks nothing of the node."""
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.goto(free_node[0].url)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith(free_node[0].url)] == []


def test_nothing_is_loaded_or_run_by_an_answer(page: Page, node: Node):
    """All of them through the whole page, streamed; and again from what was kept."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    node[1].model.answer = lambda prompt: "\n\n".join(ATTACKS)
    ask(page, "<script>alert(2)</script><img src=x onerror=alert(3)>")
    wait_answered(page)
    expect(page.locator(".mine .text")).to_have_text("<script>alert(2)</script><img src=x onerror=alert(3)>")
    assert page.locator("#log").evaluate(LOOK) == []
    page.reload()
    expect(last_answer(page)).to_contain_text("<script>alert(1)</script>")
    assert page.locator("#log").evaluate(LOOK) == []
    assert [url for url in asked if not url.startswith(node[0].url) or "alert" in url] == []


STORED: list[Any] = [
    {"title": "<img src=x onerror=alert(1)>", "at": 1, "messages": [{"role": "user", "content": "<b>hi</b>"}]},
    {"title": {"x": 1}, "at": "now", "messages": [{"role": "system<script>", "content": "x"}, 7, None]},
    {"title": "x", "messages": [{"role": "assistant", "content": "<img src=x onerror=alert(1)>", "note": "<b>n</b>"}]},
    {"messages": "many"},
    [1, 2],
    "text",
    None,
]


@pytest.mark.parametrize("stored", STORED)
def test_what_was_stored_by_a_stranger_does_no_harm(page: Page, stored: Any):
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.evaluate("([name, text]) => localStorage.setItem(name, text)", ["llamakiln.chat.1-1", json.dumps(stored)])
    page.evaluate('localStorage.setItem(\'llamakiln.settings\', \'{"sampling":{"temperature":"<b>"},"system":7}\')')
    page.goto("about:blank")
    page.go_back()
    page.evaluate("location.hash = '1-1'")
    page.reload()
    expect(page.locator("#send")).to_be_visible()
    assert page.locator("#log").evaluate(LOOK) == page.locator("#chat-list").evaluate(LOOK) == []
    assert dialogs == []


def test_answers_look_as_they_are_meant(text_page: Page):
    text = (
        "# Head\n\n**bold** `code` ~~gone~~ [site](https://example.org/)\n\n- a\n\n  more\n- b\n\n3. c\n\n> said\n\n"
        '```python\nprint("<hi>")\n```\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n\nline\nnext\n\nمرحبا بالعالم\n\n'  # noqa: RUF001
        "- [x] done\n\n![alt](https://example.org/x.png)"
    )
    html = run_module(
        text_page,
        "markdown.js",
        "const box = document.createElement('div'); box.append(room.render(given)); return box.innerHTML;",
        text,
    )
    for part in (
        '<h3 dir="auto">Head</h3>',
        "<strong>bold</strong>",
        "<del>gone</del>",
        'href="https://example.org/" target="_blank" rel="noopener noreferrer nofollow"',
        '<ol start="3" dir="auto">',
        'print("&lt;hi&gt;")',
        '<th align="right" dir="auto">a</th>',
        "line<br>next",
        '<p dir="auto">مرحبا بالعالم</p>',
        "☑ done",
        ">alt</a>",
    ):
        assert part in html, part
    assert html.count("<button") == 2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SHAPES)
def test_growing_text_shows_what_the_whole_shows(text_page: Page, text: str):
    """Cut anywhere, complete blocks are never made anew, and in the end the document is that of the whole text."""
    grown, whole, found = run_module(
        text_page,
        "markdown.js",
        f"""const [a, b] = [document.createElement('div'), document.createElement('div')];
            const growing = new room.Growing(a);
            for (let n = 1; n < given.length; n += 3) growing.update(given.slice(0, n));
            growing.update(given);
            const found = ({LOOK})(a);
            growing.finish(given);
            b.append(room.render(given));
            return [a.innerHTML, b.innerHTML, found];""",
        text,
    )
    assert grown == whole and found == []


@pytest.mark.parametrize("text", [">" * 5000 + " x", "- " * 2000 + "x", "*" * 3000 + "a" + "*" * 3000])
def test_nesting_deeper_than_the_parser_is_shown_as_text(text_page: Page, text: str):
    """marked calls itself for every level; what it throws must not end the page that shows the chat."""
    said = run_module(
        text_page,
        "markdown.js",
        """const box = document.createElement('div');
           const growing = new room.Growing(box);
           growing.update('First.\\n\\n' + given.slice(0, given.length / 2));
           growing.update('First.\\n\\n' + given);
           const grown = box.textContent;
           growing.finish('First.\\n\\n' + given);
           return [grown, box.textContent];""",
        text,
    )
    assert all(text[:100] in each and each.startswith("First.") for each in said)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[your bank](https://192.0.2.1:8/login)", "192.0.2.1:8"),
        ("[bank.example](https://thief.example/)", "thief.example"),
        ("[write](mailto:a@thief.example)", "a@thief.example"),
        ("![cat](https://thief.example/cat.png)", "thief.example"),
        ("https://example.org/a", None),
        ("[example.org](https://example.org/a)", None),
    ],
)
def test_link_says_where_it_leads(text_page: Page, text: str, place: str | None):
    script = "return room.render(given).querySelector('a').dataset.place ?? null;"
    assert run_module(text_page, "markdown.js", script, text) == place


def test_thought_is_folded_and_not_copied_said_or_sent_again(held_page: Page, gate: Gate, held: Node):
    """As Qwen3 writes it."""
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return "<think>\nHm. Let me see.\n</think>\n\nIt is *clay*."

    held[1].model.answer = answer
    thought = held_page.locator(".theirs .thought")
    gate.open(16)
    ask(held_page, "What is it?")
    expect(thought).to_contain_text("What the model thought firstHm. Let")
    expect(last_answer(held_page)).to_be_hidden()
    gate.open_for_ever()
    wait_answered(held_page)
    expect(last_answer(held_page)).to_have_text("It is clay.")
    expect(thought.locator("p")).to_be_hidden()
    expect(held_page.locator("#announce p")).to_have_text(["It is clay."])
    ask(held_page, "And now?")
    wait_answered(held_page, 2)
    assert prompts[-1] == "[user]What is it?\n[assistant]It is *clay*.\n[user]And now?\n"
    held_page.reload()
    expect(last_answer(held_page)).to_have_text("It is clay.")
    thought.last.locator("summary").click()
    expect(thought.last.locator("p")).to_have_text("Hm. Let me see.")


def test_complete_blocks_are_made_once(text_page: Page):
    same = run_module(
        text_page,
        "markdown.js",
        """const box = document.createElement('div');
           const growing = new room.Growing(box);
           growing.update('one\\n\\ntwo\\n\\nthr');
           const first = box.firstElementChild;
           growing.update('one\\n\\ntwo\\n\\nthree\\n\\n- four');
           return first === box.firstElementChild && box.children.length === 4;""",
    )
    assert same


@pytest.mark.parametrize("mark", ["-", "{n}."])
def test_items_of_a_long_list_are_made_once(text_page: Page, mark: str):
    """A list is one block for Markdown, and may be the whole answer."""
    text = "\n".join(f"{mark.format(n=n)} item {n} **b**\n    - inner" for n in range(1, 200))
    made, shown, same = run_module(
        text_page,
        "markdown.js",
        """const [box, whole] = [document.createElement('div'), document.createElement('div')];
           const growing = new room.Growing(box);
           let made = 0;
           for (let n = 1; n < given.length; n += 50) {
             const before = new Set(box.querySelectorAll('li'));
             growing.update(given.slice(0, n));
             for (const item of box.querySelectorAll('li')) made += !before.has(item);
           }
           growing.update(given);
           const shown = [...box.children].flatMap((list) =>
             [...list.children].map((item, i) => `${list.start + i || '-'} ${item.firstChild.textContent}`));
           growing.finish(given);
           whole.append(room.render(given));
           return [made, shown, box.innerHTML === whole.innerHTML];""",
        text,
    )
    assert same and made < 6000  # more than 20,000 if all are made each time
    assert shown == [f"{'-' if mark == '-' else n} item {n} " for n in range(1, 200)]


def test_five_thousand_tokens_stay_smooth_and_bounded(page: Page, node: Node):
    """Memory, nodes, and no frame that takes long: the page draws what grows and not what has grown."""
    blocks = [f"Paragraph {i} of **many**, with `code` and a [link](https://example.org/{i})." for i in range(70)]
    text = "\n\n".join(blocks)[:5000]
    node[1].model.answer = lambda prompt: text
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")

    def measure() -> dict[str, float]:
        client.send("HeapProfiler.collectGarbage")
        return {row["name"]: row["value"] for row in client.send("Performance.getMetrics")["metrics"]}

    expect(page.locator("#model")).to_be_visible()
    before = measure()
    ask(page, "Say a lot")
    wait_answered(page)
    expect(page.locator(".notes")).to_contain_text("5,000 tokens")
    after = measure()
    assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < 12e6
    assert after["Nodes"] - before["Nodes"] < 5000
    assert page.locator("#announce p").count() <= 20


def test_page_asks_for_nothing_twice(page: Page):
    page.reload()
    entries = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/static/'))"
    sizes = page.evaluate(f"{entries}.map((e) => e.transferSize)")
    assert len(sizes) > 10 and set(sizes) == {0}, f"{STATIC} comes from the browser's cache: {sizes}"
