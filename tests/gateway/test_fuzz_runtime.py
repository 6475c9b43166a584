"""Runtimes that misbehave: every request they make is answered, and clients of other runtimes notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sessionfs_s3.gateway.lanes import STEPS_MAX
from sessionfs_s3.gateway.link import Link
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.fake_runtime import EVENTS, FakeRuntime, Peer, fake_runtime
from sessionfs_s3.testing.raw_client import Json, RawClient, RpcError, framed
from tests.gateway.fakes import GENEROUS_S, all_gone, answers_to, client_of, contents, gateway_before, neighbour, until

SEED = int(os.environ.get("SESSIONFS_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
SHORT_S = 0.5


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionfs_s3.gateway.sessions.LINGER_S", 0.1)
    monkeypatch.setattr("sessionfs_s3.gateway.sessions.ANSWER_DEADLINE_S", SHORT_S)
    monkeypatch.setattr("sessionfs_s3.gateway.runtimes.ANSWER_DEADLINE_S", SHORT_S)
    monkeypatch.setattr("sessionfs_s3.gateway.pool.BACKOFF_S_MAX", 0.2)
    monkeypatch.setitem(Link.request.__kwdefaults__ or {}, "deadline_s", SHORT_S)


@asynccontextmanager
async def beside() -> AsyncIterator[tuple[Gateway, FakeRuntime]]:
    """A gateway before two runtimes: a good one with a neighbour on it, and the one that is to misbehave."""
    async with fake_runtime() as first, fake_runtime() as second, gateway_before(first, second) as gateway:
        baseline = len(asyncio.all_tasks())
        async with neighbour(gateway) as one:
            await until(lambda: one.turns > 1)
            # The neighbour is on one of them; the next session goes to the other.
            bad = second if "neighbour" in first.sessions else first
            yield gateway, bad
            bad.misdeed = None
            turns = one.turns
            await until(lambda: one.turns > turns)
        await all_gone(gateway)
        # What kept the bad runtime's slot may be about to be taken again.
        await until(lambda: len(asyncio.all_tasks()) <= baseline + 2)


async def open_on(runtime: FakeRuntime, client: RawClient, session_id: str = "victim") -> None:
    """Open a session on *runtime*, which is the one with fewer."""
    await client.request("session.create", {"sessionId": session_id})
    assert session_id in runtime.sessions


async def use(client: RawClient, session_id: str = "victim") -> Any:
    """Say something in a session that is open, or that was open on a runtime that has just been lost."""
    said = {"sessionId": session_id, "prompt": "again"}
    async with asyncio.timeout(GENEROUS_S):
        while True:
            try:
                return await client.request("session.send", said, deadline_s=GENEROUS_S)
            except RpcError as problem:
                # What was under way when it was lost; the next try resumes the session elsewhere.
                if "ended" not in problem.message and "reached" not in problem.message:
                    raise
                await asyncio.sleep(0.05)


GARBAGE = [
    b"\x00" * 1000,
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 99999999999\r\n\r\n",
    b"Content-Length: 70000000\r\n\r\n",
    b"Content-Length: 10\r\n\r\n{",
    b"Content-Length: 2\r\n\r\n[]",
    b"Content-Length: 4\r\n\r\nnull",
    framed({"jsonrpc": "1.0", "id": 1, "result": 1}),
    framed({"jsonrpc": "2.0", "method": "session.event", "params": 7}),
    framed({"jsonrpc": "2.0", "id": [], "result": 1}),
]


@pytest.mark.parametrize("where", ["link", "relay"])
async def test_garbage_from_a_runtime_ends_what_it_came_over_and_the_session_goes_on(where: str) -> None:
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        await use(client)
        for garbage in GARBAGE:
            link = bad.holder
            assert link is not None
            peer = link if where == "link" else next(iter(bad.sessions["victim"].attached))
            await peer.send_bytes(garbage)
            if garbage.endswith(b"{"):
                peer.drop()
            await until(functools.partial(bad.has_lost, peer))
            if where == "link":
                bad.crash()
                await until(lambda: bad.holder is not None)
            await use(client)
        stored = await client.request("session.getMessages", {"sessionId": "victim"})
        assert [each["prompt"] for each in stored["events"]] == ["again"] * (1 + len(GARBAGE))


async def test_answers_that_nobody_asked_for_or_that_come_twice_are_nothing() -> None:
    async def twice(peer: Peer, message: Json) -> bool:
        if message.get("method") == "session.abort":
            for number in (message["id"], message["id"], "none", 10**6, None, 1.5, -1, message["id"]):
                await peer.send({"id": number, "result": {"n": 1}})
                await peer.send({"id": number, "error": {"code": 1, "message": "x"}})
            return True
        return False

    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        bad.misdeed = twice
        for _ in range(5):
            assert await client.request("session.abort", {"sessionId": "victim"}) == {"n": 1}
        assert bad.holder is not None
        for number in (1, 2, 10**6, "x", None):
            await bad.holder.send({"id": number, "result": {}})
        await use(client)
        answers = [each["id"] for each in client.received if "method" not in each]
        assert len(answers) == len(set(answers))


async def test_a_resume_of_the_gateways_own_that_is_answered_twice_is_answered() -> None:
    async def twice(peer: Peer, message: Json) -> bool:
        if message.get("method") == "session.resume":
            for _ in range(3):
                await peer.send({"id": message["id"], "error": {"code": 1, "message": "no"}})
            return True
        return False

    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        await use(client)
        bad.crash()
        bad.misdeed = twice
        with contextlib.suppress(RpcError):
            await use(client)
        bad.misdeed = None
        await use(client)


async def test_requests_that_are_never_answered_hold_up_nothing_else_and_end_with_the_session() -> None:
    async def never(_: Peer, message: Json) -> bool:
        return message.get("method") in {"session.abort", "sessions.close", "session.detach"}

    async with beside() as (gateway, bad):
        async with client_of(gateway) as client:
            await open_on(bad, client)
            bad.misdeed = never
            waiting = [await client.begin("session.abort", {"sessionId": "victim"}) for _ in range(20)]
            await use(client)
            await client.request("session.list")
            await client.notify("$/cancelRequest", {"id": waiting[0]})
            bad.crash()
            for number in waiting:
                with pytest.raises(RpcError, match="ended"):
                    await client.answer_to(number, deadline_s=GENEROUS_S)
            bad.misdeed = never
            await use(client)
        assert await gateway.drain()
        gateway.draining = False


async def test_file_requests_of_every_kind_are_answered_once_each() -> None:
    print(f"SESSIONFS_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        link = bad.holder
        assert link is not None
        operations = ["readFile", "writeFile", "appendFile", "exists", "stat", "mkdir", "readdir", "rename", "rm"]
        operations += ["readdirWithTypes", "readFileBytes", "writeFileBytes", "sqliteQuery", "sqliteExists", "none", ""]
        wrong: list[object] = [None, 1, -1, 1.5, True, [], {}, "", "/", "/a", "\x00", "x" * 5000, "../.."]
        started = link.asked
        for _ in range(1500):
            params: Json = {name: rng.choice(wrong) for name in ("path", "content", "src", "dest", "query", "mode")}
            params["sessionId"] = rng.choice(["victim", "victim", "neighbour", "nobody", None, 5, "", [], "x" * 1000])
            params = rng.choice([params, params, params, {}, {"sessionId": "victim"}])
            await link.begin("sessionFs." + rng.choice(operations), params)
        await link.begin("session.create", {"sessionId": "victim"})
        await link.begin("no.such", {})
        await until(lambda: sum(link.answered.values()) >= link.asked, deadline_s=60)
        assert link.asked == started + 1502
        assert set(link.answered.values()) == {1}
        await use(client)


async def test_a_file_of_a_session_that_is_open_elsewhere_is_not_reached() -> None:
    """The neighbour's session is on the other runtime: this one has no business with it."""
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        for session_id in ("neighbour", "nobody", "", "victim/../neighbour", "default"):
            with pytest.raises(RpcError, match="not open on this gateway"):
                await bad.file("readFile", session_id, path=EVENTS)
        await client.request("session.detach", {"sessionId": "victim"})
        await until(lambda: not any("victim" in one.sessions for pool in gateway.pools for one in pool.runtimes))
        with pytest.raises(RpcError, match="not open on this gateway"):
            await bad.file("readFile", "victim", path=EVENTS)


