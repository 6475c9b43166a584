"""A fork is all there or not at all, whatever fails and whoever else is at it; what cannot be forked is refused."""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import replace

import pytest

from sessionfs_s3 import CommitUnknown, Corrupt, InvalidInput, Refused, Unavailable
from sessionfs_s3.catalog import Catalog
from sessionfs_s3.format import Kind, SessionKeys
from sessionfs_s3.store import UNCONDITIONAL
from sessionfs_s3.store.protocol import Fetched
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.volume import Environment
from sessionfs_s3.volume.cache import ContentCache
from tests.volume.stored import RecordingStore, entries, numbers

from .conftest import (
    MakeCatalog,
    everything,
    opened,
    read,
    talk,
    write,
)


async def test_what_is_refused(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", *talk())
    await write(store, "s2")
    async with await opened(store, "unborn") as volume:
        await volume.write_file("/workspace/x", "x")
    before = {entry.key: entry.etag for entry in await entries(store.inner, "tenants/acme/sessions/")}
    for target in ("s1", "s2", "unborn"):
        with pytest.raises(FileExistsError) as taken:
            await catalog.fork("s1", target)
        assert taken.value.errno == errno.EEXIST
    for source in ("never", "unborn"):
        with pytest.raises(FileNotFoundError) as missing:
            await catalog.fork(source, "f1")
        assert missing.value.errno == errno.ENOENT
    for event_id in ("start-of-s1", "nope", "mi", "\ud800", ""):
        with pytest.raises(InvalidInput, match="event id"):
            await catalog.fork("s1", "f1", before_event=event_id)
    for name in ("", " a", "a\n", "x" * 101, "\ud800"):
        with pytest.raises(InvalidInput, match="session name"):
            await catalog.fork("s1", "f1", name=name)
    with pytest.raises(InvalidInput, match="session id"):
        await catalog.fork("s1", "..")
    after = {entry.key: entry.etag for entry in await entries(store.inner, "tenants/acme/sessions/")}
    assert after == before, "nothing was written, and nothing claimed"
    assert await catalog.info("f1") is None


@pytest.mark.parametrize("fate", [Fate.LOST_ANSWER, Fate.LOST_REQUEST, Fate.CONFLICT])
async def test_a_commit_whose_answer_is_lost_is_there_once(store: RecordingStore, catalog: Catalog, fate: Fate) -> None:
    await write(store, "s1")
    store.inject(Fault("PUT", fate, "/f1/log/"))
    await catalog.fork("s1", "f1")
    assert await numbers(store, Kind.COMMIT, SessionKeys.of("acme", "f1")) == [1]
    assert await catalog.ids() == ["f1", "s1"]


async def test_a_fork_that_is_given_up_leaves_nothing(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", files={"/workspace/large": random.Random(1).randbytes(20_000_000)})
    for number in (1, 2):
        held = store.inject(Fault("PUT", None, "/f1/blob/", gate=asyncio.Event()))
        forking = asyncio.create_task(catalog.fork("s1", "f1"))
        await held.reached.wait()
        forking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forking
        store.faults.clear()
        assert await entries(store.inner, SessionKeys.of("acme", "f1").prefix) == [], number
    await catalog.fork("s1", "f1")
    assert await catalog.ids() == ["f1", "s1"]


async def test_a_target_that_comes_into_being_meanwhile_is_not_fenced(store: RecordingStore, catalog: Catalog) -> None:
    """Between the listing that shows no target and the one that would claim it."""
    await write(store, "s1")
    passed = asyncio.Event()
    passed.set()
    store.inject(Fault("LIST", None, "/f1/log/", gate=passed))
    held = store.inject(Fault("LIST", None, "/f1/log/", gate=asyncio.Event()))
    forking = asyncio.create_task(catalog.fork("s1", "f1"))
    await held.reached.wait()
    async with await opened(store, "f1") as volume:
        await volume.write_file("/workspace/theirs", "first")
        assert held.gate is not None
        held.gate.set()
        with pytest.raises(FileExistsError):
            await forking
        await volume.write_file("/workspace/theirs", "and on")
    assert await read(store, "f1", "/workspace/theirs") == b"and on"


async def test_a_source_that_goes_on_meanwhile_is_read_anew(
    store: RecordingStore, make_catalog: MakeCatalog, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being copied is collected half way: the fork has the later state, and nothing of the earlier one."""
    rng = random.Random(1)
    await write(store, "s1", files={"/workspace/a": rng.randbytes(9_000_000), "/workspace/b": rng.randbytes(9_000_000)})
    keys = SessionKeys.of("acme", "s1")
    blobs = [key for key, _ in store.blob_puts()]
    get, seen = store.inner.get, 0

    async def collected(key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        nonlocal seen
        seen += key.startswith(keys.blobs)
        if seen == 14:
            seen += 1
            async with await opened(store, "s1") as volume:
                await volume.write_file("/workspace/a", "later")
                await volume.write_file("/workspace/b", "later")
            await store.inner.delete(blobs)
        return await get(key, span=span)

    monkeypatch.setattr(store.inner, "get", collected)
    catalog = make_catalog(environment=replace(environment, cache=ContentCache(0)))
    await catalog.fork("s1", "f1")
    assert seen > 14
    assert [key for key, _ in store.blob_puts() if "/f1/" in key], "some of it was there already"
    for name in ("a", "b"):
        assert await read(store, "f1", f"/workspace/{name}") == b"later"
    assert await entries(store.inner, SessionKeys.of("acme", "f1").blobs) == []


async def test_a_large_fork_leaves_the_cache_to_others(
    store: RecordingStore, make_catalog: MakeCatalog, environment: Environment
) -> None:
    data = random.Random(1).randbytes(6_000_000)
    await write(store, "s1", files={"/workspace/large": data})
    await write(store, "s2", files={"/workspace/large": data[:3_000_000]})
    cache = ContentCache(20_000_000)
    catalog = make_catalog(environment=replace(environment, cache=cache))
    await catalog.fork("s1", "f1")
    assert cache.size_bytes == 0
    await catalog.fork("s2", "f2")
    assert cache.size_bytes > 3_000_000
    assert await read(store, "f1", "/workspace/large") == data


async def test_more_files_than_a_commit_holds(
    store: RecordingStore, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(store, "s1", files={f"/workspace/{number}": b"x" for number in range(20)})
    monkeypatch.setattr("sessionfs_s3.format.wire.RECORDS_MAX", 40)
    with pytest.raises(OSError, match="too many files") as refused:
        await catalog.fork("s1", "f1")
    assert refused.value.errno == errno.EFBIG
    monkeypatch.undo()
    assert await entries(store.inner, SessionKeys.of("acme", "f1").prefix) == []


async def test_never_half_there(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", files={"/workspace/large": random.Random(1).randbytes(9_000_000)})
    for fate, key, error in (
        (Fate.LOST_REQUEST, "/f1/blob/", Unavailable),
        (Fate.DENIED, "/f1/log/", Refused),
        (Fate.LOST_REQUEST, "/f1/log/", CommitUnknown),
    ):
        store.inject(Fault("PUT", fate, key, times=10**6))
        with pytest.raises(error):
            await catalog.fork("s1", "f1")
        store.faults.clear()
        assert await catalog.info("f1") is None
        assert await catalog.ids() == ["s1"]
        left = await entries(store.inner, SessionKeys.of("acme", "f1").prefix)
        assert bool(left) == (error is CommitUnknown), "blobs stay only where the commit may be there"
    await catalog.fork("s1", "f1")
    assert await catalog.ids() == ["f1", "s1"]


async def test_of_many_forks_to_one_id_one_is_made(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    for number in range(5):
        await write(store, f"s{number}", name=f"n{number}", files={"/workspace/large": bytes([number]) * 2_000_000})
    outcomes = await asyncio.gather(
        *(make_catalog().fork(f"s{number}", "f1") for number in range(5)), return_exceptions=True
    )
    won = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert len(won) == 1
    assert all(isinstance(outcome, FileExistsError) for outcome in outcomes if outcome is not None)
    there = await everything(store, "f1")
    assert there["/workspace/large"] == bytes(won) * 2_000_000
    blobs = await entries(store.inner, SessionKeys.of("acme", "f1").blobs)
    assert len(blobs) == 1, "those of the others are removed"


async def test_a_target_that_was_deleted_may_be_made_again(store: RecordingStore, catalog: Catalog) -> None:
    """A deleted session is a log that ends in an empty tree."""
    await write(store, "s1")
    await write(store, "gone", files={"/workspace/old": b"old"})
    async with await opened(store, "gone", directories=()) as volume:
        for name in await volume.readdir("/"):
            await volume.rm(f"/{name}", recursive=True)
    assert await catalog.ids() == ["s1"]
    await catalog.fork("s1", "gone")
    assert await catalog.ids() == ["gone", "s1"]
    assert "/workspace/old" not in await everything(store, "gone")
    info = await catalog.info("gone")
    assert info is not None
    assert info.name == "A name (fork)"


async def test_the_commit_alone_decides(store: RecordingStore, catalog: Catalog) -> None:
    """Somebody creates the target while its blobs are being written: theirs stays, and nothing of the fork."""
    await write(store, "s1", files={"/workspace/large": random.Random(1).randbytes(3_000_000)})
    held = store.inject(Fault("PUT", None, "/f1/blob/", gate=asyncio.Event()))
    forking = asyncio.create_task(catalog.fork("s1", "f1"))
    await held.reached.wait()
    await write(store, "f1", name="theirs")
    assert held.gate is not None
    held.gate.set()
    with pytest.raises(FileExistsError):
        await forking
    info = await catalog.info("f1")
    assert info is not None
    assert info.name == "theirs"
    assert await entries(store.inner, SessionKeys.of("acme", "f1").blobs) == []


async def test_a_damaged_target_is_not_overwritten(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1")
    await write(store, "bad")
    key = SessionKeys.of("acme", "bad").commit(1)
    await store.inner.put(key, b"damage", condition=UNCONDITIONAL)
    with pytest.raises(Corrupt):
        await catalog.fork("s1", "bad")
    assert (await store.inner.get(key)).data == b"damage"
