"""The page in headless Chromium, through the shipped NGINX, with a fake model that the test holds by a gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.fakes import FakeModel, Gate
from tests.runtime.door import ROOT, Nginx, run_nginx
from tests.service.door import Running, run_service

CHROMIUM = "/usr/bin/chromium"
SCREENSHOTS = ROOT / "build/screenshots"
ANSWER = (
    "Llamakiln bakes a language model, its engine and this page into one image.\n\n"
    "A node boots from that image and answers on port 80: nothing is compiled, installed or downloaded at boot."
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.open(1)  # the warm-up token
    return gate


@pytest.fixture
def answers() -> list[str]:
    """What the model answers next; the last one for ever."""
    return [ANSWER]


@pytest.fixture
def node(tmp_path: Path, gate: Gate, answers: list[str]) -> Iterator[tuple[Nginx, Running]]:
    model = FakeModel(lambda prompt: answers[0], gate=gate, n_context=2048)
    with (
        run_service(model, on_socket=True, max_queue=0, model_name="demo") as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        yield nginx, service


@pytest.fixture
def page(browser: Browser, node: tuple[Nginx, Running]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 760})
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto(node[0].url)
    expect(page.locator("#health-text")).to_have_text("ready", timeout=20_000)
    yield page
    context.close()
    assert not faults, faults


def ask(page: Page, question: str) -> None:
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")


def last_answer(page: Page):
    return page.locator(".theirs").last.locator(".text")


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_page_says_which_model_and_that_it_is_the_demo(page: Page):
    expect(page.locator("#model")).to_have_text("demo")
    expect(page.locator("#demo")).to_be_visible()
    expect(page.locator("#examples button")).to_have_count(3)
    shoot(page, "welcome")


def test_answer_streams_and_tells_its_size(page: Page, gate: Gate):
    gate.open(9)
    ask(page, "What is Llamakiln?")
    expect(last_answer(page)).to_have_text("Llamakiln")  # nine tokens, and the model waits at the gate
    expect(page.locator(".theirs")).to_have_attribute("aria-busy", "true")
    shoot(page, "streaming")
    gate.open_for_ever()
    expect(last_answer(page)).to_have_text(ANSWER)
    expect(page.locator(".theirs .notes")).to_contain_text(f"{len(ANSWER)} tokens")
    expect(page.locator("#announce")).to_have_text(f"Answer: {ANSWER}")
    expect(page.locator("#send")).to_be_visible()
    shoot(page, "answer")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_keeps_the_text_and_frees_the_engine(page: Page, gate: Gate, node: tuple[Nginx, Running], how: str):
    gate.open(9)
    ask(page, "Tell me a lot")
    expect(last_answer(page)).to_have_text("Llamakiln")
    if how == "button":
        page.locator("#stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(".theirs .notes")).to_contain_text("stopped")
    gate.open_for_ever()
    assert node[1].engine.wait_idle(20)
    expect(last_answer(page)).to_have_text("Llamakiln")


def test_second_question_carries_the_conversation(page: Page, gate: Gate, node: tuple[Nginx, Running]):
    gate.open_for_ever()
    prompts: list[str] = []
    node[1].model.answer = lambda prompt: (prompts.append(prompt), "Yes.")[1]
    ask(page, "First?")
    expect(page.locator(".notes")).to_have_count(1)
    ask(page, "Second?")
    expect(page.locator(".notes")).to_have_count(2)
    assert prompts[-1] == "[user]First?\n[assistant]Yes.\n[user]Second?\n"
    page.locator("#fresh").click()
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "Third?")
    expect(page.locator(".notes")).to_have_count(1)
    assert prompts[-1] == "[user]Third?\n"


def test_shift_enter_makes_a_new_line(page: Page, gate: Gate):
    gate.open_for_ever()
    question = page.locator("#question")
    question.fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(question).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(page.locator(".mine .text")).to_have_text("one\ntwo")


def test_markup_of_the_model_stays_text(page: Page, gate: Gate, answers: list[str]):
    gate.open_for_ever()
    answers[0] = "<img src=x onerror=alert(1)><b>bold</b>"
    ask(page, "<script>alert(2)</script>")
    expect(last_answer(page)).to_have_text(answers[0])
    assert page.locator("#log img, #log b, #log script").count() == 0


def test_busy_node_says_when_to_try_again(page: Page, gate: Gate, browser: Browser, node: tuple[Nginx, Running]):
    gate.open(1)
    other = browser.new_page()
    other.goto(node[0].url)
    ask(other, "I was first")
    expect(last_answer(other)).to_have_text("L")
    ask(page, "And I?")
    expect(page.locator(".trouble")).to_contain_text("busy")
    expect(page.locator(".trouble button")).to_have_text(re.compile(r"Try again in \d+ s"))
    expect(page.locator(".trouble button")).to_be_disabled()
    shoot(page, "busy")
    gate.open_for_ever()
    expect(page.locator(".trouble button")).to_be_enabled()
    page.locator(".trouble button").click()
    expect(last_answer(page)).to_have_text(ANSWER)
    expect(page.locator(".trouble")).to_have_count(0)
    other.close()


def test_offline_is_told_and_can_be_tried_again(page: Page, gate: Gate):
    gate.open_for_ever()
    page.context.set_offline(True)
    ask(page, "Anybody there?")
    expect(page.locator(".trouble")).to_contain_text("No connection")
    expect(page.locator("#health")).to_have_attribute("data-state", "offline")
    page.context.set_offline(False)
    page.locator(".trouble button").click()
    expect(last_answer(page)).to_have_text(ANSWER)


def test_node_that_drains_is_told(page: Page, node: tuple[Nginx, Running]):
    node[1].engine.drain()
    ask(page, "Still there?")
    expect(page.locator(".trouble")).to_contain_text("not available")
    expect(page.locator("#health-text")).to_have_text("node is shutting down")


def test_service_away_is_told(browser: Browser, tmp_path: Path):
    from tests.runtime.door import free_port

    with run_nginx(tmp_path, free_port()) as nginx:
        page = browser.new_page()
        page.goto(nginx.url)
        expect(page.locator("#health-text")).to_have_text("service is starting")
        ask(page, "Hello?")
        expect(page.locator(".trouble")).to_contain_text("starts again by itself")
        page.close()


def test_failure_in_the_middle_keeps_what_was_said(page: Page, gate: Gate, node: tuple[Nginx, Running]):
    gate.open(9)
    ask(page, "What is Llamakiln?")
    expect(last_answer(page)).to_have_text("Llamakiln")
    node[1].model.fault = RuntimeError("a broken step")
    gate.open_for_ever()
    expect(page.locator(".trouble")).to_contain_text("the model failed on this request")
    expect(last_answer(page)).to_have_text("Llamakiln")


def test_too_long_conversation_offers_a_new_one(page: Page, gate: Gate):
    gate.open_for_ever()
    ask(page, "x" * 3000)
    expect(page.locator(".trouble")).to_contain_text("longer than the model can hold")
    page.locator(".trouble button").click()
    expect(page.locator("#welcome")).to_be_visible()


def test_theme_button_switches_and_is_remembered(page: Page):
    root = page.locator("html")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    expect(root).to_have_attribute("data-theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    expect(root).to_have_attribute("data-theme", "dark")
    shoot(page, "dark")


def test_page_fits_a_telephone(page: Page, gate: Gate):
    gate.open_for_ever()
    page.set_viewport_size({"width": 360, "height": 640})
    ask(page, "What is Llamakiln?")
    expect(last_answer(page)).to_have_text(ANSWER)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    shoot(page, "telephone")
