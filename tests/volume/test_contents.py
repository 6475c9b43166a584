"""Reading contents: what the cache keeps and for whom, what a read asks of the store, and what it takes in memory."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.fs import CHUNK_BYTES
from sessionfs_s3.store import MemoryStore
from sessionfs_s3.testing.faults import FaultyStore
from sessionfs_s3.volume import Environment, Volume, VolumeOptions
from sessionfs_s3.volume.cache import CacheKey, ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import KEYS, QUICK, OpenVolume
from tests.volume.stored import RecordingStore, copy

KIB = 1024
MIB = 1024 * KIB

_names = itertools.count()


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore(f"contents-{next(_names)}"))


@pytest.fixture
def environment() -> Environment:
    return _fresh()


def _fresh(budget_bytes: int = 128 * MIB) -> Environment:
    """Return the environment of a process that has read nothing yet."""
    return replace(system_environment(), cache=ContentCache(budget_bytes))


def _data(size: int) -> bytes:
    """Return bytes that do not compress, the same for the same size."""
    return random.Random(size).randbytes(size)


def _key(number: int, session: str = "s") -> CacheKey:
    return CacheKey(session, b"blob", number)


def test_the_cache_keeps_no_more_than_its_budget_and_the_latest_used_last() -> None:
    cache = ContentCache(10_000)
    for number in range(100):
        cache.put(_key(number), bytes(1000))
        assert cache.size_bytes <= 10_000
        assert cache.get(_key(0)) is not None, "what is used again and again stays"
    kept = [number for number in range(100) if cache.get(_key(number)) is not None]
    assert kept == [0, *range(100 - len(kept) + 1, 100)]
    assert len(kept) >= 7
    assert cache.get(_key(99, "another session")) is None


def test_the_cache_counts_what_it_keeps_and_not_what_it_has_replaced() -> None:
    cache = ContentCache(100_000)
    cache.put(_key(1), bytes(1000))
    once = cache.size_bytes
    assert once > 1000, "bookkeeping counts"
    cache.put(_key(1), bytes(1000))
    assert cache.size_bytes == once
    cache.put(_key(1), bytes(10))
    assert cache.size_bytes == once - 990
    cache.budget_bytes = 0
    assert cache.size_bytes == 0
    cache.put(_key(1), bytes(10))
    assert cache.get(_key(1)) is None
    assert cache.size_bytes == 0


def test_entries_without_data_are_bounded_too() -> None:
    cache = ContentCache(10_000)
    for number in range(1000):
        cache.put(_key(number), b"")
    assert sum(cache.get(_key(number)) is not None for number in range(1000)) < 100


async def _stored(open_volume: OpenVolume, size: int, session: str = "task-7", **options: object) -> bytes:
    """Store ``/f`` of *size* bytes in blobs, by a process of its own; return it."""
    data = _data(size)
    volume = await open_volume(session, environment=_fresh(), **options)
    await volume.write_file_bytes("/f", data)
    await volume.aclose()
    return data


async def test_volumes_of_a_process_share_what_was_read(store: RecordingStore, open_volume: OpenVolume) -> None:
    data = await _stored(open_volume, 3 * MIB)
    first = await open_volume(read_only=True)
    assert await first.read_file_bytes("/f") == data
    store.forget()
    for read_only in (True, False):
        other = await open_volume(read_only=read_only)
        assert await other.read_file_bytes("/f") == data
    assert store.blob_gets() == []


async def test_a_budget_of_nothing_reads_every_time_and_reads_right(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    data = await _stored(open_volume, 3 * MIB)
    environment = _fresh(0)
    volume = await open_volume(environment=environment)
    for _ in range(2):
        store.forget()
        assert await volume.read_file_bytes("/f") == data
        assert len(store.blob_gets()) >= 3
    await volume.write_file_bytes("/g", data)
    assert await volume.read_file_bytes("/g") == data
    assert environment.cache.size_bytes == 0


@pytest.mark.parametrize("to", ["another session", "another tenant", "another store"])
async def test_what_was_read_never_answers_anybody_else(
    to: str, store: RecordingStore, environment: Environment, open_volume: OpenVolume
) -> None:
    """A log that refers to the very blob which another session has read gets it from its own place, or not at all."""
    data = await _stored(open_volume, 2 * MIB)
    owner = await open_volume(read_only=True)
    assert await owner.read_file_bytes("/f") == data
    keys = {
        "another session": SessionKeys.of("acme", "task-8"),
        "another tenant": SessionKeys.of("other", "task-7"),
        "another store": KEYS,
    }[to]
    target = FaultyStore(MemoryStore(f"contents-{next(_names)}")) if to == "another store" else store
    await copy(store, target, KEYS.log, keys.log)
    thief = await Volume.open(
        target, keys, read_only=True, environment=environment, options=VolumeOptions(patience=QUICK)
    )
    async with thief:
        assert (await thief.stat("/f")).size == len(data)
        with pytest.raises(Corrupt, match="missing") as caught:
            await thief.read_range("/f", 0, 10)
        assert caught.value.key.startswith(keys.blobs)
    assert await owner.read_file_bytes("/f") == data


async def test_neighbours_are_read_together_in_parallel_and_once(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    data = await _stored(open_volume, 20_000_000)
    reader = await open_volume(read_only=True)
    store.forget()
    assert await reader.read_file_bytes("/f") == data
    spans: dict[str, list[tuple[int, int]]] = {}
    for key, span in store.blob_gets():
        assert span is not None
        spans.setdefault(key, []).append(span)
    for each in spans.values():
        assert all(stop - start <= MIB for start, stop in each)
        each.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(each)), "nothing is read twice"
    assert len(store.blob_gets()) <= 20_000_000 // MIB + 1 + len(spans)
    assert 4 <= store.at_once_max["GET"] <= 16, "16 MiB at a time"
    store.forget()
    assert await reader.read_file_bytes("/f") == data
    assert store.requests == []


async def test_a_small_range_reads_the_chunks_that_it_touches(store: RecordingStore, open_volume: OpenVolume) -> None:
    data = await _stored(open_volume, 4 * MIB)
    reader = await open_volume(read_only=True)
    for start, stop, chunks in (
        (100, 110, 1),
        (CHUNK_BYTES * 7 - 1, CHUNK_BYTES * 7 + 1, 2),
        (CHUNK_BYTES * 20, CHUNK_BYTES * 21, 1),
    ):
        store.forget()
        assert await reader.read_range("/f", start, stop) == data[start:stop]
        assert len(store.blob_gets()) == 1
        span = store.blob_gets()[0][1]
        assert span is not None
        assert span[1] - span[0] == chunks * CHUNK_BYTES


async def test_chunks_that_are_near_each_other_come_with_one_request(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    data = await _stored(open_volume, 16 * CHUNK_BYTES, inline_bytes_max=CHUNK_BYTES)
    reader = await open_volume(read_only=True)
    await reader.read_range("/f", 5 * CHUNK_BYTES, 6 * CHUNK_BYTES)
    store.forget()
    assert await reader.read_file_bytes("/f") == data
    assert len(store.blob_gets()) == 1, "one chunk in between that is here already does not cost a second request"


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, slice(0, None)),
        (0, 0, slice(0, 0)),
        (10, 5, slice(0, 0)),
        (0, 10**12, slice(0, None)),
        (10**12, None, slice(0, 0)),
        (10**12, 10**13, slice(0, 0)),
        (CHUNK_BYTES, CHUNK_BYTES, slice(0, 0)),
        (99_999, 100_000, slice(99_999, 100_000)),
        (100_000, 100_001, slice(0, 0)),
    ],
)
async def test_ranges_are_clamped(start: int, stop: int | None, expected: slice, open_volume: OpenVolume) -> None:
    data = await _stored(open_volume, 100_000, inline_bytes_max=CHUNK_BYTES)
    volume = await open_volume(read_only=True)
    assert await volume.read_range("/f", start, stop) == data[expected]


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (0, -1), (-5, -1)])
async def test_negative_offsets_are_refused(start: int, stop: int | None, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.write_file("/f", "x")
    with pytest.raises(OSError, match="none may be negative") as caught:
        await volume.read_range("/f", start, stop)
    assert caught.value.errno == errno.EINVAL


async def test_ranges_of_what_is_no_file_are_refused(open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.mkdir("/d")
    with pytest.raises(IsADirectoryError):
        await volume.read_range("/d", 0, 1)
    with pytest.raises(FileNotFoundError):
        await volume.read_range("/nothing", 0, 0)


async def test_a_large_read_leaves_the_rest_of_the_cache_alone(store: RecordingStore, open_volume: OpenVolume) -> None:
    small = await _stored(open_volume, 200_000, "small", inline_bytes_max=CHUNK_BYTES)
    large = await _stored(open_volume, 9_000_000)
    environment = _fresh(8 * MIB)
    one = await open_volume("small", read_only=True, environment=environment)
    other = await open_volume(read_only=True, environment=environment)
    assert await one.read_file_bytes("/f") == small
    assert await other.read_file_bytes("/f") == large
    store.forget()
    assert await one.read_file_bytes("/f") == small
    assert store.blob_gets() == []
    assert environment.cache.size_bytes <= 8 * MIB


async def test_the_budget_holds_over_many_files(store: RecordingStore, open_volume: OpenVolume) -> None:
    environment = _fresh(3 * MIB)
    volume = await open_volume(environment=environment, inline_bytes_max=CHUNK_BYTES)
    for number in range(20):
        await volume.write_file_bytes(f"/{number}", _data(300_000 + number))
        assert environment.cache.size_bytes <= 3 * MIB
    for number in random.Random(7).choices(range(20), k=60):
        assert await volume.read_file_bytes(f"/{number}") == _data(300_000 + number)
        assert environment.cache.size_bytes <= 3 * MIB
    assert environment.cache.size_bytes > 2 * MIB, "and it is used"
    assert store.blob_gets()


async def test_concurrent_reads_all_get_what_is_theirs(open_volume: OpenVolume) -> None:
    data = await _stored(open_volume, 5 * MIB)
    chance = random.Random(5)
    for budget_bytes in (0, MIB, 128 * MIB):
        reader = await open_volume(read_only=True, environment=_fresh(budget_bytes))
        ranges = [(chance.randrange(len(data)), chance.randrange(len(data))) for _ in range(30)]
        found = await asyncio.gather(*(reader.read_range("/f", start, stop) for start, stop in ranges))
        assert found == [data[start:stop] for start, stop in ranges]


async def test_a_reader_who_gives_up_leaves_nothing_running(store: RecordingStore, open_volume: OpenVolume) -> None:
    data = await _stored(open_volume, 20 * MIB)
    reader = await open_volume(read_only=True)
    before = asyncio.all_tasks()
    reading = asyncio.create_task(reader.read_file_bytes("/f"))
    while not store.blob_gets():  # noqa: ASYNC110  # the store has no event for it
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert asyncio.all_tasks() == before
    assert await reader.read_range("/f", 0, 100) == data[:100]


@pytest.mark.parametrize(
    "make", [_data, lambda size: b"the same line of text once more\n" * (size // 32)], ids=["random", "compressible"]
)
async def test_a_large_read_takes_its_own_size_and_little_more(
    make: Callable[[int], bytes], open_volume: OpenVolume
) -> None:
    size = 48 * MIB
    data = make(size)
    volume = await open_volume(environment=_fresh(0))
    await volume.write_file_bytes("/f", data)
    await volume.aclose()
    reader = await open_volume(read_only=True, environment=_fresh(4 * MIB))
    await reader.stat("/f")
    del volume
    gc.collect()
    tracemalloc.start()
    try:
        found = await reader.read_file_bytes("/f")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == data
    assert peak < size + 44 * MIB, "eight spans, of a MiB as stored and four unpacked, and what is returned"
