"""What is kept: by two tabs at once, in a full storage, in the middle of an answer, and when asking again fails."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, expect

from tests.fakes import Gate
from tests.page.door import ANSWER, ask, last_answer, run_module, wait_answered
from tests.page.test_chat import record_prompts
from tests.runtime.door import Nginx
from tests.service.door import Running

Node = tuple[Nginx, Running]
FILL = """() => {
  let piece = "x".repeat(1 << 20);
  for (let i = 0; piece.length; i += 1) {
    try { localStorage.setItem(`other.${i}`, piece); } catch { piece = piece.slice(0, piece.length / 2); }
  }
}"""


def open_tab(page: Page) -> Page:
    """The same chat in another tab of the same browser."""
    tab = page.context.new_page()
    tab.goto(page.url)
    return tab


def kept_chats(page: Page) -> list[list[str]]:
    """What every kept chat's messages say."""
    texts = page.evaluate(
        "Object.keys(localStorage).filter((name) => name.includes('chat')).map((name) => localStorage.getItem(name))"
    )
    return sorted([message["content"] for message in json.loads(text)["messages"]] for text in texts)


def test_skip_link_goes_to_the_question_and_keeps_the_chat(page: Page):
    ask(page, "First?")
    wait_answered(page)
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused()
    expect(page.locator(".turn")).to_have_count(2)
    ask(page, "Second?")
    wait_answered(page, 2)
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)


def test_reload_in_the_middle_says_that_the_answer_is_incomplete(held_page: Page, gate: Gate):
    gate.open(9)
    ask(held_page, "What is Llamakiln?")
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    held_page.reload()
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    expect(held_page.locator(".theirs .notes")).to_contain_text("incomplete")


def test_tab_that_is_put_aside_keeps_what_was_said(held_page: Page, gate: Gate):
    """A telephone may end it there without another word."""
    gate.open(9)
    ask(held_page, "What is Llamakiln?")
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    held_page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { value: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    assert kept_chats(held_page) == [["What is Llamakiln?", "Llamakiln"]]


def test_other_tab_shows_what_was_asked_in_this_one(page: Page):
    ask(page, "First?")
    wait_answered(page)
    tab = open_tab(page)
    expect(tab.locator(".turn")).to_have_count(2)
    ask(page, "Second?")
    wait_answered(page, 2)
    expect(tab.locator(".mine .text")).to_have_text(["First?", "Second?"])
    ask(tab, "Third?")
    expect(page.locator(".mine .text")).to_have_text(["First?", "Second?", "Third?"])


def test_two_tabs_that_go_on_with_one_chat_lose_nothing(page: Page, node: Node):
    """Whoever is in the middle of an answer when the other goes on keeps a chat of its own."""
    record_prompts(node)
    ask(page, "First?")
    wait_answered(page)
    tab = open_tab(page)
    expect(tab.locator(".turn")).to_have_count(2)
    page.route("**/chat/completions", lambda route: None)  # held for ever
    ask(page, "Here?")
    expect(tab.locator(".trouble")).to_contain_text("no answer yet")
    ask(tab, "There?")
    expect(last_answer(tab)).to_have_text("Yes.")
    expect(tab.locator("#send")).to_be_visible()
    page.keyboard.press("Escape")
    page.unroute("**/chat/completions")
    ask(page, "Here again?")
    expect(last_answer(page)).to_have_text("Yes.")
    expect(page.locator("#send")).to_be_visible()
    asked = ["First?", "Yes.", "Here?"]
    assert kept_chats(page) == [[*asked, "Here again?", "Yes."], [*asked, "There?", "Yes."]]


def test_chat_deleted_in_another_tab_is_closed_here(page: Page):
    ask(page, "About clay?")
    wait_answered(page)
    tab = open_tab(page)
    expect(tab.locator(".turn")).to_have_count(2)
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.get_by_role("button", name="Delete “About clay?”").click()
    expect(page.locator(".turn")).to_have_count(0)
    assert kept_chats(page) == []


def test_full_storage_is_told_beside_the_question(page: Page):
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, "Small?")
    wait_answered(page)
    expect(page.locator("#unkept")).to_be_hidden()
    page.evaluate(FILL)
    ask(page, "Large? " + "y" * 3000)
    wait_answered(page, 2)
    expect(page.locator("#unkept")).to_be_visible()
    page.locator("#theme").click()  # what is small still fits, and that does not make the chat kept
    expect(page.locator("#unkept")).to_be_visible()
    page.evaluate(
        "Object.keys(localStorage).filter((n) => n.startsWith('other')).map((n) => localStorage.removeItem(n))"
    )
    ask(page, "And now?")
    wait_answered(page, 3)
    expect(page.locator("#unkept")).to_be_hidden()


def test_old_answer_stays_until_a_new_one_begins(page: Page, node: Node):
    ask(page, "What is Llamakiln?")
    wait_answered(page)
    page.route("**/chat/completions", lambda route: route.fulfill(status=500, json={"error": {"message": "it broke"}}))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".trouble")).to_contain_text("The node says: it broke")
    expect(page.locator(".theirs .text").first).to_have_text(ANSWER)
    page.reload()
    expect(last_answer(page)).to_have_text(ANSWER)
    page.unroute("**/chat/completions")
    node[1].model.answer = lambda prompt: "Another."
    page.get_by_role("button", name="Try again").click()
    expect(last_answer(page)).to_have_text("Another.")
    wait_answered(page)
    assert kept_chats(page) == [["What is Llamakiln?", "Another."]]


def test_draft_survives_an_edit_and_another_chat(page: Page):
    ask(page, "First?")
    wait_answered(page)
    page.locator("#question").fill("half a thou")
    page.get_by_role("button", name="Edit").click()
    expect(page.locator("#question")).to_have_value("First?")
    page.keyboard.press("Escape")
    expect(page.locator("#question")).to_have_value("half a thou")
    page.locator("#fresh").click()
    expect(page.locator("#question")).to_have_value("half a thou")


def test_chat_that_is_chosen_again_goes_on_streaming(held_page: Page, gate: Gate):
    gate.open(9)
    ask(held_page, "What is Llamakiln?")
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    held_page.locator("#chat-list .title").click()
    gate.open_for_ever()
    expect(last_answer(held_page)).to_have_text(ANSWER)


def test_stored_settings_out_of_range_are_not_sent(page: Page):
    stored: dict[str, Any] = {"sampling": {"temperature": 99, "top_k": 3.5, "top_p": 0.5, "other": 1}}
    page.evaluate("(text) => localStorage.setItem('llamakiln.settings', text)", json.dumps(stored))
    page.reload()
    assert run_module(page, "settings.js", "return room.samplingParameters();") == {"top_p": 0.5}


def test_title_is_that_of_the_chat(page: Page):
    expect(page).to_have_title("Llamakiln")
    ask(page, "About clay?")
    expect(page).to_have_title("About clay? · Llamakiln")
    page.locator("#fresh").click()
    expect(page).to_have_title("Llamakiln")
