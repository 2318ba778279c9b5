"""Bodies made to cost or to break: none is a fault of ours, none ends the service, and none is answered twice."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import config
from service.api import body, keys, status
from service.api.refusal import REQUEST_ID
from service.engine import cost
from service.errors import BadRequest, ConfigError, ServiceError
from tests.service.door import Reply, Running, parse_events, run_service
from tests.stress import bodies

N_MUTANTS = 1500
SEED = 15
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with run_service(max_queue=64, max_body_bytes=bodies.MIB, request_timeout_s=60) as running:
        yield running


def check_reply(reply: Reply, name: str) -> None:
    assert reply.status in (200, 400, 413, 503), (name, reply.status, reply.body[:300])
    if reply.status != 200:
        assert set(reply.json["error"]) == {"message", "type", "param", "code"}, name
        assert len(reply.body) < 2000, name  # a refusal does not say back what it refuses
    elif reply.headers["Content-Type"].startswith("text/event-stream"):
        events = parse_events(reply.body.decode())
        assert events[-1] == "[DONE]" or "error" in events[-1], name
    else:
        json.loads(reply.body)


@pytest.mark.parametrize("part", range(4))
def test_mutated_bodies_are_answered_or_refused(service: Running, part: int):
    """make stress goes on with this for minutes, on the real model."""
    for name, path, data in itertools.islice(bodies.mutants(random.Random(SEED + part)), N_MUTANTS // 4):
        check_reply(service.door.call("POST", path, data), f"part {part}: {name}")
    assert service.engine.is_ready and service.engine.n_running == service.engine.n_waiting == 0


SLOW = (
    "grammar",
    "one word",
    "surrogate",
)  # of the engine for constraints; tokens of bytes; tested where they are bound


@pytest.mark.parametrize(
    ("path", "data"),
    [
        pytest.param(path, data, id=name)
        for name, path, data in bodies.poisonous()
        if not any(word in name for word in SLOW) and "pieces" not in name
    ],
)
def test_poisonous_bodies_are_answered_or_refused(service: Running, path: str, data: bytes):
    check_reply(service.door.call("POST", path, data), path)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused(data: bytes):
    for given_data in (data, b'{"prompt":' + data + b"}", b'{"' + data + b'":1}'):
        try:
            assert isinstance(body.parse_json("application/json", given_data), dict)
        except BadRequest as error:
            assert error.status in (400, 415)


PARAMETERS = {
    **body.generate_parameters(100),
    **body.completion_parameters(100),
    **body.chat_parameters(100),
    **body.TOKENIZE,
    **body.DETOKENIZE,
}


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(PARAMETERS)), ANY)
def test_any_value_of_any_parameter_is_read_or_refused_with_its_name(name: str, value: Any):
    try:
        PARAMETERS[name].read(value, name)
    except BadRequest as error:
        assert error.param and error.param.startswith(name)
        assert len(error.message) < 1000


@given(st.dictionaries(st.text(max_size=6) | st.sampled_from(sorted(PARAMETERS)), ANY, max_size=4))
def test_any_object_is_an_ask_or_refused(given_body: dict[str, Any]):
    for parse in (body.parse_generate, body.parse_completion, body.parse_chat):
        with contextlib.suppress(BadRequest):
            parse(given_body, 100)


@given(st.text(max_size=100))
def test_any_authorization_is_no_key(header: str):
    with pytest.raises(ServiceError):
        keys.Keys(["sk-0123456789abcdef"]).check(header)


@given(st.binary(max_size=100))
def test_any_key_file_is_read_or_told(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_bytes(data)
    try:
        keys.load(path)
    except ConfigError as error:
        assert error.faults


@given(
    st.dictionaries(st.sampled_from([setting.name for setting in config.SETTINGS]) | st.text(), st.text(max_size=30))
)
def test_any_environment_is_settings_or_told(environ: dict[str, str]):
    environ.pop("LLM_MODEL", None)
    with pytest.raises(ConfigError) as caught:
        config.load(environ)
    assert any(fault.startswith("LLM_MODEL=") for fault in caught.value.faults)


@given(st.binary(max_size=100) | ANY.map(lambda value: json.dumps(value).encode()))
def test_any_state_or_image_file_is_read_or_left_out(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.mktemp("state") / "steps.json"
    path.write_bytes(data)
    cost.load(path)
    status.read_image(path)


@given(st.text(max_size=80))
def test_a_request_id_is_a_plain_word_or_not_taken(text: str):
    if REQUEST_ID.fullmatch(text):
        assert text.isascii() and text.isprintable() and " " not in text and len(text) <= 64
