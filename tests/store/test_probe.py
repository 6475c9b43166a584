"""The probe passes every store that can carry sessions, and refuses the others by name of what they lack."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path

import pytest

from sessionfs_s3.errors import (
    Conflict,
    Denied,
    InvalidInput,
    KeyNotFound,
    NoAnswer,
    PreconditionFailed,
    Refused,
    Unavailable,
)
from sessionfs_s3.store import (
    PAGE_ENTRIES_MAX,
    UNCONDITIONAL,
    Condition,
    Entry,
    Fetched,
    MemoryStore,
    MeteredStore,
    Page,
    RequestLog,
    Store,
    open_store,
    probe_once,
)
from sessionfs_s3.store.probe import probe
from sessionfs_s3.testing.servers import S3Server
from tests.store.test_conformance_catches import (
    ChecksThenWrites,
    ComparesThenWrites,
    IgnoresIfMatch,
    IgnoresIfNoneMatch,
    ListsLate,
    SpansIncludeTheirEnd,
)

Enter = Callable[[S3Server], str]

_names = itertools.count()


def on(name: str) -> pytest.MarkDecorator:
    return pytest.mark.xdist_group(name)


GOOD = [
    pytest.param(name, marks=[pytest.mark.servers, on(name)]) for name in ("moto", "ministack", "seaweedfs", "minio")
]
# Not always all eight: a server that takes every write for good may fail at several of one file.
IGNORES_IF_NONE_MATCH = r"it ignores If-None-Match \([1-8] of 8 .* succeeded, and one more after them\)"
UNFIT = [
    pytest.param("s3rver", False, IGNORES_IF_NONE_MATCH, marks=[pytest.mark.servers, on("s3rver")]),
    pytest.param("rclone", False, IGNORES_IF_NONE_MATCH, marks=[pytest.mark.servers, on("rclone")]),
    pytest.param(
        "localbucket",
        True,
        r"it ignores If-Match, .*\(2 of 2 concurrent replaces .*; it denies DELETE: HTTP 501 NotImplemented",
        marks=[pytest.mark.servers, on("localbucket")],
    ),
]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> S3Server:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Store]:
    async with contextlib.aclosing(await open_store(url)) as store:
        yield store


@pytest.mark.parametrize("server", GOOD, indirect=True)
@pytest.mark.parametrize("replace", [False, True])
async def test_servers_that_can_carry_sessions_pass(server: S3Server, replace: bool, enter: Enter) -> None:
    async with opened(enter(server)) as store:
        await probe(store, replace=replace)
        assert (await store.list("")).entries == ()


@pytest.mark.parametrize(("server", "replace", "lacks"), UNFIT, indirect=["server"])
async def test_servers_that_cannot_are_refused_by_name_of_what_they_lack(
    server: S3Server, replace: bool, lacks: str, enter: Enter
) -> None:
    async with opened(enter(server)) as store:
        with pytest.raises(Refused, match=rf"^{re.escape(f'[Errno 5] {store.url}')}: .*cannot carry sessions: {lacks}"):
            await probe(store, replace=replace)


@pytest.mark.servers
@on("ministack")
async def test_a_bucket_that_is_not_there_is_said_to_be_missing(ministack: S3Server, enter: Enter) -> None:
    enter(ministack)
    async with opened(ministack.store_url("nobody-made-this")) as store:
        with pytest.raises(
            Refused, match=r"denies a conditional create .*the bucket 'nobody-made-this' does not exist"
        ):
            await probe(store)


@pytest.mark.parametrize("replace", [False, True])
async def test_a_directory_and_the_memory_pass(tmp_path: Path, replace: bool) -> None:
    for url in (tmp_path.as_uri(), "memory://"):
        async with opened(url) as store:
            await probe(store, replace=replace)
            assert (await store.list("")).entries == ()


class Waves(MemoryStore):
    """Counts how often a request sets out while none is under way: what has to wait for one another."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = 0
        self.keys: set[str] = set()
        self._under_way = 0

    @contextlib.contextmanager
    def _counting(self, key: str) -> Generator[None]:
        self.waves += self._under_way == 0
        self.keys.add(key)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        with self._counting(key):
            return await super().get(key, span=span)

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        with self._counting(key):
            return await super().put(key, data, condition=condition)

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        with self._counting(prefix):
            return await super().list(prefix, cursor=cursor, limit=limit)

    async def delete(self, keys: Sequence[str]) -> None:
        with self._counting(keys[0]):
            await super().delete(keys)


@pytest.mark.parametrize(("replace", "waves", "requests"), [(False, 3, 13), (True, 4, 15)])
async def test_it_costs_three_round_trips_and_a_dozen_requests(replace: bool, waves: int, requests: int) -> None:
    store, log = Waves(), RequestLog()
    await probe(MeteredStore(store, log), replace=replace)
    assert (store.waves, log.snapshot().requests()) == (waves, requests)
    (key,) = store.keys
    assert re.fullmatch("probe/[0-9a-f]{32}", key)


