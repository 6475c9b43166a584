"""Sealing: what a snapshot puts into blobs, what that costs, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from sessionfs_s3.errors import Fenced
from sessionfs_s3.format import Kind, Snapshot, decode_snapshot, encode_snapshot
from sessionfs_s3.fs import CHUNK_BYTES, EMPTY_TREE, Change, Chunk, Content, Directory, File, Place, find, parse
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.volume import Environment, Volume, collection
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.format import golden
from tests.volume.conftest import KEYS, OpenVolume, eventually
from tests.volume.stored import RecordingStore, blobs, needed, numbers, snapshot_after

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB
NEVER = 1 << 40


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore())


@pytest.fixture
def environment() -> Environment:
    return _fresh()


def _fresh() -> Environment:
    """Return the environment of a process that has read nothing yet."""
    return replace(system_environment(), cache=ContentCache())


def _text(size: int, seed: int = 0) -> str:
    """Return text of *size* bytes that compresses to half at best."""
    return random.Random(f"{seed} {size}").randbytes(-(-size // 2)).hex()[:size]


async def _snapshot(store: RecordingStore, number: int | None = None) -> Snapshot:
    """Return the snapshot *number*, or the newest."""
    sequence = (await numbers(store, Kind.SNAPSHOT))[-1] if number is None else number
    key = KEYS.snapshot(sequence)
    return decode_snapshot(key, (await store.inner.get(key)).data, sequence=sequence)


def _chunks(snapshot: Snapshot, path: str) -> list[Chunk]:
    node = find(snapshot.tree, parse(path))
    assert isinstance(node, File)
    return list(node.content.chunks)


def _sealed(snapshot: Snapshot, path: str) -> list[bool]:
    return [isinstance(chunk.body, Place) for chunk in _chunks(snapshot, path)]


async def _after(volume: Volume, store: RecordingStore) -> Snapshot:
    """Return the next snapshot of what the volume holds now."""
    return await _snapshot(store, await snapshot_after(volume, store))


async def test_full_chunks_are_sealed_at_once_and_the_rest_when_it_has_outlived_a_snapshot(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=CHUNK_BYTES, snapshot_bytes_min=NEVER)
    data = _text(3 * CHUNK_BYTES + 500)
    await volume.write_file("/f", data)
    first = await _after(volume, store)
    assert _sealed(first, "/f") == [True, True, True, False]
    second = await _after(volume, store)
    assert _sealed(second, "/f") == [True, True, True, False], "500 bytes are not worth a request"
    await volume.write_file("/g", _text(CHUNK_BYTES - 1))
    third = await _after(volume, store)
    assert _sealed(third, "/g") == [False]
    fourth = await _after(volume, store)
    assert _sealed(fourth, "/g") == [True], "what was inlined once is sealed the next time"
    assert _sealed(fourth, "/f") == [True] * 4
    other = await open_volume(environment=_fresh())
    assert await other.read_file("/f") == data
    assert await other.read_file("/g") == _text(CHUNK_BYTES - 1)


async def test_too_little_is_not_sealed(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=10 * CHUNK_BYTES, snapshot_bytes_min=NEVER)
    await volume.write_file("/f", _text(5 * CHUNK_BYTES))
    for _ in range(4):
        assert _sealed(await _after(volume, store), "/f") == [False] * 5
    assert store.blob_puts() == []
    await volume.write_file("/g", _text(5 * CHUNK_BYTES))
    assert _sealed(await _after(volume, store), "/f") == [True] * 5
    assert store.blob_puts()


async def test_a_hot_tail_is_not_sealed(store: RecordingStore, open_volume: OpenVolume) -> None:
    """What is appended to between any two snapshots is a new chunk each time: sealing it would be for nothing."""
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    await volume.write_file("/f", "x" * 100)
    for _ in range(5):
        await volume.append_file("/f", "y" * 100)
        assert _sealed(await _after(volume, store), "/f") == [False]
    await _after(volume, store)
    assert _sealed(await _after(volume, store), "/f") == [True], "as soon as it rests, it is"


async def test_sealed_chunks_leave_memory_and_read_back(store: RecordingStore, open_volume: OpenVolume) -> None:
    environment = replace(system_environment(), cache=ContentCache(0))
    volume = await open_volume(
        environment=environment, snapshot_commits=5, snapshot_bytes_min=NEVER, inline_bytes_max=64 * MIB
    )
    data = _text(4 * MIB)
    await volume.write_file("/f", data)
    await _after(volume, store)
    tree = await volume._view.tree()  # what is held in memory shows nowhere else
    node = find(tree, parse("/f"))
    assert isinstance(node, File)
    assert all(isinstance(chunk.body, Place) for chunk in node.content.chunks)
    assert await volume.read_file("/f") == data


@pytest.mark.parametrize(("line_bytes", "times"), [(1 * KIB, 6.0), (5 * KIB, 2.6), (20 * KIB, 2.2), (150 * KIB, 2.2)])
async def test_a_growing_file_is_written_about_twice(
    line_bytes: int, times: float, store: RecordingStore, open_volume: OpenVolume
) -> None:
    """Once in the log and once in a blob; of bytes that do not compress, and with the options as they are.

    The shorter the lines, the more often what is not sealed yet is written again, so that opening stays fast.
    """
    volume = await open_volume()
    size = 6 * MIB if line_bytes > 10 * KIB else 3 * MIB
    chance = random.Random(line_bytes)
    data = bytearray()
    while len(data) < size:
        # Seven bits of every byte: the most that text can hold.
        line = "".join(map(chr, chance.choices(range(128), k=line_bytes)))
        data += line.encode()
        await volume.append_file("/events.jsonl", line)
    await volume.aclose()
    written = sum(size for _, size in store.puts)
    assert written <= times * len(data), f"{written / len(data):.2f} times"
    other = await open_volume(read_only=True, environment=_fresh())
    assert await other.read_file_bytes("/events.jsonl") == data


async def test_a_file_that_several_append_to_is_written_about_twice_too(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    """While one commit is under way the next is queued: what the session reads is ahead of what is committed."""
    volume = await open_volume()
    chance = random.Random(3)

    async def append(count: int) -> None:
        for _ in range(count):
            await volume.append_file("/events.jsonl", "".join(map(chr, chance.choices(range(128), k=8 * KIB))))

    await asyncio.gather(*(append(200) for _ in range(4)))
    await volume.aclose()
    written = sum(size for _, size in store.puts)
    total = 4 * 200 * 8 * KIB
    assert written <= 2.2 * total, f"{written / total:.2f} times"
    assert (await (await open_volume(read_only=True)).stat("/events.jsonl")).size == total


async def test_sealed_chunks_leave_memory_while_several_append(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume()
    stop = asyncio.Event()

    async def append() -> None:
        while not stop.is_set():
            await volume.append_file("/events.jsonl", _text(16 * KIB))

    writers = [asyncio.create_task(append()) for _ in range(3)]
    await eventually(lambda: sum(size for _, size in store.puts) > 20 * MIB)
    tree = await volume._view.tree()  # what is held in memory shows nowhere else
    node = find(tree, parse("/events.jsonl"))
    stop.set()
    await asyncio.gather(*writers)
    assert isinstance(node, File)
    held = sum(chunk.size for chunk in node.content.chunks if not isinstance(chunk.body, Place))
    # What came while the last snapshot was being written, which is more where the machine is busy.
    assert held < node.content.size / 8, f"{held} of {node.content.size} bytes are still here"


async def _in_blobs(open_volume: OpenVolume, store: RecordingStore, **options: object) -> Volume:
    """Return a volume, just opened, of a session whose files and database are all in blobs."""
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    await volume.sqlite_query("exec", "CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT)")
    for number in range(40):
        await volume.sqlite_query("run", "INSERT INTO t VALUES (:n, :s)", {"n": number, "s": _text(6000, number)})
    await volume.write_file("/log", _text(CHUNK_BYTES + 1000))
    for _ in range(2):
        await _after(volume, store)
    snapshot = await _after(volume, store)
    assert all(_sealed(snapshot, "/log"))
    assert snapshot.tree.database is not None
    assert all(isinstance(chunk.body, Place) for chunk in snapshot.tree.database.chunks)
    await volume.aclose()
    return await open_volume(environment=_fresh(), **options)


async def _rows(volume: Volume) -> dict[int, str]:
    result = await volume.sqlite_query("query", "SELECT n, s FROM t")
    assert result is not None
    return {int(row["n"]): str(row["s"]) for row in result.rows}  # type: ignore[arg-type]  # the table says so


async def test_what_is_written_over_absent_chunks_is_right_after_every_way_of_reading_it(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await _in_blobs(open_volume, store, snapshot_commits=NEVER, snapshot_bytes_min=NEVER)
    expected = {number: _text(6000, number) for number in range(40)}
    text = _text(CHUNK_BYTES + 1000)
    for number in (3, 17, 39):
        expected[number] = f"changed {number}"
        await volume.sqlite_query("run", "UPDATE t SET s = :s WHERE n = :n", {"n": number, "s": expected[number]})
    await volume.append_file("/log", "tail")
    text += "tail"
    await volume.aclose()
    for _ in range(3):  # changes over blobs, then sealed or inlined by a snapshot, then read from that
        volume = await open_volume(environment=_fresh(), snapshot_commits=5, seal_bytes_min=1, snapshot_bytes_min=NEVER)
        assert await _rows(volume) == expected
        assert await volume.read_file("/log") == text
        await volume.append_file("/log", "more")
        text += "more"
        await _after(volume, store)
        assert await _rows(volume) == expected
        assert await volume.read_file("/log") == text
        await volume.aclose()
    assert set(await needed(store)) <= set(await blobs(store))


async def test_a_chunk_that_is_written_over_while_a_snapshot_reads_it_keeps_both(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await _in_blobs(open_volume, store, snapshot_commits=5, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    text = _text(CHUNK_BYTES + 1000)
    for round_ in range(4):
        gate = asyncio.Event()
        reading = store.inject(Fault("GET", key="/blob/", gate=gate, times=100))
        await volume.append_file("/log", f"a{round_}")
        for _ in range(7):
            await volume.append_file("/x", "x")
        if not round_:
            await reading.reached.wait()
        await volume.append_file("/log", f"b{round_}")
        text += f"a{round_}b{round_}"
        gate.set()
        store.faults.clear()
        assert await volume.read_file("/log") == text
    await volume.aclose()
    other = await open_volume(environment=_fresh())
    assert await other.read_file("/log") == text


async def test_a_blob_that_is_mostly_dead_is_left_and_dies(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    kept = _text(CHUNK_BYTES, 1)
    await volume.write_file("/dead", _text(6 * CHUNK_BYTES))
    await volume.write_file("/kept", kept)
    first = await _after(volume, store)
    assert len(first.blobs) == 1
    await volume.rm("/dead")
    second = await _after(volume, store)
    assert len(second.blobs) == 1
    assert second.blobs != first.blobs
    assert set(second.died) == first.blobs
    assert set(second.died.values()) == {second.sequence}
    third = await _after(volume, store)
    assert third.died == second.died, "what died stays dead, since then"
    assert await (await open_volume(read_only=True, environment=_fresh())).read_file("/kept") == kept


async def test_a_snapshot_moves_only_so_much(store: RecordingStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_commits=100, seal_bytes_min=1, snapshot_bytes_min=NEVER, blob_bytes_max=4 * MIB)
    data = {}
    for number in range(16):
        data[number] = random.Random(number).randbytes(MIB + CHUNK_BYTES)
        await volume.write_file_bytes(f"/{number}", data[number])
        await volume.write_file_bytes(f"/{number}.gone", bytes(10))
    for number in range(16):
        await volume.write_file_bytes(f"/both{number}", data[number][:MIB] + data[number][:MIB] + b"!")
    await _after(volume, store)
    store.forget()
    for number in range(16):
        await volume.write_file_bytes(f"/both{number}", b"")
    await _after(volume, store)
    assert sum(size for _, size in store.blob_puts()) <= 9 * MIB
    for number in range(16):
        assert await volume.read_file_bytes(f"/{number}") == data[number]


async def _damage(store: RecordingStore, key: str) -> None:
    data = bytearray((await store.inner.get(key)).data)
    data[-1] ^= 1
    await store.inner.put(key, bytes(data), condition=UNCONDITIONAL)


async def test_a_damaged_newest_snapshot_falls_back_to_the_one_before(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(snapshot_commits=3, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    text = ""
    assert volume._committer is not None
    for number in range(20):
        await volume.append_file("/log", _text(10 * KIB, number))
        await volume._committer._snapshots.finish()  # a busy machine writes fewer of them
        text += _text(10 * KIB, number)
    await volume.aclose()
    stored = await numbers(store, Kind.SNAPSHOT)
    assert len(stored) >= 2
    await _damage(store, KEYS.snapshot(stored[-1]))
    reader = await open_volume(read_only=True, environment=_fresh())
    assert await reader.read_file("/log") == text
    writer = await open_volume(environment=_fresh())
    assert await writer.read_file("/log") == text
    await writer.append_file("/log", "on")
    await _damage(store, KEYS.snapshot(stored[-2]))
    assert await (await open_volume(read_only=True, environment=_fresh())).read_file("/log") == text + "on"


async def _late(store: RecordingStore, open_volume: OpenVolume, *, snapshots_before: int) -> tuple[Volume, int]:
    """Return the volume of a second writer, and the number of a snapshot that the first put after that had claimed."""
    first = await open_volume(snapshot_commits=3, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    await first.write_file("/big", _text(2 * CHUNK_BYTES))
    for _ in range(snapshots_before):
        await _after(first, store)
    await first.append_file("/big", _text(CHUNK_BYTES, 9))
    gate = asyncio.Event()
    put = store.inject(Fault("PUT", key=".s", gate=gate))
    while not put.reached.is_set():
        await first.append_file("/counter", "x")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    number = first.head.sequence
    second = await open_volume(environment=_fresh(), snapshot_commits=NEVER)
    gate.set()
    await put.ended.wait()
    with pytest.raises(Fenced):
        await first.append_file("/big", "late")
    await first.aclose()
    late = (await numbers(store, Kind.SNAPSHOT))[-1]
    assert late <= number < second.head.sequence
    return second, late


async def test_a_snapshot_that_came_after_the_next_claim_does_not_count(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    second, late = await _late(store, open_volume, snapshots_before=1)
    text = _text(2 * CHUNK_BYTES) + _text(CHUNK_BYTES, 9)
    await second.append_file("/big", "second")
    # What only the late one refers to is garbage to its successor.
    only = (await _snapshot(store, late)).blobs - (
        await _snapshot(store, (await numbers(store, Kind.SNAPSHOT))[0])
    ).blobs
    assert only
    await store.inner.delete([KEYS.blob(blob) for blob in only])
    for read_only in (True, False):
        other = await open_volume(read_only=read_only, environment=_fresh())
        assert await other.read_file("/big") == text + "second"


async def test_a_snapshot_that_came_late_counts_when_nothing_else_is_left(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    second, late = await _late(store, open_volume, snapshots_before=0)
    await second.append_file("/big", "second")
    await store.inner.delete([KEYS.commit(number) for number in range(1, late + 1)])
    other = await open_volume(read_only=True, environment=_fresh())
    assert await other.read_file("/big") == _text(2 * CHUNK_BYTES) + _text(CHUNK_BYTES, 9) + "second"


async def test_a_snapshot_whose_answer_was_lost_keeps_what_it_refers_to(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    volume = await open_volume(snapshot_commits=2, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    store.inject(Fault("PUT", Fate.LOST_ANSWER, key=".s"))
    await volume.write_file("/f", _text(2 * CHUNK_BYTES))
    for _ in range(2):
        await volume.append_file("/counter", "x")
    await eventually(lambda: store.count("PUT") > 4)
    await volume.write_file("/f", "small")
    for _ in range(6):
        await volume.append_file("/counter", "x")
        await asyncio.sleep(0.01)
    await volume.aclose()
    stored = await numbers(store, Kind.SNAPSHOT)
    assert len(stored) >= 2
    lost, newest = await _snapshot(store, stored[0]), await _snapshot(store)
    assert lost.blobs
    known = newest.blobs | set(newest.died)
    assert lost.blobs <= known, "or the next owner takes for garbage what the older of two snapshots needs"


async def test_a_failure_of_the_machine_while_a_snapshot_is_written_fails_no_commit(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    def no_thread(_: Callable[[], T]) -> Awaitable[T]:
        raise RuntimeError("can't start new thread")

    environment = replace(_fresh(), run_in_thread=no_thread)
    volume = await open_volume(environment=environment, snapshot_commits=2, snapshot_bytes_min=NEVER)
    for number in range(12):
        await volume.append_file("/log", f"{number},")
    assert await volume.read_file("/log") == "".join(f"{number}," for number in range(12))
    assert await numbers(store, Kind.SNAPSHOT) == []


async def test_a_failure_in_collection_fails_no_commit(
    store: RecordingStore, open_volume: OpenVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def broken(*arguments: object) -> None:
        asked.append(arguments)
        raise RuntimeError("a bug")

    monkeypatch.setattr(collection, "plan", broken)
    volume = await open_volume(snapshot_commits=2, snapshot_bytes_min=NEVER, collect_age_s=0, collect_interval_s=0)
    for number in range(12):
        await volume.append_file("/log", f"{number},")
    await eventually(lambda: bool(asked))
    await volume.append_file("/log", "12,")
    await volume.append_file("/log", "13,")
    assert volume.failure is None
    await volume.aclose()
    assert await (await open_volume()).read_file("/log") == "".join(f"{number}," for number in range(14))


async def test_a_snapshot_of_a_tree_with_a_change_cannot_be_written_by_mistake() -> None:
    place = golden.PLACES[1]
    chunk = Chunk(place.size, place).changed(place.size, ((0, b"x"),))
    assert isinstance(chunk.body, Change)
    root = Directory({"f": File(Content((chunk,), chunk.size), 0o644, 0, 0)}, 0o755, 0, 0)
    with pytest.raises(ValueError, match="has to be read"):
        encode_snapshot(Snapshot(1, 1, bytes(16), bytes(32), 0, replace(EMPTY_TREE, root=root)))
