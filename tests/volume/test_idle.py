"""Volumes that nobody asks for anything: they give memory back, send nothing, and go on as if nothing had been."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sessionfs_s3.errors import Closed, Fenced, Unavailable
from sessionfs_s3.format import Kind
from sessionfs_s3.fs import Chunk
from sessionfs_s3.sqlite import WorkerHost
from sessionfs_s3.store import MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault, Verb
from sessionfs_s3.volume import Durability, Environment, Volume
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import OpenVolume, eventually
from tests.volume.stored import RecordingStore, numbers

IDLE_S = 0.05
NEVER = 1 << 40


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore())


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def environment(scratch: Path) -> Environment:
    return replace(system_environment(), cache=ContentCache(0), databases=WorkerHost(directory=scratch))


def _asleep(volume: Volume) -> bool:
    return volume._view._is_asleep  # that it shows nowhere else is the point of it


def _held_chunks() -> int:
    """Return how many bytes of contents any tree in this process holds."""
    gc.collect()
    return sum(each.size for each in gc.get_objects() if isinstance(each, Chunk) and isinstance(each.body, bytes))


def _entries(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def _text(size: int) -> str:
    return random.Random(size).randbytes(size // 2).hex()


@pytest.mark.parametrize("read_only", [True, False])
async def test_it_wakes_with_what_opening_reads_and_claims_nothing(
    read_only: bool, store: RecordingStore, open_volume: OpenVolume
) -> None:
    writer = await open_volume(idle_s=None)
    for number in range(5):
        await writer.append_file("/log", f"{number},")
    volume = await open_volume(read_only=read_only, idle_s=IDLE_S)
    head = volume.head
    store.forget()
    await eventually(lambda: _asleep(volume))
    await asyncio.sleep(4 * IDLE_S)
    assert store.requests == [], "an idle volume sends nothing"
    assert volume.head == head
    assert await volume.read_file("/log") == "0,1,2,3,4,"
    commits = head.sequence
    assert [store.count(verb) for verb in ("LIST", "GET", "PUT")] == [1, commits, 0]
    assert volume.head == head
    if not read_only:
        await volume.append_file("/log", "on")
        assert [verb for verb, _ in store.requests[commits + 1 :]] == ["PUT"]
        assert volume.head.sequence == commits + 1


async def test_everything_that_was_held_is_given_back(
    store: RecordingStore, scratch: Path, open_volume: OpenVolume
) -> None:
    before = _held_chunks()
    volume = await open_volume(snapshot_commits=NEVER, snapshot_bytes_min=NEVER)
    await volume.write_file("/f", _text(500_000))
    await volume.sqlite_query("exec", "CREATE TABLE t (s TEXT)")
    await volume.sqlite_query("run", "INSERT INTO t VALUES (:s)", {"s": _text(300_000)})
    await volume.aclose()
    volume = await open_volume(idle_s=IDLE_S, snapshot_commits=NEVER, snapshot_bytes_min=NEVER)
    await volume.append_file("/f", "more")
    await volume.sqlite_query("run", "INSERT INTO t VALUES (:s)", {"s": "more"})
    assert len(_entries(scratch)) == 1
    assert _held_chunks() - before > 700_000
    await eventually(lambda: _asleep(volume) and not _entries(scratch))
    assert _held_chunks() - before < 1000
    result = await volume.sqlite_query("query", "SELECT count(*) AS n FROM t")
    assert result is not None
    assert result.rows[0]["n"] == 2
    assert (await volume.stat("/f")).size == 500_004


async def test_a_snapshot_that_was_just_written_is_no_reason_to_keep_its_tree(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    before = _held_chunks()
    volume = await open_volume(idle_s=IDLE_S, snapshot_commits=3, snapshot_bytes_min=NEVER, seal_bytes_min=NEVER)
    await volume.write_file("/f", _text(500_000))
    for _ in range(3):
        await volume.append_file("/log", "x")
    await eventually(lambda: any(key.endswith(".s") for key, _ in store.puts))
    await eventually(lambda: _asleep(volume))
    assert _held_chunks() - before < 1000
    for _ in range(3):  # and what the snapshot told is not applied to the state that was read anew
        await volume.append_file("/log", "x")
    assert volume._committer is not None
    assert volume._committer.state.tail_bytes > 0
    for _ in range(5):
        await volume.append_file("/log", "x")
    await volume.aclose()
    assert len(await numbers(store, Kind.SNAPSHOT)) >= 2
    assert await (await open_volume(read_only=True)).read_file("/log") == "x" * 11


@pytest.mark.parametrize("call", ["read", "stat", "write", "sql", "sql_read"])
async def test_every_call_wakes_it_and_it_rests_again(call: str, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S)
    await volume.write_file("/f", "x")
    await volume.sqlite_query("exec", "CREATE TABLE t (n INTEGER)")
    for number in range(3):
        async with asyncio.timeout(3):
            await eventually(lambda: _asleep(volume))
        match call:
            case "read":
                assert await volume.read_file("/f") == "x"
            case "stat":
                assert (await volume.stat("/f")).size == 1
            case "write":
                await volume.write_file("/g", f"{number}")
            case "sql":
                await volume.sqlite_query("run", "INSERT INTO t VALUES (1)")
            case _:
                await volume.sqlite_query("query", "SELECT * FROM t")
        assert not _asleep(volume)
    async with asyncio.timeout(3):
        await eventually(lambda: _asleep(volume))


async def test_one_that_is_only_asked_for_rows_stays_awake(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=0.3)
    await volume.sqlite_query("exec", "CREATE TABLE t (n INTEGER)")
    store.forget()
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 1.2
    while loop.time() < until_s:
        await volume.sqlite_query("query", "SELECT * FROM t")
        await asyncio.sleep(0.01)
    assert store.requests == [], "it was put to rest although somebody asked a hundred times a second"


async def test_calls_at_once_wake_it_once(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S)
    await volume.write_file("/log", "")
    await eventually(lambda: _asleep(volume))
    store.forget()
    await asyncio.gather(
        *(volume.append_file("/log", "x") for _ in range(20)), *(volume.read_file("/log") for _ in range(20))
    )
    assert store.count("LIST") == 1
    assert await volume.read_file("/log") == "x" * 20
    await volume.aclose()
    assert await (await open_volume(read_only=True)).read_file("/log") == "x" * 20


async def test_one_whose_session_was_taken_over_says_by_whom_and_when(open_volume: OpenVolume) -> None:
    first = await open_volume(idle_s=IDLE_S)
    await first.write_file("/a", "first")
    await eventually(lambda: _asleep(first))
    second = await open_volume(idle_s=None)
    await second.write_file("/a", "second")
    for _ in range(2):
        with pytest.raises(Fenced) as caught:
            await first.read_file("/a")
        assert second.writer.hex() in str(caught.value)
        assert second.head.time.isoformat(timespec="milliseconds") in str(caught.value)
    with pytest.raises(Fenced):
        await first.write_file("/a", "late")
    with pytest.raises(Fenced):
        await first.still_owned()
    third = await open_volume(idle_s=None)
    assert await third.read_file("/a") == "second"
    with pytest.raises(Fenced):
        await second.write_file("/a", "late")


async def test_still_owned_asks_for_a_resting_volume_too(open_volume: OpenVolume) -> None:
    first = await open_volume(idle_s=IDLE_S)
    await first.write_file("/a", "first")
    await eventually(lambda: _asleep(first))
    assert await first.still_owned()
    await open_volume(idle_s=None)
    assert not await first.still_owned()


async def test_changes_that_wait_for_company_keep_it_awake(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S)
    await volume.write_file("/a", "stored")
    await volume.write_file("/a", "not yet", durability=Durability.NEXT)
    await asyncio.sleep(6 * IDLE_S)
    assert not _asleep(volume)
    assert await volume.read_file("/a") == "not yet"
    await volume.flush()
    await eventually(lambda: _asleep(volume))
    assert await volume.read_file("/a") == "not yet"


async def test_a_commit_under_way_keeps_it_awake(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S)
    await volume.write_file("/a", "stored")
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    write = asyncio.create_task(volume.write_file("/a", "slow"))
    await fault.reached.wait()
    await asyncio.sleep(5 * IDLE_S)
    assert not _asleep(volume)
    gate.set()
    await write
    assert await volume.read_file("/a") == "slow"


async def test_a_snapshot_under_way_keeps_it_awake(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S, snapshot_commits=2)
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", key=".s", gate=gate))
    for _ in range(3):
        await volume.append_file("/log", "x")
    await fault.reached.wait()
    await asyncio.sleep(4 * IDLE_S)
    assert not _asleep(volume)
    gate.set()
    await eventually(lambda: _asleep(volume))


async def test_a_statement_that_runs_keeps_its_database(scratch: Path, open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S)
    await volume.sqlite_query("exec", "CREATE TABLE t (n INTEGER)")
    slow = (
        "INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1500000) "
        "SELECT count(*) FROM c"
    )
    await volume.sqlite_query("run", slow)
    result = await volume.sqlite_query("query", "SELECT n FROM t")
    assert result is not None
    assert result.rows[0]["n"] == 1_500_000


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("verb", ["LIST", "GET"])
async def test_one_that_cannot_wake_says_so_and_wakes_later(
    verb: Verb, read_only: bool, store: RecordingStore, open_volume: OpenVolume
) -> None:
    writer = await open_volume(idle_s=None)
    await writer.write_file("/a", "here")
    volume = await open_volume(idle_s=IDLE_S, read_only=read_only)
    await eventually(lambda: _asleep(volume))
    store.inject(Fault(verb, Fate.LOST_REQUEST, times=10_000))
    calls = [volume.read_file("/a"), volume.exists("/a"), volume.stat("/")]
    outcomes = await asyncio.gather(*calls[:1], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable]
    for call in calls[1:]:
        call.close()
    store.faults.clear()
    assert await volume.read_file("/a") == "here"
    assert volume.failure is None
    if not read_only:
        await volume.write_file("/a", "again")


async def test_one_that_rests_can_be_closed_and_stays_closed(store: RecordingStore, open_volume: OpenVolume) -> None:
    for read_only in (False, True):
        volume = await open_volume(idle_s=IDLE_S, read_only=read_only)
        if not read_only:
            await volume.write_file("/a", "x")
        await eventually(partial(_asleep, volume))
        store.forget()
        await volume.aclose()
        with pytest.raises(Closed):
            await volume.read_file("/a")
        assert store.requests == []


async def test_a_session_without_a_commit_rests_and_wakes(open_volume: OpenVolume) -> None:
    volume = await open_volume(idle_s=IDLE_S)
    await eventually(lambda: _asleep(volume))
    assert not await volume.exists("/a")
    await eventually(lambda: _asleep(volume))
    await volume.write_file("/a", "x")
    other = await open_volume("other", idle_s=IDLE_S)
    await eventually(lambda: _asleep(other))
    rival = await open_volume("other", idle_s=None)
    await rival.write_file("/a", "rival")
    with pytest.raises(Fenced):
        await other.write_file("/a", "late")


async def test_resting_volumes_take_little(store: RecordingStore, open_volume: OpenVolume) -> None:
    count = 200
    for number in range(count):
        volume = await open_volume(f"s{number}")
        await volume.write_file("/f", _text(20_000))
        await volume.aclose()
    gc.collect()
    tracemalloc.start()
    try:
        volumes = [await open_volume(f"s{number}", idle_s=IDLE_S) for number in range(count)]
        await asyncio.gather(*(volume.append_file("/f", "more") for volume in volumes))
        gc.collect()
        busy, _ = tracemalloc.get_traced_memory()
        await eventually(lambda: all(map(_asleep, volumes)))
        store.forget()
        gc.collect()
        resting, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert busy > count * 20_000
    # Of which the store, which is in this process too, has two commits of each.
    assert resting / count < 14_000, f"{resting / count:.0f} bytes each"
