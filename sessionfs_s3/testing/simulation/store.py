"""The simulated store: strongly consistent like S3, behind a network that loses, delays and repeats what it carries."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from sessionfs_s3.errors import Conflict, KeyNotFound, NoAnswer, PreconditionFailed
from sessionfs_s3.store.protocol import (
    PAGE_ENTRIES_MAX,
    Condition,
    Entry,
    Fetched,
    IfAbsent,
    IfMatches,
    Page,
)
from sessionfs_s3.testing.simulation.loop import START_MS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is: probabilities for each request, and durations in seconds.

    Attributes:
        lost_request: it never arrives.
        lost_answer: it is carried out, the answer never comes.
        repeated: a PUT is carried out once more, up to *late_s* later.
        delayed: a PUT is given up by the network and arrives all the same, up to *late_s* later.
        conflict: a conditional PUT is answered with 409.
        burst: a stretch of up to *burst_s* begins in which the store answers 503 to everything.
        stalled: the answer takes up to *late_s*.
        slow: the request arrives after up to *burst_s* only.
        damaged: one bit of a part of an object that was asked for is another one.
    """

    lost_request: float = 0.02
    lost_answer: float = 0.03
    repeated: float = 0.02
    delayed: float = 0.02
    conflict: float = 0.02
    burst: float = 0.002
    stalled: float = 0.005
    slow: float = 0.01
    damaged: float = 0.003
    burst_s: float = 20.0
    late_s: float = 120.0


@dataclass(slots=True)
class _Object:
    data: bytes
    etag: str
    modified_s: float


