"""What is told of one session: the rules of the runtime, as measured on files made for each, and what asking costs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sessionfs_s3 import Corrupt, InvalidInput
from sessionfs_s3.catalog import Catalog
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault
from tests.volume.stored import RecordingStore

from .conftest import EVENTS, OPTIONS, STATE, WORKSPACE, MakeCatalog, event, lines, opened, start_event, write

CONTEXT = {"cwd": "/y/cwd", "gitRoot": "/y/root", "repository": "y/repo", "branch": "yb"}
FULL = """id: s1
cwd: /y/cwd
git_root: /y/root
repository: y/repo
host_type: github
branch: yb
client_name: ycl
name: YN
user_named: false
created_at: 2025-05-05T05:05:05.555Z
updated_at: 2025-06-06T06:06:06.666Z
"""
FROM_YAML, FROM_START = 1_746_421_505_555, 1_767_323_045_678
HELLO = event("user.message", "u1", content="  First  words\tof the user\n\n and a second line ")
WORDS = "First words of the user and a second line"


@pytest.mark.parametrize(
    ("note", "events", "expected"),
    [
        pytest.param(FULL, [HELLO], {}, id="everything"),
        pytest.param(
            None,
            [HELLO],
            {"name": None, "summary": WORDS, "client_name": None, "context": None, "created_ms": FROM_START},
            id="no workspace.yaml",
        ),
        pytest.param(
            "id: [oops\n: : :",
            [HELLO],
            {"name": None, "summary": WORDS, "client_name": None, "context": None, "created_ms": FROM_START},
            id="a broken workspace.yaml",
        ),
        pytest.param(FULL.replace("name: YN\n", ""), [HELLO], {"name": None, "summary": WORDS}, id="no name"),
        pytest.param(FULL.replace("name: YN", "summary: YS"), [HELLO], {"name": "YS", "summary": "YS"}, id="old name"),
        pytest.param(FULL.replace("YN\n", "YN\nsummary: YS\n"), [HELLO], {}, id="both"),
        pytest.param(FULL.replace("name: YN\n", ""), [], {"name": None, "summary": None}, id="nothing said yet"),
        pytest.param(
            FULL.replace("created_at: 2025-05-05T05:05:05.555Z\n", ""),
            [HELLO],
            {"created_ms": FROM_START},
            id="no time",
        ),
        pytest.param(FULL.replace("cwd: /y/cwd\n", ""), [HELLO], {"context": None}, id="no working directory"),
        pytest.param(
            FULL.replace("name: YN\n", ""),
            [event("user.message", "u0", content="   "), HELLO],
            {"name": None, "summary": WORDS},
            id="an empty message first",
        ),
        pytest.param(
            FULL.replace("name: YN\n", ""),
            [event("user.message", "u0", content="long " * 2000)],
            {"name": None, "summary": ("long " * 100).strip() + "..."},
            id="a long message",
        ),
        pytest.param(FULL.replace("id: s1", "id: other"), [HELLO], {}, id="another id"),
        pytest.param(
            FULL.replace("name: YN\n", ""),
            [{**HELLO, "data": {"content": "half \ud800 a character"}}],
            {"name": None, "summary": "half \ufffd a character"},
            id="half a character",
        ),
    ],
)
async def test_the_rules_of_the_runtime(
    store: RecordingStore,
    make_catalog: MakeCatalog,
    note: str | None,
    events: list[Mapping[str, object]],
    expected: object,
) -> None:
    catalog = make_catalog()
    conversation = lines(start_event("s1"), *events)
    async with await opened(store, "s1") as volume:
        if note is not None:
            await volume.write_file(WORKSPACE, note)
        await volume.write_file_bytes(EVENTS, conversation)
        head = volume.head
    info = await catalog.info("s1")

    assert info is not None
    assert await make_catalog().list() == [info], "the hint tells the same"
    told = {
        "created_ms": info.created_ms,
        "name": info.name,
        "summary": info.summary,
        "client_name": info.client_name,
        "context": info.context,
    }
    usual = {"created_ms": FROM_YAML, "name": "YN", "summary": "YN", "client_name": "ycl", "context": CONTEXT}
    assert isinstance(expected, dict)
    assert told == usual | expected
    assert (info.sequence, info.epoch) == (head.sequence, head.epoch)
    assert info.bytes == len(conversation) + len((note or "").encode())
    assert info.files == (1 if note is None else 2)
    assert not info.detached


async def test_a_damaged_conversation_still_has_its_note(store: RecordingStore, catalog: Catalog) -> None:
    for session_id, data in (("empty", b""), ("garbage", b"garbage\n"), ("deep", b"[" * 100_000)):
        async with await opened(store, session_id) as volume:
            await volume.write_file(WORKSPACE, FULL)
            await volume.write_file_bytes(EVENTS, data)
        info = await catalog.info(session_id)
        assert info is not None
        assert (info.name, info.created_ms) == ("YN", FROM_YAML)


async def test_a_detached_session(store: RecordingStore, catalog: Catalog) -> None:
    async with await opened(store, "s1") as volume:
        start = start_event("s1", detachedFromSpawningParentSessionId="parent")
        await volume.write_file_bytes(EVENTS, lines(start, HELLO))
    info = await catalog.info("s1")
    assert info is not None
    assert info.detached


async def test_sizes_count_every_file_and_the_database(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", files={"/workspace/big": bytes(3_000_000), f"{STATE}/temp/x": b"12345"})
    before = await catalog.info("s1")
    async with await opened(store, "s1") as volume:
        await volume.sqlite_query("exec", "CREATE TABLE t (a)")
        database = (await volume._tree()).database
    info = await catalog.info("s1")
    assert before is not None
    assert info is not None
    assert database is not None
    assert before.bytes > 3_000_005
    assert info.bytes == before.bytes + database.size
    assert info.files == before.files == 4


async def test_a_session_that_is_not_born_or_not_there_is_none(store: RecordingStore, catalog: Catalog) -> None:
    async with await opened(store, "unborn") as volume:
        await volume.write_file(WORKSPACE, FULL)
    for session_id in ("unborn", "never"):
        assert await catalog.info(session_id) is None
    assert await catalog.list() == []
    assert await catalog.ids() == []
    for bad in ("", ".", "a\0", "x" * 300):
        with pytest.raises(InvalidInput, match="session id"):
            await catalog.info(bad)


async def test_requests(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1")
    catalog = make_catalog()
    store.forget()
    await catalog.info("s1")
    assert sorted({verb for verb, _ in store.requests}) == ["GET", "LIST", "PUT"], "a load, and a hint"
    store.forget()
    await catalog.info("s1")
    assert [verb for verb, _ in store.requests] == ["LIST"]
    store.forget()
    assert await make_catalog().info("s1") == await catalog.info("s1")
    assert sorted(verb for verb, _ in store.requests) == ["GET", "LIST", "LIST"], "the hint holds"
    async with await opened(store, "s1") as volume:
        await volume.append_file(EVENTS, "{}\n")
        head = volume.head
    info = await catalog.info("s1")
    assert info is not None
    assert info.sequence == head.sequence


async def test_a_damaged_session_raises(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1")
    key = SessionKeys.of("acme", "s1").commit(1)
    await store.inner.put(key, b"damage", condition=UNCONDITIONAL)
    catalog = make_catalog()
    for _ in range(2):
        with pytest.raises(Corrupt, match="corrupt at byte"):
            await catalog.info("s1")


async def test_a_missing_blob_raises(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    async with await opened(store, "s1") as volume:
        await volume.write_file_bytes(EVENTS, lines(start_event("s1"), event("x", "y", content="z" * 2_000_000)))
    for key, _ in store.blob_puts():
        await store.inner.delete([key])
    catalog = make_catalog()
    volume_cache = catalog._environment.cache
    volume_cache.budget_bytes, kept = 0, volume_cache.budget_bytes
    try:
        with pytest.raises(Corrupt, match="missing"):
            await catalog.info("s1")
    finally:
        volume_cache.budget_bytes = kept


async def test_a_hint_that_cannot_be_written_is_no_failure(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1")
    store.inject(Fault("PUT", Fate.DENIED, "/catalog/", times=100))
    assert await make_catalog().info("s1") is not None
    assert [info.id for info in await make_catalog().list()] == ["s1"]


async def test_modified_is_the_stores_clock(make_catalog: MakeCatalog) -> None:
    now = 1_000_000
    store = RecordingStore(MemoryStore(clock_ms=lambda: now))
    await write(store, "s1")
    catalog = make_catalog(store=store)
    info = await catalog.info("s1")
    now = 5_000_000
    async with await opened(store, "s1", snapshot_bytes_min=1) as volume:
        now = 6_000_000
        await volume.append_file(EVENTS, "{}\n")
        now = 7_000_000  # the snapshot comes later, and changes nothing
    later = await catalog.info("s1")
    assert info is not None
    assert later is not None
    assert (info.modified_ms, later.modified_ms) == (1_000_000, 6_000_000)
    assert later.created_ms == FROM_YAML
    assert [each.modified_ms for each in await catalog.list()] == [6_000_000]
    assert OPTIONS.snapshot_bytes_min > 1