async def test_events_of_sessions_that_are_not_there_reach_nobody_and_requests_about_them_are_refused() -> None:
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        peer = next(iter(bad.sessions["victim"].attached))
        seen = len(client.received)
        for session_id in ("neighbour", "nobody", ""):
            bad.emit(session_id, "assistant.message", {"content": "secret"}, to=peer)
            await peer.send({"method": "session.lifecycle", "params": {"type": "x", "sessionId": session_id}})
            with pytest.raises(RpcError, match="no client answers"):
                await peer.ask("userInput.request", {"sessionId": session_id})
        for params in ({}, {"sessionId": 5}, {"sessionId": None}):
            await peer.send({"method": "session.event", "params": params})
        await use(client)
        assert not [each for each in client.received[seen:] if contents(each) == "secret"]


async def test_a_request_to_a_client_that_is_gone_ends_with_its_connection() -> None:
    async with beside() as (gateway, bad):
        async with client_of(gateway) as client:
            await open_on(bad, client)
            peer = next(iter(bad.sessions["victim"].attached))
            asking = asyncio.create_task(peer.ask("userInput.request", {"sessionId": "victim"}))
            await client.until(lambda each: each.get("method") == "userInput.request")
        with pytest.raises(ConnectionResetError):
            await asking


PHASES = ["session.create", "session.send", "sessionFs.setProvider", "connect"]


