"""Prometheus metrics: what the engine measures, what it holds, and the requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.contract import Engine

__all__ = ["Metrics"]

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
PICTURES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
STAGES = ("queue_s", "predict_s", "compose_s", "denoise_s", "decode_s", "step_s", "batch_size")
NAME = re.compile(r"[^a-z0-9_]+")


class Metrics:
    """A registry of its own, so that several servers fit into one process."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._histograms: dict[str, Histogram] = {}
        self._requests = Counter(
            "palp_http_requests",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "palp_http_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        for stage in STAGES:
            self._histogram(stage)
        self._registry.register(_Gauges(engine))
        engine.observe(self._observe)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is over."""
        known = method if method in METHODS else "other"  # callers make names up, and each would be kept
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _observe(self, name: str, value: float) -> None:
        self._histogram(name).observe(value)

    def _histogram(self, name: str) -> Histogram:
        with self._lock:
            if name not in self._histograms:
                label = NAME.sub("_", name.lower())
                timed = label.endswith("_s")
                full = f"palp_{label.removesuffix('_s')}_seconds" if timed else f"palp_{label}"
                self._histograms[name] = Histogram(
                    full, f"The engine's {name}.", buckets=SECONDS if timed else PICTURES, registry=self._registry
                )
            return self._histograms[name]


class _Gauges(Collector):
    """The engine's own numbers, asked for at every scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        for name, value in self._engine.stats().items():
            label = NAME.sub("_", name.lower())
            yield GaugeMetricFamily(f"palp_engine_{label}", f"The engine's {name}.", value=value)
