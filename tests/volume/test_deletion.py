"""Deleting a session: what it costs, what is left, and who finds out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest

from sessionfs_s3.errors import CommitUnknown, Fenced, Refused, Unavailable
from sessionfs_s3.format import TOMBSTONE_BYTES, Kind
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.deletion import Deleted, sweep
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import KEYS
from tests.volume.deleted import DAY_S, HOUR_S, SECRET, Clock, Place
from tests.volume.stored import RecordingStore, blobs, entries, numbers, snapshot_after

NOTHING = Deleted(existed=False)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    clock = Clock()
    environment = replace(clock.of(system_environment()), cache=ContentCache())
    place = Place(RecordingStore(MemoryStore(clock_ms=clock.store_ms)), environment, clock)
    yield place
    await place.aclose()


async def test_what_was_there_is_gone_and_nothing_of_it_stays(place: Place) -> None:
    owner = await place.fill()
    before = await place.sizes()
    assert await blobs(place.store)
    assert await numbers(place.store, Kind.SNAPSHOT)
    deleted = await place.delete()
    assert deleted == Deleted(True, len(before), sum(before.values()))
    assert await place.show() == "empty"
    left = await place.sizes()
    head = owner.head.sequence
    assert left == {f"c{head + 1}": TOMBSTONE_BYTES, **{name: 0 for name in before if name[0] == "c"}}
    stored = [(await place.store.inner.get(entry.key)).data for entry in await entries(place.store.inner, "")]
    assert not any(SECRET.encode() in data for data in stored)


async def test_a_session_that_does_not_exist_costs_two_listings(place: Place) -> None:
    assert await place.delete() == NOTHING
    assert [verb for verb, _ in place.store.requests] == ["LIST", "LIST"]
    assert await place.sizes() == {}


async def test_deleting_again_writes_nothing(place: Place) -> None:
    await place.fill()
    await place.delete()
    place.store.forget()
    assert await place.delete() == NOTHING
    assert [verb for verb, _ in place.store.requests] == ["LIST", "GET", "LIST", "LIST"]


async def test_an_old_session_costs_one_put_some_listings_and_one_delete(place: Place) -> None:
    owner = await place.fill()
    place.clock.now_s += 8 * DAY_S
    place.store.forget()
    await place.delete()
    # The tombstone, and the slot below it; what else there was goes with one request, and is looked for once more.
    verbs = [verb for verb, _ in place.store.requests]
    assert {verb: verbs.count(verb) for verb in verbs} == {"LIST": 5, "PUT": 2, "DELETE": 1}
    head = owner.head.sequence
    assert await place.sizes() == {f"c{head + 1}": TOMBSTONE_BYTES, f"c{head}": 0}


async def test_the_owner_is_told_that_it_was_deleted(place: Place) -> None:
    owner = await place.fill()
    await place.delete()
    with pytest.raises(Fenced, match=r"deleted at .*; nothing of this writer is stored any more"):
        await owner.write_file("/a", "x")
    with pytest.raises(Fenced):
        await owner.read_file("/secret")


async def test_it_does_not_matter_who_uses_it(place: Place) -> None:
    await place.fill()
    assert (await place.delete(takeover_idle_s=1000.0)).existed
    # Nor is what was deleted in use: the id is free at once.
    again = await place.open(takeover_idle_s=1000.0)
    assert await again.readdir("/") == []


async def test_the_id_can_be_used_again_at_once(place: Place) -> None:
    old = await place.fill()
    await place.delete()
    place.store.forget()
    new = await place.open()
    assert [verb for verb, _ in place.store.requests].count("LIST") == 1
    assert len(place.store.requests) == 3, "a listing, the claim, and a look at the tombstone"
    assert new.head.sequence == old.head.sequence + 2
    await new.write_file("/a", "new")
    reader = await place.open(read_only=True)
    assert await reader.readdir("/") == ["a"]
    assert not await reader.sqlite_exists()
    await new.sqlite_query("exec", "CREATE TABLE other (x)")
    await reader.refresh()
    assert await reader.sqlite_exists()
    assert (await place.delete()).existed
    assert await place.show() == "empty"
    with pytest.raises(Fenced):
        await new.write_file("/a", "newer")


async def test_a_reader_that_follows_sees_the_deletion_and_what_comes_after(place: Place) -> None:
    await place.fill()
    reader = await place.open(read_only=True)
    await place.delete()
    assert "secret" in await reader.readdir("/"), "until it looks"
    await reader.refresh()
    assert await reader.readdir("/") == []
    new = await place.open()
    await new.write_file("/a", "1")
    await reader.refresh()
    assert await reader.readdir("/") == ["a"]


async def test_a_reader_whose_contents_are_gone_finds_the_file_missing(place: Place) -> None:
    await place.fill()
    place.environment = replace(place.environment, cache=ContentCache())
    reader = await place.open(read_only=True)
    await place.delete()
    with pytest.raises(FileNotFoundError):
        await reader.read_file("/secret")


async def test_more_objects_than_a_page_lists_are_removed_some_at_a_time(place: Place) -> None:
    for number in range(2500):
        key = f"{KEYS.blobs}{1:016x}-{number:032x}"
        await place.store.inner.put(key, b"some", condition=UNCONDITIONAL)
    owner = await place.open(snapshot_commits=1000)
    for _ in range(70):
        await owner.append_file("/log", "x")
    place.store.forget()
    before = await place.sizes()
    assert await place.delete() == Deleted(True, 2570, sum(before.values()))
    assert place.store.count("DELETE") == 3
    assert 1 < place.store.at_once_max["PUT"] <= 32


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (Fate.DENIED, Refused),
        (Fate.LOST_REQUEST, CommitUnknown),
        (Fate.LOST_ANSWER, None),
        (Fate.CONFLICT, Unavailable),
    ],
)
async def test_an_error_before_the_deletion_means_what_it_says(
    place: Place, fate: Fate, error: type[OSError] | None
) -> None:
    await place.fill()
    before = await place.sizes()
    place.store.inject(Fault("PUT", fate, times=10_000, key=".c"))
    if error is None:
        # The answer is lost every time, and the slot shows who has it.
        assert (await place.delete()).unfinished is not None
    else:
        with pytest.raises(error):
            await place.delete()
        assert await place.sizes() == before
    place.store.faults.clear()
    assert await place.show() == ("empty" if error is None else "whole")
    assert (await place.delete()).unfinished is None
    assert await place.show() == "empty"


@pytest.mark.parametrize("verb", ["DELETE", "PUT", "LIST"])
@pytest.mark.parametrize("fate", [Fate.DENIED, Fate.LOST_REQUEST])
async def test_an_error_after_it_says_that_something_is_left(place: Place, verb: str, fate: Fate) -> None:
    await place.fill()
    gate = asyncio.Event()
    tombstone = place.store.inject(Fault("PUT", gate=gate))
    deleting = asyncio.create_task(place.delete())
    await tombstone.reached.wait()
    place.store.inject(Fault(verb, fate, times=10_000))  # type: ignore[arg-type]
    gate.set()
    deleted = await deleting
    assert deleted.existed
    assert isinstance(deleted.unfinished, Refused if fate is Fate.DENIED else Unavailable)
    place.store.faults.clear()
    assert await place.show() == "empty"
    rest = await place.delete()
    assert rest.existed
    assert rest.unfinished is None
    assert rest.bytes_freed
    assert await place.delete() == NOTHING


@pytest.mark.parametrize("damage", ["commit", "gap", "snapshots", "head", "claim", "all commits", "rubbish"])
async def test_a_session_that_cannot_be_read_is_deleted_like_any_other(place: Place, damage: str) -> None:
    owner = await place.fill()
    head = owner.head.sequence
    snapshots = [KEYS.snapshot(number) for number in await numbers(place.store, Kind.SNAPSHOT)]
    commits = [KEYS.commit(number) for number in await numbers(place.store, Kind.COMMIT)]
    inner = place.store.inner
    broken = {
        "commit": [KEYS.commit(head)],
        "snapshots": snapshots,
        "claim": [KEYS.commit(1)],
        "rubbish": [*snapshots, *commits],
    }
    for key in broken.get(damage, ()):
        await inner.put(key, b"rubbish" * 30, condition=UNCONDITIONAL)
    missing = {"gap": [KEYS.commit(head - 1), *snapshots], "head": [KEYS.commit(head)], "all commits": commits}
    await inner.delete(missing.get(damage, []))
    deleted = await place.delete()
    assert deleted.existed
    assert deleted.unfinished is None
    assert set((await place.sizes()).values()) <= {0, TOMBSTONE_BYTES}
    assert await place.show() == "empty"
    new = await place.open()
    await new.write_file("/a", "new")
    assert await (await place.open(read_only=True)).read_file("/a") == "new"


async def test_a_tombstone_that_is_damaged_is_followed_by_another(place: Place) -> None:
    owner = await place.fill()
    await place.delete()
    key = KEYS.commit(owner.head.sequence + 1)
    await place.store.inner.put(key, b"\0" * TOMBSTONE_BYTES, condition=UNCONDITIONAL)
    assert (await place.delete()).existed
    assert await place.show() == "empty"


async def test_two_at_once_delete_it_once(place: Place) -> None:
    owner = await place.fill()
    one, other = await asyncio.gather(place.delete(), place.delete())
    assert one.existed or other.existed
    left = await place.sizes()
    tombstones = [name for name, size in left.items() if size == TOMBSTONE_BYTES]
    assert tombstones == [f"c{owner.head.sequence + 1}"]
    assert sum(left.values()) == TOMBSTONE_BYTES


@pytest.mark.parametrize("seed", range(20))
async def test_of_deleters_and_claimants_at_once_the_last_in_the_log_has_it(place: Place, seed: int) -> None:
    """Whatever the order: who is open after the last tombstone has the session, and what came before is gone."""
    rng = random.Random(seed)
    head = (await place.fill()).head.sequence

    async def later(open_it: bool) -> None:
        for _ in range(rng.randint(0, 30)):
            await asyncio.sleep(0)
        if not open_it:
            await place.delete()
            return
        volume = await place.open()
        with suppress(Fenced):
            await volume.write_file("/mine", volume.writer.hex())

    await asyncio.gather(*(later(rng.random() < 0.5) for _ in range(5)), place.delete())
    reader = await place.open(read_only=True)
    assert "secret" not in await reader.readdir("/")
    old = [size for name, size in (await place.sizes()).items() if name[1:] in {f"{n}" for n in range(head + 1)}]
    assert sum(old) == 0


async def test_what_deletion_left_is_collected_like_anything_else(place: Place) -> None:
    await place.fill()
    await place.delete()
    tombstone = max(await numbers(place.store, Kind.COMMIT))
    new = await place.open(collect_interval_s=0.0)
    await new.write_file("/mine", SECRET * 6000)
    for age_s in (2 * HOUR_S, 2 * HOUR_S, 5 * HOUR_S):
        assert await numbers(place.store, Kind.COMMIT, place.keys)
        await snapshot_after(new, place.store)
        assert min(await numbers(place.store, Kind.COMMIT)) == 1, "any of them may have been a claim"
        place.clock.now_s += age_s
    place.clock.now_s += 7 * DAY_S
    for _ in range(3):
        await snapshot_after(new, place.store)
        place.clock.now_s += 2 * HOUR_S
    await snapshot_after(new, place.store)
    assert min(await numbers(place.store, Kind.COMMIT)) > tombstone
    reader = await place.open(read_only=True)
    assert await reader.read_file("/mine") == SECRET * 6000


async def test_a_week_later_only_the_tombstone_is_left(place: Place) -> None:
    owner = await place.fill()
    assert await sweep(place.session()) == NOTHING, "it is not deleted"
    await place.delete()
    left = await place.sizes()
    for age_s in (0.0, 2 * HOUR_S, 6 * DAY_S):
        place.clock.now_s += age_s
        place.store.forget()
        assert await sweep(place.session()) == NOTHING
        assert [verb for verb, _ in place.store.requests] == ["LIST"]
        assert await place.sizes() == left
    place.clock.now_s += DAY_S
    place.store.forget()
    assert await sweep(place.session()) == Deleted(True, len(left) - 1, 0)
    assert len(place.store.requests) == 7
    assert await place.sizes() == {f"c{owner.head.sequence + 1}": TOMBSTONE_BYTES}
    place.store.forget()
    assert await sweep(place.session()) == NOTHING
    assert [verb for verb, _ in place.store.requests] == ["LIST"] * 3
    assert await place.show() == "empty"
    new = await place.open()
    await new.write_file("/a", "x")
    assert await sweep(place.session()) == NOTHING


async def test_a_clock_that_is_ahead_asks_in_vain(place: Place) -> None:
    await place.fill()
    await place.delete()
    left = await place.sizes()
    place.clock.ahead_s = 30 * DAY_S
    assert await sweep(place.session()) == NOTHING
    assert await place.sizes() == left