@pytest.mark.parametrize("how", ["closes", "half-closes", "garbage", "error", "wrong", "silence"])
async def test_a_runtime_that_fails_in_any_phase_is_replaced_and_the_client_is_told(how: str) -> None:
    left: list[str] = []

    async def fail(peer: Peer, message: Json) -> bool:
        if message.get("method") not in left:
            return False
        left.remove(message["method"])
        match how:
            case "closes":
                peer.drop()
            case "half-closes":
                peer.writer.write_eof()
            case "garbage":
                await peer.send_bytes(b"\r\n\r\n")
            case "error":
                await peer.send({"id": message["id"], "error": {"code": 1, "message": "no"}})
            case "wrong":
                await peer.send({"id": message["id"], "result": [1]})
            case _:
                pass
        return True

    # The only runtime: what has been lost is resumed on it.
    async with fake_runtime() as bad, gateway_before(bad) as gateway, client_of(gateway) as client:
        await open_on(bad, client)
        await use(client)
        bad.misdeed = fail
        for phase in PHASES:
            if (how, phase) == ("wrong", "sessionFs.setProvider"):
                continue  # It says that the slot is taken, in other words, and only it can know better.
            left.append(phase)
            if phase in {"connect", "sessionFs.setProvider"}:
                bad.crash()
                await until(lambda: not left)
                await until(lambda: bad.holder is not None)
            else:
                params = {"sessionId": "victim", "prompt": "x"}
                with contextlib.suppress(RpcError, TimeoutError):
                    await client.request(phase, params, deadline_s=1.0)
                await until(lambda: not left)
                if how == "silence":
                    bad.crash()
            await use(client)


async def test_a_runtime_that_stops_reading_holds_up_neither_other_runtimes_nor_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        await use(client)
        peer = next(iter(bad.sessions["victim"].attached))
        peer.reading.clear()
        large = "x" * 200_000
        lost = [await client.begin("session.send", {"sessionId": "victim", "prompt": large}) for _ in range(100)]
        pong = await client.request("ping", deadline_s=GENEROUS_S)
        assert pong["protocolVersion"] == 3
        answers = await answers_to(client, lost)
        # What was on its way is lost, and said to be; what waited goes on over a new connection.
        assert "ended" in answers[lost[1]]["error"]["message"]
        assert "result" in answers[lost[-1]]
        peer.reading.set()
        await until(lambda: peer not in bad.peers)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 200, f"{grown_mib:.0f} MiB"


