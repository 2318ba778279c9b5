"""Counters, gauges and histograms of the service, in Prometheus' text form. Knows no requests, only numbers and words.

The names follow vLLM's and llama-server's where these have one for the same thing.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
STEP_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One process' numbers. A registry of its own, so that tests may make as many as they like."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        self._ours: list[Counter | Gauge | Histogram] = []

        def counter(name: str, help: str, *labels: str) -> Counter:
            self._ours.append(made := Counter(name, help, labels, registry=registry))
            return made

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            self._ours.append(made := Histogram(name, help, buckets=buckets, registry=registry))
            return made

        self.finished = counter("llm_requests_finished", "Accepted requests by how they ended", "reason")
        self.refused = counter("llm_requests_refused", "Requests refused before the queue", "code")
        self.prompt_tokens = counter("llm_prompt_tokens", "Prompt tokens of started requests")
        self.cached_tokens = counter("llm_prompt_tokens_cached", "Of these, the ones reused from an earlier request")
        self.output_tokens = counter("llm_generation_tokens", "Tokens generated")
        self.preemptions = counter("llm_preemptions", "Running requests that were put back for lack of cache")
        self.drafted = counter("llm_drafted_tokens", "Tokens guessed from the prompt")
        self.accepted = counter("llm_drafted_tokens_accepted", "Of these, the ones that were right")
        self.queue_s = histogram("llm_request_queue_seconds", "Time from accepted to started", SECONDS)
        self.ttft_s = histogram("llm_time_to_first_token_seconds", "Time from accepted to first token", SECONDS)
        self.itl_s = histogram("llm_inter_token_latency_seconds", "Time between two tokens of a stream", STEP_SECONDS)
        self.total_s = histogram("llm_e2e_request_latency_seconds", "Time from accepted to finished", SECONDS)
        self.step_s = histogram("llm_step_seconds", "Time of one step of the engine", STEP_SECONDS)
        self.decode_s = histogram("llm_decode_seconds", "Of this, time inside llama.cpp's decode", STEP_SECONDS)
        self.rows = histogram("llm_step_rows", "Tokens computed in one step", ROWS)

    def watch(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when asked for."""
        gauge = Gauge(name, help, registry=self._registry)
        gauge.set_function(read)
        self._ours.append(gauge)

    def numbers(self) -> dict[str, float]:
        """Our own samples by name, without buckets; of labelled ones the sum."""
        sums: dict[str, float] = {}
        for metric in self._ours:
            for sample in (sample for family in metric.collect() for sample in family.samples):
                if not sample.name.endswith(("_bucket", "_created")):
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def text(self) -> bytes:
        return generate_latest(self._registry)
