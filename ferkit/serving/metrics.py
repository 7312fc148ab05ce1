"""Figures for Prometheus, in a registry of the server's own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What the server counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "ferkit_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ferkit_request_seconds", "From the head of a request to its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.refused = Counter("ferkit_refused", "Requests refused, by reason.", ["code"], registry=registry)
        self.faces = Counter("ferkit_faces", "Faces read.", ["source"], registry=registry)
        self.batch = Histogram(
            "ferkit_batch_faces", "Faces read together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.streams = Gauge("ferkit_streams", "Streams that are open.", registry=registry)
        self.frames = Counter("ferkit_frames", "Frames, by what became of them.", ["fate"], registry=registry)
        self.age = Histogram(
            "ferkit_frame_age_seconds", "From a frame's receipt to its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.jobs = Gauge("ferkit_jobs", "Films, by status.", ["status"], registry=registry)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
