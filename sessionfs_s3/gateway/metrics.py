"""What a gateway counts and measures, for Prometheus. ``docs/GATEWAY-METRICS.md`` has a row for each metric.

No metric names a session, a client or a key. Tenants are labels up to a bound, all others together are ``other``.
"""

from __future__ import annotations

import platform
from collections import Counter as Sums
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import sessionfs_s3
from sessionfs_s3.errors import Fenced, SessionFsError
from sessionfs_s3.gateway.auth.authenticator import AuthenticationRequired, TooManyAttempts
from sessionfs_s3.gateway.auth.limits import LimitExceeded
from sessionfs_s3.gateway.errors import RpcError
from sessionfs_s3.gateway.frames import FrameError, FrameStream
from sessionfs_s3.gateway.messages import Request
from sessionfs_s3.gateway.rules.methods import Treatment, treatment
from sessionfs_s3.sqlite import WorkerHost
from sessionfs_s3.store import Request as StoreRequest

if TYPE_CHECKING:
    from sessionfs_s3.gateway.server import Gateway

TENANTS_MAX: Final = 100
"""Tenants that are labels; each is some dozen time series."""

OTHER: Final = "other"

# A local disk answers within a millisecond, a store in the same region within some ten, and a verb of the engine gives
# up after 30 s (volume.retry.Patience).
_STORE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# What the gateway is to add is below 5 ms; a message that opens a session may wait a minute for a runtime (pool).
_FORWARD_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60)

_TREATMENTS: Final = {
    Treatment.ANSWER: "answer",
    Treatment.SESSION: "session",
    Treatment.OWN: "own",
    Treatment.GLOBAL: "global",
    Treatment.PROCESS: "runtime",
    Treatment.UNKNOWN: "unknown",
}

