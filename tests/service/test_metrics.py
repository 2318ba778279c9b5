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


def test_end_of_a_request_is_counted_everywhere():
    metrics = Metrics()
    metrics.count_end("stop", 10, 5, queue_s=0.5, ttft_s=1.0, total_s=2.0)
    metrics.count_end("client_gone", 7, 0, queue_s=0.5, ttft_s=None, total_s=0.5)
    numbers = read(metrics)
    assert numbers["llm_requests_finished_totalstop"] == numbers["llm_requests_finished_totalclient_gone"] == 1
    assert numbers["llm_prompt_tokens_total"] == 17 and numbers["llm_output_tokens_total"] == 5
    assert numbers["llm_time_to_first_token_seconds_count"] == 1
    assert numbers["llm_request_seconds_sum"] == 2.5


def test_watched_number_is_read_when_asked():
    metrics = Metrics()
    queue = [1, 2]
    metrics.watch("llm_queue_length", "waiting", lambda: float(len(queue)))
    queue.append(3)
    assert read(metrics)["llm_queue_length"] == 3


def test_process_numbers_are_there():
    assert read(Metrics())["process_resident_memory_bytes"] > 1e6
