"""Numbers in Prometheus' text form."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics


def read(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        sample.name + "".join(sample.labels.get(key, "") for key in ("reason", "code")): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_watched_number_is_read_when_asked():
    metrics = Metrics()
    queue = [1, 2]
    metrics.watch("llm_requests_waiting", "waiting", lambda: float(len(queue)))
    queue.append(3)
    assert read(metrics)["llm_requests_waiting"] == 3


def test_process_numbers_are_there():
    assert read(Metrics())["process_resident_memory_bytes"] > 1e6
