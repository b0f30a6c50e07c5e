"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client import Metric

    from hgnetv2_pipeline.serving.repository import Repository

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_MODEL = ("model", "version")


class Metrics:
    """Requests by door and status, their seconds; what the models of ``repository`` have done."""

    def __init__(self, repository: Repository) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "hgnetv2_requests", "Requests answered.", ("door", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "hgnetv2_request_seconds", "From the head of a request to the end of its answer.",
            ("door",), buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(_Models(repository))

    def count(self, door: str, status: str, seconds: float) -> None:
        """Count one request. Both labels are of closed sets."""
        self._requests.labels(door, status).inc()
        self._seconds.labels(door).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)


class _Models(Collector):
    """Looks at the models when it is asked; their work is not slowed by counting twice."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        about = GaugeMetricFamily(
            "hgnetv2_model", "1 for each version at work.",
            labels=(*_MODEL, "variant", "precision", "engine", "source_sha256"),
        )  # fmt: skip
        waiting = GaugeMetricFamily(
            "hgnetv2_waiting_images", "In the queue or at work.", labels=_MODEL
        )
        images = CounterMetricFamily("hgnetv2_images", "Images answered.", labels=_MODEL)
        calls = CounterMetricFamily("hgnetv2_executions", "Calls of the engine.", labels=_MODEL)
        queue = CounterMetricFamily(
            "hgnetv2_queue_seconds", "Waited by requests in the queue.", labels=_MODEL
        )
        compute = CounterMetricFamily(
            "hgnetv2_compute_seconds", "Taken by calls of the engine.", labels=_MODEL
        )
        for model in self._repository:
            own, done, engine = (model.name, model.version), model.batcher.statistics, model.engine
            card = engine.card
            about.add_metric(
                [*own, card.variant, card.precision, engine.name, card.source_sha256], 1
            )
            waiting.add_metric(own, model.batcher.depth)
            images.add_metric(own, done.images)
            calls.add_metric(own, done.executions)
            queue.add_metric(own, done.queue.ns / 1e9)
            spent = sum(size.compute_infer.ns for size in done.batches.values())
            compute.add_metric(own, spent / 1e9)
        yield from (about, waiting, images, calls, queue, compute)
