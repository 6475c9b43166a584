"""Requests are counted once each, with what they carried and how they ended."""

from __future__ import annotations

import asyncio

import pytest

from sessionfs_s3.errors import Closed, InvalidInput, KeyNotFound, PreconditionFailed
from sessionfs_s3.store import (
    IF_ABSENT,
    UNCONDITIONAL,
    MemoryStore,
    MeteredStore,
    Request,
    RequestLog,
    Tally,
    Verb,
)


def kind(verb: Verb, key: str) -> str:
    return "log" if key.startswith("log/") else ""


@pytest.fixture
def log() -> RequestLog:
    return RequestLog(kind=kind)


@pytest.fixture
def store(log: RequestLog) -> MeteredStore:
    return MeteredStore(MemoryStore(), log)


async def test_every_request_is_counted_with_its_bytes_and_outcome(store: MeteredStore, log: RequestLog) -> None:
    await store.put("log/1", b"12345", condition=IF_ABSENT)
    with pytest.raises(PreconditionFailed):
        await store.put("log/1", b"123", condition=IF_ABSENT)
    await store.get("log/1")
    await store.get("log/1", span=(0, 2))
    with pytest.raises(KeyNotFound):
        await store.get("other")
    await store.list("log/")
    await store.delete(["log/1", "other"])
    counts = log.snapshot()
    assert counts.by_verb() == {"LIST": 1, "GET": 3, "PUT": 2, "DELETE": 1}
    assert counts.rows() == [
        ("LIST", "log", "ok", 1, 0, 0),
        ("GET", "", "KeyNotFound", 1, 0, 0),
        ("GET", "log", "ok", 2, 0, 7),
        ("PUT", "log", "PreconditionFailed", 1, 3, 0),
        ("PUT", "log", "ok", 1, 5, 0),
        ("DELETE", "log", "ok", 1, 0, 0),
    ]
    assert counts.requests() == 7
    assert counts.requests(Verb.GET, kind="log") == 2
    assert counts.requests(outcome="ok") == 5
    assert counts.tally(Verb.PUT) == Tally(2, 8, 0)
    assert log.recent[:2] == (
        Request(Verb.PUT, "log/1", "log", 5, 0, "ok"),
        Request(Verb.PUT, "log/1", "log", 3, 0, "PreconditionFailed"),
    )


async def test_a_difference_is_what_came_between(store: MeteredStore, log: RequestLog) -> None:
    await store.put("log/1", b"12345", condition=UNCONDITIONAL)
    before = log.snapshot()
    assert (log.snapshot() - before).rows() == []
    await store.put("log/1", b"1", condition=UNCONDITIONAL)
    await store.list("")
    between = log.snapshot() - before
    assert between.rows() == [("LIST", "", "ok", 1, 0, 0), ("PUT", "log", "ok", 1, 1, 0)]
    assert before.by_verb() == {"PUT": 1}, "a snapshot does not change"


async def test_what_makes_no_request_is_not_counted(store: MeteredStore, log: RequestLog) -> None:
    await store.delete([])
    with pytest.raises(InvalidInput):
        await store.put("../up", b"x", condition=IF_ABSENT)
    await store.aclose()
    with pytest.raises(Closed):
        await store.get("key")
    assert log.snapshot().rows() == []


async def test_a_cancelled_request_is_counted(store: MeteredStore, log: RequestLog) -> None:
    task = asyncio.create_task(store.put("log/1", b"12345", condition=IF_ABSENT))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.snapshot().rows() == [("PUT", "log", "CancelledError", 1, 5, 0)]


async def test_recent_requests_are_bounded_and_counts_are_not() -> None:
    log = RequestLog(recent_requests_max=3)
    store = MeteredStore(MemoryStore(), log)
    for number in range(5):
        await store.put(f"log/{number}", b"", condition=IF_ABSENT)
    assert [request.key for request in log.recent] == ["log/2", "log/3", "log/4"]
    assert log.snapshot().requests() == 5


async def test_a_listener_hears_of_every_request_how_long_it_took(log: RequestLog) -> None:
    heard: list[Request] = []
    log.listeners.append(heard.append)
    times_s = iter([1.0, 1.5, 2.0, 4.0])
    store = MeteredStore(MemoryStore(), log, clock=lambda: next(times_s))
    await store.put("log/1", b"12345", condition=IF_ABSENT)
    with pytest.raises(KeyNotFound):
        await store.get("other")
    assert [(request.verb, request.outcome, request.took_s) for request in heard] == [
        (Verb.PUT, "ok", 0.5),
        (Verb.GET, "KeyNotFound", 2.0),
    ]
    assert tuple(heard) == log.recent


async def test_two_requests_that_differ_in_time_only_are_equal(log: RequestLog) -> None:
    log.record(Verb.GET, "key", took_s=1.0)
    log.record(Verb.GET, "key", took_s=2.0)
    assert log.recent[0] == log.recent[1]


async def test_what_makes_no_request_is_not_heard_of(log: RequestLog) -> None:
    heard: list[Request] = []
    log.listeners.append(heard.append)
    store = MeteredStore(MemoryStore(), log)
    with pytest.raises(InvalidInput):
        await store.get("../up")
    await store.delete([])
    assert heard == []
