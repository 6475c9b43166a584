"""What an operator sees: health, readiness and metrics, over HTTP that cannot be abused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sessionfs_s3.copilot import SessionFs
from sessionfs_s3.errors import Fenced
from sessionfs_s3.gateway import observe
from sessionfs_s3.gateway.auth.authenticator import AuthenticationFailed, AuthenticationRequired, Authenticator
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.frames import FrameStream
from sessionfs_s3.gateway.messages import Request
from sessionfs_s3.gateway.metrics import OTHER, Metrics
from sessionfs_s3.gateway.observe import FORGOTTEN_S, SILENCE_S, UNANSWERED_MIN, StoreHealth
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.process import RuntimeUnavailable
from sessionfs_s3.gateway.runtimes import Endpoint
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.store import Request as StoreRequest
from sessionfs_s3.store import Verb
from sessionfs_s3.testing.gateway import GatewayProcess, gateway_here, start_gateway
from sessionfs_s3.testing.model import Say, ScriptedModel, Stall
from sessionfs_s3.testing.raw_client import framed
from sessionfs_s3.testing.sdk_client import SdkFailure
from sessionfs_s3.testing.sdk_clients import python_client
from tests.gateway.captured import captured

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "GATEWAY-METRICS.md"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class NoSource:
    """A source of runtimes that has none."""

    def open(self) -> AbstractAsyncContextManager[Endpoint]:
        raise RuntimeUnavailable("there is none")


def make(isolation: Any = "tenant", **more: Any) -> Gateway:
    """Return a gateway that has no runtime."""
    options = GatewayOptions(f"memory://{uuid4()}", isolation=isolation, http=("127.0.0.1", 0), **more)
    return Gateway(options, Authenticator.load(None), lambda: [NoSource()], may_grow=False)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway with no runtime, which needs none before a tenant comes."""
    async with make() as gateway:
        yield gateway


async def get(gateway: Gateway | int, path: str, method: str = "GET", **options: Any) -> tuple[int, str]:
    port = gateway if isinstance(gateway, int) else gateway.http.port if gateway.http else 0
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", **options) as answer,
    ):
        assert answer.headers["Connection"] == "close"
        return answer.status, await answer.text()


async def ready(gateway: Gateway | int) -> tuple[int, list[str]]:
    status, body = await get(gateway, "/readyz")
    told = json.loads(body)
    assert told["ready"] == (status == 200)
    return status, told["obstacles"]


async def scraped(gateway: Gateway | int) -> Samples:
    status, text = await get(gateway, "/metrics")
    assert status == 200
    return parsed(text)


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"sessionfs_{name}", tuple(sorted(labels.items()))), 0.0)


def asked(outcome: str, took_s: float = 0.1) -> StoreRequest:
    return StoreRequest(Verb.PUT, "key", "commit", 1, 0, outcome, took_s)


# The store's health.


class Health:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.health = StoreHealth(lambda: self.now_s)

    def hear(self, *outcomes: str, took_s: float = 0.1) -> str:
        for outcome in outcomes:
            self.health.heard(asked(outcome, took_s))
        return self.health.obstacle


def test_a_store_that_has_not_answered_for_some_requests_is_an_obstacle() -> None:
    health = Health()
    assert health.hear(*["NoAnswer"] * (UNANSWERED_MIN - 1)) == ""
    assert health.hear("NoAnswer") == "the store does not answer"
    assert health.hear("Denied") == "the store denies requests"
    assert health.hear("PreconditionFailed") == "", "a store that says no is there"


@pytest.mark.parametrize("outcome", ["ok", "KeyNotFound", "PreconditionFailed", "Conflict"])
def test_any_answer_ends_a_row_of_failures(outcome: str) -> None:
    health = Health()
    assert health.hear("NoAnswer", "NoAnswer", outcome, "NoAnswer", "NoAnswer") == ""


def test_a_failure_is_forgotten_when_nothing_is_asked_any_more() -> None:
    health = Health()
    assert health.hear(*["NoAnswer"] * UNANSWERED_MIN)
    health.now_s += FORGOTTEN_S
    assert health.health.obstacle
    health.now_s += 0.1
    assert not health.health.obstacle
    assert health.hear("NoAnswer"), "the next failure is one more in the row"


