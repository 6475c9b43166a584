"""Collection at work: what is left is bounded, whole, and still keeps late writers out."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from sessionfs_s3.errors import Fenced
from sessionfs_s3.format import Kind
from sessionfs_s3.store import IF_ABSENT, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.volume import Environment, Volume
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import KEYS, OpenVolume
from tests.volume.stored import RecordingStore, blobs, needed, numbers, snapshot_after

HOUR_S = 3600
DAY_S = 24 * HOUR_S
NOW_S = 100 * DAY_S
NEVER = 1 << 40


class _Clock:
    """Milliseconds of the store's clock and seconds of uptime, moved by hand."""

    def __init__(self) -> None:
        self.now_s = float(NOW_S)

    def ms(self) -> int:
        return round(self.now_s * 1000)

    def s(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def store(clock: _Clock) -> RecordingStore:
    return RecordingStore(MemoryStore(clock_ms=clock.ms))


@pytest.fixture
def environment(clock: _Clock) -> Environment:
    return _fresh(clock)


def _fresh(clock: _Clock) -> Environment:
    """Return the environment of a process that has read nothing yet."""
    return replace(system_environment(), cache=ContentCache(0), uptime_s=clock.s, wall_ms=clock.ms)


SMALL = {"snapshot_commits": 5, "snapshot_bytes_min": NEVER, "seal_bytes_min": 1, "inline_bytes_max": 1}


def _data(size: int, seed: object = 0) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


async def _round(volume: Volume, store: RecordingStore, clock: _Clock, name: str) -> None:
    """Write, write over and append; then let hours go by after a snapshot."""
    await volume.write_file_bytes("/replaced", _data(200_000, name))
    await volume.write_file_bytes(f"/{name}", _data(100_000, name))
    await volume.append_file("/log", f"{name} " * 5000)
    await snapshot_after(volume, store)
    clock.now_s += 2 * HOUR_S


async def _check(volume: Volume, names: list[str]) -> None:
    assert await volume.read_file("/log") == "".join(f"{name} " * 5000 for name in names)
    assert await volume.read_file_bytes("/replaced") == _data(200_000, names[-1])
    for name in names:
        assert await volume.read_file_bytes(f"/{name}") == _data(100_000, name)


async def _check_complete(store: RecordingStore) -> None:
    """Check that what is needed by an object which may still be read is there."""
    stored = await numbers(store, Kind.SNAPSHOT)
    there = set(await blobs(store))
    commits = await numbers(store, Kind.COMMIT)
    missing = {key: by for key, by in (await needed(store)).items() if key not in there}
    base = stored[-2] if len(stored) > 1 else 0
    assert not {by for by in missing.values() if int(by.split()[1]) >= base}
    assert set(range((stored or [0])[0] + 1, commits[-1] + 1)) <= set(commits)


async def test_what_is_left_after_many_rounds_is_bounded_and_whole(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    names = [f"n{number}" for number in range(8)]
    volume = await open_volume(**SMALL)
    for done, name in enumerate(names, 1):
        await _round(volume, store, clock, name)
        await _check_complete(store)
        for read_only in (True, False) if done % 4 == 0 else (True,):
            other = await open_volume(read_only=read_only, environment=_fresh(clock), **SMALL)
            await _check(other, names[:done])
            if not read_only:
                volume = other
    assert len(await numbers(store, Kind.SNAPSHOT)) <= 3
    assert len(await numbers(store, Kind.COMMIT)) <= 40
    sizes = sum([len((await store.inner.get(key)).data) for key in await blobs(store)])
    assert sizes <= 8 * 100_000 + 3 * 200_000 + 8 * 5000 * 3 + 200_000, "of what was replaced some is left, not all"


async def test_claims_outlive_everything_else(store: RecordingStore, clock: _Clock, open_volume: OpenVolume) -> None:
    for number in range(4):
        volume = await open_volume(**SMALL)
        await _round(volume, store, clock, f"n{number}")
        await volume.aclose()
    volume = await open_volume(**SMALL)
    fences = [1, *[number for number in await numbers(store, Kind.COMMIT) if number < 20]]
    await _round(volume, store, clock, "last")
    await _round(volume, store, clock, "really")
    first = (await numbers(store, Kind.SNAPSHOT))[0]
    left = [number for number in await numbers(store, Kind.COMMIT) if number <= first]
    assert left[0] == 1
    assert len(left) >= 4, "each opening was a claim"
    assert fences
    clock.now_s += 8 * DAY_S
    await _round(volume, store, clock, "later")
    await _round(volume, store, clock, "and later")
    await _round(volume, store, clock, "still")
    assert not set(left) & set(await numbers(store, Kind.COMMIT))


async def test_a_stalled_owner_meets_the_fence_though_its_slot_was_collected_around(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    stalled = await open_volume(**SMALL)
    await stalled.write_file("/a", "stalled")
    other = await open_volume(environment=_fresh(clock), **SMALL)
    for number in range(4):
        await _round(other, store, clock, f"n{number}")
    left = await numbers(store, Kind.COMMIT)
    assert 2 in left
    assert 3 not in left
    with pytest.raises(Fenced, match="taken over by writer"):
        await stalled.write_file("/a", "late")
    await _check(await open_volume(read_only=True, environment=_fresh(clock)), [f"n{number}" for number in range(4)])


async def test_an_owner_out_of_contact_for_days_looks_before_it_commits(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    owner = await open_volume(**SMALL, idle_s=None)
    await owner.write_file("/a", "1")
    store.forget()
    clock.now_s += 3.4 * DAY_S
    await owner.write_file("/a", "2")
    assert [verb for verb, _ in store.requests] == ["PUT"]
    store.forget()
    clock.now_s += 3.6 * DAY_S
    await owner.write_file("/a", "3")
    assert [verb for verb, _ in store.requests] == ["LIST", "PUT"]
    other = await open_volume(environment=_fresh(clock), **SMALL)
    await other.write_file("/a", "other")
    clock.now_s += 20 * DAY_S
    store.forget()
    with pytest.raises(Fenced):
        await owner.write_file("/a", "late")
    assert store.count("PUT") == 0
    assert await other.read_file("/a") == "other"


async def test_readers_with_an_old_tree_read_on(store: RecordingStore, clock: _Clock, open_volume: OpenVolume) -> None:
    volume = await open_volume(**SMALL)
    await _round(volume, store, clock, "n0")
    reader = await open_volume(read_only=True, environment=_fresh(clock))
    assert (await reader.stat("/replaced")).size == 200_000
    for number in range(1, 5):
        await _round(volume, store, clock, f"n{number}")
    await volume.rm("/n0")
    await _round(volume, store, clock, "n5")
    assert await reader.read_file_bytes("/replaced") == _data(200_000, "n5")
    assert reader.head == volume.head
    with pytest.raises(FileNotFoundError):
        await reader.read_file("/n0")
    await reader.refresh()
    assert await reader.read_file_bytes("/n5") == _data(100_000, "n5")


async def test_nothing_goes_when_somebody_else_has_claimed(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    volume = await open_volume(**SMALL)
    for number in range(3):
        await _round(volume, store, clock, f"n{number}")
    clock.now_s += HOUR_S
    gate = asyncio.Event()
    listing = store.inject(Fault("LIST", key="/blob/", gate=gate))
    deletes = store.count("DELETE")
    growing = asyncio.create_task(_round(volume, store, clock, "n3"))
    await listing.reached.wait()
    other = await open_volume(environment=_fresh(clock), **SMALL)
    gate.set()
    with pytest.raises(Fenced):
        await volume.append_file("/log", "late")
    await asyncio.gather(growing, return_exceptions=True)
    await volume.aclose()
    assert store.count("DELETE") == deletes
    await _check_complete(store)
    await _check(other, [f"n{number}" for number in range(4)])


@pytest.mark.parametrize("fate", [Fate.DENIED, Fate.LOST_REQUEST])
async def test_a_delete_that_fails_fails_no_commit_and_is_tried_again_later(
    fate: Fate, store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    volume = await open_volume(**SMALL)
    for number in range(3):
        await _round(volume, store, clock, f"n{number}")
    store.inject(Fault("DELETE", fate, times=10_000))
    before = set(await numbers(store, Kind.COMMIT))
    deletes = store.count("DELETE")
    await volume.write_file("/other", "x")
    await snapshot_after(volume, store)
    assert store.count("DELETE") > deletes
    assert before <= set(await numbers(store, Kind.COMMIT))
    deletes = store.count("DELETE")
    await snapshot_after(volume, store)
    assert store.count("DELETE") == deletes, "not again at once"
    store.faults.clear()
    clock.now_s += 2 * HOUR_S
    await _round(volume, store, clock, "n3")
    assert not before <= set(await numbers(store, Kind.COMMIT))
    await _check(volume, [f"n{number}" for number in range(4)])
    await _check_complete(store)


async def test_a_delete_whose_answer_was_lost_is_no_failure(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    volume = await open_volume(**SMALL)
    store.inject(Fault("DELETE", Fate.LOST_ANSWER, times=2))
    for number in range(5):
        await _round(volume, store, clock, f"n{number}")
    assert store.count("DELETE") > 2
    await _check(await open_volume(environment=_fresh(clock)), [f"n{number}" for number in range(5)])


async def test_a_listing_that_fails_removes_nothing(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    volume = await open_volume(**SMALL)
    store.inject(Fault("LIST", Fate.DENIED, key="/blob/", times=10_000))
    for number in range(4):
        await _round(volume, store, clock, f"n{number}")
    assert store.count("DELETE") == 0
    assert volume.failure is None


async def test_what_a_crashed_owner_uploaded_goes_with_time(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    volume = await open_volume(**SMALL)
    await _round(volume, store, clock, "n0")
    referred = set(await blobs(store))
    store.inject(Fault("PUT", Fate.DENIED, key=".c"))
    with pytest.raises(OSError, match="refuses"):
        await volume.write_file_bytes("/never", _data(300_000))
    orphans = set(await blobs(store)) - referred
    assert orphans
    volume = await open_volume(environment=_fresh(clock), **SMALL)
    await _round(volume, store, clock, "n1")
    assert orphans <= set(await blobs(store)), "not before they are old"
    await _round(volume, store, clock, "n2")
    assert not orphans & set(await blobs(store))
    await _check(volume, ["n0", "n1", "n2"])


async def test_a_damaged_snapshot_is_not_one_of_the_two_that_are_kept(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    """Whoever had to pass over the newest knows that it holds nothing: what was read instead is still needed."""
    volume = await open_volume(**SMALL)
    names = [f"n{number}" for number in range(3)]
    for name in names:
        await _round(volume, store, clock, name)
    await volume.aclose()
    damaged = (await numbers(store, Kind.SNAPSHOT))[-1]
    await _damage(store, damaged)
    clock.now_s += 2 * HOUR_S
    volume = await open_volume(environment=_fresh(clock), **SMALL)
    await volume.append_file("/other", "x")
    await volume.aclose()
    newest = (await numbers(store, Kind.SNAPSHOT))[-1]
    assert newest > damaged
    await _check(await open_volume(read_only=True, environment=_fresh(clock)), names)
    await _damage(store, newest)
    await _check(await open_volume(read_only=True, environment=_fresh(clock)), names)


async def _damage(store: RecordingStore, number: int) -> None:
    key = KEYS.snapshot(number)
    data = bytearray((await store.inner.get(key)).data)
    data[-1] ^= 1
    await store.inner.delete([key])
    await store.inner.put(key, bytes(data), condition=IF_ABSENT)


async def test_a_chunk_written_over_during_two_snapshots_keeps_its_origin(
    store: RecordingStore, clock: _Clock, open_volume: OpenVolume
) -> None:
    """Each snapshot reads the chunk while the session writes over it once more, before it is here.

    The first snapshot holds nothing of the chunk's origin any more, so that it counts as dead; what the session goes
    on with still is a change to it.
    """
    volume = await open_volume(**SMALL)
    text = _data(20_000, "log").hex()
    await volume.write_file("/log", text)
    for _ in range(3):
        await snapshot_after(volume, store)
    await volume.aclose()
    volume = await open_volume(environment=_fresh(clock), **SMALL)
    for round_ in range(3):
        gate = asyncio.Event()
        await volume.append_file("/log", f"a{round_}")
        reading = store.inject(Fault("GET", key="/blob/", gate=gate, times=100))
        snapshot = asyncio.create_task(_until(volume, reading))
        await snapshot
        await volume.append_file("/log", f"b{round_}")
        text += f"a{round_}b{round_}"
        gate.set()
        store.faults.clear()
        assert volume._committer is not None  # nothing else tells when a snapshot is done
        await volume._committer._snapshots.finish()
        clock.now_s += 2 * HOUR_S
    assert await volume.read_file("/log") == text
    for _ in range(3):
        await snapshot_after(volume, store)
        clock.now_s += 2 * HOUR_S
    assert await volume.read_file("/log") == text
    assert await (await open_volume(read_only=True, environment=_fresh(clock))).read_file("/log") == text


async def _until(volume: Volume, reading: Fault) -> None:
    """Commit until a snapshot has begun to read."""
    for _ in range(100):
        if reading.reached.is_set():
            return
        await volume.append_file("/counter", "x")
        for _ in range(20):
            await asyncio.sleep(0)
    raise AssertionError("no snapshot reads anything")
