"""Snapshots: what they hold, and that they hold nothing that was not committed."""

from __future__ import annotations

import asyncio
import itertools
import random

from sessionfs_s3.errors import Fenced
from sessionfs_s3.format import decode_snapshot
from sessionfs_s3.testing.faults import Fault, FaultyStore
from tests.volume.conftest import KEYS, OpenVolume


async def _snapshots(store: FaultyStore) -> list[int]:
    page = await store.inner.list(KEYS.log)
    numbers = [0xFFFF_FFFF_FFFF_FFFF - int(e.key[-18:-2], 16) for e in page.entries if e.key.endswith(".s")]
    return sorted(numbers)


async def test_one_is_written_after_so_many_commits(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_commits=10)
    for n in range(35):
        await volume.append_file("/log", f"{n},")
    await volume.aclose()
    numbers = [0, *await _snapshots(store)]
    assert len(numbers) >= 3, "how many there are depends on how long one takes to write"
    assert all(later - earlier > 10 for earlier, later in itertools.pairwise(numbers))


async def test_one_is_written_after_so_many_bytes(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_bytes_min=10_000)
    for n in range(8):
        await volume.write_file_bytes(f"/{n}", random.Random(n).randbytes(4000))
    await volume.aclose()
    assert await _snapshots(store)
    assert (await open_volume(read_only=True)).head.sequence == 8


async def test_a_snapshot_holds_the_state_after_its_commit_and_nothing_later(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(snapshot_commits=4)
    gate = asyncio.Event()
    put = store.inject(Fault("PUT", key=".s", gate=gate))
    for n in range(5):
        await volume.append_file("/log", f"{n},")
    await put.reached.wait()
    blocked = store.inject(Fault("PUT", key=".c", gate=asyncio.Event()))
    late = asyncio.create_task(volume.append_file("/log", "uncommitted"))
    await blocked.reached.wait()
    gate.set()
    await put.ended.wait()
    numbers = await _snapshots(store)
    key = KEYS.snapshot(numbers[0])
    snapshot = decode_snapshot(key, (await store.inner.get(key)).data, sequence=5)
    file = snapshot.tree.root.entries["log"]
    assert file.content.to_bytes() == b"0,1,2,3,4,"  # type: ignore[union-attr]  # the test knows it is a file
    late.cancel()
    assert blocked.gate is not None
    blocked.gate.set()


async def test_a_snapshot_by_a_fenced_writer_is_still_the_truth(store: FaultyStore, open_volume: OpenVolume) -> None:
    first = await open_volume(snapshot_commits=4)
    gate = asyncio.Event()
    put = store.inject(Fault("PUT", key=".s", gate=gate))
    for n in range(5):
        await first.append_file("/log", f"{n},")
    await put.reached.wait()
    second = await open_volume()
    await second.append_file("/log", "second,")
    gate.set()
    try:
        await first.append_file("/log", "late,")
        raise AssertionError("the first writer is not fenced")
    except Fenced:
        pass
    await first.aclose()
    assert await _snapshots(store) == [5]
    assert await (await open_volume(read_only=True)).read_file("/log") == "0,1,2,3,4,second,"


async def test_the_database_is_part_of_a_snapshot(open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_commits=2)
    await volume.sqlite_query("exec", "CREATE TABLE t (x)")
    for n in range(6):
        await volume.sqlite_query("run", "INSERT INTO t VALUES (:n)", {"n": n})
    await volume.aclose()
    reader = await open_volume(read_only=True)
    result = await reader.sqlite_query("query", "SELECT sum(x) AS s FROM t")
    assert result is not None
    assert result.rows[0]["s"] == 15