def test_a_request_that_was_given_up_says_something_after_a_while_only() -> None:
    health = Health()
    assert health.hear(*["CancelledError"] * 10, took_s=SILENCE_S / 2) == ""
    assert health.hear("NoAnswer", "NoAnswer", "CancelledError", took_s=SILENCE_S / 2) == ""
    assert health.hear("CancelledError", took_s=SILENCE_S) == "the store does not answer"


# Readiness.


async def test_a_gateway_that_starts_is_healthy_and_not_ready() -> None:
    gateway = make("shared")
    assert gateway.http is not None
    async with gateway.http:
        assert (await get(gateway, "/healthz"))[0] == 200
        status, obstacles = await ready(gateway)
        assert status == 503
        assert len(obstacles) == 2
        assert "starting" in obstacles[0]
        assert (await scraped(gateway))["sessionfs_ready", ()] == 0


async def test_without_a_runtime_a_shared_pool_takes_no_session() -> None:
    async with make("shared") as gateway:
        assert await ready(gateway) == (503, ["no runtime serves"])
        samples = await scraped(gateway)
        assert value(samples, "runtimes_wanted") == 1
        assert value(samples, "runtimes_serving") == 0
        assert value(samples, "runtime_starts_total", outcome="failed") >= 1


async def test_a_store_that_fails_meanwhile_shows_and_so_does_its_return(gateway: Gateway) -> None:
    assert await ready(gateway) == (200, [])
    for _ in range(UNANSWERED_MIN):
        gateway.store.requests.record(Verb.PUT, "x/1.c", outcome="NoAnswer", took_s=0.2)
    before = gateway.store.requests.snapshot()
    assert await ready(gateway) == (503, ["the store does not answer"])
    assert (await get(gateway, "/healthz"))[0] == 200
    assert not (gateway.store.requests.snapshot() - before).requests(), "nothing is asked to find that out"
    gateway.store.requests.record(Verb.GET, "x/1.c")
    assert await ready(gateway) == (200, [])


async def test_a_gateway_that_drains_is_healthy_and_not_ready(gateway: Gateway) -> None:
    assert await gateway.drain()
    assert await ready(gateway) == (503, ["the gateway is draining"])
    assert (await get(gateway, "/healthz"))[0] == 200


# The HTTP port.


async def test_what_is_not_there_or_not_allowed_is_refused(gateway: Gateway) -> None:
    assert (await get(gateway, "/"))[0] == 404
    assert (await get(gateway, "/metrics/x"))[0] == 404
    assert (await get(gateway, "/../../etc/passwd"))[0] == 404
    for method in ("POST", "PUT", "DELETE"):
        assert (await get(gateway, "/readyz", method, data=b"x"))[0] == 405
    assert (await get(gateway, "/healthz", "HEAD"))[0] == 200


@pytest.mark.parametrize(
    "request_", [b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 5000, b"\x16\x03\x01 hello\r\n"]
)
async def test_what_is_no_request_is_refused_and_not_logged(
    gateway: Gateway, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert gateway.http is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.port)
    writer.write(request_ + b"\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.0 400")
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_connection_carries_one_request(gateway: Gateway) -> None:
    assert gateway.http is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n" * 3)
    told = await reader.read()
    writer.close()
    assert told.count(b"HTTP/1.1 200") == 1


async def test_a_connection_that_says_nothing_or_little_is_closed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "CONNECTION_S", 0.2)
    assert gateway.http is not None
    for begun in (b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100"):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.port)
        writer.write(begun)
        async with asyncio.timeout(10):
            assert b"200" not in await _rest(reader)
        writer.close()


async def test_connections_beyond_the_bound_are_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "CONNECTIONS_MAX", 2)
    assert gateway.http is not None
    held = [await asyncio.open_connection("127.0.0.1", gateway.http.port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.port)
    async with asyncio.timeout(10):
        assert await _rest(reader) == b""
    for each in (writer, *(writer for _, writer in held)):
        each.close()
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await get(gateway, "/healthz"))[0] == 200
                break
            except aiohttp.ClientError:  # not heard yet that the others have gone
                await asyncio.sleep(0.01)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


# The metrics.


