"""A fork is all there or not at all, exactly what it should be, and leaves its source alone."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from typing import Any

import pytest

from sessionfs_s3 import Corrupt
from sessionfs_s3.catalog import Catalog
from sessionfs_s3.catalog.workspace import read as read_yaml
from sessionfs_s3.format import Kind, SessionKeys
from tests.volume.stored import RecordingStore, entries, numbers

from .conftest import (
    EVENTS,
    STATE,
    WORKSPACE,
    MakeCatalog,
    event,
    everything,
    lines,
    opened,
    read,
    start_event,
    talk,
    tree_of,
    write,
)

INDEX = (
    "# Checkpoint History\n\n| # | Title | File |\n|---|-------|------|\n| 1 | T | 001-t.md |\n| 2 | U | 002-u.md |\n"
)
FILES = {
    f"{STATE}/checkpoints/index.md": INDEX.encode(),
    f"{STATE}/checkpoints/001-t.md": b"one",
    f"{STATE}/checkpoints/002-u.md": b"two",
    f"{STATE}/files/sub/bytes": bytes(range(256)),
    f"{STATE}/research/r.md": "naïve ☕ 𝄞".encode(),
    f"{STATE}/plan.md": b"plan",
    f"{STATE}/temp/out.txt": b"saved output",
    f"{STATE}/permissions.json": b"{}",
    f"{STATE}/other": b"?",
    "/workspace/deep/er/file": b"work",
    "/workspace/empty": b"",
    "/tmp/home/session-state/s1/workspace.yaml": b"id: s1\ncwd: /workspace\n",
    "/tmp/home/session-state/s1/plan.md": b"home plan",
    "/tmp/home/session-state/s1/events.jsonl": b"{}\n",
    "/tmp/home/session-state/other/plan.md": b"another's",
}
KEPT = {
    f"{STATE}/checkpoints/index.md",
    f"{STATE}/checkpoints/001-t.md",
    f"{STATE}/checkpoints/002-u.md",
    f"{STATE}/files/sub/bytes",
    f"{STATE}/research/r.md",
    f"{STATE}/plan.md",
    "/workspace/deep/er/file",
    "/workspace/empty",
    "/tmp/home/session-state/other/plan.md",
}


async def test_what_is_taken_along(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", *talk(), name="'It''s \"odd\"'", files=FILES)
    async with await opened(store, "s1") as volume:
        await volume.sqlite_query("exec", "CREATE TABLE t (a)")
        head = volume.head
    source = await everything(store, "s1")

    await catalog.fork("s1", "f1")

    forked = await everything(store, "f1")
    assert forked.keys() == KEPT | {
        EVENTS,
        WORKSPACE,
        "/tmp/home/session-state/f1/workspace.yaml",
        "/tmp/home/session-state/f1/plan.md",
    }
    assert {path: forked[path] for path in KEPT} == {path: source[path] for path in KEPT}
    assert forked["/tmp/home/session-state/f1/plan.md"] == b"home plan"
    assert read_yaml(forked["/tmp/home/session-state/f1/workspace.yaml"].decode())["id"] == "f1"
    assert (await tree_of(store, "f1")).database is None
    ours, theirs = forked[EVENTS].splitlines(keepends=True), source[EVENTS].splitlines(keepends=True)
    assert ours[1:-1] == theirs[1:]
    start, was = json.loads(ours[0]), json.loads(theirs[0])
    assert start["data"].pop("sessionId") == "f1"
    assert start["data"].pop("startTime") == start.pop("timestamp")
    for name in ("sessionId", "startTime", "remoteSteerable"):
        was["data"].pop(name)
    was.pop("timestamp")
    assert start == was
    origin = json.loads(ours[-1])
    assert (origin["type"], origin["parentId"]) == ("session.info", "end")
    assert origin["data"]["message"] == 'Forked from "It\'s \\"odd\\"" (s1) as "It\'s odd (fork)" (f1).'
    note = read_yaml(forked[WORKSPACE].decode())
    assert (note["id"], note["name"], note["user_named"]) == ("f1", "It's odd (fork)", "false")
    assert note["created_at"] == json.loads(ours[0])["data"]["startTime"]
    assert (note["cwd"], note["client_name"]) == ("/workspace", "sdk")
    # The source was only read.
    async with await opened(store, "s1", read_only=True) as volume:
        assert volume.head == head
    assert await everything(store, "s1") == source


async def test_modes_and_times_of_files_stay(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1")
    async with await opened(store, "s1") as volume:
        await volume.mkdir("/workspace/bin", mode=0o700)
        await volume.write_file("/workspace/bin/run", "x", 0o755)
        before = [await volume.stat(path) for path in ("/workspace/bin/run", EVENTS)]
    await catalog.fork("s1", "f1")
    async with await opened(store, "f1", read_only=True) as volume:
        after = await volume.stat("/workspace/bin/run")
        assert (after.mode, after.mtime_ms) == (0o755, before[0].mtime_ms)
        assert (await volume.stat("/workspace/bin")).mode == 0o700
        assert (await volume.stat(EVENTS)).mode == before[1].mode == 0o600


@pytest.mark.parametrize(
    ("before", "kept", "checkpoints"),
    [("hello", 0, 0), ("c1", 1, 0), ("mid", 2, 1), ("c2", 3, 1), ("end", 4, 2)],
)
async def test_at_an_event(store: RecordingStore, catalog: Catalog, before: str, kept: int, checkpoints: int) -> None:
    await write(store, "s1", *talk(), files=FILES)
    source = (await read(store, "s1", EVENTS)).splitlines(keepends=True)

    await catalog.fork("s1", "f1", before_event=before, name="null")

    forked = await everything(store, "f1")
    ours = forked[EVENTS].splitlines(keepends=True)
    assert ours[1:-1] == source[1 : kept + 1]
    origin = json.loads(ours[-1])
    assert origin["data"]["message"] == f'Forked from "A name" (s1) before event {before} as "null" (f1).'
    assert origin["parentId"] == json.loads(source[kept])["id"]
    there = [number for number in (1, 2) if any(path.startswith(f"{STATE}/checkpoints/00{number}") for path in forked)]
    assert there == list(range(1, checkpoints + 1))
    rows = forked[f"{STATE}/checkpoints/index.md"].decode().splitlines()
    assert rows == INDEX.splitlines()[: 4 + checkpoints]
    note = read_yaml(forked[WORKSPACE].decode())
    assert (note["summary_count"], note["name"], note["user_named"]) == (str(checkpoints), "null", "true")


@pytest.mark.parametrize(
    "events",
    [
        b"garbage\n",
        b"",
        lines(event("user.message", "u", content="x")),
        lines(start_event("s1"), event("x", "y"))[:-20],
        lines(start_event("s1")) + b"no event\n",
    ],
)
async def test_a_conversation_that_no_runtime_could_read_is_not_copied(
    store: RecordingStore, catalog: Catalog, events: bytes
) -> None:
    async with await opened(store, "s1") as volume:
        await volume.write_file_bytes("/workspace/large", bytes(2_000_000))
        await volume.write_file_bytes(EVENTS, events)
    with pytest.raises(Corrupt):
        await catalog.fork("s1", "f1")
    assert await entries(store.inner, SessionKeys.of("acme", "f1").prefix) == []


async def test_an_event_without_a_newline_gets_one(store: RecordingStore, catalog: Catalog) -> None:
    async with await opened(store, "s1") as volume:
        await volume.write_file_bytes(EVENTS, lines(start_event("s1"), event("x", "y"))[:-1])
    await catalog.fork("s1", "f1")
    forked = (await read(store, "f1", EVENTS)).splitlines()
    assert [json.loads(line)["type"] for line in forked] == ["session.start", "x", "session.info"]
    assert json.loads(forked[-1])["parentId"] == "y"


async def test_one_commit_and_blobs_before_it(store: RecordingStore, catalog: Catalog) -> None:
    rng = random.Random(7)
    large = rng.randbytes(20_000_000)
    await write(store, "s1", files={"/workspace/large": large, "/workspace/small": b"small"})
    store.forget()
    await catalog.fork("s1", "f1")
    keys = SessionKeys.of("acme", "f1")
    puts = [key for key, _ in store.puts if key.startswith(keys.prefix)]
    assert puts[-1] == keys.commit(1)
    assert {key.startswith(keys.blobs) for key in puts[:-1]} == {True}
    assert len(puts) >= 4
    assert await numbers(store, Kind.COMMIT, keys) == [1]
    assert await read(store, "f1", "/workspace/large") == large
    # The copy lives without its source.
    await store.inner.delete([each.key for each in await entries(store.inner, SessionKeys.of("acme", "s1").prefix)])
    catalog._environment.cache.budget_bytes, kept = 0, catalog._environment.cache.budget_bytes
    try:
        assert await read(store, "f1", "/workspace/large") == large
    finally:
        catalog._environment.cache.budget_bytes = kept


async def test_any_contents_are_copied_exactly(store: RecordingStore, catalog: Catalog) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for number in range(6):
        source, target = f"s{number}", f"f{number}"
        async with await opened(store, source, snapshot_commits=rng.choice((1, 16)), seal_bytes_min=1) as volume:
            said = lines(start_event(source))
            for index in range(rng.randrange(1, 12)):
                size = rng.choice((1, 100, 65_500, 65_536, 70_000, 400_000))
                said += lines(event("x", f"e{index}", content="é" * (size // 2)))
            at = 0
            while at < len(said):
                step = rng.choice((1000, 65_536, 500_000))
                await volume.append_file(EVENTS, "")
                tree = await volume._tree()
                assert tree is not None
                data = (await volume.read_file_bytes(EVENTS)) + said[at : at + step]
                await volume.write_file_bytes(EVENTS, data)
                at += step
            for index in range(rng.randrange(5)):
                await volume.write_file_bytes(f"/workspace/{index}", rng.randbytes(rng.choice((0, 1, 65_536, 200_000))))
        cut = rng.randrange(1, said.count(b"\n") + 1)
        all_lines = said.splitlines(keepends=True)
        before = json.loads(all_lines[cut])["id"] if cut < len(all_lines) else None
        await catalog.fork(source, target, before_event=before)
        ours = (await read(store, target, EVENTS)).splitlines(keepends=True)
        assert ours[1:-1] == all_lines[1:cut]
        there, here = await everything(store, source), await everything(store, target)
        for path in there:
            if path.startswith("/workspace"):
                assert here[path] == there[path]


async def test_fork_then_change_both(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", files={"/workspace/x": b"x" * 100_000})
    await catalog.fork("s1", "f1")
    common = await read(store, "f1", EVENTS)
    for session_id in ("s1", "f1"):
        async with await opened(store, session_id, snapshot_commits=1, snapshot_bytes_min=1) as volume:
            for number in range(6):
                await volume.append_file(EVENTS, f'{{"of":"{session_id}","number":{number}}}\n')
                await volume.append_file("/workspace/x", session_id)
    assert (await read(store, "f1", EVENTS)).startswith(common)
    assert (await read(store, "f1", EVENTS)).count(b'"of":"f1"') == 6
    assert b'"of":"f1"' not in await read(store, "s1", EVENTS)
    assert await read(store, "f1", "/workspace/x") == b"x" * 100_000 + b"f1" * 6
    assert await read(store, "s1", "/workspace/x") == b"x" * 100_000 + b"s1" * 6
    await catalog.fork("f1", "f2")
    assert await catalog.ids() == ["f1", "f2", "s1"]


async def test_a_source_that_is_being_written_is_forked_at_one_point(store: RecordingStore, catalog: Catalog) -> None:
    """Two files change together, in one commit; so they agree in every fork."""
    await write(store, "s1")
    stop = asyncio.Event()
    cache = catalog._environment.cache
    cache.budget_bytes, kept = 0, cache.budget_bytes  # what was collected is really gone

    async def go_on() -> None:
        async with await opened(
            store,
            "s1",
            snapshot_commits=1,
            snapshot_bytes_min=1,
            seal_bytes_min=1,
            collect_age_s=0,
            collect_interval_s=0,
        ) as volume:
            number = 0
            while not stop.is_set():
                number += 1
                await asyncio.gather(
                    volume.write_file("/workspace/a", f"{number}" * 20_000),
                    volume.write_file("/workspace/b", f"{number}" * 20_000),
                    volume.append_file(EVENTS, json.dumps(event("x", f"e{number}")) + "\n"),
                )

    writer = asyncio.create_task(go_on())
    try:
        for number in range(5):
            await asyncio.sleep(0.02)
            await catalog.fork("s1", f"f{number}")
            there = await everything(store, f"f{number}")
            if "/workspace/a" in there:
                assert there["/workspace/a"] == there["/workspace/b"]
                told = json.loads(there[EVENTS].splitlines()[-2])["id"]
                assert there["/workspace/a"].decode() == told[1:] * 20_000
    finally:
        stop.set()
        await writer
        cache.budget_bytes = kept


async def test_a_long_conversation_is_forked_in_little_memory(
    store: RecordingStore, make_catalog: MakeCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MB here; what it takes does not grow with the size."""
    megabytes = 64
    rng = random.Random(1)
    async with await opened(store, "s1") as volume:
        await volume.write_file_bytes(EVENTS, lines(start_event("s1")))
        for number in range(megabytes // 2):
            await volume.append_file(
                EVENTS, lines(event("x", f"e{number}", content=rng.randbytes(10**6).hex())).decode()
            )
    catalog = make_catalog()
    monkeypatch.setattr(store.inner, "put", _forgetting(store.inner.put))
    catalog._environment.cache.budget_bytes, kept = 0, catalog._environment.cache.budget_bytes
    tracemalloc.start()
    try:
        await catalog.fork("s1", "f1", before_event=f"e{megabytes // 2 - 1}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        catalog._environment.cache.budget_bytes = kept
    assert sum(size for key, size in store.blob_puts() if "/f1/" in key) > 25_000_000, "hexadecimal, compressed"
    assert peak < 48_000_000, peak


def _forgetting(put: Any) -> Any:
    """Return *put*, which stores nothing of large objects: what a store takes in memory is no concern here."""

    async def forgetful(key: str, data: bytes, *, condition: Any) -> str:
        stored = data if len(data) < 1_000_000 else b""
        answer: str = await put(key, stored, condition=condition)
        return answer

    return forgetful


async def test_a_note_that_is_missing_or_broken_is_written_anew(store: RecordingStore, catalog: Catalog) -> None:
    for session_id, note in (("s1", None), ("s2", b"id: [oops"), ("s3", b"\xff")):
        async with await opened(store, session_id) as volume:
            await volume.write_file_bytes(
                EVENTS, lines(start_event(session_id), event("user.message", "u", content="Hi"))
            )
            if note is not None:
                await volume.write_file_bytes(WORKSPACE, note)
        await catalog.fork(session_id, f"{session_id}-f")
        found = read_yaml((await read(store, f"{session_id}-f", WORKSPACE)).decode())
        assert (found["id"], found["name"]) == (f"{session_id}-f", "Hi (fork)")
