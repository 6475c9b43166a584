"""Opening: what it costs, what it proves, and what it refuses."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest

from sessionfs_s3.errors import Closed, CommitUnknown, Corrupt, Fenced, Refused, Unavailable
from sessionfs_s3.store import UNCONDITIONAL
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore
from sessionfs_s3.volume import Environment
from tests.volume.conftest import KEYS, OpenVolume


async def _filled(open_volume: OpenVolume, commits: int, **options: object) -> None:
    volume = await open_volume(**options)
    assert volume._committer is not None
    for n in range(commits):
        await volume.append_file("/log", f"{n},")
        if n % 10 == 0:
            # Commits take no time here, and on a busy machine a snapshot does.
            await volume._committer._snapshots.finish()
    await volume.aclose()


async def test_opening_costs_one_listing_the_reads_and_one_claim(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 10)
    store.requests.clear()
    await open_volume()
    assert [store.count(verb) for verb in ("LIST", "GET", "PUT")] == [1, 10, 1]


async def test_the_reads_and_the_claim_go_out_together(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 10)
    gate = asyncio.Event()
    gets = store.inject(Fault("GET", gate=gate, times=10))
    put = store.inject(Fault("PUT", gate=gate))
    opening = asyncio.create_task(open_volume())
    await asyncio.wait_for(asyncio.gather(gets.reached.wait(), put.reached.wait()), 1)
    assert store.count("GET") == 20 - 10 or gets.times == 0
    gate.set()
    await opening


async def test_opening_for_reading_writes_nothing(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 3)
    store.requests.clear()
    reader = await open_volume(read_only=True)
    assert store.count("PUT") == 0
    for change in (
        reader.write_file("/a", "x"),
        reader.append_file("/a", "x"),
        reader.mkdir("/a"),
        reader.rm("/log"),
        reader.rename("/log", "/b"),
        reader.sqlite_query("exec", "CREATE TABLE t (x)"),
    ):
        with pytest.raises(OSError, match="reading only") as caught:
            await change
        assert caught.value.errno == errno.EROFS
    assert store.count("PUT") == 0


async def test_a_reader_sees_what_came_later_when_it_refreshes(store: FaultyStore, open_volume: OpenVolume) -> None:
    writer = await open_volume()
    await writer.append_file("/log", "a")
    reader = await open_volume(read_only=True)
    await writer.append_file("/log", "b")
    assert await reader.read_file("/log") == "a"
    store.requests.clear()
    await reader.refresh()
    assert await reader.read_file("/log") == "ab"
    assert [store.count(verb) for verb in ("LIST", "GET", "PUT")] == [1, 1, 0]
    await reader.refresh()
    assert [store.count(verb) for verb in ("LIST", "GET", "PUT")] == [2, 1, 0]


async def test_a_reader_follows_over_a_snapshot(open_volume: OpenVolume) -> None:
    writer = await open_volume(snapshot_commits=4)
    await writer.append_file("/log", "a")
    reader = await open_volume(read_only=True)
    for _ in range(20):
        await writer.append_file("/log", "b")
    await reader.refresh()
    assert await reader.read_file("/log") == "a" + "b" * 20


async def test_a_log_longer_than_a_page_of_the_listing_opens_whole(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 1100, snapshot_commits=10_000)
    store.requests.clear()
    volume = await open_volume()
    assert await volume.read_file("/log") == "".join(f"{n}," for n in range(1100))
    assert store.count("LIST") == 3, "a short page, where a snapshot usually is, a whole one, and the rest"


async def test_snapshots_keep_opening_flat(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 500)
    store.requests.clear()
    volume = await open_volume()
    assert await volume.read_file("/log") == "".join(f"{n}," for n in range(500))
    assert store.count("GET") <= 66
    assert store.count("LIST") == 1


async def test_a_snapshot_that_cannot_be_written_fails_no_commit(store: FaultyStore, open_volume: OpenVolume) -> None:
    store.inject(Fault("PUT", Fate.DENIED, key=".s", times=1000))
    await _filled(open_volume, 200)
    assert 1 <= sum(key.endswith(".s") for verb, key in store.requests if verb == "PUT") <= 6
    assert (await open_volume(read_only=True)).head.sequence == 200


async def test_a_store_that_is_down_never_looks_like_an_empty_session(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    await _filled(open_volume, 3)
    for verb in ("LIST", "GET"):
        store.faults = [Fault(verb, Fate.LOST_REQUEST, times=10_000)]
        with pytest.raises(Unavailable, match="no answer in 1 s"):
            await open_volume(read_only=True)
    store.faults = [Fault("LIST", gate=asyncio.Event(), times=10_000)]
    with pytest.raises(Unavailable):
        await open_volume()
    store.faults = [Fault("LIST", Fate.DENIED)]
    with pytest.raises(Refused, match="403"):
        await open_volume()
    store.faults = [Fault("PUT", Fate.LOST_REQUEST, times=10_000)]
    with pytest.raises(CommitUnknown):
        await open_volume()
    store.faults = []
    assert await (await open_volume()).read_file("/log") == "0,1,2,"


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_damaged_commit_is_reported_never_returned(
    number: int, store: FaultyStore, open_volume: OpenVolume
) -> None:
    await _filled(open_volume, 3)
    key = KEYS.commit(number)
    data = bytearray((await store.inner.get(key)).data)
    data[-1] ^= 1
    await store.inner.put(key, bytes(data), condition=UNCONDITIONAL)
    for read_only in (True, False):
        with pytest.raises(Corrupt, match=key):
            await open_volume(read_only=read_only)


async def test_a_missing_commit_is_reported(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 5)
    await store.inner.delete([KEYS.commit(3)])
    with pytest.raises(Corrupt, match=f"{KEYS.commit(3)}.*missing"):
        await open_volume(read_only=True)


async def test_a_commit_of_another_session_is_reported(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 5)
    other = await open_volume("other")
    for n in range(5):
        await other.append_file("/log", f"{n},")
    foreign = await store.inner.get(KEYS.commit(3).replace("task-7", "other"))
    await store.inner.put(KEYS.commit(3), foreign.data, condition=UNCONDITIONAL)
    with pytest.raises(Corrupt, match="chain"):
        await open_volume(read_only=True)


async def test_swapped_commits_are_reported(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 5)
    third = await store.inner.get(KEYS.commit(3))
    await store.inner.put(KEYS.commit(4), third.data, condition=UNCONDITIONAL)
    with pytest.raises(Corrupt, match="commit 3 stands where commit 4 belongs"):
        await open_volume(read_only=True)


async def test_a_replaced_commit_below_a_claim_is_found_by_the_commit_above(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    """A claim carries no chain; the commit after it binds everything below, the claim included."""
    first = await open_volume()
    await first.append_file("/log", "a")
    alternative = await open_volume("other")
    await alternative.append_file("/log", "b")
    second = await open_volume()
    await second.append_file("/log", "c")
    replacement = await store.inner.get(KEYS.commit(1).replace("task-7", "other"))
    await store.inner.put(KEYS.commit(1), replacement.data, condition=UNCONDITIONAL)
    with pytest.raises(Corrupt, match="chain is broken"):
        await open_volume(read_only=True)


async def test_objects_of_others_in_the_log_are_passed_over(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 3)
    for name in ("", "README", "0000.c", f"{'f' * 16}.c", f"{'0' * 16}.x"):
        await store.inner.put(f"{KEYS.log}{name}" if name else f"{KEYS.log}x", b"", condition=UNCONDITIONAL)
    assert (await open_volume(read_only=True)).head.sequence == 3


async def test_a_claim_that_finds_its_slot_taken_reads_on(store: FaultyStore, open_volume: OpenVolume) -> None:
    first = await open_volume()
    await first.append_file("/log", "a")
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    opening = asyncio.create_task(open_volume())
    await fault.reached.wait()
    await first.append_file("/log", "b")
    gate.set()
    second = await opening
    assert await second.read_file("/log") == "ab"
    assert second.head.epoch == 3
    with pytest.raises(Fenced):
        await first.append_file("/log", "c")


async def test_a_claim_whose_answer_is_lost_is_not_made_twice(store: FaultyStore, open_volume: OpenVolume) -> None:
    await _filled(open_volume, 2)
    store.inject(Fault("PUT", Fate.LOST_ANSWER, times=2))
    volume = await open_volume()
    assert volume.head.sequence == 3
    await volume.append_file("/log", "x")


async def test_a_claim_answered_too_late_is_void(
    store: FaultyStore, open_volume: OpenVolume, environment: Environment
) -> None:
    await _filled(open_volume, 2)
    clock = _Clock()
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    late = replace(environment, uptime_s=clock)
    opening = asyncio.create_task(open_volume(environment=late, claim_answer_s_max=0.5))
    await fault.reached.wait()
    clock.now_s += 0.6
    gate.set()
    volume = await opening
    assert volume.head.sequence == 4, "the void claim stands in slot 3, the one that counts in slot 4"


async def test_a_session_looked_for_long_ago_is_looked_for_again_before_its_first_commit(
    store: FaultyStore, open_volume: OpenVolume, environment: Environment
) -> None:
    clock = _Clock()
    early = await open_volume(environment=replace(environment, uptime_s=clock))
    other = await open_volume()
    await other.append_file("/log", "x")
    # As if everything up to here had been collected: the slot that the early volume is going to take is free again.
    await store.inner.put(KEYS.snapshot(1), b"stands for what collection leaves", condition=UNCONDITIONAL)
    await store.inner.delete([KEYS.commit(1)])
    clock.now_s += 200
    with pytest.raises(Fenced, match="another writer has taken the session over"):
        await early.append_file("/log", "y")


async def test_a_closed_volume_says_so(open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.write_file("/a", "x")
    await volume.aclose()
    await volume.aclose()
    with pytest.raises(Closed):
        await volume.read_file("/a")
    reader = await open_volume(read_only=True)
    await reader.aclose()
    with pytest.raises(Closed):
        await reader.exists("/a")


class _Clock:
    """Seconds since nothing in particular, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