async def test_every_metric_has_a_row_and_every_row_a_metric(gateway: Gateway) -> None:
    row = r"^\| `((?:sessionfs|process)_\w+)` \| (\w+) \| ([^|]*)\|"
    rows = re.findall(row, DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    _, text = await get(gateway, "/metrics")
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    assert kinds == {name: kind for name, (kind, _) in documented.items()}
    for collector, names in gateway.metrics.registry._collector_to_names.items():
        declared = {name: set(getattr(collector, "_labelnames", ())) for name in names if name in documented}
        for name, labels in declared.items():
            assert labels == documented[name][1] or name == "sessionfs_build_info", name
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name if sample.name in documented else re.sub("_(bucket|count|sum)$", "", sample.name)
            assert set(sample.labels) - {"le"} == documented[name][1], name


async def test_requests_and_commits_of_the_store_are_counted(gateway: Gateway) -> None:
    before = await scraped(gateway)
    async with gateway.store.volume("s") as first:
        await first.write_file("/workspace/a", "abc")
        async with gateway.store.volume("s") as second:
            await second.write_file("/workspace/b", "def")
        with pytest.raises(Fenced):
            await first.write_file("/workspace/c", "ghi")
    after = await scraped(gateway)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("commit_duration_seconds_count", outcome="ok") == 2
    assert grown("commit_duration_seconds_count", outcome="Fenced") == 1
    assert grown("commit_duration_seconds_sum", outcome="ok") > 0
    counts = gateway.store.requests.snapshot()
    for verb, kind, outcome, requests, _, _ in counts.rows():
        labels = {"verb": verb, "kind": kind, "outcome": outcome}
        assert value(after, "store_request_duration_seconds_count", **labels) == requests, labels
    sent = counts.tally(Verb.PUT, kind="commit").bytes_up
    assert value(after, "store_sent_bytes_total", verb="PUT", kind="commit") == sent > 0


async def test_the_cache_is_counted(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await scraped(gateway)
    async with gateway.store.volume("s") as volume:
        await volume.write_file_bytes("/workspace/large", bytes(range(256)) * 8192)
    async with gateway.store.volume("s", read_only=True) as volume:
        await volume.read_file_bytes("/workspace/large")
        monkeypatch.setattr(gateway.store.environment.cache, "budget_bytes", 0)
        await volume.read_file_bytes("/workspace/large")
    after = await scraped(gateway)
    assert value(after, "cache_hits_total") > value(before, "cache_hits_total")
    assert value(after, "cache_misses_total") > value(before, "cache_misses_total")
    assert (value(after, "cache_size_bytes"), value(after, "cache_budget_bytes")) == (0, 0)


def test_tenants_are_labels_up_to_a_bound() -> None:
    metrics = Metrics(tenants_max=2)
    for name in ("a", "b", "c", "d", "a"):
        metrics.opened(name)
    assert [metrics.tenant(name) for name in ("a", "b", "c")] == ["a", "b", OTHER]
    samples = parsed(metrics.exposition().decode())
    counted = {name: value(samples, "sessions_opened_total", tenant=name) for name in ("a", "b", "c", OTHER)}
    assert counted == {"a": 2, "b": 1, "c": 0, OTHER: 2}


def test_messages_are_counted_by_what_becomes_of_them() -> None:
    metrics = Metrics()
    for method, shared, treated in (
        ("session.list", True, "answer"),
        ("session.send", True, "session"),
        ("ping", True, "own"),
        ("models.list", True, "global"),
        ("account.getQuota", True, "refused"),
        ("account.getQuota", False, "runtime"),
        ("no.such", True, "unknown"),
    ):
        before = parsed(metrics.exposition().decode())
        metrics.asked("acme", Request(method, {"sessionId": "s"} if method == "session.send" else {}, 1), shared=shared)
        after = parsed(metrics.exposition().decode())
        grown = {key for key in after if after[key] != before.get(key, 0) and key[0].startswith("sessionfs_")}
        assert grown == {("sessionfs_client_messages_total", (("tenant", "acme"), ("treatment", treated)))}, method
    metrics.asked("acme", Request("no.such", {}, is_notification=True), shared=True)
    samples = parsed(metrics.exposition().decode())
    assert value(samples, "client_messages_total", tenant="acme", treatment="notification") == 1


async def test_what_a_limit_refuses_is_counted(gateway: Gateway) -> None:
    usage = gateway.usages.of("acme", TenantLimits(open_sessions_max=1))
    usage.open_session("a")
    with pytest.raises(Exception, match="open_sessions_max"):
        usage.open_session("b")
    assert value(await scraped(gateway), "limit_refusals_total", tenant="acme", limit="open_sessions_max") == 1


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (None, "ok"),
        (AuthenticationRequired(), "no_token"),
        (AuthenticationFailed(), "refused"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "broken"),
        (ConnectionRefusedError(), "crowded"),
    ],
)
def test_handshakes_are_counted_by_outcome(problem: Exception | None, outcome: str) -> None:
    metrics = Metrics()
    metrics.handshake(problem)
    samples = parsed(metrics.exposition().decode())
    assert value(samples, "handshakes_total", outcome=outcome) == 1
    assert sum(count for (name, _), count in samples.items() if name == "sessionfs_handshakes_total") == 1


