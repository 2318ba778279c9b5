"""Asking: stream, stop, retry, edit, many chats, and what the page says when the node does not answer."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.fakes import FakeModel, Gate
from tests.page.door import ANSWER, ask, last_answer, shoot, wait_answered
from tests.runtime.door import Nginx, free_port, run_nginx
from tests.service.door import Running, run_service, wait_until
from tests.service.test_main import Process

Node = tuple[Nginx, Running]


def record_prompts(node: Node, answer: str = "Yes.") -> list[str]:
    prompts: list[str] = []

    def answer_once(prompt: str) -> str:
        if prompt not in prompts:
            prompts.append(prompt)
        return answer

    node[1].model.answer = answer_once
    return prompts


def test_page_says_which_model_and_that_it_is_the_demo(page: Page):
    expect(page.locator("#model")).to_have_text("demo")
    expect(page.locator("#demo")).to_be_visible()
    expect(page.locator("#examples button")).to_have_count(3)


def test_answer_streams_and_tells_its_size(held_page: Page, gate: Gate):
    gate.open(9)
    ask(held_page, "What is Llamakiln?")
    expect(last_answer(held_page)).to_have_text("Llamakiln")  # nine tokens, and the model waits at the gate
    expect(held_page.locator(".theirs")).to_have_attribute("aria-busy", "true")
    shoot(held_page, "streaming")
    gate.open_for_ever()
    wait_answered(held_page)
    expect(last_answer(held_page)).to_have_text(ANSWER)
    size = re.compile(rf"{len(ANSWER)} tokens · first token after .* s · .*tokens/s")
    expect(held_page.locator(".notes")).to_have_text(size)
    expect(held_page.locator("#send")).to_be_visible()


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_keeps_the_text_and_frees_the_engine(held_page: Page, gate: Gate, held: Node, how: str):
    gate.open(9)
    ask(held_page, "Tell me a lot")
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    if how == "button":
        held_page.locator("#stop").click()
    else:
        held_page.keyboard.press("Escape")
    expect(held_page.locator(".theirs .notes")).to_contain_text("stopped")
    gate.open_for_ever()
    assert held[1].engine.wait_idle(30)
    expect(last_answer(held_page)).to_have_text("Llamakiln")


@pytest.mark.parametrize("state", ["queued", "reading"])
def test_stop_before_the_first_word_frees_the_engine(
    visit: Callable[..., Page], tmp_path: Path, gate: Gate, state: str
):
    model = FakeModel(lambda prompt: ANSWER, gate=gate, n_context=2048)
    with (
        run_service(model, on_socket=True, max_queue=2) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        page = visit(nginx.url)
        if state == "queued":
            other = visit(nginx.url)
            ask(other, "I was first")
            wait_until(lambda: service.engine.n_running == 1)
        ask(page, "And I?")
        wait_until(lambda: service.engine.n_waiting if state == "queued" else service.engine.n_running)
        page.locator("#stop").click()
        expect(page.locator(".theirs .notes")).to_contain_text("stopped")
        expect(page.locator("#send")).to_be_visible()
        expect(page.locator("#question")).to_be_focused()
        gate.open_for_ever()
        assert service.engine.wait_idle(30)
        page.get_by_role("button", name="Try again").click()
        expect(last_answer(page)).to_have_text(ANSWER)


def test_second_question_carries_the_conversation(page: Page, node: Node):
    prompts = record_prompts(node)
    ask(page, "First?")
    wait_answered(page)
    ask(page, "Second?")
    wait_answered(page, 2)
    assert prompts[-1] == "[user]First?\n[assistant]Yes.\n[user]Second?\n"
    page.locator("#fresh").click()
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "Third?")
    wait_answered(page)
    assert prompts[-1] == "[user]Third?\n"


def test_retry_and_edit_replace_the_last_question(page: Page, node: Node):
    prompts = record_prompts(node)
    ask(page, "First?")
    wait_answered(page)
    node[1].model.answer = lambda prompt: "Another."
    page.get_by_role("button", name="Try again").click()
    expect(last_answer(page)).to_have_text("Another.")
    expect(page.locator(".turn")).to_have_count(2)
    prompts = record_prompts(node, "Edited.")
    page.locator("#question").press("ArrowUp")
    expect(page.locator("#question")).to_have_value("First?")
    expect(page.locator("#editing")).to_be_visible()
    ask(page, "Better?")
    expect(last_answer(page)).to_have_text("Edited.")
    expect(page.locator(".turn")).to_have_count(2)
    assert prompts == ["[user]Better?\n"]


def test_reload_keeps_chats_and_they_can_be_renamed_and_deleted(page: Page, node: Node):
    record_prompts(node)
    ask(page, "About clay?")
    wait_answered(page)
    page.locator("#fresh").click()
    ask(page, "About fire?")
    wait_answered(page)
    page.reload()
    expect(page.locator(".mine .text")).to_have_text("About fire?")
    expect(last_answer(page)).to_have_text("Yes.")
    titles = page.locator("#chat-list .title")
    expect(titles).to_have_text(["About fire?", "About clay?"])
    page.get_by_role("button", name="Rename “About clay?”").click()
    page.keyboard.type("Red clay")
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["About fire?", "Red clay"])
    titles.last.click()
    expect(page.locator(".mine .text")).to_have_text("About clay?")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete “Red clay”").click()
    expect(titles).to_have_text(["About fire?"])
    expect(page.locator("#welcome")).to_be_visible()
    page.locator("#delete-all").click()
    expect(titles).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage).filter((name) => name.includes('chat'))") == []


def test_reload_in_the_middle_keeps_what_was_said(held_page: Page, gate: Gate):
    gate.open(9)
    ask(held_page, "What is Llamakiln?")
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    held_page.reload()
    expect(last_answer(held_page)).to_have_text("Llamakiln")


def test_settings_are_sent_kept_and_reset(page: Page, node: Node):
    prompts = record_prompts(node)
    page.locator("#open-settings").click()
    expect(page.locator("#set-temperature")).to_have_attribute("placeholder", "0.8")
    page.locator("#system").fill("Be brief.")
    page.locator("#set-max_tokens").fill("2")
    page.keyboard.press("Escape")
    ask(page, "Well?")
    wait_answered(page)
    expect(last_answer(page)).to_have_text("Ye")
    expect(page.locator(".notes")).to_contain_text("cut off")
    assert prompts[-1] == "[system]Be brief.\n[user]Well?\n"
    page.reload()
    page.locator("#open-settings").click()
    expect(page.locator("#system")).to_have_value("Be brief.")
    page.locator("#reset").click()
    expect(page.locator("#system")).to_have_value("")
    expect(page.locator("#set-max_tokens")).to_have_value("")


def test_place_and_progress_are_shown_while_waiting(visit: Callable[..., Page], tmp_path: Path, gate: Gate):
    model = FakeModel(lambda prompt: ANSWER, gate=gate, n_context=2048)
    with (
        run_service(model, on_socket=True, max_queue=2) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        first, second = visit(nginx.url), visit(nginx.url)
        gate.open(9)
        ask(first, "I was first")
        expect(last_answer(first)).to_have_text("Llamakiln")
        ask(second, "And I?")
        wait_until(lambda: service.engine.n_waiting == 1)
        gate.open(2)  # a step tells those who wait
        told = re.compile(r"Waiting at place 1 in the queue, about \d+ s to go")
        expect(second.locator(".waiting")).to_have_text(told)
        shoot(second, "queued")
        gate.open_for_ever()
        expect(last_answer(second)).to_have_text(ANSWER)


def test_progress_of_the_prompt_is_read(page: Page):
    progress = [{"total": 200, "cache": 0, "processed": done, "time_ms": 1} for done in (50, 126)]
    chunks = [{"choices": [], "prompt_progress": each, "queue": {"place": 0, "wait_s": 1}} for each in progress]
    page.evaluate(
        """(text) => {
          const real = window.fetch;
          const start = (stream) => stream.enqueue(new TextEncoder().encode(text));
          const answer = () => Promise.resolve(new Response(new ReadableStream({ start })));
          window.fetch = (path, options) => (path.includes("chat") ? answer() : real(path, options));
        }""",
        "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks),
    )
    ask(page, "A long one")
    expect(page.locator(".waiting")).to_have_text("Reading the question: 63 % of 200 tokens")
    expect(page.locator(".waiting progress")).to_have_js_property("value", 0.63)


def test_busy_node_is_tried_again_by_itself(visit: Callable[..., Page], gate: Gate, held: Node):
    gate.open(1)
    other, page = visit(held[0].url), visit(held[0].url)
    ask(other, "I was first")
    expect(last_answer(other)).to_have_text("L")
    ask(page, "And I?")
    expect(page.locator(".trouble")).to_contain_text("The node is busy")
    expect(page.locator(".count")).to_have_text(re.compile(r"Trying again in \d+ s"))
    shoot(page, "busy")
    gate.open_for_ever()
    expect(last_answer(page)).to_have_text(ANSWER)
    expect(page.locator(".trouble")).to_have_count(0)


def test_waiting_for_a_busy_node_can_be_hurried_and_stopped(page: Page, node: Node):
    refusal = '{"error":{"message":"too many","code":"rate_limit_exceeded"}}'
    headers = {"Retry-After": "600", "Content-Type": "application/json"}
    page.route("**/chat/completions", lambda route: route.fulfill(status=429, headers=headers, body=refusal))
    ask(page, "Now?")
    expect(page.locator(".count")).to_have_text(re.compile(r"Trying again in (600|599) s"))
    page.keyboard.press("Escape")
    expect(page.locator(".notes")).to_contain_text("stopped")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".count")).to_be_visible()
    page.unroute("**/chat/completions")
    page.get_by_role("button", name="Try now").click()
    expect(last_answer(page)).to_have_text(ANSWER)


def test_offline_is_told_and_tried_again_by_itself(page: Page):
    expect(page.locator("#model")).to_be_visible()
    page.context.set_offline(True)
    ask(page, "Anybody there?")
    expect(page.locator(".trouble")).to_contain_text("No connection to the node")
    expect(page.locator("#health")).to_have_attribute("data-state", "offline")
    expect(page.locator(".count")).to_have_text(re.compile(r"Trying again in \d+ s"))
    shoot(page, "offline")
    page.context.set_offline(False)
    expect(last_answer(page)).to_have_text(ANSWER)  # by itself
    expect(page.locator("#announce")).not_to_contain_text("No connection")  # the box is an alert: once is enough


def test_service_killed_in_the_middle_is_told_and_the_text_is_kept(visit: Callable[..., Page], tmp_path: Path):
    """A process of its own, killed as the kernel would, and started again on the same port as systemd would."""
    port = free_port()
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
    with run_nginx(tmp_path, port) as nginx:
        service = Process(homes[0], LLM_PORT=str(port))
        page = visit(nginx.url)
        service.tokens(30)  # the warm-up, and a part of the answer
        expect(page.locator("#health-text")).to_have_text("ready")
        ask(page, "one two three four five six seven eight nine ten " * 3)
        expect(last_answer(page)).to_contain_text("You said")
        service.signal(signal.SIGKILL)
        expect(page.locator(".trouble")).to_contain_text("The connection broke off in the middle of the answer")
        expect(last_answer(page)).to_contain_text("You said")
        shoot(page, "broken")
        assert service.exit_code() == -signal.SIGKILL
        service = Process(homes[1], LLM_PORT=str(port))
        service.all_tokens()
        expect(page.locator("#health-text")).to_have_text("ready")
        page.locator(".trouble button").click()
        expect(last_answer(page)).to_contain_text("nine ten")
        service.signal()
        assert service.exit_code() == 0


def test_failure_in_the_middle_keeps_what_was_said(held_page: Page, gate: Gate, held: Node):
    gate.open(9)
    ask(held_page, "What is Llamakiln?")
    expect(last_answer(held_page)).to_have_text("Llamakiln")
    held[1].model.fault = RuntimeError("a broken step")
    gate.open_for_ever()
    expect(held_page.locator(".trouble")).to_contain_text("the model failed on this request")
    expect(last_answer(held_page)).to_have_text("Llamakiln")


def test_node_that_drains_is_told(held_page: Page, held: Node):
    held[1].engine.drain()
    ask(held_page, "Still there?")
    expect(held_page.locator(".trouble")).to_contain_text("it starts again by itself")
    expect(held_page.locator("#health-text")).to_have_text("shutting down")


def test_service_away_is_told(visit: Callable[..., Page], tmp_path: Path):
    with run_nginx(tmp_path, free_port()) as nginx:
        page = visit(nginx.url)
        expect(page.locator("#health-text")).to_have_text("service is starting")
        ask(page, "Hello?")
        expect(page.locator(".trouble")).to_contain_text("starts again by itself")
        expect(page.locator(".count")).to_be_visible()


def test_too_long_conversation_offers_a_new_one(page: Page):
    ask(page, "x" * 9000)
    expect(page.locator(".trouble")).to_contain_text("longer than the model can hold")
    page.locator(".trouble button").click()
    expect(page.locator("#welcome")).to_be_visible()


def test_shift_enter_makes_a_new_line(page: Page):
    page.locator("#question").fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.locator("#question")).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(page.locator(".mine .text")).to_have_text("one\ntwo")


def test_stream_is_followed_until_the_reader_scrolls_up(held_page: Page, gate: Gate, held: Node):
    held[1].model.answer = lambda prompt: "\n\n".join(f"{i}" for i in range(80))
    top = "document.querySelector('main').scrollTop"
    gate.open(120)
    ask(held_page, "Count")
    expect(last_answer(held_page)).to_contain_text("29")
    wait_until(lambda: held_page.evaluate(top) > 300)
    held_page.locator("#main").hover()
    held_page.mouse.wheel(0, -400)
    expect(held_page.locator("#newest")).to_be_visible()
    before = held_page.evaluate(top)
    gate.open(60)
    expect(last_answer(held_page)).to_contain_text("44")
    assert held_page.evaluate(top) == before
    held_page.locator("#newest").click()
    wait_until(lambda: held_page.evaluate(top) > before)
    gate.open_for_ever()
    expect(last_answer(held_page)).to_contain_text("79")
    expect(held_page.locator("#newest")).to_be_hidden()
