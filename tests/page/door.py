"""Ways into the page for tests: open it, ask, read, take a picture."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page, expect

from service.api import page as page_room
from tests.runtime.door import ROOT

CHROMIUM = "/usr/bin/chromium"
SCREENSHOTS = ROOT / "build/screenshots"
STATIC = f"/static/{page_room.read_stamp()}"
ANSWER = (
    "Llamakiln bakes a language model, its engine and this page into one image.\n\n"
    "A node boots from that image and answers on port 80: nothing is compiled, installed or downloaded at boot."
)
PATIENCE_MS = 30_000


def open_page(context: BrowserContext, url: str, faults: list[str]) -> Page:
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto(url)
    return page


def ask(page: Page, question: str) -> None:
    page.locator("#question").fill(question)
    page.locator("#question").press("Control+Enter")  # on a telephone too, where Enter is a new line


def last_answer(page: Page) -> Locator:
    return page.locator(".theirs").last.locator(".text")


def wait_answered(page: Page, n: int = 1) -> None:
    """Until n answers are complete."""
    expect(page.locator('.theirs[aria-busy="false"] .notes')).to_have_count(n)


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def run_module(page: Page, module: str, script: str, argument: Any = None) -> Any:
    """Run `script`, a function body of `room` (a module of the page) and `given`, in the browser."""
    source = f"async ([path, given]) => {{ const room = await import(path); {script} }}"
    return page.evaluate(source, [f"{STATIC}/{module}", argument])
