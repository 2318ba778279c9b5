"""How it is seen: on paper, in forced colours, magnified, on a telephone with its keyboard, and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.fakes import Gate
from tests.page.door import ANSWER, ask, last_answer, shoot, wait_answered
from tests.runtime.door import Nginx
from tests.service.door import Running

Node = tuple[Nginx, Running]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def style(page: Page, selector: str, name: str) -> str:
    return page.locator(selector).first.evaluate("(element, name) => getComputedStyle(element)[name]", name)


def test_forced_colours_reach_the_answer_and_show_focus_and_choice(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url, forced_colors="active")
    ask(page, "Hello")
    wait_answered(page)
    assert style(page, ".theirs .text", "color") == style(page, "body", "color")
    page.locator("#question").focus()
    assert style(page, ".ask", "outlineStyle") == "solid"
    assert style(page, "#chat-list li", "outlineStyle") == "solid"
    page.locator("#open-sample").click()
    chosen, other = (style(page, f"#tab-{name}", "borderColor") for name in ("curl", "Python"))
    assert chosen != other
    shoot(page, "forced-colours")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_paper_holds_the_whole_chat_and_nothing_else(visit: Callable[..., Page], node: Node, theme: str):
    node[1].model.answer = lambda prompt: "```\n" + "x" * 300 + "\n```\n\n" + "\n\n".join(f"{i}" for i in range(60))
    page = visit(node[0].url, color_scheme=theme)
    ask(page, "Count")
    wait_answered(page)
    page.emulate_media(media="print")
    for hidden in ("header", "footer", "#side", ".notes button"):
        expect(page.locator(hidden).first).to_be_hidden()
    assert style(page, "body", "color") == "rgb(0, 0, 0)"
    tall = page.evaluate("[document.documentElement.scrollHeight, document.querySelector('#log').scrollHeight]")
    assert tall[0] >= tall[1] > 2000
    assert page.locator(".code pre").evaluate("(pre) => pre.scrollWidth <= pre.clientWidth")


def test_magnified_four_times_everything_can_be_reached(visit: Callable[..., Page], node: Node):
    """1280 by 1024 at 400 % (WCAG 1.4.10)."""
    page = visit(node[0].url, viewport={"width": 320, "height": 256})
    expect(page.locator("#examples button")).to_have_count(3)
    assert page.locator("main").evaluate("(main) => main.clientHeight") > 100
    page.locator("#examples button").last.scroll_into_view_if_needed()
    expect(page.locator("#examples button").last).to_be_in_viewport()
    ask(page, "Hello")
    wait_answered(page)
    assert page.locator("main").evaluate("(main) => main.clientHeight") > 100
    tops = page.locator("header > button:visible").evaluate_all(
        "(all) => all.map((e) => e.getBoundingClientRect().top)"
    )
    assert len(tops) == 5 and len(set(tops)) == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    shoot(page, "magnified")


def test_dialogs_can_be_closed_from_their_end(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url, **PHONE)
    page.locator("#open-settings").click()
    page.locator("#reset").scroll_into_view_if_needed()
    expect(page.locator("#reset")).to_be_in_viewport()
    expect(page.locator("#settings").get_by_role("button", name="Close")).to_be_in_viewport()


def test_telephone_takes_enter_as_a_new_line_and_hides_its_keyboard(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url, **PHONE)
    page.locator("#question").tap()
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    expect(page.locator("#question")).to_have_value("one\ntwo")
    page.locator("#send").tap()
    wait_answered(page)
    expect(page.locator(".mine .text")).to_have_text("one\ntwo")
    expect(page.locator("#question")).not_to_be_focused()
    page.locator("#question").fill("three")
    page.keyboard.press("Control+Enter")
    wait_answered(page, 2)


def test_page_ends_where_a_keyboard_over_it_begins(visit: Callable[..., Page], node: Node):
    """As iOS does it: the page stays as tall as it was, only visualViewport tells."""
    page = visit("about:blank", **PHONE)
    page.add_init_script(
        """const seen = Object.assign(new EventTarget(), { scale: 1, height: 740, offsetTop: 0 });
           Object.defineProperty(window, "visualViewport", { value: seen });"""
    )
    page.goto(node[0].url)
    expect(page.locator("#model")).to_be_visible()
    resize = "(size) => { Object.assign(visualViewport, size); visualViewport.dispatchEvent(new Event('resize')); }"
    page.evaluate(resize, {"height": 420})
    assert page.locator("#form").evaluate("(form) => form.getBoundingClientRect().bottom") <= 420
    page.evaluate(resize, {"height": 370, "scale": 2})  # magnified by the reader: nothing moves
    page.evaluate(resize, {"height": 740, "scale": 1})
    assert page.locator("body").evaluate("(body) => body.clientHeight") == 740


@pytest.mark.parametrize("by", ["touch", "key"])
def test_stream_leaves_alone_who_scrolls_a_little(visit: Callable[..., Page], held: Node, gate: Gate, by: str):
    held[1].model.answer = lambda prompt: "\n\n".join(f"{i}" for i in range(80))
    page = visit(held[0].url, **(PHONE if by == "touch" else {}))
    gate.open(150)
    page.locator("#question").fill("Count")
    page.locator("#send").click()
    expect(last_answer(page)).to_contain_text("37")
    top = "document.querySelector('main').scrollTop"
    if by == "touch":
        page.locator("main").dispatch_event("touchstart")
    else:
        page.locator("main").focus()
        page.keyboard.press("ArrowUp")
    page.evaluate("document.querySelector('main').scrollTop -= 4")
    before = page.evaluate(top)
    gate.open(40)
    expect(last_answer(page)).to_contain_text("46")
    assert page.evaluate(top) <= before
    if by == "touch":
        page.locator("main").dispatch_event("touchend")
    gate.open_for_ever()


def test_theme_is_there_before_anything_is_drawn(page: Page):
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.route("**/chat.js", lambda route: route.abort())
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_without_javascript_nothing_is_offered_that_needs_it(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url, java_script_enabled=False)
    for hidden in ("#form", "#side", "#open-settings", "#welcome", "#health"):
        expect(page.locator(hidden)).to_be_hidden()
    shoot(page, "no-javascript")
    page.goto(node[0].url + "/status")
    for hidden in (".facts", "#theme", "#health"):
        expect(page.locator(hidden)).to_be_hidden()


def test_long_words_addresses_and_tables_fit_a_telephone(visit: Callable[..., Page], node: Node):
    wide = "a" * 120
    node[1].model.answer = lambda prompt: (
        f"{wide}\n\n`{wide}`\n\n# {wide}\n\n- https://example.org/{wide}\n\n> {wide}\n\n"
        f"|{wide}|b|\n|-|-|\n|{wide}|d|\n\n```{wide}\n{wide}\n```\n\n1. **{wide}**"
    )
    page = visit(node[0].url, **PHONE)
    page.locator("#question").fill(wide)
    page.locator("#send").tap()
    wait_answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    over = page.evaluate(
        "[...document.querySelectorAll('.turn *')].filter((e) => !e.closest('pre, .scroll, .unseen'))"
        ".filter((e) => e.getBoundingClientRect().right > 361).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert over == []
    copy = page.locator(".code-head button").bounding_box()
    assert copy and copy["width"] > 40 > copy["height"]  # one line
    shoot(page, "wide-telephone")


def test_french_page_says_which_words_are_english(visit: Callable[..., Page], node: Node):
    page = visit(node[0].url, locale="fr-FR")
    expect(page.locator("#examples button").first).to_have_attribute("lang", "en")
    page.route("**/chat/completions", lambda route: route.fulfill(status=500, json={"error": {"message": "it broke"}}))
    ask(page, "Alors ?")
    expect(page.locator(".trouble")).to_contain_text("Le nœud dit (en anglais)\u00a0: it broke")
    page.unroute("**/chat/completions")
    page.locator(".trouble button").click()
    expect(last_answer(page)).to_have_text(ANSWER)
