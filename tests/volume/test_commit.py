"""What each answer to a commit's PUT means: the outcome table of the design, row by row."""

from __future__ import annotations

import asyncio
import errno

import pytest

from sessionfs_s3.errors import CommitUnknown, Corrupt, Fenced, Refused, Unavailable
from sessionfs_s3.store import UNCONDITIONAL
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore
from sessionfs_s3.volume import Durability
from tests.volume.conftest import KEYS, OpenVolume


async def test_an_acknowledged_write_is_stored(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.write_file("/a.txt", "hello")
    reader = await open_volume(read_only=True)
    assert await reader.read_file("/a.txt") == "hello"
    assert [verb for verb, _ in store.requests] == ["LIST", "PUT", "LIST", "GET"]


async def test_a_write_is_not_acknowledged_before_its_put(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    write = asyncio.create_task(volume.write_file("/a.txt", "hello"))
    await fault.reached.wait()
    assert not write.done()
    assert await volume.read_file("/a.txt") == "hello", "a session reads its own writes at once"
    gate.set()
    await write


async def test_what_queues_behind_a_put_travels_together_and_in_order(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    writes = [asyncio.create_task(volume.append_file("/log", "0,"))]
    await fault.reached.wait()
    writes += [asyncio.create_task(volume.append_file("/log", f"{n},")) for n in range(1, 50)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*writes)
    assert store.count("PUT") == 2
    reader = await open_volume(read_only=True)
    assert await reader.read_file("/log") == "".join(f"{n}," for n in range(50))


@pytest.mark.parametrize("fate", [Fate.LOST_ANSWER, Fate.LOST_REQUEST, Fate.CONFLICT])
async def test_a_try_that_gave_no_answer_is_made_again_and_counts_once(
    fate: Fate, store: FaultyStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    await volume.append_file("/log", "a")
    store.inject(Fault("PUT", fate, times=3))
    await volume.append_file("/log", "b")
    await volume.append_file("/log", "c")
    reader = await open_volume(read_only=True)
    assert await reader.read_file("/log") == "abc"
    assert reader.head.sequence == 3


async def test_an_own_write_behind_a_412_is_recognised_though_reading_the_slot_fails_too(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    await volume.append_file("/log", "a")
    store.inject(Fault("PUT", Fate.LOST_ANSWER))
    store.inject(Fault("GET", Fate.LOST_REQUEST, times=4))
    await volume.append_file("/log", "b")
    assert (await open_volume(read_only=True)).head.sequence == 2


async def test_the_second_opener_fences_the_first(open_volume: OpenVolume) -> None:
    first = await open_volume()
    await first.write_file("/a.txt", "first")
    second = await open_volume()
    with pytest.raises(Fenced, match=r"taken over by writer [0-9a-f]{32} in epoch 2 at 20") as caught:
        await first.write_file("/a.txt", "late")
    assert caught.value.errno == errno.ESTALE
    assert await second.read_file("/a.txt") == "first"
    assert await (await open_volume(read_only=True)).read_file("/a.txt") == "first"


async def test_a_fenced_volume_serves_nothing_more(open_volume: OpenVolume) -> None:
    first = await open_volume()
    await first.write_file("/a.txt", "first")
    await open_volume()
    with pytest.raises(Fenced):
        await first.append_file("/a.txt", "late")
    for call in (
        first.read_file("/a.txt"),
        first.exists("/a.txt"),
        first.stat("/"),
        first.readdir("/"),
        first.mkdir("/x", recursive=True),
        first.sqlite_query("query", "SELECT 1"),
        first.sqlite_exists(),
        first.flush(),
        first.still_owned(),
    ):
        with pytest.raises(Fenced):
            await call


async def test_everything_that_waits_behind_a_fence_fails_and_is_not_stored(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    first = await open_volume()
    await first.write_file("/a.txt", "first")
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    writes = [asyncio.create_task(first.append_file("/a.txt", "late"))]
    await fault.reached.wait()
    writes += [asyncio.create_task(first.append_file("/a.txt", "later")) for _ in range(5)]
    await open_volume()
    gate.set()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(outcome, Fenced) for outcome in outcomes)
    assert await (await open_volume(read_only=True)).read_file("/a.txt") == "first"


async def test_no_answer_until_the_deadline_is_unknown_and_final(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.write_file("/a.txt", "stored")
    store.inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
    with pytest.raises(CommitUnknown, match=r"no answer in 1 s and \d+ tries"):
        await volume.write_file("/a.txt", "unknown")
    store.faults.clear()
    with pytest.raises(CommitUnknown):
        await volume.read_file("/a.txt")
    with pytest.raises(CommitUnknown):
        await volume.write_file("/a.txt", "again")
    assert await (await open_volume()).read_file("/a.txt") == "stored"


async def test_a_put_that_hangs_is_unknown_at_the_deadline(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    store.inject(Fault("PUT", gate=asyncio.Event()))
    with pytest.raises(CommitUnknown, match="none at all"):
        await volume.write_file("/a.txt", "x")


async def test_conflicts_until_the_deadline_stored_nothing(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    store.inject(Fault("PUT", Fate.CONFLICT, times=10_000))
    with pytest.raises(Unavailable, match="409"):
        await volume.write_file("/a.txt", "x")
    store.faults.clear()
    assert (await open_volume(read_only=True)).head.sequence == 0
    assert not await volume.exists("/a.txt")
    await volume.write_file("/a.txt", "y")
    assert await (await open_volume(read_only=True)).read_file("/a.txt") == "y"


async def test_a_refusal_is_final_at_once(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    store.inject(Fault("PUT", Fate.DENIED))
    with pytest.raises(Refused, match="403"):
        await volume.write_file("/a.txt", "x")
    assert store.count("PUT") == 1


async def test_a_refusal_after_a_lost_answer_is_unknown(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    store.inject(Fault("PUT", Fate.LOST_ANSWER))
    store.inject(Fault("PUT", Fate.DENIED))
    with pytest.raises(CommitUnknown):
        await volume.write_file("/a.txt", "x")
    assert await (await open_volume(read_only=True)).read_file("/a.txt") == "x"


async def test_rubbish_in_the_next_slot_is_corrupt_not_a_success(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.write_file("/a.txt", "x")
    await store.inner.put(KEYS.commit(2), b"rubbish", condition=UNCONDITIONAL)
    with pytest.raises(Corrupt, match="shorter than the 64 bytes"):
        await volume.write_file("/a.txt", "y")


async def test_two_creators_of_one_session_end_with_one(open_volume: OpenVolume) -> None:
    one, two = await open_volume(), await open_volume()
    outcomes = await asyncio.gather(
        one.write_file("/a.txt", "one"), two.write_file("/a.txt", "two"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Fenced]
    winner = "one" if outcomes[0] is None else "two"
    assert await (await open_volume(read_only=True)).read_file("/a.txt") == winner


async def test_a_caller_who_gives_up_takes_nothing_with_him(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    first = asyncio.create_task(volume.append_file("/log", "a"))
    await fault.reached.wait()
    second = asyncio.create_task(volume.append_file("/log", "b"))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    await second
    assert first.cancelled()
    assert await (await open_volume(read_only=True)).read_file("/log") == "ab"


async def test_batches_are_bounded_in_bytes_and_a_larger_operation_travels_alone(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(commit_bytes_max=1200, queue_bytes_max=100_000)
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    writes = [asyncio.create_task(volume.append_file("/log", "x"))]
    await fault.reached.wait()
    writes += [asyncio.create_task(volume.append_file("/log", "y" * 400)) for _ in range(5)]
    writes += [asyncio.create_task(volume.append_file("/log", "z" * 5000))]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*writes)
    assert store.count("PUT") == 1 + 3 + 1
    assert (await (await open_volume(read_only=True)).stat("/log")).size == 1 + 5 * 400 + 5000


async def test_writers_wait_while_too_much_is_queued(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(queue_bytes_max=1000, commit_bytes_max=500)
    gate = asyncio.Event()
    store.inject(Fault("PUT", gate=gate))
    writes = [asyncio.create_task(volume.append_file("/log", "x" * 400)) for _ in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await volume.stat("/log")).size < 20 * 400, "some writers have not been let in"
    gate.set()
    await asyncio.gather(*writes)
    assert (await volume.stat("/log")).size == 20 * 400


async def test_what_rides_along_cannot_fill_the_queue_for_ever(open_volume: OpenVolume) -> None:
    volume = await open_volume(queue_bytes_max=1000)
    for n in range(20):
        await volume.write_file(f"/{n}.tmp", "x" * 400, durability=Durability.NEXT)
    assert len(await volume.readdir("/")) == 20


async def test_a_change_of_nothing_costs_nothing_but_waits_for_what_it_saw(
    store: FaultyStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    await volume.write_file("/a.txt", "x")
    await volume.write_file("/a.txt", "x")
    await volume.mkdir("/", recursive=True)
    await volume.append_file("/a.txt", "")
    assert store.count("PUT") == 1
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    first = asyncio.create_task(volume.write_file("/a.txt", "y"))
    await fault.reached.wait()
    second = asyncio.create_task(volume.write_file("/a.txt", "y"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done(), "acknowledged before what it relies on is stored"
    gate.set()
    await asyncio.gather(first, second)
    assert store.count("PUT") == 2
