"""/openapi.json is true: what it allows is answered, what it forbids is refused, and every answer has its shape.

schemathesis makes bodies from the document, good ones and bad ones, and holds every answer against it. The model is
fake and roomy, so that no body is refused for reasons that a schema cannot say (the context, the vocabulary).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from service import openapi
from tests.fakes import FakeModel
from tests.service.door import Running, make_config, run_service

ROOMY = {"max_tokens": 4, "max_queue": 32, "max_body_bytes": 1 << 20}
api = schemathesis.openapi.from_dict(openapi.describe(make_config(**ROOMY), has_keys=False))
api.config.update(base_url="http://127.0.0.1")


class RoomyModel(FakeModel):
    n_vocab = 1 << 31


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with run_service(RoomyModel(n_context=1 << 20, max_batch=1 << 20), **ROOMY) as running:
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