_HANDSHAKES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]] = (
    (AuthenticationRequired, "no_token"),
    (TooManyAttempts, "throttled"),
    (LimitExceeded, "limit"),
    (RpcError, "no_runtime"),
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "crowded"),
    ((FrameError, OSError), "broken"),
    (Exception, "refused"),
)
"""The first row that fits is the outcome."""


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    Attributes:
        registry: all of them.
        turns: turns that clients have begun.
        turns_lost: turns that ended with their runtime.
        to_runtime: how long messages of clients waited here.
        to_client: how long messages of runtimes waited here.
        unheard: notifications that clients were not told because they were behind.
        runtimes_lost: runtimes that ended by themselves.
    """

    def __init__(self, *, tenants_max: int = TENANTS_MAX) -> None:
        """Begin at zero; *tenants_max* tenants are labels."""
        registry = self.registry = CollectorRegistry()
        self._tenants_max = tenants_max
        self._labelled: set[str] = set()
        self._streams: set[FrameStream] = set()
        self._received_bytes = self._sent_bytes = 0

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"sessionfs_{name}", what, labels, registry=registry)

        ProcessCollector(registry=registry)
        Info("sessionfs_build", "What runs.", registry=registry).info(
            {"version": sessionfs_s3.__version__, "python": platform.python_version()}
        )
        self._store_requests = Histogram(
            "sessionfs_store_request_duration_seconds",
            "Requests to the store, each try of its own.",
            ("verb", "kind", "outcome"),
            buckets=_STORE_S,
            registry=registry,
        )
        self._store_up = counter("store_sent_bytes", "Bytes of contents sent to the store.", "verb", "kind")
        self._store_down = counter("store_received_bytes", "Bytes of contents received.", "verb", "kind")
        self._commits = Histogram(
            "sessionfs_commit_duration_seconds",
            "Commits, with all their tries.",
            ("outcome",),
            buckets=_STORE_S,
            registry=registry,
        )
        self._lost = counter("sessions_lost", "Sessions that could not be kept open here.", "reason")
        self._opened = counter("sessions_opened", "Sessions opened on a runtime.", "tenant")
        self._requests = counter("client_messages", "Requests and notifications of clients.", "tenant", "treatment")
        self._limited = counter("limit_refusals", "What a limit refused.", "tenant", "limit")
        self._handshakes = counter("handshakes", "How connections began.", "outcome")
        self._connections = counter("connections", "Connections that were accepted.")
        self._slow = counter("slow_clients_dropped", "Clients dropped because they took nothing for too long.")
        self._starts = counter("runtime_starts", "Runtimes that were to be brought up.", "outcome")
        self.runtimes_lost = counter("runtimes_lost", "Runtimes that ended by themselves.")
        self.unheard = counter("notifications_dropped", "Notifications for clients that were far behind.")
        self.turns = counter("turns", "Turns that clients have begun.")
        self.turns_lost = counter("turns_lost", "Turns that ended with their runtime.")
        forward = Histogram(
            "sessionfs_forward_duration_seconds",
            "From a message's last byte read to its being written.",
            ("direction",),
            buckets=_FORWARD_S,
            registry=registry,
        )
        self.to_runtime, self.to_client = forward.labels("to_runtime"), forward.labels("to_client")
        # From zero on: of a counter that begins at one nothing can tell that it has grown.
        for reason in ("taken_over", "runtime_ended", "store"):
            self._lost.labels(reason)
        for outcome in ("ok", *(name for _, name in _HANDSHAKES)):
            self._handshakes.labels(outcome)
        for outcome in ("first", "again", "failed"):
            self._starts.labels(outcome)

    def tenant(self, name: str) -> str:
        """Return the label of the tenant *name*: itself, or ``other`` once there are too many."""
        if name in self._labelled:
            return name
        if len(self._labelled) >= self._tenants_max:
            return OTHER
        self._labelled.add(name)
        return name

    def exposition(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(_WithoutAges(self.registry))

    def watch(self, gateway: Gateway) -> None:
        """Count the requests and commits of the gateway's store, and show what is open on it."""
        gateway.store.requests.listeners.append(self.stored)
        gateway.store.environment.commits.listener = self.committed
        self.registry.register(_State(self, gateway))

    def stored(self, request: StoreRequest) -> None:
        """Count a request to the store."""
        verb, kind = request.verb.value, request.kind
        self._store_requests.labels(verb, kind, request.outcome).observe(request.took_s)
        if request.bytes_up:
            self._store_up.labels(verb, kind).inc(request.bytes_up)
        if request.bytes_down:
            self._store_down.labels(verb, kind).inc(request.bytes_down)

    def committed(self, outcome: str, took_s: float) -> None:
        """Count a commit."""
        self._commits.labels(outcome).observe(took_s)

    def asked(self, tenant: str, message: Request, *, shared: bool) -> None:
        """Count a message of a client, on a gateway whose tenants share runtimes or do not."""
        if message.is_notification:
            treated = "notification"
        else:
            treated = _TREATMENTS[treatment(message.method, message.params)]
            if treated == "runtime" and shared:
                treated = "refused"
        self._requests.labels(self.tenant(tenant), treated).inc()

    def limited(self, problem: LimitExceeded) -> None:
        """Count what a limit refused."""
        self._limited.labels(self.tenant(problem.tenant), problem.setting).inc()

    def handshake(self, problem: Exception | None) -> None:
        """Count how a connection began: None: its client was let in."""
        outcome = "ok" if problem is None else next(name for kind, name in _HANDSHAKES if isinstance(problem, kind))
        self._handshakes.labels(outcome).inc()

    def opened(self, tenant: str) -> None:
        """Count a session that was opened on a runtime."""
        self._opened.labels(self.tenant(tenant)).inc()

    def lost(self, failure: SessionFsError | None) -> None:
        """Count a session that could not be kept: because of *failure*, or, None, because its runtime ended."""
        reason = "taken_over" if isinstance(failure, Fenced) else "runtime_ended" if failure is None else "store"
        self._lost.labels(reason).inc()

    def runtime(self, outcome: str) -> None:
        """Count an attempt to bring a runtime up: ``first``, ``again`` or ``failed``."""
        self._starts.labels(outcome).inc()

    def accepted(self, stream: FrameStream) -> None:
        """Count a connection, and its bytes until :meth:`closed`."""
        self._connections.inc()
        self._streams.add(stream)

    def closed(self, stream: FrameStream) -> None:
        """Note that a connection is no more."""
        self._streams.discard(stream)
        self._received_bytes += stream.received_bytes
        self._sent_bytes += stream.sent_bytes
        if stream.stalled:
            self._slow.inc()

    @property
    def client_bytes(self) -> tuple[int, int]:
        """Bytes of messages received from clients and sent to them, of connections that are no more as well."""
        return (
            self._received_bytes + sum(stream.received_bytes for stream in self._streams),
            self._sent_bytes + sum(stream.sent_bytes for stream in self._streams),
        )


