"""Ways into the service for tests: the engine by hand, the WSGI door without sockets, and waitress on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.api.app import make_app
from service.api.keys import Keys
from service.api.server import Server
from service.api.status import Status
from service.chat.prompt import Prompter
from service.config import Config
from service.config import load as load_config
from service.engine.admission import reserve
from service.engine.engine import Engine, Limits
from service.metrics import Metrics
from service.protocol import Model
from service.request import Event, Request, SamplingParams
from tests.fakes import FakeConstrainer, FakeModel, Gate

DEMO = Path(__file__).resolve().parents[2] / "packer" / "models" / "demo.gguf"


def make_config(**changes: Any) -> Config:
    """The defaults of every setting, but small and on a free port; `changes` by field name."""
    defaults = load_config({"LLM_MODEL": str(DEMO), "LLM_LIB_DIR": "/", "LLM_PORT": "0", "LLM_THREADS": "1"})
    small = {"model_name": "fake", "max_tokens": 400, "max_queue": 4, "max_body_bytes": 65536, "drain_s": 5}
    return dataclasses.replace(defaults, **{**small, **changes})


def make_engine(model: Model, **changes: Any) -> Engine:
    """An engine with small limits; `changes` are fields of Limits or arguments of Engine, or state_dir."""
    state_dir = changes.pop("state_dir", None)
    if state_dir:
        changes["state_path"] = lambda name: state_dir / name
    names = {field.name for field in dataclasses.fields(Limits)}
    limits = {"max_streams": 4, "max_queue": 4, "measures": False, **{k: v for k, v in changes.items() if k in names}}
    others = {k: v for k, v in changes.items() if k not in names}
    values: dict[str, Any] = {"metrics": Metrics(), "rng": random.Random(1), **others}
    return Engine(lambda: model, limits=Limits(**limits), **values)


def make_request(engine: Engine, prompt: str, id: str = "r", **params: Any) -> Request:
    tokens = engine.prompter.encode_chat([{"role": "user", "content": prompt}])
    return Request(id, tokens, SamplingParams(**{"max_tokens": 200, **params}))


def wait_until(is_so: Callable[[], object], timeout_s: float = 30) -> None:
    """For what another thread or process does on its own: returns as soon as it is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        """The data of the server-sent events, comments left out."""
        return parse_events(self.body.decode())


def parse_events(text: str) -> list[Any]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks), blocks
    return [data if data == "[DONE]" else json.loads(data) for data in (block[6:] for block in blocks)]


@dataclass
class Door:
    """Calls a WSGI application as waitress would, without sockets."""

    app: Callable[..., Any]
    is_gone: Callable[[], bool] = lambda: False
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, data: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        chunks, status, answered = self.begin(method, path, data, headers)
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        return Reply(status, answered, body)

    def get(self, path: str, **headers: str) -> Reply:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", path, data, headers)

    def begin(
        self, method: str, path: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[Any, int, dict[str, str]]:
        """The application's own iterable, not yet read, with status and headers."""
        path, _, query = path.partition("?")
        given = {"Content-Type": "application/json", **self.headers, **(headers or {})}
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REMOTE_ADDR": "127.0.0.1",
            "SERVER_NAME": "test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": io.StringIO(),
            "waitress.client_disconnected": self.is_gone,
        }
        for name, value in given.items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key] = value
        seen: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> None:
            seen["status"] = int(status.split()[0])
            seen["headers"] = dict(headers)

        chunks = self.app(environ, start_response)
        return chunks, seen["status"], seen["headers"]


@dataclass
class Running:
    """An engine in its own thread, behind the WSGI door and, if `server` is there, behind waitress."""

    engine: Engine
    model: Any  # a FakeModel, or the real one
    door: Door
    metrics: Metrics
    server: Server | None = None

    @property
    def url(self) -> str:
        assert self.server
        return f"http://127.0.0.1:{self.server.port}"


@contextlib.contextmanager
def run_service(
    model: Model | None = None,
    *,
    on_socket: bool = False,
    ping_s: float = 10.0,
    poll_s: float = 0.02,
    wait_ready: bool = True,
    keys: Keys | None = None,
    image: Path = Path("/nonexistent"),
    **changes: Any,
) -> Iterator[Running]:
    """A whole service, with a fake model unless told otherwise. poll_s is short: nothing here is about time."""
    model = model or FakeModel()
    config = make_config(**changes)
    ready = threading.Event()
    metrics = Metrics()
    status = Status(metrics, image=image)
    engine = make_engine(
        model,
        metrics=metrics,
        max_streams=config.max_streams or 1,
        max_queue=config.max_queue,
        max_wait_s=config.max_wait_s,
        timeout_s=config.request_timeout_s,
        system_prompt=config.system_prompt,
        speculates=False,  # one token for each passing of a gate
        on_ready=ready.set,
        on_fatal=lambda error: ready.set(),
        on_beat=status.beat,
    )
    app = make_app(config, engine, metrics, keys=keys, status=status, ping_s=ping_s, poll_s=poll_s)
    server = None
    if on_socket:
        server = Server(
            app,
            host=config.host,
            port=0,
            max_accepted=(config.max_streams or 1) + config.max_queue + reserve(config.max_queue),
            max_body_bytes=config.max_body_bytes,
        )
        server.start(lambda error: None)
    engine.start()
    if wait_ready:
        assert ready.wait(30)
    try:
        yield Running(engine, model, Door(app), metrics, server)
    finally:
        if isinstance(gate := getattr(model, "gate", None), Gate):
            gate.open_for_ever()
        assert engine.stop(30)
        if server:
            server.task_dispatcher.shutdown(timeout=5)


class ScriptedEngine:
    """Takes what it is given and lets the test say the events. What it is not asked for by app.py it does not have."""

    def __init__(self, *events: Event) -> None:
        self.model = FakeModel()
        self.prompter = Prompter(self.model)
        self.constrainer = FakeConstrainer()
        self.is_ready, self.state = True, "ready"
        self.prices: dict[str, Any] = {}
        self.script = events
        self.requests: list[Request] = []
        self.cancelled: list[int] = []

    def submit(self, requests: list[Request]) -> None:
        self.requests = list(requests)
        for event in self.script:
            self.requests[0].events.put(event)

    def cancel(self, request: Request) -> None:
        self.cancelled.append(request.index)


def script(*events: Event, **config: Any) -> tuple[ScriptedEngine, Door]:
    engine = ScriptedEngine(*events)
    return engine, Door(make_app(make_config(**config), engine, Metrics(), poll_s=0.01, ping_s=0.02))
