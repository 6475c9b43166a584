"""Hostile clients: whatever one sends, or leaves out, its neighbours notice nothing and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessionfs_s3.gateway.auth.attempts import FailedAttempts
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tokens import new_token
from sessionfs_s3.gateway.messages import REQUEST_CANCELLED
from sessionfs_s3.gateway.pending import PENDING_MAX
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.fake_runtime import FakeRuntime, Peer, fake_runtime
from sessionfs_s3.testing.raw_client import ConnectionEnded, Json, RawClient, RpcError, framed, raw_client
from tests.gateway import tenants_files
from tests.gateway.fakes import (
    GENEROUS_S,
    HOST,
    all_gone,
    answers_to,
    client_of,
    errors,
    gateway_before,
    neighbour,
    open_transports,
    until,
)

SEED = int(os.environ.get("SESSIONFS_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
NEIGHBOUR_S_MAX = 5.0

Hostile = Callable[[Gateway, random.Random], Awaitable[None]]


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionfs_s3.gateway.sessions.LINGER_S", 0.1)


@asynccontextmanager
async def undisturbed(
    caplog: pytest.LogCaptureFixture, *, token: str | None = None, **options: object
) -> AsyncIterator[tuple[Gateway, FakeRuntime]]:
    """A gateway with a neighbour on it that is never disturbed, and which is as it was when the body has run.

    *token* is the neighbour's, where there are tenants.
    """
    caplog.set_level(logging.INFO)
    async with fake_runtime() as runtime, gateway_before(runtime, **options) as gateway:  # type: ignore[arg-type]
        baseline = len(asyncio.all_tasks())
        async with neighbour(gateway, token=token) as one:
            await until(lambda: one.turns > 1)
            yield gateway, runtime
            turns = one.turns
            await until(lambda: one.turns > turns)
        assert one.slowest_s < NEIGHBOUR_S_MAX
        await all_gone(gateway)
        await until(lambda: open_transports(gateway) == 0)
        await until(lambda: len(asyncio.all_tasks()) <= baseline)
        assert not runtime.sessions
    assert not errors(caplog.records)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def message(rng: random.Random) -> bytes:
    """A message, good or bad, as a body."""
    number: object = rng.choice([rng.randrange(5), rng.randrange(10**6), "id", None, True, 1.5, [], {}, "x" * 300, -1])
    session = rng.choice(["neighbour", f"own-{rng.randrange(20)}", "..", "", "x" * 400, None, 7, "é", "a/b"])
    methods: list[object] = [
        "session.create",
        "session.resume",
        "session.send",
        "session.detach",
        "session.destroy",
        "ping",
    ]
    methods += ["session.getMessages", "session.abort", "session.list", "sessions.open", "sessions.fork", "no.such"]
    methods += ["session.delete", "sessions.close", "connect", "sessionFs.setProvider", "sessionFs.readFile", "", 5]
    methods += [
        "$/cancelRequest",
        "session.shutdown",
        "tools.list",
        "models.list",
        "session.model.switchTo",
        "session.",
    ]
    params: object = {"sessionId": session, "prompt": "p", "id": rng.randrange(5), "path": "/etc/passwd"}
    params = rng.choice([params, params, params, params, [params], [], None, "x", 3])
    found: Json = {"jsonrpc": rng.choice(["2.0"] * 9 + ["1.0"]), "method": rng.choice(methods), "params": params}
    if rng.random() < 0.7:
        found["id"] = number
    if rng.random() < 0.1:
        del found["method"]
        found["result"] = {}
    body = json.dumps(found).encode()
    match rng.randrange(12):
        case 0:
            return body.replace(b'"p"', deep(rng.choice([200, 300, 980, 1010, 5000])).encode())
        case 1:
            return body.replace(b'"p"', rng.choice([b"NaN", b"1e999", b'"\\ud800"', b'"\xff"', b"9" * 5000]))
        case 2:
            at = rng.randrange(len(body))
            return body[:at] + rng.randbytes(rng.randrange(4)) + body[at + rng.randrange(3) :]
        case _:
            return body


def frame(body: bytes, rng: random.Random) -> bytes:
    """*body* as a frame, which may be none."""
    match rng.randrange(40):
        case 0:
            length: object = rng.choice([-1, len(body) + 5, len(body) - 1, 10**12, "x", "", "0x10", f"{len(body)} "])
            return f"Content-Length: {length}\r\n\r\n".encode() + body
        case 1:
            return rng.randbytes(rng.randrange(1, 2000))
        case 2:
            return b"Content-Length: %d\r\nX-Other: 1\r\n\r\n%b" % (len(body), body)
        case 3:
            return b"Content-Length: 2\r\n" * rng.choice([2, 5000]) + b"\r\n{}"
        case _:
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def babble(gateway: Gateway, token: str, rng: random.Random) -> None:
    """Say anything, in pieces of any size, read or not, and go in some way."""
    async with raw_client(HOST, gateway.port) as client:
        if rng.random() < 0.8:
            await client.send({"id": 0, "method": "connect", "params": {"token": token}})
        if rng.random() < 0.3:
            client.stop_reading()
        data = b"".join(frame(message(rng), rng) for _ in range(rng.randrange(1, 60)))
        try:
            while data and not client.ended:
                size = rng.choice([1, 7, 100, 10_000, len(data)])
                await client.send_bytes(data[:size])
                data = data[size:]
                await asyncio.sleep(rng.choice([0, 0, 0.001]))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.05)
            if rng.random() < 0.3:
                client.half_close()
        except OSError:
            return
        if rng.random() < 0.5:
            client.drop()


async def test_anything_at_all_from_another_tenant(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """It uses the neighbour's session id, too: in its own tenant, that is another session."""
    print(f"SESSIONFS_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    rounds = int(os.environ.get("SESSIONFS_FUZZ_ROUNDS", "6"))
    tokens = [new_token(), new_token()]
    plenty = {"requests_per_s": 1e6, "burst": 10**6, "connections_max": 1000}
    file = {
        "tenants": [
            {"id": name, "tokens": [{"label": "t", "hash": hashed}], "limits": plenty}
            for name, (_, hashed) in zip(("good", "bad"), tokens, strict=True)
        ]
    }
    times: dict[str, object] = {"frame_s": 0.5, "handshake_s": 0.5, "stall_s": 0.5}
    tenants = tenants_files.write(tmp_path / "tenants.toml", file)
    async with undisturbed(caplog, token=tokens[0][0], tenants=tenants, **times) as (gateway, _):
        for _ in range(rounds):
            babblers = [babble(gateway, tokens[1][0], random.Random(rng.random())) for _ in range(12)]
            await asyncio.gather(*babblers)
            gateway._authenticator.attempts = FailedAttempts()


GREETINGS = [
    b"",
    b"\x16\x03\x01\x02\x00\x01",  # TLS, to a port without
    b"GET / HTTP/1.1\r\n\r\n",
    b"Content-Length: 70000\r\n\r\n",  # more than a stranger may send
    b"Content-Length: 60000\r\n\r\n{",
    framed({"jsonrpc": "2.0", "id": 1, "result": {}}) * 3,
    b"Content-Length: 1\r\n\r\n{" * 10,
]


async def test_whoever_does_not_say_who_it_is_is_shown_the_door(caplog: pytest.LogCaptureFixture) -> None:
    async def greet(port: int, greeting: bytes) -> None:
        async with raw_client(HOST, port) as client:
            await client.send_bytes(greeting)
            assert await client.wait_ended(deadline_s=GENEROUS_S)

    async with undisturbed(caplog, handshake_s=0.2) as (gateway, _):
        await asyncio.gather(*(greet(gateway.port, greeting) for greeting in GREETINGS))


@pytest.mark.parametrize("token", ["null", '{"a": [1]}', '"x"', deep(1010)], ids=["none", "object", "text", "deep"])
async def test_any_token_will_do_where_none_is_asked_for(token: str, caplog: pytest.LogCaptureFixture) -> None:
    body = f'{{"jsonrpc": "2.0", "id": 1, "method": "connect", "params": {{"token": {token}}}}}'.encode()
    async with undisturbed(caplog) as (gateway, _), raw_client(HOST, gateway.port) as client:
        await client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert (await client.answer_to(1))["protocolVersion"] == 3


async def test_strangers_that_stall_leave_room_for_others_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async with undisturbed(caplog, handshake_s=2.0, handshakes_max=50) as (gateway, _):
        writers: list[asyncio.StreamWriter] = []
        most = 0
        for _ in range(200):
            writers.append((await asyncio.open_connection(HOST, gateway.port))[1])
            most = max(most, gateway.listener._strangers)
        assert 0 < most <= 50
        await until(lambda: gateway.listener._strangers == 0)
        async with client_of(gateway) as client:
            assert (await client.request("ping"))["protocolVersion"] == 3
        for writer in writers:
            writer.transport.abort()


async def test_a_flood_of_connections_at_once_is_held_against_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    async with undisturbed(caplog, handshake_s=5.0, handshakes_max=20) as (gateway, _):
        peers = [socket.socket() for _ in range(300)]
        for peer in peers:
            peer.setblocking(False)
            peer.connect_ex((HOST, gateway.port))  # none is accepted before this test waits
        await asyncio.sleep(0.2)
        open_now = gateway.listener.connections - len(gateway.clients)
        for peer in peers:
            peer.close()
        assert open_now <= 20


async def ask_and_vanish(gateway: Gateway, method: str, params: Json, *, after_s: float, reset: bool) -> None:
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    if reset:
        # Linger for 0 s: the kernel resets, as if the process had been killed with bytes unread.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(framed({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    await asyncio.sleep(after_s)
    writer.transport.abort() if reset else writer.close()
    del reader


async def test_clients_that_vanish_in_any_phase_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with undisturbed(caplog) as (gateway, _):
        await asyncio.gather(
            *(
                ask_and_vanish(gateway, method, {"sessionId": f"v-{at}-{reset}"}, after_s=at / 2000, reset=reset)
                for at in range(25)
                for reset in (False, True)
                for method in ("connect", "session.create", "session.resume")
            )
        )


async def test_a_client_that_begins_without_connect_and_is_gone_leaves_no_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The gateway has to ask a runtime before it lets somebody in: the client is gone when that has answered."""
    greeted = asyncio.Event()
    go_on = asyncio.Event()

    async def slow_greeting(_: Peer, message: Json) -> bool:
        if message.get("method") == "connect" and greeted.is_set():
            await go_on.wait()
        return message.get("method") == "session.create"  # never answered

    async with fake_runtime(misdeed=slow_greeting) as runtime, gateway_before(runtime) as gateway:
        greeted.set()
        writer = (await asyncio.open_connection(HOST, gateway.port))[1]
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(framed({"jsonrpc": "2.0", "id": 1, "method": "session.create", "params": {"sessionId": "s"}}))
        await until(lambda: any(peer.received == ["connect"] for peer in runtime.peers))
        writer.transport.abort()
        await asyncio.sleep(0.1)
        go_on.set()
        await all_gone(gateway)
    assert not errors(caplog.records)


@pytest.mark.parametrize("half", [False, True], ids=["gone", "half-closed"])
async def test_a_client_that_reads_nothing_is_closed_and_what_it_was_owed_is_forgotten(
    half: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with undisturbed(caplog, stall_s=0.5) as (gateway, _):
        reader, writer = await asyncio.open_connection(HOST, gateway.port, limit=1024)
        writer.write(framed({"jsonrpc": "2.0", "id": 0, "method": "connect", "params": {}}))
        await reader.readuntil(b"}}")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood = b"".join(
            framed({"jsonrpc": "2.0", "id": number, "method": "ping", "params": {"message": "x" * 20_000}})
            for number in range(1, 400 if not half else 200)
        )
        writer.write(flood)
        if half:
            writer.write_eof()
        began_s = asyncio.get_running_loop().time()
        await until(lambda: len(gateway.clients) == 1)
        await until(lambda: open_transports(gateway) == 1)
        assert asyncio.get_running_loop().time() - began_s < GENEROUS_S
        writer.transport.abort()


async def test_thousands_of_requests_without_reading_grow_nothing(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with undisturbed(caplog, stall_s=1.0) as (gateway, _):

        async def flood() -> None:
            async with client_of(gateway) as client:
                client.stop_reading()
                one = framed({"jsonrpc": "2.0", "id": "0", "method": "session.list", "params": {}})
                data = b"".join(one.replace(b'"0"', b'"%05d"' % at).replace(b": 60", b": 64") for at in range(5000))
                try:
                    await client.send_bytes(one[:0] + data)
                    await client.wait_ended(deadline_s=0.5)
                except (OSError, TimeoutError):
                    return

        await asyncio.gather(*(flood() for _ in range(6)))
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 150, f"{grown_mib:.0f} MiB"


async def test_an_id_that_is_in_use_is_refused_and_its_first_answer_comes_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with undisturbed(caplog) as (gateway, runtime):
        held = asyncio.Event()

        async def hold(peer: Peer, message: Json) -> bool:
            if message.get("method") == "session.abort":
                number = message["id"]
                await held.wait()
                await peer.send({"id": number, "result": {"late": True}})
                return True
            return False

        async with client_of(gateway) as client:
            await client.request("session.create", {"sessionId": "dup"})
            runtime.misdeed = hold
            for _ in range(20):
                await client.begin("session.abort", {"sessionId": "dup"}, request_id="same")
            await client.request("ping")
            held.set()
            assert await client.answer_to("same") == {"late": True}
            await client.request("ping")
            refused = [each for each in client.received if "error" in each]
            assert len(refused) == 19
            assert all(each["id"] is None and "waiting" in each["error"]["message"] for each in refused)
            assert sum(each.get("id") == "same" for each in client.received) == 1


async def test_cancels_of_everything_and_answers_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with undisturbed(caplog) as (gateway, _), client_of(gateway) as client:
        await client.request("session.create", {"sessionId": "mine"})
        for number in [*range(300), "x", None, True, [], {}, 1.5, -1, 10**30]:
            await client.notify("$/cancelRequest", {"id": number})
            await client.send({"id": number if not isinstance(number, (list, dict)) else 1, "result": {}})
            await client.send({"id": 7, "error": {"code": 1, "message": "x"}})
        asked = [await client.begin("session.list") for _ in range(50)]
        for number in asked:
            await client.notify("$/cancelRequest", {"id": number})
        for answer in (await answers_to(client, asked)).values():
            assert answer.get("result") == {"sessions": []} or answer["error"]["code"] == REQUEST_CANCELLED
        assert (await client.request("session.getMessages", {"sessionId": "mine"})) == {"events": []}


async def test_resumes_of_thousands_of_ids_are_refused_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    limits = TenantLimits(requests_per_s=1e6, burst=10**6, open_sessions_max=50)
    async with undisturbed(caplog, limits=limits) as (gateway, runtime), client_of(gateway) as client:
        asked = [await client.begin("session.resume", {"sessionId": f"none-{at}"}) for at in range(2000)]
        reasons = ("open_sessions_max", "Session not found", "requests wait for their answers")
        seen: set[str] = set()
        answers = await answers_to(client, asked)
        for number in asked:
            (reason,) = [each for each in reasons if each in answers[number]["error"]["message"]]
            seen.add(reason)
        assert seen >= {"Session not found", "requests wait for their answers"}
        await until(lambda: set(runtime.sessions) == {"neighbour"})


async def test_a_runtime_that_never_answers_does_not_keep_a_connection_from_going_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """More requests than may wait are refused: the connection is read on, and its end is seen."""

    async def never(_: Peer, message: Json) -> bool:
        return message.get("method") == "session.abort"

    async with undisturbed(caplog) as (gateway, runtime):
        async with client_of(gateway) as client:
            await client.request("session.create", {"sessionId": "hung"})
            runtime.misdeed = never
            for _ in range(PENDING_MAX):
                await client.begin("session.abort", {"sessionId": "hung"})
            with pytest.raises(RpcError, match=str(PENDING_MAX)):
                await client.request("ping", deadline_s=GENEROUS_S)
        await until(lambda: len(gateway.clients) == 1)


async def test_too_much_is_refused_by_the_limit_and_by_closing(caplog: pytest.LogCaptureFixture) -> None:
    limits = TenantLimits(requests_per_s=50, burst=50, connections_max=5)
    junk: list[Json] = [
        {"method": "ping", "params": []},
        {"method": "session.note", "params": {"sessionId": "x"}},
        {"method": "$/cancelRequest", "params": {"id": 1}},
        {"id": 5, "result": {}},
    ]
    caplog.set_level(logging.INFO)
    async with fake_runtime() as runtime, gateway_before(runtime, limits=limits) as gateway:
        for each in junk:
            await asyncio.sleep(1.1)  # the bucket fills
            async with client_of(gateway) as client:
                with contextlib.suppress(OSError):
                    for _ in range(3000):
                        await client.send(each)
                assert await client.wait_ended(deadline_s=GENEROUS_S)
        await all_gone(gateway)
        await asyncio.sleep(1.1)
        async with client_of(gateway) as client:
            numbers = [await client.begin("ping") for _ in range(300)]
            codes = []
            for number in numbers:
                try:
                    await client.answer_to(number)
                except RpcError as error:
                    codes.append(error.code)
            assert set(codes) == {-32000}
            assert len(codes) > 100
    assert not errors(caplog.records)


async def test_an_answer_that_is_nested_too_deep_reaches_the_runtime_as_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with undisturbed(caplog) as (gateway, runtime), client_of(gateway) as client:
        await client.request("session.create", {"sessionId": "deep"})
        peer = next(iter(runtime.sessions["deep"].attached))
        asking = asyncio.create_task(peer.ask("userInput.request", {"sessionId": "deep", "question": "?"}))
        asked = await client.until(lambda each: each.get("method") == "userInput.request")
        body = f'{{"jsonrpc":"2.0","id":{asked["id"]},"result":{{"a":{deep(1010)}}}}}'.encode()
        await client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        with pytest.raises(RpcError, match="too deep"):
            await asking
        assert await ends(client, {"id": 1, "method": "session.abort", "params": {"sessionId": "deep"}}) == ""


async def ends(client: RawClient, message: Json) -> str:
    """Send *message*; return why the connection ended, "" if it did not."""
    try:
        await client.send(message)
        await client.until(lambda each: each.get("id") == message["id"] and "method" not in each)
    except (ConnectionEnded, OSError) as problem:
        return str(problem)
    return ""
