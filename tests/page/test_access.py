"""For everybody: keyboard, screen reader, two languages, telephone and desk, light and dark, and without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.api.body import FIELDS
from tests.fakes import Gate
from tests.page.door import ANSWER, ask, last_answer, run_module, shoot, wait_answered
from tests.runtime.door import Nginx
from tests.service.door import Running

Node = tuple[Nginx, Running]
AXE = (Path(__file__).parent / "vendor" / "axe.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RICH = (
    "## A list\n\n- **one**\n- `two`\n- [three](https://example.org/)\n\n```python\nprint('x')\n```\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n\nمرحبا بالعالم\n\n你好，世界。🦙"  # noqa: RUF001
)
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1200, "height": 800}},
    "desktop-dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
    "telephone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    "telephone-french-dark": {
        **{"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
        **{"locale": "fr-FR", "color_scheme": "dark"},
    },
}


def audit(page: Page) -> list[str]:
    """axe-core's violations. Run beside the page, whose policy would not let it in."""
    page.evaluate(AXE)
    found = page.evaluate("(tags) => axe.run({ runOnly: tags })", RULES)["violations"]
    return [f"{row['id']}: {[node['html'][:120] for node in row['nodes']]}" for row in found]


@pytest.mark.parametrize("device", DEVICES)
def test_everything_passes_the_audit_and_fits(visit: Callable[..., Page], node: Node, device: str):
    node[1].model.answer = lambda prompt: RICH
    page = visit(node[0].url, **DEVICES[device])
    expect(page.locator("#examples button")).to_have_count(3)
    assert audit(page) == []
    shoot(page, f"welcome-{device}")
    ask(page, "Show me everything")
    wait_answered(page)
    assert audit(page) == []
    shoot(page, f"answer-{device}")
    for name in ("settings", "sample"):
        page.locator(f"#open-{name}").click()
        expect(page.locator(f"#{name}")).to_be_visible()
        assert audit(page) == []
        shoot(page, f"{name}-{device}")
        page.keyboard.press("Escape")
    if "telephone" in device:
        page.locator("#menu").click()
        expect(page.locator("#chat-list .title")).to_be_visible()
        assert audit(page) == []
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    page.goto(node[0].url + "/status")
    expect(page.locator("#facts dd").first).to_contain_text("demo")
    expect(page.locator(".plot path").first).to_have_attribute("d", re.compile("M"))
    assert audit(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    shoot(page, f"status-{device}")


def test_everything_is_done_by_keyboard(page: Page, node: Node):
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("First?")
    page.keyboard.press("Enter")
    wait_answered(page)
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.press("Shift+Tab")  # from the question back into the answer: its last button
    expect(page.locator(":focus")).to_have_text("Try again")
    page.keyboard.press("Shift+Tab")
    expect(page.locator(":focus")).to_have_text("Copy")
    page.locator("body").focus()
    page.evaluate("document.activeElement.blur()")
    page.reload()
    page.evaluate("document.activeElement.blur()")
    names = []
    for _ in range(14):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        is_shown = style != "none" or page.evaluate("document.activeElement.matches('body, #question')")
        assert is_shown, f"{names[-1]} does not show its focus"
    for name in ("health", "open-sample", "open-settings", "theme", "fresh", "First?"):
        assert name in names
    page.locator("#open-settings").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#settings")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#open-settings")).to_be_focused()
    page.locator("#open-sample").focus()
    page.keyboard.press("Enter")
    page.locator("#tab-curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-Python")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#sample-panel")).to_contain_text("from openai import OpenAI")


def test_stream_is_announced_in_sentences(held_page: Page, gate: Gate, held: Node):
    held[1].model.answer = lambda prompt: "One **sentence**. Another one. And the end"
    heard = held_page.locator("#announce p")
    gate.open(12)
    ask(held_page, "Speak")
    expect(last_answer(held_page)).to_contain_text("One **senten")
    expect(heard).to_have_count(0)
    gate.open(14)
    expect(heard).to_have_text(["One sentence."])
    gate.open_for_ever()
    expect(heard).to_have_text(["One sentence.", "Another one.", "And the end"])
    expect(held_page.locator("#announce")).to_have_attribute("aria-live", "polite")


def test_french_is_spoken_to_the_french(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url, locale="fr-CA")
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    expect(page.locator("#welcome h2")).to_have_text("Interrogez ce nœud")
    expect(page.locator("#health-text")).to_have_text("prêt")
    ask(page, "Alors ?")
    wait_answered(page)
    expect(page.locator(".notes")).to_contain_text("jetons/s")
    assert run_module(page, "strings.js", "return room.findMissing();") == []


def test_html_says_what_the_table_says(page: Page):
    """English stands in both, so that it is there before the script is."""
    wrong = run_module(
        page,
        "strings.js",
        """const html = new DOMParser();
           const wrong = [];
           for (const path of ["/", "/status"]) {
             const text = await (await fetch(path)).text();
             for (const [, word, said] of text.matchAll(/data-say="(\\w+)"[^>]*>([^<]*)</g)) {
               if (room.say(word) !== said) wrong.push([word, said]);
             }
             for (const [, word, said] of text.matchAll(/data-say-(?:label|placeholder)="(\\w+)" [\\w-]+="([^"]*)"/g)) {
               if (room.say(word) !== said) wrong.push([word, said]);
             }
           }
           return wrong;""",
    )
    assert wrong == []


def test_settings_have_the_limits_of_the_service(page: Page):
    shown = {name: (low, high) for name, low, high, _ in run_module(page, "settings.js", "return room.FIELDS;")}
    for name in FIELDS:
        if name != "seed":  # any seed of a browser's whole numbers
            rule = FIELDS[name].schema
            assert shown[name] == (rule["minimum"], rule["maximum"]), name
    assert set(shown) == {*FIELDS, "max_tokens"}


def test_telephone_shows_a_long_name_of_a_model(visit: Callable[..., Page], node: Node):
    name = "mistral-7b-instruct-v0.3-long-context-q4_k_m"
    page = visit(node[0].url, **DEVICES["telephone"])
    page.evaluate("(name) => { document.querySelector('#model').textContent = name; }", name)
    expect(page.locator("#model")).to_be_visible()
    assert page.evaluate("(e) => e.scrollWidth <= e.clientWidth", page.locator("#model").element_handle())
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_targets_are_large_enough(visit: Callable[..., Page], node: Node):
    """WCAG 2.2: 24 by 24 CSS pixels, links in text aside."""
    page = visit(node[0].url, **DEVICES["telephone"])
    ask(page, "Hello")
    wait_answered(page)
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, a.quiet, a.chip, textarea')]
          .map((e) => [e.id || e.textContent, e.getBoundingClientRect()])
          .filter(([, box]) => box.width && (box.width < 24 || box.height < 24)).map(([name]) => name)"""
    )
    assert small == []


def test_theme_button_switches_and_is_remembered(page: Page):
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_nothing_moves_for_who_wants_that(visit: Callable[..., Page], held: Node, gate: Gate):
    page = visit(held[0].url, reduced_motion="reduce")
    gate.open(9)
    ask(page, "Hello")
    expect(last_answer(page)).to_have_text("Llamakiln")
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize(("path", "words"), [("/", "ask the API"), ("/status", "/status.json")])
def test_without_javascript_the_page_says_what_is_needed(visit: Callable[..., Page], node: Node, path: str, words: str):
    page = visit(node[0].url + path, java_script_enabled=False)
    expect(page.locator("noscript .banner")).to_contain_text("This page needs JavaScript")
    expect(page.locator("noscript .banner")).to_contain_text(words)


def test_first_paint_waits_for_little(visit: Callable[..., Page], node: Node):
    """The HTML, one style sheet and ten lines of script. On a slow telephone (1.6 Mbit/s, 150 ms away) 40 KB and four
    ways there and back take 0.8 s: arithmetic, because a test that asks the clock asks how busy the machine is."""
    page = visit(node[0].url)
    blocking = page.evaluate(
        "performance.getEntriesByType('resource').filter((e) => e.renderBlockingStatus === 'blocking')"
        ".map((e) => [e.name.split('/').pop(), e.transferSize])"
    )
    assert sorted(name for name, _ in blocking) == ["first.js", "style.css"]
    html = page.evaluate("performance.getEntriesByType('navigation')[0].transferSize")
    assert html + sum(size for _, size in blocking) < 40_000


def test_answer_is_copied(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "Hello")
    wait_answered(page)
    page.locator(".notes").get_by_role("button", name="Copy").click()
    expect(page.locator(".notes")).to_contain_text("Copied")
    expect(page.locator("#announce")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
