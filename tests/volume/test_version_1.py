"""Sessions that a release of format version 1 has written: they open, go on in version 2, and are sealed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sessionfs_s3.format import Snapshot, decode_snapshot, encode_commit
from sessionfs_s3.fs import CHUNK_BYTES, File, Place, find, parse
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore
from sessionfs_s3.volume import Environment, Volume
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.format import golden
from tests.volume.conftest import KEYS, OpenVolume
from tests.volume.stored import RecordingStore, snapshot_after

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


def _text(size: int) -> str:
    return random.Random(size).randbytes(size // 2).hex()


async def _after(volume: Volume, store: RecordingStore) -> Snapshot:
    """Return the next snapshot of what the volume holds now."""
    sequence = await snapshot_after(volume, store)
    key = KEYS.snapshot(sequence)
    return decode_snapshot(key, (await store.inner.get(key)).data, sequence=sequence)


def _sealed(snapshot: Snapshot, path: str) -> list[bool]:
    node = find(snapshot.tree, parse(path))
    assert isinstance(node, File)
    return [isinstance(chunk.body, Place) for chunk in node.content.chunks]


async def _golden_session(store: RecordingStore) -> None:
    """Store the golden snapshot of version 1, and a commit of its writer that follows it."""
    key = KEYS.snapshot(300)
    data = golden.path("snapshot-compressed").read_bytes()
    await store.inner.put(key, data, condition=UNCONDITIONAL)
    assert data[4] == 1
    # The golden commits carry chains of their own: what follows this snapshot is made here, in version 2.
    commit = golden.GOLDEN["claim"].value
    assert not isinstance(commit, (Snapshot, golden.Chunks))
    claim = replace(commit, sequence=301, epoch=301, snapshot_seen=300)
    await store.inner.put(KEYS.commit(301), encode_commit(claim)[0], condition=UNCONDITIONAL)


async def test_a_session_of_version_1_opens_goes_on_and_is_sealed(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    await _golden_session(store)
    path = "/session-state/events.jsonl"
    expected = golden.EVENT.decode() * 1200
    assert await (await open_volume(read_only=True)).read_file(path) == expected
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=CHUNK_BYTES, snapshot_bytes_min=NEVER)
    assert await volume.read_file(path) == expected
    await volume.append_file(path, "more")
    snapshot = await _after(volume, store)
    assert _sealed(snapshot, path)[0]
    assert snapshot.fenced_from == 300
    assert list(snapshot.fences) == [301, 302]
    other = await open_volume(environment=_fresh())
    assert await other.read_file(path) == expected + "more"


async def test_a_log_of_version_1_from_its_first_commit_on_opens(
    store: RecordingStore, open_volume: OpenVolume
) -> None:
    data = golden.path("first-commit").read_bytes()
    assert data[4] == 1
    await store.inner.put(KEYS.commit(1), data, condition=UNCONDITIONAL)
    volume = await open_volume(snapshot_commits=5, seal_bytes_min=1, snapshot_bytes_min=NEVER)
    assert await volume.read_file("/session-state/events.jsonl") == "{}\n"
    await volume.append_file("/session-state/events.jsonl", _text(2 * CHUNK_BYTES))
    assert sum(_sealed(await _after(volume, store), "/session-state/events.jsonl")) == 2
    other = await open_volume(environment=_fresh())
    assert await other.read_file("/session-state/events.jsonl") == "{}\n" + _text(2 * CHUNK_BYTES)