async def test_notifications_to_a_runtime_that_stops_reading_are_bounded() -> None:
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        peer = next(iter(bad.sessions["victim"].attached))
        peer.reading.clear()
        with contextlib.suppress(OSError):
            for _ in range(4 * STEPS_MAX):
                await client.notify("session.note", {"sessionId": "victim", "text": "x" * 20_000})
        assert await client.wait_ended(deadline_s=GENEROUS_S)
        peer.reading.set()


async def test_a_runtime_that_asks_and_does_not_take_the_answers_is_given_up() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with beside() as (gateway, bad), client_of(gateway) as client:
        await open_on(bad, client)
        await bad.file("writeFile", "victim", path="/large", content="x" * 2_000_000)
        link = bad.holder
        assert link is not None
        link.reading.clear()
        with contextlib.suppress(OSError):
            for at in range(300):
                link.writer.write(
                    framed(
                        {
                            "jsonrpc": "2.0",
                            "id": 10_000 + at,
                            "method": "sessionFs.readFile",
                            "params": {"sessionId": "victim", "path": "/large"},
                        }
                    )
                )
                await asyncio.sleep(0)
        await until(lambda: not gateway.tenants["default"].sessions.keys() & {"victim"})
        link.reading.set()
        await until(lambda: link not in bad.peers)
        bad.crash()
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 300, f"{grown_mib:.0f} MiB"


async def test_a_session_whose_runtime_cannot_be_reached_is_not_held_open() -> None:
    """Clients' connections are refused, while the link lives: nobody is attached to what was not opened."""

    async def refuse(peer: Peer, message: Json) -> bool:
        if message.get("method") == "connect":
            await peer.send({"id": message["id"], "error": {"code": -32002, "message": "no"}})
            return True
        return False

    async with fake_runtime() as runtime, gateway_before(runtime) as gateway, client_of(gateway) as client:
        runtime.misdeed = refuse
        for _ in range(3):
            with pytest.raises(RpcError, match="cannot be reached"):
                await client.request("session.create", {"sessionId": "s"})
        await until(lambda: not gateway.tenants["default"].sessions)
        runtime.misdeed = None
        await client.request("session.create", {"sessionId": "s"})


async def test_messages_in_random_order_from_a_runtime_disturb_nobody_else() -> None:
    print(f"SESSIONFS_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)

    async def misbehave(peer: Peer, message: Json) -> bool:
        match rng.randrange(30):
            case 0:
                peer.drop()
            case 1:
                await peer.send_bytes(rng.randbytes(rng.randrange(1, 300)))
            case 2:
                await peer.send({"id": message.get("id"), "result": rng.choice([None, [], {}, 1, "x"])})
            case 3:
                await peer.send({"id": rng.randrange(100), "error": rng.choice([None, [], {}, {"code": "x"}])})
            case 4:
                await peer.send({"method": "session.event", "params": {"sessionId": "neighbour", "event": {}}})
            case 5:
                await peer.send({"id": rng.randrange(5), "method": "userInput.request", "params": {"sessionId": "v-1"}})
            case 6:
                peer.writer.write_eof()
            case other:
                return other == 7
        return rng.random() < 0.5

    async with beside() as (gateway, bad):
        bad.misdeed = misbehave

        async def client_work(at: int) -> None:
            async with client_of(gateway) as client:
                for _ in range(6):
                    with contextlib.suppress(RpcError, TimeoutError):
                        method = rng.choice(["session.create", "session.resume", "session.send", "session.abort"])
                        await client.request(method, {"sessionId": f"v-{at}", "prompt": "p"}, deadline_s=0.5)

        for _ in range(3):
            with contextlib.suppress(RpcError):
                await asyncio.gather(*(client_work(at) for at in range(8)))
            bad.crash()
