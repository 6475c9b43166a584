"""When a change is acknowledged and what makes it travel."""

from __future__ import annotations

import asyncio

import pytest

from sessionfs_s3.errors import CommitUnknown
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore
from sessionfs_s3.volume import Durability
from tests.volume.conftest import OpenVolume, eventually


async def test_next_rides_with_the_commit_that_follows(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(linger_s=0.0)
    await volume.mkdir("/d", durability=Durability.NEXT)
    await volume.write_file("/d/f.tmp", "x", durability=Durability.NEXT)
    await asyncio.sleep(0.05)
    assert store.count("PUT") == 0
    await volume.rename("/d/f.tmp", "/d/f")
    assert store.count("PUT") == 1
    assert await (await open_volume(read_only=True)).read_file("/d/f") == "x"


async def test_soon_is_committed_without_anybody_waiting(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(linger_s=0.01)
    await volume.mkdir("/d", durability=Durability.NEXT)
    await volume.write_file("/d/a", "x", durability=Durability.SOON)
    await volume.write_file("/d/b", "y", durability=Durability.SOON)
    assert store.count("PUT") == 0
    await eventually(lambda: volume.head.sequence == 1)
    assert store.count("PUT") == 1
    assert await (await open_volume(read_only=True)).readdir("/d") == ["a", "b"]


async def test_a_stored_change_waits_for_everything_before_it(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(linger_s=60.0)
    for n in range(10):
        await volume.write_file(f"/{n}", "x", durability=Durability.SOON)
    await volume.append_file("/events.jsonl", "born")
    assert store.count("PUT") == 1
    assert len(await (await open_volume(read_only=True)).readdir("/")) == 11


async def test_close_stores_what_was_accepted(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(linger_s=60.0)
    await volume.mkdir("/d", durability=Durability.NEXT)
    await volume.write_file("/a", "x", durability=Durability.SOON)
    await volume.aclose()
    assert store.count("PUT") == 1
    assert await (await open_volume(read_only=True)).readdir("/") == ["a", "d"]


async def test_a_failure_in_the_background_is_not_silent(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(linger_s=0.0)
    store.inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
    await volume.write_file("/a", "x", durability=Durability.SOON)
    await eventually(lambda: store.count("PUT") >= 2)
    with pytest.raises(CommitUnknown):
        await volume.append_file("/events.jsonl", "born")


async def test_directories_that_exist_from_the_start_cost_nothing(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(directories=("/workspace", "/session-state"))
    assert await volume.readdir("/") == ["session-state", "workspace"]
    await volume.aclose()
    store.requests.clear()
    again = await open_volume(directories=("/workspace", "/session-state"))
    assert await again.readdir("/") == ["session-state", "workspace"]