async def test_connections_are_counted_by_how_they_begin() -> None:
    async with make(handshake_s=0.5, handshakes_max=1) as gateway:
        for said, outcome in (
            (b"GET / HTTP/1.1\r\n\r\n", "broken"),
            (b"", "timeout"),
            (framed({"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {}}), "no_runtime"),
        ):
            before = await scraped(gateway)
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            async with asyncio.timeout(30):
                while not gateway.listener._strangers:  # noqa: ASYNC110  # its place is taken once it is served
                    await asyncio.sleep(0)
            crowd, crowded = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(said)
            async with asyncio.timeout(30):
                await _rest(crowd)
                await _rest(reader)
            for each in (writer, crowded):
                each.close()
            after = await scraped(gateway)
            assert value(after, "handshakes_total", outcome=outcome) > value(
                before, "handshakes_total", outcome=outcome
            )
        after = await scraped(gateway)
        assert value(after, "handshakes_total", outcome="crowded") == 3
        assert value(after, "handshakes_total", outcome="ok") == 0
        assert value(after, "connections_total") == 3
        assert value(after, "connections_open") == 0


async def test_a_client_that_takes_nothing_is_counted_when_it_is_dropped_and_so_are_its_bytes() -> None:
    metrics = Metrics()
    done = asyncio.Event()

    async def overflow(stream: FrameStream) -> None:
        for _ in range(1000):
            await stream.write(bytes(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = FrameStream(reader, writer, stall_s_max=0.2)
        metrics.accepted(stream)
        try:
            await stream.read()
            assert metrics.client_bytes == (2, 0)
            with pytest.raises(ConnectionAbortedError):
                await overflow(stream)
        finally:
            metrics.closed(stream)
            done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1], limit=1)
        writer.write(b"Content-Length: 2\r\n\r\n{}")
        async with asyncio.timeout(30):
            await done.wait()
        writer.transport.abort()
    samples = parsed(metrics.exposition().decode())
    assert value(samples, "slow_clients_dropped_total") == 1
    assert value(samples, "connections_total") == 1
    received, sent = metrics.client_bytes
    assert received == 2
    assert sent % 1_000_000 == 0
    assert sent > 0


# The whole, with the real runtime.


@asynccontextmanager
async def observed(executable: Path, store: str) -> AsyncIterator[tuple[GatewayProcess, int]]:
    async with start_gateway(executable, store, "--http", "127.0.0.1:0", "--log-format", "json") as process:
        line = r"^sessionfs-s3 gateway: health and metrics by HTTP on port (\d+)$"
        found = re.search(line, process.output, re.MULTILINE)
        assert found is not None, process.output
        yield process, int(found[1])


async def test_a_gateway_that_works_is_seen_to(executable: Path, model: ScriptedModel, tmp_path: Path) -> None:
    stall = Stall(Say("at last"))
    model.add("hello", Say("hi there"))
    model.add("wait", stall)
    async with observed(executable, tmp_path.as_uri()) as (process, http):
        assert (await get(http, "/healthz"))[0] == 200
        await _until_ready(http, 200)
        before = await scraped(http)
        async with python_client("127.0.0.1", process.port, None, model.provider) as client:
            await client.start()
            await client.create("s1", tools=["view"])
            assert await client.send("s1", "hello") == "hi there"
            after = await scraped(http)
            _check_one_turn(before, after)
            waiting = asyncio.create_task(client.send("s1", "wait"))
            await stall.reached.wait()
            assert value(await scraped(http), "turns_running") == 1
            stopping = asyncio.create_task(process.stop())
            await _until_ready(http, 503)
            assert await ready(http) == (503, ["the gateway is draining"])
            assert (await get(http, "/healthz"))[0] == 200
            assert value(await scraped(http), "draining") == 1
            stall.released.set()
            assert await waiting == "at last"
            assert await stopping == 0


async def test_what_goes_wrong_is_counted_and_logged(executable: Path, model: ScriptedModel, tmp_path: Path) -> None:
    stall = Stall(Say("never"))
    model.add("hello", Say("hi there"))
    model.add("wait", stall)
    # A handshake that has time: the tenant's runtime starts with it.
    options = GatewayOptions(
        tmp_path.as_uri(), tenant="acme", isolation="tenant", http=("127.0.0.1", 0), handshake_s=120
    )
    gateway, launched = gateway_here(executable, options)
    with captured("json") as log:
        async with gateway, python_client("127.0.0.1", gateway.port, None, model.provider) as client:
            await client.start()
            await client.create("s1", tools=["view"])
            waiting = asyncio.create_task(client.send("s1", "wait"))
            await stall.reached.wait()
            await launched.processes[0].kill()
            with pytest.raises(SdkFailure):
                await waiting
            assert await client.send("s1", "hello") == "hi there"
            async with SessionFs.open(options.store, tenant="acme") as other, other.volume("s1") as volume:
                await volume.write_file("/workspace/theirs", "x")
            with pytest.raises(SdkFailure):
                await client.send("s1", "hello")
            samples = await scraped(gateway)
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
    for name, labels in (
        ("runtimes_lost_total", {}),
        ("runtime_starts_total", {"outcome": "first"}),
        ("runtime_starts_total", {"outcome": "again"}),
        ("sessions_lost_total", {"reason": "runtime_ended"}),
        ("sessions_lost_total", {"reason": "taken_over"}),
        ("turns_lost_total", {}),
    ):
        assert value(samples, name, **labels) == 1, (name, labels)
    assert value(samples, "sessions_opened_total", tenant="acme") == 2
    assert value(samples, "commit_duration_seconds_count", outcome="Fenced") >= 1
    about = {line["message"]: line for line in lines}
    served = [line for line in lines if line["message"].endswith(" serves")]
    assert len(served) == 2
    assert not [line for line in served if "client" in line], "a runtime outlives the client that made it necessary"
    assert about["its runtime ended"]["session"] == "s1"
    (taken,) = (line for line in lines if "taken over by another replica" in line["message"])
    assert (taken["level"], taken["tenant"], taken["session"]) == ("WARNING", "acme", "s1")


async def _until_ready(http: int, status: int) -> None:
    async with asyncio.timeout(60):
        while (await ready(http))[0] != status:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)


def _check_one_turn(before: Samples, after: Samples) -> None:
    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    commits = {"verb": "PUT", "kind": "commit", "outcome": "ok"}
    assert grown("store_request_duration_seconds_count", **commits) >= 1
    assert grown("commit_duration_seconds_count", outcome="ok") >= 1
    assert grown("store_sent_bytes_total", verb="PUT", kind="commit") > 0
    assert grown("turns_total") == 1
    assert grown("handshakes_total", outcome="ok") == 1
    assert grown("sessions_opened_total", tenant="default") == 1
    assert grown("client_messages_total", tenant="default", treatment="session") >= 2
    assert grown("client_received_bytes_total") > 0
    assert grown("client_sent_bytes_total") > 0
    assert grown("forward_duration_seconds_count", direction="to_runtime") >= 2
    assert grown("forward_duration_seconds_count", direction="to_client") >= 2
    assert value(after, "clients", tenant="default") == value(after, "connections_open") == 1
    assert value(after, "sessions_open", tenant="default") == value(after, "volumes_open") == 1
    assert value(after, "runtimes_wanted") == value(after, "runtimes_serving") == 1
    assert value(after, "ready") == 1
    assert after["process_resident_memory_bytes", ()] > 0
