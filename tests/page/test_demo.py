"""The page with the demo model, as `make run` shows it; takes the README's picture, build/screenshots/page.png."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.page.door import ask, last_answer, shoot, wait_answered
from tests.runtime.door import ROOT, free_port, run_nginx
from tests.service.door import DEMO, wait_until
from tests.service.test_main import Process

QUESTIONS = ["What is Llamakiln?", "How do I bake an image?"]


def test_demo_model_answers_on_the_page(visit: Callable[..., Page], tmp_path: Path):
    settings = {"LLM_MODEL": str(DEMO), "LLM_LIB_DIR": os.environ["LLM_LIB_DIR"], "LLM_PORT": str(free_port())}
    service = Process(tmp_path, "service", **settings)
    try:
        wait_until(lambda: any("ready after" in line for line in service.log), 120)
        with run_nginx(tmp_path, int(settings["LLM_PORT"])) as nginx:
            page = visit(nginx.url, viewport={"width": 1000, "height": 640})
            for n, question in enumerate(QUESTIONS, 1):
                ask(page, question)
                wait_answered(page, n)
                expect(last_answer(page)).to_contain_text("a")
            expect(page.locator(".notes").last).to_contain_text("tokens/s")
            shoot(page, "page")
            page.goto(nginx.url + "/status")
            expect(page.locator("#facts")).to_contain_text("Library set")
            expect(page.locator(".plot path").nth(2)).to_have_attribute("d", re.compile("M"))
            shoot(page, "status-demo")
    finally:
        service.signal()
        assert service.exit_code() == 0
    assert (ROOT / "tests/docs/page.png").exists()
