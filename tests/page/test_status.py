"""/status: what the node is and does, drawn from /status.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from service.api.keys import Keys
from tests.fakes import FakeModel
from tests.page.door import shoot
from tests.runtime.door import Nginx, run_nginx
from tests.service.door import Running, run_service

KEY = "sk-0123456789abcdef"


def test_facts_are_those_of_the_image(visit: Callable[..., Page], tmp_path: Path):
    image = tmp_path / "image.json"
    base = {"name": "ubuntu-22.04", "release": "20261101"}
    image.write_text(json.dumps({"version": "0.1.0", "base": base, "model": {"license": "mit"}}))
    with (
        run_service(FakeModel(), on_socket=True, image=image) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        page = visit(nginx.url + "/status")
        for fact in ("0.1.0", "ubuntu-22.04 20261101", "mit", "512 tokens"):
            expect(page.locator("#facts")).to_contain_text(fact)


def test_pictures_draw_the_last_minutes(visit: Callable[..., Page], node: tuple[Nginx, Running]):
    columns = ["age_s", "running", "waiting", "tokens_per_s", "ttft_s", "cache"]
    rows = [[60 - 2 * i, i % 4, i % 2, i * 1.5, 0.2 + i / 100 if i % 5 else None, i / 40] for i in range(31)]
    page = visit("about:blank")
    reply = page.request.get(node[0].url + "/status.json").json()
    reply["history"] = {"every_s": 2, "columns": columns, "rows": rows}
    page.route("**/status.json", lambda route: route.fulfill(json=reply))
    page.goto(node[0].url + "/status")
    expect(page.locator(".plot")).to_have_count(4)
    expect(page.locator(".now").nth(0)).to_have_text("2 running0 queued")
    expect(page.locator(".now").nth(1)).to_have_text("45")
    expect(page.locator(".now").nth(2)).to_have_text("0.49 s")
    expect(page.locator(".now").nth(3)).to_have_text("75 %")
    expect(page.locator(".peak").nth(1)).to_have_text("last 1 min, highest 45")
    lines = page.locator(".plot path").evaluate_all("(paths) => paths.map((path) => path.getAttribute('d'))")
    assert [line.count("M") for line in lines] == [1, 1, 1, 6, 1]  # TTFT has gaps
    shoot(page, "status")


def test_fact_that_did_not_change_is_left_alone(visit: Callable[..., Page], node: tuple[Nginx, Running]):
    """Someone may be selecting it."""
    page = visit(node[0].url + "/status")
    uptime = page.locator("#facts dd").filter(has_text="s").last
    expect(page.locator("#facts dd").first).to_contain_text("demo")
    page.evaluate("window.first = document.querySelector('#facts dd').firstChild")
    with page.expect_response("**/status.json"):
        expect(uptime).to_be_visible()
    with page.expect_response("**/status.json"):
        pass
    assert page.evaluate("window.first.isConnected")


def test_key_opens_the_numbers(visit: Callable[..., Page], tmp_path: Path):
    with (
        run_service(FakeModel(), on_socket=True, keys=Keys([KEY])) as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        page = visit(nginx.url + "/status")
        expect(page.locator("#health-text")).to_have_text("key needed")
        page.locator(".trouble button").click()
        page.locator("#key-value").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#facts dd").first).to_contain_text("fake")
        expect(page.locator(".trouble")).to_have_count(0)


def test_node_that_is_away_is_told(visit: Callable[..., Page], tmp_path: Path):
    with run_nginx(tmp_path, 9) as nginx:
        page = visit(nginx.url + "/status")
        expect(page.locator(".trouble")).to_contain_text("it starts again by itself")
