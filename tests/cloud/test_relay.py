"""The relay brings calls for Oracle's hosts to the tenancy, over TLS that its certificate makes good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import oci
import pytest
from oci._vendor import requests

from tests.cloud.relay import Relay
from tests.cloud.tenancy import REGION, TENANCY, Tenancy

NOBODY = "https://example.invalid/"


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    with Tenancy() as running:
        yield running


@pytest.fixture
def relay(tmp_path: Path, tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    with Relay(tenancy.port, tmp_path) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # the first that is set is trusted
            monkeypatch.delenv(name, raising=False)
        yield running


def test_client_without_an_endpoint_reaches_the_tenancy(relay: Relay, tenancy: Tenancy, monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(relay.certificate))
    client = oci.identity.IdentityClient(tenancy.config, retry_strategy=oci.retry.NoneRetryStrategy())
    assert len(client.list_availability_domains(TENANCY).data) == 3
    assert relay.hosts == [f"identity.{REGION}.oci.oraclecloud.com"]


def test_another_certificate_is_not_trusted(relay: Relay, tenancy: Tenancy) -> None:
    client = oci.work_requests.WorkRequestClient(tenancy.config, retry_strategy=oci.retry.NoneRetryStrategy())
    with pytest.raises(oci.exceptions.RequestException, match="CERTIFICATE_VERIFY_FAILED"):
        client.list_work_requests(TENANCY)


def test_other_hosts_are_refused(relay: Relay) -> None:
    with pytest.raises(requests.exceptions.ProxyError, match="403 Forbidden"):
        requests.get(NOBODY, timeout=20)
