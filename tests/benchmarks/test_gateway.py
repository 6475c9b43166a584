"""The gateway's benchmark counts right: what a turn is, whose it is, and what a process holds. No times are tested."""

from __future__ import annotations

import asyncio
import json
import math
import mmap
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.harness.side import HOST, Kind, Side, memory_of, start_side
from benchmarks.harness.spread import Spread, orders, spread
from benchmarks.harness.turns import PROMPT, REPLY, Talker, greeted, scripted, talker
from benchmarks.questions.gateway_added import alternate
from benchmarks.questions.gateway_rate import block
from sessionfs_s3.testing.raw_client import Json, RawClient, framed
from sessionfs_s3.testing.runtime import INSTALL_DEADLINE_S, RuntimeUnavailable, find_runtime

MEBIBYTES_16 = 16 * 1024 * 1024


def event(kind: str, session_id: str = "mine", **data: object) -> Json:
    return {"method": "session.event", "params": {"sessionId": session_id, "event": {"type": kind, "data": data}}}


SAID = event("assistant.message", content=REPLY)


@asynccontextmanager
async def answering(*told: Json) -> AsyncIterator[tuple[RawClient, list[Json]]]:
    """A client that has been greeted by a server that answers every turn with *told*, and what that was asked."""
    asked: list[Json] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while header := await reader.readline():
            await reader.readline()
            request = json.loads(await reader.readexactly(int(header.removeprefix(b"Content-Length: "))))
            asked.append(request)
            writer.write(framed({"jsonrpc": "2.0", "id": request["id"], "result": {}}))
            for each in told if request["method"] == "session.send" else ():
                writer.write(framed({"jsonrpc": "2.0", **each}))
        writer.close()
        ended.set()

    async with await asyncio.start_server(serve, HOST, 0) as server:
        async with greeted((server.sockets[0].getsockname()[1], "secret")) as client:
            yield client, asked
        await ended.wait()


async def test_a_turn_ends_with_its_own_session() -> None:
    async with answering(event("session.idle", "other"), SAID, event("session.idle")) as (client, asked):
        one = Talker(client, "mine")
        assert await one.turn() > 0
        assert await one.turn() > 0
    assert [each["method"] for each in asked] == ["connect", "session.send", "session.send"]
    assert asked[0]["params"] == {"token": "secret"}
    assert asked[1]["params"] == {"sessionId": "mine", "prompt": PROMPT}


@pytest.mark.parametrize(
    "told",
    [
        [event("session.idle")],
        [event("assistant.message", content="something else"), event("session.idle")],
        [SAID, SAID, event("session.idle")],
        [SAID, event("session.error", message="the store is down")],
        [{"id": 9, "error": {"code": -32603, "message": "no such session"}}],
    ],
    ids=["silent", "wrong", "twice", "failed", "refused"],
)
async def test_what_is_no_turn_is_not_counted(told: Sequence[Json]) -> None:
    async with answering(*told) as (client, _):
        with pytest.raises(RuntimeError, match="session mine: a turn ended with"):
            await Talker(client, "mine").turn()


async def test_two_sides_take_turns_and_keep_their_own_times() -> None:
    held: list[int] = []

    def side(number: int) -> Callable[[], asyncio.Future[float]]:
        def turn() -> asyncio.Future[float]:
            held.append(number)
            done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
            done.set_result(10 * number + held.count(number))
            return done

        return turn

    assert await alternate([side(0), side(1)], 4, pause_s=0) == ([1, 2, 3, 4], [11, 12, 13, 14])
    assert held == [0, 1, 1, 0, 0, 1, 1, 0]
    assert [*orders(3)] == [(0, 1), (1, 0), (0, 1)]


def test_spread() -> None:
    assert spread([3.0]) == Spread(3, 3, 3)
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3, 2, 4)
    assert str(spread([1.0, 2.0])) == "1.5 (1.25 to 1.75)"


def test_the_memory_of_a_process() -> None:
    # Of the system itself: what the process had freed before would be used again without being seen.
    with mmap.mmap(-1, MEBIBYTES_16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        before = memory_of(os.getpid())
        held.write(b"\1" * MEBIBYTES_16)
        more = memory_of(os.getpid()) - before
    for size in (more.rss_bytes, more.pss_bytes):
        assert 0.9 * MEBIBYTES_16 < size < 2.1 * MEBIBYTES_16
    with pytest.raises(FileNotFoundError):
        memory_of(2**30)


@pytest.mark.runtime
@pytest.mark.timeout(INSTALL_DEADLINE_S + 120)
@pytest.mark.parametrize("kind", ["provider", "gateway"])
async def test_both_sides_hold_the_same_turns(kind: Kind, tmp_path: Path) -> None:
    """On the real runtime: the sessions are in the store, and the process counts its own work."""
    try:
        executable = await asyncio.to_thread(find_runtime)
    except RuntimeUnavailable as error:
        if os.environ.get("SESSIONFS_REQUIRE_RUNTIME") == "1":
            raise
        pytest.skip(str(error))
    model = scripted()
    profile = tmp_path / "side.pstats"
    async with model.serve(), start_side(kind, executable, tmp_path.as_uri(), runtimes=1, settings={}) as side:
        assert (side.door(0) in side.runtimes) == (kind == "provider")
        async with talker(side.door(0), "one", model) as one, talker(side.door(1), "two", model) as two:
            await side.profile()
            done = await block(side, [one, two], 2)
            await side.profile(profile)
            await side.trim()
            assert running(side) == [side.pid, *side.runtime_pids]
    assert (done.turns, len(model.requests)) == (4, 6)
    assert done.per_s > 0
    assert all(math.isfinite(each) and each >= 0 for each in (done.side_cpu_s, done.runtimes_cpu_s, done.load_cpu_s))
    assert profile.stat().st_size
    assert stored(tmp_path) == {"one", "two"}
    assert not running(side)


def stored(directory: Path) -> set[str]:
    return {each.name for each in directory.rglob("*") if each.name in ("one", "two")}


def running(side: Side) -> list[int]:
    """Those of its processes that hold any memory."""
    return [pid for pid in (side.pid, *side.runtime_pids) if Path(f"/proc/{pid}").exists() and memory_of(pid).rss_bytes]
