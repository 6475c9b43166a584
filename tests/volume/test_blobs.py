"""Large writes: their bytes go into blobs first, then one small commit makes them part of the session."""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import replace

import pytest

from sessionfs_s3.errors import Corrupt, Refused, SessionFsError, Unavailable
from sessionfs_s3.format import Kind, decode_commit
from sessionfs_s3.fs import CHUNK_BYTES, AppendFile
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.volume import Durability, Environment
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import KEYS, OpenVolume
from tests.volume.stored import RecordingStore, blobs, numbers, referred

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore())


@pytest.fixture
def environment() -> Environment:
    return _fresh()


def _fresh() -> Environment:
    """Return the environment of a process that has read nothing yet."""
    return replace(system_environment(), cache=ContentCache())


def _data(size: int) -> bytes:
    """Return bytes that do not compress, the same for the same size."""
    return random.Random(size).randbytes(size)


async def test_a_large_write_is_blobs_and_then_one_small_commit(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(blob_bytes_max=MIB)
    data = _data(5 * MIB + 7)
    await volume.write_file_bytes("/big", data)
    assert [key for key, _ in store.puts][-1] == KEYS.commit(1), "the commit comes after everything it refers to"
    assert len(store.commit_puts()) == 1
    assert store.commit_puts()[0][1] < 8 * KIB
    assert sum(size for _, size in store.blob_puts()) < len(data) + 8 * KIB
    assert 2 <= store.at_once_max["PUT"] <= 4
    assert {KEYS.blob(blob) for blob in await referred(store, 1)} == set(await blobs(store))


@pytest.mark.parametrize("blob_bytes_max", [256 * KIB, MIB, 8 * MIB])
async def test_no_blob_is_larger_than_it_may_be(
    blob_bytes_max: int, store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(blob_bytes_max=blob_bytes_max)
    await volume.write_file_bytes("/big", _data(9 * MIB))
    sizes = [size for _, size in store.blob_puts()]
    assert len(sizes) >= 9 * MIB // blob_bytes_max
    assert max(sizes) <= blob_bytes_max


async def test_what_is_written_reads_back_before_it_is_stored_and_costs_no_request(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    data = _data(3 * MIB)
    gates = [asyncio.Event(), asyncio.Event()]
    uploads = store.inject(Fault("PUT", key="/blob/", gate=gates[0], times=100))
    commit = store.inject(Fault("PUT", key=".c", gate=gates[1]))
    write = asyncio.create_task(volume.write_file_bytes("/big", data))
    for fault, gate in ((uploads, gates[0]), (commit, gates[1])):
        await fault.reached.wait()
        assert not write.done()
        assert await volume.read_file_bytes("/big") == data
        assert await volume.read_range("/big", 65_000, 70_000) == data[65_000:70_000]
        gate.set()
    await write
    assert await volume.read_file_bytes("/big") == data
    assert store.count("GET") == 0


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, MIB, MIB + 1, 8 * MIB + 1, 20_000_000]
)
async def test_every_size_reads_back_whole_and_in_ranges(
    size: int, store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    data = _data(size)
    await volume.write_file_bytes("/f", data)
    assert bool(store.blob_puts()) == (size > MIB)
    other = await open_volume(read_only=True, environment=_fresh())
    for start, stop in (
        (0, 10),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (size // 2, size // 2 + 3),
        (max(size - 5, 0), None),
    ):
        expected = data[start:stop]
        assert await volume.read_range("/f", start, stop) == expected
        assert await other.read_range("/f", start, stop) == expected
    assert (await other.stat("/f")).size == size
    assert await other.read_file_bytes("/f") == data


@pytest.mark.parametrize("before", [0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
@pytest.mark.parametrize("more", [CHUNK_BYTES, CHUNK_BYTES + 1, 300 * KIB])
async def test_a_large_append_is_split_where_the_last_chunk_is_full(
    before: int, more: int, store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(inline_bytes_max=CHUNK_BYTES, blob_bytes_max=128 * KIB)
    head, tail = _data(before), _data(more).hex()[:more]
    await volume.write_file_bytes("/f", head)
    store.forget()
    await volume.append_file("/f", tail)
    key, _ = store.commit_puts()[-1]
    commit, _ = decode_commit(key, (await store.inner.get(key)).data, sequence=2)
    parts = [each for each in commit.operations if isinstance(each, AppendFile)]
    assert sum(part.content.size for part in parts) == more
    room = -before % CHUNK_BYTES
    if 0 < room < more:
        assert [part.content.size for part in parts] == [room, more - room]
    if more - room > CHUNK_BYTES:
        assert store.blob_puts(), "what is over the limit goes into blobs"
    other = await open_volume(environment=_fresh())
    assert await other.read_file_bytes("/f") == head + tail.encode()
    await other.append_file("/f", "end")
    assert await other.read_file_bytes("/f") == head + tail.encode() + b"end"


async def test_large_and_small_writes_keep_the_order_of_their_calls(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(inline_bytes_max=CHUNK_BYTES, commit_bytes_max=200_000)
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    parts = [_data(200_000 if n % 3 == 1 else 10 + n).hex()[: 200_000 if n % 3 == 1 else 10 + n] for n in range(30)]
    writes = [asyncio.create_task(volume.append_file("/log", parts[0]))]
    await fault.reached.wait()
    writes += [asyncio.create_task(volume.append_file("/log", part)) for part in parts[1:]]
    replaced = asyncio.create_task(volume.write_file_bytes("/other", _data(MIB)))
    last = asyncio.create_task(volume.write_file_bytes("/other", b"last"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*writes, replaced, last)
    other = await open_volume(read_only=True, environment=_fresh())
    assert await other.read_file("/log") == "".join(parts) == await volume.read_file("/log")
    assert await other.read_file("/other") == "last"


@pytest.mark.parametrize(("fate", "kind"), [(Fate.LOST_REQUEST, Unavailable), (Fate.DENIED, Refused)])
async def test_an_upload_that_fails_commits_nothing_and_the_volume_goes_on(
    fate: Fate, kind: type[SessionFsError], store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(blob_bytes_max=MIB)
    await volume.write_file("/a", "before")
    store.inject(Fault("PUT", fate, key="/blob/", times=10_000))
    large = asyncio.create_task(volume.write_file_bytes("/a", _data(4 * MIB)))
    await asyncio.sleep(0)
    behind = asyncio.create_task(volume.write_file("/b", "behind it"))
    outcomes = await asyncio.gather(large, behind, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [kind, kind]
    assert all("/blob/" in str(outcome) for outcome in outcomes)
    assert await numbers(store, Kind.COMMIT) == [1]
    store.faults.clear()
    for each in (volume, await open_volume(read_only=True, environment=_fresh())):
        assert await each.read_file("/a") == "before"
        assert not await each.exists("/b")
    await volume.write_file("/b", "a second try")
    assert await (await open_volume(read_only=True, environment=_fresh())).read_file("/b") == "a second try"


@pytest.mark.parametrize("durability", [Durability.SOON, Durability.NEXT])
async def test_an_upload_that_fails_with_what_was_promised_before_it_fails_the_volume(
    durability: Durability, store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(blob_bytes_max=MIB)
    await volume.write_file("/a", "acknowledged without a wait", durability=durability)
    store.inject(Fault("PUT", Fate.DENIED, key="/blob/", times=10_000))
    with pytest.raises(Refused):
        await volume.write_file_bytes("/b", _data(4 * MIB))
    for call in (volume.read_file("/a"), volume.exists("/b"), volume.write_file("/c", "x")):
        with pytest.raises(Refused):
            await call


@pytest.mark.parametrize("fate", [Fate.LOST_ANSWER, Fate.LOST_REQUEST, Fate.CONFLICT])
async def test_an_upload_whose_answer_is_lost_is_tried_again_and_stored_once(
    fate: Fate, store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(blob_bytes_max=MIB)
    data = _data(2 * MIB)
    store.inject(Fault("PUT", fate, key="/blob/", times=3))
    await volume.write_file_bytes("/big", data)
    stored = await blobs(store)
    assert {KEYS.blob(blob) for blob in await referred(store, 1)} == set(stored), "nothing is stored that nobody needs"
    assert await (await open_volume(read_only=True, environment=_fresh())).read_file_bytes("/big") == data


async def test_an_upload_that_hangs_ends_at_the_deadline(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    store.inject(Fault("PUT", key="/blob/", gate=asyncio.Event(), times=100))
    with pytest.raises(Unavailable, match=r"blob/.*no answer in 1 s"):
        await volume.write_file_bytes("/big", _data(2 * MIB))
    assert await numbers(store, Kind.COMMIT) == []


async def _damaged(store: RecordingStore, how: str) -> str:
    key = (await blobs(store))[0]
    data = bytearray((await store.inner.get(key)).data)
    match how:
        case "flipped":
            data[len(data) // 2] ^= 1
        case "first":
            data[96] ^= 128
        case "last":
            data[-1] ^= 1
        case "truncated":
            del data[-1:]
        case "emptied":
            data.clear()
        case "swapped":
            data[96 : 96 + CHUNK_BYTES], data[-CHUNK_BYTES:] = data[-CHUNK_BYTES:], data[96 : 96 + CHUNK_BYTES]
    await store.inner.delete([key])
    if how != "missing":
        await store.inner.put(key, bytes(data), condition=UNCONDITIONAL)
    return key


@pytest.mark.parametrize("how", ["flipped", "first", "last", "truncated", "emptied", "swapped", "missing"])
@pytest.mark.parametrize("read_only", [True, False])
async def test_a_damaged_blob_is_corrupt_by_name_and_never_data(
    how: str, read_only: bool, store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(inline_bytes_max=CHUNK_BYTES)
    await volume.write_file_bytes("/big", _data(8 * CHUNK_BYTES))
    await volume.write_file("/small", "fine")
    await volume.aclose()
    key = await _damaged(store, how)
    other = await open_volume(read_only=read_only, environment=_fresh())
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            await other.read_file_bytes("/big")
        assert caught.value.key == key
        assert caught.value.errno == errno.EIO
    assert await other.read_file("/small") == "fine"
    assert (await other.stat("/big")).size == 8 * CHUNK_BYTES
    if not read_only:
        await other.write_file("/big", "mended")
        assert await other.read_file("/big") == "mended"


async def test_more_than_one_write_may_hold_is_too_big_and_changes_nothing(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(file_bytes_max=1000)
    await volume.write_file("/f", "x" * 1000)
    await volume.append_file("/f", "y" * 1000)
    for call in (
        volume.write_file("/f", "x" * 1001),
        volume.write_file_bytes("/f", bytes(1001)),
        volume.append_file("/f", "ü" * 501),
    ):
        with pytest.raises(OSError, match="1000 are allowed") as caught:
            await call
        assert caught.value.errno == errno.EFBIG
    assert volume.failure is None
    assert (await volume.stat("/f")).size == 2000
    assert store.count("PUT") == 2


async def test_a_caller_who_gives_up_during_the_upload_takes_nothing_with_him(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", key="/blob/", gate=gate, times=100))
    data = _data(2 * MIB)
    first = asyncio.create_task(volume.write_file_bytes("/big", data))
    await fault.reached.wait()
    second = asyncio.create_task(volume.append_file("/log", "b"))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    await second
    other = await open_volume(read_only=True, environment=_fresh())
    assert await other.read_file_bytes("/big") == data
    assert await other.read_file("/log") == "b"


async def test_writing_the_same_large_contents_again_costs_nothing(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume()
    data = _data(3 * MIB + 5)
    await volume.write_file_bytes("/big", data)
    store.forget()
    await volume.write_file_bytes("/big", data)
    other = await open_volume(environment=_fresh())
    store.forget()
    await other.write_file_bytes("/big", data)
    assert store.requests == []
    await other.write_file_bytes("/big", data[:-1] + b"!")
    assert await other.read_range("/big", len(data) - 2, None) == data[-2:-1] + b"!"
