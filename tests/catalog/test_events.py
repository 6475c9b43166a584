"""Pages of a conversation: every event once, in order, of the state that the first page saw."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sessionfs_s3 import Corrupt, InvalidInput
from sessionfs_s3.catalog import Catalog
from sessionfs_s3.catalog.journal import Journal
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.fs import Content
from sessionfs_s3.volume import Environment
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.session import Session
from tests.volume.stored import RecordingStore, entries

from .conftest import EVENTS, OPTIONS, event, lines, opened, start_event, write


async def all_pages(catalog: Catalog, session_id: str, **options: Any) -> list[list[dict[str, object]]]:
    page = await catalog.events(session_id, **options)
    pages = [list(page.events)]
    while page.has_more:
        assert not page.expired
        page = await catalog.events(session_id, cursor=page.cursor, limit=options.get("limit", 200))
        pages.append(list(page.events))
    return pages


async def test_forward_and_backward(store: RecordingStore, catalog: Catalog) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    sizes = [rng.choice((0, 10, 3_000, 70_000, 400_000, 1_500_000)) for _ in range(20)]
    said = [start_event("s1"), *(event("x", f"e{n}", content="é" * (size // 2)) for n, size in enumerate(sizes))]
    async with await opened(store, "s1") as volume:
        await volume.write_file_bytes(EVENTS, lines(*said))
    for limit in (1, 3, 7, 1000):
        forward = await all_pages(catalog, "s1", limit=limit)
        backward = await all_pages(catalog, "s1", limit=limit, backward=True)
        assert [each for page in forward for each in page] == said
        assert [each for page in reversed(backward) for each in page] == said
        for page in [*forward, *backward]:
            assert 1 <= len(page) <= limit
            assert len(page) == 1 or len(lines(*page)) <= 1024 * 1024


async def test_a_paging_stays_at_its_state(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1", event("x", "e1"), event("x", "e2"))
    first = await catalog.events("s1", limit=2)
    async with await opened(store, "s1") as volume:
        await volume.append_file(EVENTS, lines(event("x", "late")).decode())
        await volume.write_file_bytes(EVENTS, lines(start_event("s1"), event("x", "rewritten")))
    second = await catalog.events("s1", cursor=first.cursor)
    assert [each["id"] for each in (*first.events, *second.events)] == ["start-of-s1", "hello", "e1", "e2"]
    assert not second.has_more
    assert [each["id"] for each in (await catalog.events("s1")).events] == ["start-of-s1", "rewritten"]


async def test_a_cursor_is_good_once_for_its_session_and_for_a_while(
    store: RecordingStore, environment: Environment
) -> None:
    from dataclasses import replace

    now = 0.0
    catalog = Catalog(
        store,
        "acme",
        environment=replace(environment, uptime_s=lambda: now),
        options=OPTIONS,
        state_path="/session-state",
    )
    await write(store, "s1", event("x", "e1"), event("x", "e2"))
    await write(store, "s2")

    async def expired(session_id: str, cursor: str) -> bool:
        page = await catalog.events(session_id, cursor=cursor)
        assert not page.expired or (page.events, page.has_more) == ((), False)
        return page.expired

    cursor = (await catalog.events("s1", limit=1)).cursor
    assert not await expired("s1", cursor)
    assert await expired("s1", cursor)
    cursor = (await catalog.events("s1", limit=1)).cursor
    assert await expired("s2", cursor)
    cursor = (await catalog.events("s1", limit=1)).cursor
    now = 301.0
    assert await expired("s1", cursor)
    cursors = [(await catalog.events("s1", limit=1)).cursor for _ in range(9)]
    assert [await expired("s1", cursor) for cursor in cursors] == [True] + [False] * 8
    assert await expired("s1", "nonsense")


async def test_a_state_that_is_gone_ends_the_paging(store: RecordingStore, catalog: Catalog) -> None:
    async with await opened(store, "s1") as volume:
        await volume.write_file_bytes(
            EVENTS, lines(start_event("s1"), *(event("x", f"e{n}", content="z" * 900_000) for n in range(9)))
        )
    cache = catalog._environment.cache
    cache.budget_bytes, kept = 0, cache.budget_bytes
    try:
        page = await catalog.events("s1", limit=1)
        await store.inner.delete([each.key for each in await entries(store.inner, SessionKeys.of("acme", "s1").blobs)])
        assert (await catalog.events("s1", cursor=page.cursor)).expired
    finally:
        cache.budget_bytes = kept


async def test_what_is_refused(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1")
    async with await opened(store, "unborn") as volume:
        await volume.write_file("/x", "x")
    for session_id in ("never", "unborn"):
        with pytest.raises(FileNotFoundError):
            await catalog.events(session_id)
    for limit in (0, -1, 1001):
        with pytest.raises(InvalidInput, match="number of events"):
            await catalog.events("s1", limit=limit)
    with pytest.raises(InvalidInput, match="session id"):
        await catalog.events("")
    async with await opened(store, "s1") as volume:
        await volume.append_file(EVENTS, "no event\n")
    with pytest.raises(Corrupt, match="not an event"):
        await catalog.events("s1")


async def test_an_unfinished_last_line_is_passed_over(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1")
    async with await opened(store, "s1") as volume:
        await volume.append_file(EVENTS, '{"type":"x"')
    for backward in (False, True):
        assert len((await catalog.events("s1", backward=backward)).events) == 2


async def test_lines_of_any_length_in_any_windows(store: RecordingStore, environment: Environment) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    session = Session(store, SessionKeys.of("acme", "s1"), environment, OPTIONS)
    for _ in range(60):
        sizes = [
            rng.choice((0, 1, 5, 65_534, 65_535, 65_536, 65_537, 131_071, 200_000)) for _ in range(rng.randrange(8))
        ]
        data = b"".join(bytes([97 + n % 26]) * size + b"\n" for n, size in enumerate(sizes))
        data = data[: -rng.randrange(2) or None]
        journal = Journal("s1", ContentReader(session), Content.of(data))
        split = data.splitlines(keepends=True)
        forward = [line async for line in journal.lines()]
        assert [line.data for line in forward] == split
        assert [line.start for line in forward] == [sum(map(len, split[:n])) for n in range(len(split))]
        backward = [line async for line in journal.lines_backward()]
        assert backward == forward[::-1]
        if split:
            assert await journal.first() == forward[0]
            assert await journal.last(forward[-1].stop) == forward[-1]
        at = rng.randrange(len(split) + 1)
        start = sum(map(len, split[:at]))
        assert [line.data async for line in journal.lines(start)] == split[at:]
        assert [line.data async for line in journal.lines(0, start)] == split[:at]


async def test_what_the_runtime_keeps_to_itself_is_not_shown(store: RecordingStore, catalog: Catalog) -> None:
    hidden = [event("model.turn_started", "h1"), event("model.messages_snapshot", "h2")]
    await write(store, "s1", *hidden, event("model.call_failure", "shown"), event("new.kind", "too"), *hidden)
    for backward in (False, True):
        pages = await all_pages(catalog, "s1", limit=1, backward=backward)
        shown = [each["id"] for page in pages for each in page]
        assert sorted(map(str, shown)) == ["hello", "shown", "start-of-s1", "too"]
        assert all(pages), "no page is empty"


async def test_events_are_what_json_says(store: RecordingStore, catalog: Catalog) -> None:
    said = event("user.message", "u", content='naïve ☕ 𝄞 \u2028 \u0085 \\ "', number=9007199254740993, real=0.0)
    await write(store, "s1", said)
    found = (await catalog.events("s1")).events[-1]
    assert found == said
    assert json.dumps(found) == json.dumps(said)
