"""What a gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class Metrics:
    """The counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sessionfs_client_requests", "Requests and notifications of clients.", ["tenant"], registry=self.registry
        )
