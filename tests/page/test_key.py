"""The API key: asked for, forgotten when it is wrong, kept for the session unless the user chooses otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.api.keys import Keys
from tests.fakes import FakeModel
from tests.page.door import ANSWER, ask, last_answer, shoot
from tests.runtime.door import run_nginx
from tests.service.door import run_service

KEY = "sk-0123456789abcdef"


@pytest.fixture
def locked_page(visit: Callable[..., Page], tmp_path: Path) -> Iterator[Page]:
    """The page of a node that wants KEY."""
    with (
        run_service(FakeModel(lambda prompt: ANSWER), on_socket=True, keys=Keys([KEY])) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        yield visit(nginx.url)


def test_wrong_key_is_forgotten_even_if_no_other_is_given(locked_page: Page):
    ask(locked_page, "May I?")
    locked_page.locator("#key-value").fill("wrong-wrong-wrong-wrong")
    locked_page.locator("#key-keep").check()
    locked_page.keyboard.press("Enter")
    expect(locked_page.locator("#key-why")).to_have_text("The node does not know this API key.")
    shoot(locked_page, "key")
    locked_page.keyboard.press("Escape")
    expect(locked_page.locator(".turn .trouble")).to_contain_text("does not know this API key")
    assert "wrong-wrong" not in locked_page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    locked_page.locator(".turn .trouble button").click()
    expect(locked_page.locator("#key-why")).to_contain_text("one of its API keys")
    locked_page.locator("#key-value").fill(KEY)
    locked_page.keyboard.press("Enter")
    expect(last_answer(locked_page)).to_have_text(ANSWER)


def test_key_is_asked_for_and_kept_for_the_session_only(visit: Callable[..., Page], tmp_path: Path):
    with (
        run_service(FakeModel(lambda prompt: ANSWER), on_socket=True, keys=Keys([KEY])) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        page = visit(nginx.url)
        expect(page.locator("#welcome-trouble")).to_contain_text("one of its API keys")
        ask(page, "May I?")
        page.locator("#key-value").fill("wrong-wrong-wrong-wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_have_text("The node does not know this API key.")
        assert "wrong-wrong" not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        page.locator("#key-value").fill(KEY)
        page.keyboard.press("Enter")
        expect(last_answer(page)).to_have_text(ANSWER)
        expect(page.locator("#model")).to_have_text("fake")
        stored = "[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]"
        kept, session = page.evaluate(stored)
        assert KEY not in kept and KEY in session
        page.locator("#open-sample").click()
        assert KEY not in page.locator("#sample").inner_text()
        assert "$LLM_API_KEY" in page.locator("#sample").inner_text()
        page.keyboard.press("Escape")
        page.locator("#open-settings").click()
        page.locator("#open-key").click()
        page.locator("#key-value").fill(KEY)
        page.locator("#key-keep").check()
        page.keyboard.press("Enter")
        assert KEY in page.evaluate(stored)[0]
        page.locator("#open-key").click()
        page.get_by_role("button", name="Forget it").click()
        assert all(KEY not in each for each in page.evaluate(stored))
