"""The page in headless Chromium, through the shipped NGINX, with a fake model that the test holds by a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.fakes import FakeModel, Gate
from tests.page.door import ANSWER, CHROMIUM, open_page
from tests.runtime.door import Nginx, run_nginx
from tests.service.door import Running, run_service

Node = tuple[Nginx, Running]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--js-flags=--expose-gc"]
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
def held(tmp_path: Path, gate: Gate) -> Iterator[Node]:
    """A node that the test holds by the gate, with room for one question and none in the queue."""
    model = FakeModel(lambda prompt: ANSWER, gate=gate, n_context=2048)
    with (
        run_service(model, on_socket=True, max_queue=0, model_name="demo") as service,
        run_nginx(tmp_path, service.server.port) as nginx,
    ):
        yield nginx, service


@pytest.fixture(scope="session")
def free_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that answers at once; all tests share it."""
    model = FakeModel(n_context=8192, n_cells=20_000)
    settings: dict[str, Any] = {"max_queue": 8, "max_tokens": 6000, "model_name": "demo", "max_body_bytes": 1 << 20}
    with (
        run_service(model, on_socket=True, **settings) as service,
        run_nginx(tmp_path_factory.mktemp("nginx"), service.server.port) as nginx,
    ):
        yield nginx, service


@pytest.fixture
def node(free_node: Node) -> Node:
    """The shared node, answering ANSWER until the test says otherwise by `service.model.answer`."""
    free_node[1].model.answer = lambda prompt: ANSWER
    return free_node


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """visit(url, **context options): a page in a browser of its own; its faults fail the test."""
    contexts, faults = [], []

    def visit(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 760}, "locale": "en-GB", **options})
        contexts.append(context)
        return open_page(context, url, faults)

    yield visit
    for context in contexts:
        context.close()
    assert not faults, faults


@pytest.fixture
def page(visit: Callable[..., Page], node: Node) -> Page:
    return visit(node[0].url)


@pytest.fixture
def held_page(visit: Callable[..., Page], held: Node) -> Page:
    return visit(held[0].url)
