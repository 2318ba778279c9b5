"""Counters, gauges and histograms of the service, in Prometheus' text form. Knows no requests, only numbers and
words."""

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
STEP_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One process' numbers. A registry of its own, so that tests may make as many as they like."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.finished = Counter(
            "llm_requests_finished", "Accepted requests by how they ended", ["reason"], registry=registry
        )
        self.refused = Counter("llm_requests_refused", "Requests refused before the queue", ["code"], registry=registry)
        self.prompt_tokens = Counter("llm_prompt_tokens", "Prompt tokens of finished requests", registry=registry)
        self.output_tokens = Counter("llm_output_tokens", "Tokens generated", registry=registry)
        self.queue_s = Histogram(
            "llm_queue_seconds", "Time from accepted to started", buckets=SECONDS, registry=registry
        )
        self.ttft_s = Histogram(
            "llm_time_to_first_token_seconds", "Time from accepted to first text", buckets=SECONDS, registry=registry
        )
        self.total_s = Histogram(
            "llm_request_seconds", "Time from accepted to finished", buckets=SECONDS, registry=registry
        )
        self.step_s = Histogram("llm_step_seconds", "Time of one decode step", buckets=STEP_SECONDS, registry=registry)

    def count_end(
        self, reason: str, n_prompt: int, n_output: int, queue_s: float, ttft_s: float | None, total_s: float
    ) -> None:
        """An accepted request ended; ttft_s is None if it never had any text."""
        self.finished.labels(reason).inc()
        self.prompt_tokens.inc(n_prompt)
        self.output_tokens.inc(n_output)
        self.queue_s.observe(queue_s)
        self.total_s.observe(total_s)
        if ttft_s is not None:
            self.ttft_s.observe(ttft_s)

    def watch(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when asked for."""
        Gauge(name, help, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self._registry)