@dataclass(frozen=True, slots=True)
class Listings:
    """How the store lists.

    Attributes:
        page_entries: how many entries a page has at most, whatever is asked for.
        sorted: whether in the order of keys; otherwise in one of its own, as S3's directory buckets do.
        torn: whether a page is put together while changes go on, as by a file system's ``readdir``.
    """

    page_entries: int = PAGE_ENTRIES_MAX
    sorted: bool = True
    torn: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as it once was stored."""

    key: str
    data: bytes
    at_s: float


class Bucket:
    """What is stored: one for a run. Every access happens at one instant of virtual time.

    Attributes:
        objects: what is there.
        history: every object that ever was, in the order in which they came; where one key came twice, both.
        deleted: every key that was deleted while it was there, and when.
        damaged: every key that the network has damaged once.
    """

    def __init__(self, listings: Listings) -> None:
        """Start empty."""
        self.objects: dict[str, _Object] = {}
        self.history: list[Stored] = []
        self.deleted: list[tuple[float, str]] = []
        self.damaged: set[str] = set()
        self.listings = listings

    def put(self, key: str, data: bytes, condition: Condition, now_s: float) -> str:
        """Store, if the condition holds."""
        found = self.objects.get(key)
        if isinstance(condition, IfAbsent) and found is not None:
            raise PreconditionFailed(key, "412")
        if isinstance(condition, IfMatches) and (found is None or found.etag != condition.etag):
            raise PreconditionFailed(key, "412")
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = _Object(data, etag, now_s)
        self.history.append(Stored(key, data, now_s))
        return etag

    def get(self, key: str, span: tuple[int, int] | None) -> Fetched:
        """Fetch."""
        found = self.objects.get(key)
        if found is None:
            raise KeyNotFound(key)
        data = found.data if span is None else found.data[span[0] : span[1]]
        return Fetched(data, found.etag)

    def list(self, prefix: str, cursor: str | None, limit: int) -> Page:
        """List one page."""
        order = _itself if self.listings.sorted else _scrambled
        found = sorted((order(key), key) for key in self.objects if key.startswith(prefix))
        keys = [key for place, key in found if cursor is None or place > order(cursor)]
        page = keys[: min(limit, self.listings.page_entries)]
        entries = tuple(
            Entry(key, len(found.data), found.etag, START_MS + int(found.modified_s * 1000))
            for key in page
            for found in (self.objects[key],)
        )
        return Page(entries, page[-1] if len(keys) > len(page) else None)

    def delete(self, keys: Sequence[str], now_s: float) -> None:
        """Delete."""
        for key in keys:
            if self.objects.pop(key, None) is not None:
                self.deleted.append((now_s, key))


class SimulatedStore:
    """One replica's way to the bucket."""

    def __init__(
        self,
        *,
        name: str,
        bucket: Bucket,
        rng: random.Random,
        weather: Weather,
        told: Callable[[str, str], None],
        network: set[asyncio.Task[None]],
        under_way: Callable[[str], None],
    ) -> None:
        """Reach *bucket* through *weather*.

        *told* hears of every request, *network* holds what is still on its way, *under_way* is called, with
        its verb, while a request is.
        """
        self.url = f"simulated://{name}"
        self.lists_sorted = bucket.listings.sorted
        self._name = name
        self._bucket = bucket
        self._rng = rng
        self._weather = weather
        self._told = told
        self._network = network
        self._under_way = under_way
        self._down_until_s = 0.0

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """See :class:`Store`."""
        fetched = await self._request("GET", key, lambda: self._bucket.get(key, span))
        if span is None or not fetched.data or self._rng.random() >= self._weather.damaged:
            return fetched
        self._say("GET", key, "is damaged")
        self._bucket.damaged.add(key)
        data = bytearray(fetched.data)
        data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return Fetched(bytes(data), fetched.etag)

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """See :class:`Store`."""

        def store() -> str:
            return self._bucket.put(key, data, condition, asyncio.get_running_loop().time())

        return await self._request("PUT", key, store, conditional=not _unconditional(condition), again=True)

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """See :class:`Store`."""
        if not self._bucket.listings.torn or limit < 2:
            return await self._request("LIST", prefix, lambda: self._bucket.list(prefix, cursor, limit))
        front = await self._request("LIST", prefix, lambda: self._bucket.list(prefix, cursor, limit // 2))
        if front.cursor is None:
            return front
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        back = self._bucket.list(prefix, front.cursor, limit - limit // 2)
        return Page(front.entries + back.entries, back.cursor)

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`Store`."""

        def remove() -> None:
            self._bucket.delete(keys, asyncio.get_running_loop().time())

        await self._request("DELETE", " ".join(key.rsplit("/", 1)[-1] for key in keys), remove)

    async def aclose(self) -> None:
        """Nothing to close."""

    async def _request(
        self, verb: str, key: str, act: Callable[[], T], *, conditional: bool = False, again: bool = False
    ) -> T:
        rng, weather, loop = self._rng, self._weather, asyncio.get_running_loop()
        await asyncio.sleep(rng.lognormvariate(-4.0, 0.4))
        self._under_way(verb)
        await asyncio.sleep(rng.uniform(0.0, weather.burst_s) if rng.random() < weather.slow else 0.001)
        if rng.random() < weather.burst:
            self._down_until_s = loop.time() + rng.uniform(0.0, weather.burst_s)
        if loop.time() < self._down_until_s:
            self._say(verb, key, "503")
            raise NoAnswer(key, "503 SlowDown")
        if rng.random() < weather.lost_request:
            await self._nothing(verb, key, "never arrives")
        if again and rng.random() < weather.delayed:
            self._later(verb, key, act)
            await self._nothing(verb, key, "is delayed")
        if conditional and rng.random() < weather.conflict:
            self._say(verb, key, "409")
            raise Conflict(key, "409")
        try:
            answer = act()
        except Exception as error:
            self._say(verb, key, type(error).__name__)
            await asyncio.sleep(rng.lognormvariate(-4.0, 0.4))
            raise
        self._say(verb, key, "done")
        if again and rng.random() < weather.repeated:
            self._later(verb, key, act)
        if rng.random() < weather.lost_answer:
            await self._nothing(verb, key, "answer lost")
        stalled = rng.random() < weather.stalled
        await asyncio.sleep(rng.uniform(0.0, weather.late_s) if stalled else rng.lognormvariate(-4.0, 0.4))
        return answer

    async def _nothing(self, verb: str, key: str, what: str) -> NoReturn:
        self._say(verb, key, what)
        await asyncio.sleep(self._rng.uniform(0.0, 5.0))
        raise NoAnswer(key, what)

    def _later(self, verb: str, key: str, act: Callable[[], object]) -> None:
        async def land(after_s: float) -> None:
            await asyncio.sleep(after_s)
            try:
                act()
            except PreconditionFailed:
                self._say(verb, key, "late: 412")
            else:
                self._say(verb, key, "late: done")

        # It is on the network now: the death of who sent it does not call it back.
        after_s = self._rng.uniform(0.0, self._weather.late_s)
        task = asyncio.get_running_loop().create_task(land(after_s), context=Context())
        self._network.add(task)
        task.add_done_callback(self._network.discard)

    def _say(self, verb: str, key: str, outcome: str) -> None:
        self._told(self._name, f"{verb} {key.rsplit('/', 1)[-1]} {outcome}")


def _itself(key: str) -> str:
    return key


def _scrambled(key: str) -> str:
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def _unconditional(condition: Condition) -> bool:
    return not isinstance(condition, (IfAbsent, IfMatches))