class _WithoutAges(Collector):
    """The metrics without the time at which each series began: half as many series, and nobody asks for it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for family in self._registry.collect():
            family.samples = [each for each in family.samples if not each.name.endswith("_created")]
            yield family


class _State(Collector):
    """What is open on a gateway at the moment of a scrape: read then, so that it cannot drift."""

    def __init__(self, metrics: Metrics, gateway: Gateway) -> None:
        self._metrics = metrics
        self._gateway = gateway

    def describe(self) -> Iterator[Metric]:
        """Say nothing of what there will be: the gateway may not be ready to be asked."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        gateway, metrics = self._gateway, self._metrics
        tenants = list(gateway.tenants.values())
        pools = gateway.pools
        sessions = [session for tenant in tenants for session in tenant.sessions.values()]
        cache = gateway.store.environment.cache
        databases = gateway.store.environment.databases
        received, sent = metrics.client_bytes
        yield _gauge("ready", "1 while a load balancer may send sessions here.", not gateway.obstacles)
        yield _gauge("draining", "1 once it takes no more sessions.", gateway.draining)
        yield self._by_tenant("clients", "Clients that are connected.", lambda name: len(gateway.tenants[name].clients))
        yield self._by_tenant("sessions_open", "Sessions open here.", lambda name: len(gateway.tenants[name].sessions))
        yield _gauge("connections_open", "Connections, those not let in yet included.", gateway.listener.connections)
        yield _gauge("turns_running", "Turns that run now.", sum(session.busy for session in sessions))
        yield _gauge("volumes_open", "Sessions loaded from the store.", sum(each.fs.open_volumes for each in tenants))
        yield _gauge("cache_size_bytes", "What the cache of file contents holds.", cache.size_bytes)
        yield _gauge("cache_budget_bytes", "What it may hold.", cache.budget_bytes)
        yield _counter("cache_hits", "Chunks of files found in the cache.", cache.hits)
        yield _counter("cache_misses", "Chunks of files not found there.", cache.misses)
        workers = databases.workers if isinstance(databases, WorkerHost) else 0
        yield _gauge("sql_workers", "Processes that run SQL.", workers)
        yield _gauge("runtimes_wanted", "Runtimes there should be.", sum(pool.wanted for pool in pools))
        yield _gauge("runtimes_serving", "Runtimes that serve.", sum(len(pool.runtimes) for pool in pools))
        yield _counter("client_received_bytes", "Bytes of messages received from clients.", received)
        yield _counter("client_sent_bytes", "Bytes of messages sent to clients.", sent)

    def _by_tenant(self, name: str, what: str, count: Callable[[str], int]) -> Metric:
        sums: Sums[str] = Sums()
        for tenant in self._gateway.tenants:
            sums[self._metrics.tenant(tenant)] += count(tenant)
        family = GaugeMetricFamily(f"sessionfs_{name}", what, labels=["tenant"])
        for label, value in sums.items():
            family.add_metric([label], value)
        return family


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sessionfs_{name}", what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"sessionfs_{name}", what, value=value)