async def test_its_object_is_a_new_one_each_time_and_goes_where_it_may() -> None:
    store = Waves()
    await probe(store, folder="tenants/acme/probe")
    await probe(store, folder="tenants/acme/probe")
    assert len(store.keys) == 2
    assert all(key.startswith("tenants/acme/probe/") for key in store.keys)
    with pytest.raises(InvalidInput, match="at least 2"):
        await probe(store, racers=1)
    with pytest.raises(InvalidInput, match="key"):
        await probe(store, folder="../probe")
    assert len(store.keys) == 2 + 1


class EverybodyWins(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        with contextlib.suppress(PreconditionFailed):
            return await super().put(key, data, condition=condition)
        return (await self.get(key)).etag


class NobodyWins(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        raise PreconditionFailed(key)


class ReadsLate(MemoryStore):
    """Says that what was just stored is missing: a reading that is eventually consistent."""

    read = False

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        if not self.read and span is None:
            self.read = True
            raise KeyNotFound(key)
        return await super().get(key, span=span)


class ReadsALoser(MemoryStore):
    """Tells one writer that it won, and shows everybody another one's bytes."""

    loser = b""

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        try:
            return await super().put(key, data, condition=condition)
        except PreconditionFailed:
            self.loser = data
            raise

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        fetched = await super().get(key, span=span)
        return Fetched(self.loser[span[0] : span[1]] if span else self.loser, fetched.etag)


class IgnoresRange(MemoryStore):
    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        return await super().get(key)


class ListsNoSizes(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        page = await super().list(prefix, cursor=cursor, limit=limit)
        return Page(tuple(Entry(each.key, 0, each.etag, each.modified_ms) for each in page.entries), page.cursor)


class DeniesPut(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        raise Denied(key, "HTTP 403 AccessDenied")


class DeniesGet(MemoryStore):
    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        raise Denied(key, "HTTP 403 AccessDenied")


class DeniesList(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        raise Denied(prefix, "HTTP 403 AccessDenied")


class DeniesDelete(MemoryStore):
    async def delete(self, keys: Sequence[str]) -> None:
        raise Denied(keys[0], "HTTP 403 AccessDenied")


class LacksAll(IgnoresIfNoneMatch, IgnoresRange, ListsLate, DeniesDelete):
    pass


class AnswersOneOnly(MemoryStore):
    """Several writers are told that they won, and the others nothing."""

    puts = 0

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        self.puts += 1
        if self.puts > 2:
            raise NoAnswer(key, "read timeout")
        return await super().put(key, data, condition=UNCONDITIONAL)


@pytest.mark.parametrize(
    ("broken", "replace", "lacks"),
    [
        (IgnoresIfNoneMatch, False, r"it ignores If-None-Match \(8 of 8 .* succeeded, and one more after them\)$"),
        (EverybodyWins, False, r"it ignores If-None-Match \(8 of 8 .* succeeded, and one more after them\)$"),
        (ChecksThenWrites, False, r"it does not decide races between conditional creates \(8 of 8 .* succeeded\)$"),
        (AnswersOneOnly, False, r"it does not decide races between conditional creates \(2 of 8 .* succeeded\)$"),
        (NobodyWins, False, r"no conditional create of a new key succeeds \(8 PreconditionFailed\)$"),
        (ReadsLate, False, r"no read-after-write: GET does not find an object that was just stored$"),
        (ReadsALoser, False, r"no read-after-write: GET of an .* yields other bytes; .*GET of a part .* other bytes$"),
        (IgnoresRange, False, r"no read-after-write: GET of a part \(Range\) .* yields 100 bytes instead of 64$"),
        (
            SpansIncludeTheirEnd,
            False,
            r"no read-after-write: GET of a part \(Range\) .* yields 65 bytes instead of 64$",
        ),
        (ListsLate, False, r"no list-after-write: LIST does not show an object that was just stored$"),
        (ListsNoSizes, False, r"LIST tells a wrong size: 0 bytes of an object of 100$"),
        (IgnoresIfMatch, True, r"it ignores If-Match, or does not decide races \(2 of 2 .* succeeded\)$"),
        (ComparesThenWrites, True, r"it ignores If-Match, or does not decide races \(2 of 2 .* succeeded\)$"),
        (DeniesPut, False, r"it denies a conditional create \(PUT with If-None-Match\): HTTP 403 AccessDenied$"),
        (DeniesGet, False, r"it denies GET: HTTP 403 AccessDenied; it denies GET of a part .*AccessDenied$"),
        (DeniesList, False, r"it denies LIST: HTTP 403 AccessDenied$"),
        (DeniesDelete, False, r"it denies DELETE: HTTP 403 AccessDenied$"),
        (
            LacksAll,
            False,
            r"it ignores If-None-Match .*; no read-after-write: GET .*; no list-after-write: .*; it denies DELETE",
        ),
    ],
)
async def test_a_broken_store_is_refused_by_name_of_what_it_lacks(
    broken: type[MemoryStore], replace: bool, lacks: str
) -> None:
    with pytest.raises(Refused, match=rf"memory://: this store cannot carry sessions: {lacks}"):
        await probe(broken(), replace=replace)


@pytest.mark.parametrize("broken", [IgnoresIfMatch, ComparesThenWrites])
async def test_replacing_is_probed_only_where_it_is_used(broken: type[MemoryStore]) -> None:
    await probe(broken())


class Scripted(MemoryStore):
    """Gives answers of its own to the first creates, and carries some of them out nevertheless."""

    def __init__(self, *script: tuple[type[Conflict | NoAnswer], bool] | None) -> None:
        super().__init__()
        self.script = list(script)
        self.keys: set[str] = set()

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        self.keys.add(key)
        answer = self.script.pop(0) if self.script else None
        if answer is None:
            return await super().put(key, data, condition=condition)
        if answer[1]:
            await super().put(key, data, condition=condition)
        raise answer[0](key, "scripted")


CONFLICT, STORED, LOST = (Conflict, False), (NoAnswer, True), (NoAnswer, False)


@pytest.mark.parametrize(
    ("script", "tries"),
    [
        ([], 1),
        ([None, *[CONFLICT] * 7], 1),
        ([*[CONFLICT] * 7, None], 1),
        ([CONFLICT] * 8, 2),
        ([STORED], 2),
        ([LOST], 2),
        ([LOST] * 24, 4),
        ([None] * 8 + [LOST], 2),
    ],
)
async def test_what_says_nothing_is_asked_again(script: list[tuple[type[Conflict], bool]], tries: int) -> None:
    store = Scripted(*script)
    await probe(store)
    assert len(store.keys) == tries
    assert (await store.list("")).entries == ()


@pytest.mark.parametrize(
    ("answer", "told"), [(LOST, "scripted"), (CONFLICT, r"no conditional create .* succeeded \(8 Conflict\)")]
)
async def test_a_store_without_answers_is_unavailable_not_refused(
    answer: tuple[type[Conflict], bool], told: str
) -> None:
    store = Scripted(*[answer] * 10_000)
    with pytest.raises(Unavailable, match=rf"whether memory:// can .*: no answer in 0\.3 s and .* tries: .*{told}"):
        await probe(store, deadline_s=0.3)
    assert len(store.keys) > 1


class Stalls(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_store_that_stalls_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"no answer in 0\.05 s and 1 tries"):
        await probe(Stalls(), deadline_s=0.05)


def named() -> str:
    """Return a name that no other store has: passing is remembered by URL, for as long as the process runs."""
    return f"probed-{os.getpid()}-{next(_names)}"


async def test_a_url_is_probed_once() -> None:
    log, name = RequestLog(), named()
    await asyncio.gather(*(probe_once(MeteredStore(MemoryStore(name), log)) for _ in range(10)))
    await probe_once(MeteredStore(MemoryStore(name), log))
    await probe_once(MeteredStore(MemoryStore(name), log), folder="tenants/acme/probe")
    assert log.snapshot().requests() == 13, "once, wherever in the store the later ones would look"
    await probe_once(MeteredStore(MemoryStore(name), log), replace=True)
    assert log.snapshot().requests() == 13 + 15
    await probe_once(MeteredStore(MemoryStore(named()), log))
    assert log.snapshot().requests() == 13 + 15 + 13


async def test_a_failure_is_shared_but_not_remembered() -> None:
    log, name = RequestLog(), named()
    outcomes = await asyncio.gather(
        *(probe_once(MeteredStore(IgnoresIfNoneMatch(name), log)) for _ in range(10)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Refused] * 10
    assert log.snapshot().requests() == 13
    await probe_once(MeteredStore(MemoryStore(name), log))
    assert log.snapshot().requests() == 26


async def test_whoever_waits_takes_over_from_a_probe_that_was_cancelled() -> None:
    name = named()
    first = asyncio.create_task(probe_once(Stalls(name)))
    await asyncio.sleep(0)
    others = [asyncio.create_task(probe_once(MemoryStore(name))) for _ in range(3)]
    await asyncio.sleep(0)
    others[0].cancel()
    first.cancel()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2 + [type(None)] * 2


def test_two_event_loops_do_not_wait_for_each_other() -> None:
    name = named()

    async def stall() -> None:
        stalled = asyncio.create_task(probe_once(Stalls(name)))
        await asyncio.sleep(0)
        await asyncio.to_thread(asyncio.run, probe_once(MemoryStore(name)))
        assert not stalled.done(), "the other loop had its own"
        stalled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stalled

    asyncio.run(stall())
