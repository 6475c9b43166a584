"""Leaving a session to whoever works on it: ``takeover_idle_s``, by the store's own timestamps."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest

from sessionfs_s3.errors import Fenced, InUse, SessionFsError
from sessionfs_s3.format import Kind
from sessionfs_s3.store import MemoryStore
from sessionfs_s3.testing.faults import Fault
from sessionfs_s3.volume import Environment
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import OpenVolume
from tests.volume.stored import RecordingStore, numbers, snapshot_after


class _Clock:
    """The time of day, the same for the store and for this machine unless *ahead_s* says otherwise."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self.ahead_s = 0.0

    def store_ms(self) -> int:
        return round(self.now_s * 1000)

    def wall_ms(self) -> int:
        return round((self.now_s + self.ahead_s) * 1000)


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def store(clock: _Clock) -> RecordingStore:
    return RecordingStore(MemoryStore(clock_ms=clock.store_ms))


@pytest.fixture
def environment(clock: _Clock) -> Environment:
    return replace(system_environment(), wall_ms=clock.wall_ms)


async def test_it_is_refused_while_the_owner_wrote_recently_and_nothing_changes(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    owner = await open_volume()
    await owner.write_file("/a", "1")
    clock.now_s += 59.5
    store.forget()
    with pytest.raises(InUse, match=r"in use: commit 1 was stored 59\.5 s ago, and is left alone for 60 s") as caught:
        await open_volume(takeover_idle_s=60)
    assert caught.value.errno == errno.EBUSY
    assert isinstance(caught.value, SessionFsError)
    assert [verb for verb, _ in store.requests] == ["LIST"]
    await owner.write_file("/a", "2")
    clock.now_s += 59.5
    with pytest.raises(InUse, match="commit 2"):
        await open_volume(takeover_idle_s=60)
    clock.now_s += 0.5
    second = await open_volume(takeover_idle_s=60)
    assert await second.read_file("/a") == "2"
    with pytest.raises(Fenced):
        await owner.write_file("/a", "3")


async def test_an_opening_counts_as_a_write(clock: _Clock, open_volume: OpenVolume) -> None:
    owner = await open_volume()
    await owner.write_file("/a", "1")
    clock.now_s += 100
    await open_volume(takeover_idle_s=60)
    with pytest.raises(InUse, match="commit 2"):
        await open_volume(takeover_idle_s=60)


async def test_a_snapshot_does_not_count_as_a_write(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    owner = await open_volume(snapshot_commits=3)
    gate = asyncio.Event()
    put = store.inject(Fault("PUT", key=".s", gate=gate))
    while not put.reached.is_set():
        await owner.append_file("/log", "x")
        await asyncio.sleep(0.001)
    clock.now_s += 61
    gate.set()
    await put.ended.wait()
    assert await numbers(store, Kind.SNAPSHOT)
    await open_volume(takeover_idle_s=60)


async def test_the_newest_commit_counts_where_snapshots_lie_between(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    owner = await open_volume(snapshot_commits=3)
    for _ in range(3):
        await snapshot_after(owner, store)
        clock.now_s += 100
    await owner.append_file("/log", "x")
    with pytest.raises(InUse, match=f"commit {owner.head.sequence}"):
        await open_volume(takeover_idle_s=60)


async def test_a_session_that_does_not_exist_is_free(clock: _Clock, open_volume: OpenVolume) -> None:
    volume = await open_volume(takeover_idle_s=60)
    await volume.write_file("/a", "x")
    with pytest.raises(InUse):
        await open_volume(takeover_idle_s=60)


async def test_readers_and_those_who_always_take_over_are_not_refused(open_volume: OpenVolume) -> None:
    owner = await open_volume(takeover_idle_s=60)
    await owner.write_file("/a", "x")
    reader = await open_volume(read_only=True, takeover_idle_s=60)
    assert await reader.read_file("/a") == "x"
    await owner.write_file("/a", "y")
    await open_volume()
    with pytest.raises(Fenced):
        await owner.write_file("/a", "z")


async def test_with_zero_seconds_nobody_is_refused(open_volume: OpenVolume) -> None:
    owner = await open_volume(takeover_idle_s=0)
    await owner.write_file("/a", "x")
    other = await open_volume(takeover_idle_s=0)
    assert other.head.epoch > owner.head.epoch
    with pytest.raises(Fenced):
        await owner.write_file("/a", "y")


async def test_who_loses_the_slot_to_the_owner_leaves_the_session_to_him(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    owner = await open_volume()
    await owner.write_file("/a", "1")
    clock.now_s += 61
    gate = asyncio.Event()
    claim = store.inject(Fault("PUT", gate=gate))
    opening = asyncio.create_task(open_volume(takeover_idle_s=60))
    await claim.reached.wait()
    await owner.write_file("/a", "2")
    gate.set()
    with pytest.raises(InUse):
        await opening
    await owner.write_file("/a", "3")
    assert await (await open_volume(read_only=True)).read_file("/a") == "3"


async def test_a_clock_that_is_behind_the_store_refuses_rather_than_takes(
    clock: _Clock, open_volume: OpenVolume
) -> None:
    owner = await open_volume()
    await owner.write_file("/a", "1")
    clock.ahead_s = -3600
    clock.now_s += 61
    with pytest.raises(InUse):
        await open_volume(takeover_idle_s=60)
