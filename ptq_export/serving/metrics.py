"""What Prometheus is told."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "OUTCOMES", "Metrics", "StepObserver"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("finished", "refused", "busy", "draining", "timed_out", "disconnected", "failed")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self._step = Histogram(
            "ptq_step_seconds", "A denoising step of a batch.", ["model"], buckets=SECONDS, registry=here
        )
        self._rows = Histogram("ptq_batch_rows", "Rows of a step's batch.", ["model"], buckets=ROWS, registry=here)
        self._waiting = Gauge("ptq_queue_pictures", "Accepted pictures that have not begun.", ["model"], registry=here)
        self._running = Gauge("ptq_slots_in_use", "Pictures that have begun.", ["model"], registry=here)
        self._requests = Counter("ptq_requests", "Requests by outcome.", ["model", "outcome"], registry=here)
        self._seconds = Histogram(
            "ptq_request_seconds", "From acceptance to the last picture.", ["model"], buckets=LATENCIES, registry=here
        )

    def watch(self, model: str, waiting: Callable[[], int], running: Callable[[], int]) -> "StepObserver":
        """Have a model's gauges read whenever somebody asks; what is returned is told of its steps."""
        self._waiting.labels(model).set_function(waiting)
        self._running.labels(model).set_function(running)
        for outcome in OUTCOMES:
            self._requests.labels(model, outcome)
        return StepObserver(self._step.labels(model), self._rows.labels(model))

    def ended(self, model: str, outcome: str, seconds: float | None = None) -> None:
        """A request came to an end."""
        self._requests.labels(model, outcome).inc()
        if seconds is not None:
            self._seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self.registry)


class StepObserver:
    """Tells a model's steps to its two histograms."""

    def __init__(self, seconds: Histogram, rows: Histogram) -> None:
        self._seconds, self._rows = seconds, rows

    def stepped(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        self._seconds.observe(seconds)
        self._rows.observe(rows)
