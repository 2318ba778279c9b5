""" "Try the API": what is shown runs as it is pasted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.page.door import ask, wait_answered
from tests.runtime.door import Nginx
from tests.service.door import Running

QUESTION = 'It\'s "quoted" $HOME `id` \\n\nça va? 🦙'


@pytest.fixture
def asked(page: Page, node: tuple[Nginx, Running]) -> Iterator[tuple[Page, list[str]]]:
    """A page on which QUESTION was asked with settings, and the prompts the model gets from now on."""
    prompts: list[str] = []
    page.locator("#open-settings").click()
    page.locator("#system").fill("Don't shout.")
    page.locator("#set-temperature").fill("0.5")
    page.locator("#set-top_k").fill("20")
    page.keyboard.press("Escape")
    ask(page, QUESTION)
    wait_answered(page)
    node[1].model.answer = lambda prompt: (prompts.append(prompt), "Pasted.")[1]
    page.locator("#open-sample").click()
    yield page, prompts


def shown(page: Page, name: str) -> str:
    page.get_by_role("tab", name=name).click()
    expect(page.locator("#sample-panel .code-head span")).to_have_text(name)
    return page.locator("#sample-panel code").inner_text()


def check(prompts: list[str], said: str) -> None:
    assert "Pasted." in said.replace('"},"logprobs":null,"finish_reason":null}]', "") or '"P"' in said
    assert set(prompts) == {f"[system]Don't shout.\n[user]{QUESTION}\n"}


def test_curl_runs(asked: tuple[Page, list[str]]):
    page, prompts = asked
    done = subprocess.run(["bash", "-c", shown(page, "curl")], capture_output=True, text=True, timeout=60, check=True)
    check(prompts, done.stdout)


def test_python_runs(asked: tuple[Page, list[str]]):
    page, prompts = asked
    code = shown(page, "Python")
    assert "extra_body" in code and "temperature=0.5" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    check(prompts, done.stdout)


def test_javascript_runs(asked: tuple[Page, list[str]]):
    """In the browser itself, which has the same fetch as Node."""
    page, prompts = asked
    code = shown(page, "JavaScript")
    with page.expect_console_message() as said:
        page.evaluate(f"(async () => {{ {code} }})()")
    check(prompts, said.value.text)
