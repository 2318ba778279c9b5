"""/openapi.json is true: what it allows is answered, what it forbids is refused, and every answer has its shape.

schemathesis makes bodies from the document, good ones and bad ones, and holds every answer against it. The model is
fake and roomy, so that no body is refused for reasons that a schema cannot say (the context, the vocabulary).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from service.api import openapi
from service.api.app import OPEN_PATHS
from service.api.content import MAX_MESSAGES
from tests.fakes import FakeConstrainer, FakeModel
from tests.service.door import Running, make_config, run_service

ROOMY = {"max_tokens": 4, "max_queue": 32, "max_body_bytes": 1 << 20}
DOCUMENT = openapi.describe(make_config(**ROOMY), has_keys=False)
api = schemathesis.openapi.from_dict(DOCUMENT)
api.config.update(base_url="http://127.0.0.1")


class RoomyModel(FakeModel):
    n_vocab = 1 << 31


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    """No schema says which schemas and grammars can be kept."""
    with (
        mock.patch("service.engine.engine.Constrainer", FakeConstrainer),
        run_service(RoomyModel(n_context=1 << 20, max_batch=1 << 20), **ROOMY) as running,
    ):
        yield running


@api.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(service: Running, case: schemathesis.Case):
    case.call_and_validate(app=service.door.app)


def test_every_door_of_the_readme_is_described_and_no_other():
    """The page's files aside: they are no API."""
    readme = (Path(openapi.__file__).parents[1] / "README.md").read_text()
    rows = "".join(re.findall(r"^\| `(?:GET|POST).*$", readme, re.M))
    doors = set(re.findall(r"`((?:GET|POST) /[^`]*)`", rows)) - {"GET /", "GET /status"}
    described = {
        f"{method.upper()} {path}"
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert described == doors


def test_document_is_served_as_json(service: Running):
    reply = service.door.get("/openapi.json")
    assert reply.headers["Content-Type"] == "application/json" and reply.json["openapi"] == "3.1.0"
    assert reply.json["paths"].keys() == DOCUMENT["paths"].keys()


def test_keys_are_described_where_they_are_asked_for():
    locked = openapi.describe(make_config(**ROOMY), has_keys=True)
    asking = {path for path, item in locked["paths"].items() for method in item if "security" in item[method]}
    assert asking == {path for path in locked["paths"] if path not in OPEN_PATHS}
    assert "security" not in str(DOCUMENT)


def test_document_tells_the_limits_of_the_tables():
    body = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    properties = body["properties"]
    assert properties["max_tokens"]["maximum"] == ROOMY["max_tokens"]
    assert (properties["temperature"]["maximum"], properties["temperature"]["default"]) == (2, 0.8)
    assert body["required"] == ["messages"] and properties["messages"]["maxItems"] == MAX_MESSAGES


@pytest.mark.parametrize(
    ("path", "body", "is_allowed"),
    [
        ("/v1/chat/completions", {"top_logprobs": 2}, False),
        ("/v1/chat/completions", {"top_logprobs": 2, "logprobs": True}, True),
        ("/v1/chat/completions", {"stream_options": {}}, False),
        ("/v1/chat/completions", {"stream_options": {}, "stream": True}, True),
        ("/v1/chat/completions", {"json_schema": {}, "grammar": "root ::= [a]"}, False),
        ("/v1/chat/completions", {"json_schema": {}, "response_format": {"type": "json_object"}}, False),
        ("/v1/chat/completions", {"json_schema": {}, "response_format": {"type": "text"}, "grammar": ""}, True),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 8}, False),
        ("/v1/completions", {"prompt": [1, 2], "n": 8}, True),
        ("/v1/completions", {"prompt": ["a"] * 8}, True),
        ("/v1/completions", {"logit_bias": [[5, False]]}, True),
        ("/v1/completions", {"logit_bias": [[5, True]]}, False),
    ],
)
def test_rules_between_parameters_are_the_same_in_both(
    service: Running, path: str, body: dict[str, Any], is_allowed: bool
):
    """schemathesis seldom makes these by chance."""
    rule = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    given = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "hi"}
    assert jsonschema.Draft202012Validator(rule).is_valid(given | body) == is_allowed
    assert service.door.post(path, given | body).status == (200 if is_allowed else 400)
