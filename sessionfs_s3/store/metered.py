"""Counting requests: a store around any other store, and the log in which it writes what each request cost.

What a conversation costs in requests is a promise, how long they take is the network's: the log keeps counts, and hands
each request with its time to whoever listens.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sessionfs_s3.errors import StoreAnswer
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Condition, Fetched, Page, Store

RECENT_REQUESTS_MAX: Final = 1000
"""How many single requests a log keeps by default; the counts cover all of them."""


class Verb(StrEnum):
    """A request's verb, as the users of S3 know it, in the order in which tables show them."""

    LIST = "LIST"
    GET = "GET"
    PUT = "PUT"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was made.

    Attributes:
        verb: what was asked.
        key: of what: the key, a listing's prefix, the first key of a delete.
        kind: what the key is to whoever made the log; "" where nobody said.
        bytes_up: size of the contents sent.
        bytes_down: size of the contents received.
        outcome: "ok", or the name of the exception's class.
        took_s: how long it took, in seconds; no part of what makes two requests equal.
    """

    verb: Verb
    key: str
    kind: str
    bytes_up: int
    bytes_down: int
    outcome: str
    took_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requests, and the bytes of contents that went up and down with them."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Return both together."""
        return Tally(self.requests + other.requests, self.bytes_up + other.bytes_up, self.bytes_down + other.bytes_down)

    def __sub__(self, earlier: Tally) -> Tally:
        """Return what came after *earlier*."""
        return Tally(
            self.requests - earlier.requests, self.bytes_up - earlier.bytes_up, self.bytes_down - earlier.bytes_down
        )


Slot = tuple[Verb, str, str]
"""What requests are counted by: verb, kind, outcome."""


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What a log had counted at one moment, or, as a difference of two, between them."""

    tallies: Mapping[Slot, Tally] = field(default_factory=dict[Slot, Tally])

    def tally(self, verb: Verb | None = None, *, kind: str | None = None, outcome: str | None = None) -> Tally:
        """Return the tally of the requests that fit; what is None fits every request."""
        total = Tally()
        for (its_verb, its_kind, its_outcome), tally in self.tallies.items():
            if verb in (None, its_verb) and kind in (None, its_kind) and outcome in (None, its_outcome):
                total += tally
        return total

    def requests(self, verb: Verb | None = None, *, kind: str | None = None, outcome: str | None = None) -> int:
        """Return the number of requests that fit."""
        return self.tally(verb, kind=kind, outcome=outcome).requests

    def by_verb(self) -> dict[str, int]:
        """Return the number of requests of each verb that was used: ``{"LIST": 1, "PUT": 2}``."""
        return {verb.value: count for verb in Verb if (count := self.requests(verb))}

    def rows(self) -> list[tuple[str, str, str, int, int, int]]:
        """Return a table's rows in order: verb, kind, outcome, requests, bytes up, bytes down."""
        order = list(Verb)
        return [
            (verb.value, kind, outcome, tally.requests, tally.bytes_up, tally.bytes_down)
            for (verb, kind, outcome), tally in sorted(
                self.tallies.items(), key=lambda item: (order.index(item[0][0]), *item[0][1:])
            )
        ]

    def __sub__(self, earlier: RequestCounts) -> RequestCounts:
        """Return what was counted after *earlier*, a snapshot of the same log."""
        after = {slot: tally - earlier.tallies.get(slot, Tally()) for slot, tally in self.tallies.items()}
        return RequestCounts({slot: tally for slot, tally in after.items() if tally.requests})


def _no_kind(_verb: Verb, _key: str) -> str:
    return ""


class RequestLog:
    """What all the stores that write into it have asked for. Bounded: counts, and the most recent requests.

    Attributes:
        listeners: called with each request when it has ended; they must not raise.
    """

    def __init__(
        self, *, kind: Callable[[Verb, str], str] = _no_kind, recent_requests_max: int = RECENT_REQUESTS_MAX
    ) -> None:
        """Make an empty log.

        Args:
            kind: says of a verb and a key what the key is, for instance "claim" or "snapshot"; a few words in all,
                since each is a row of the table.
            recent_requests_max: how many single requests :attr:`recent` keeps.
        """
        self.listeners: list[Callable[[Request], None]] = []
        self._kind = kind
        self._tallies: dict[Slot, Tally] = {}
        self._recent: deque[Request] = deque(maxlen=recent_requests_max)

    @property
    def recent(self) -> tuple[Request, ...]:
        """The latest requests, in the order in which they ended."""
        return tuple(self._recent)

    def record(
        self,
        verb: Verb,
        key: str,
        *,
        bytes_up: int = 0,
        bytes_down: int = 0,
        outcome: str = "ok",
        took_s: float = 0.0,
    ) -> None:
        """Count one request that has ended, after *took_s* seconds."""
        kind = self._kind(verb, key)
        slot = (verb, kind, outcome)
        self._tallies[slot] = self._tallies.get(slot, Tally()) + Tally(1, bytes_up, bytes_down)
        request = Request(verb, key, kind, bytes_up, bytes_down, outcome, took_s)
        self._recent.append(request)
        for listener in self.listeners:
            listener(request)

    def snapshot(self) -> RequestCounts:
        """Return the counts so far; subtract an earlier snapshot for those of a stretch."""
        return RequestCounts(dict(self._tallies))


class MeteredStore:
    """The store *inner*, with every request written into *log*.

    A call that is refused before a request is made (a bad key, a closed store, an empty delete) is not counted.
    """

    def __init__(self, inner: Store, log: RequestLog, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Wrap *inner*; closing this store closes it. *clock* tells seconds and does not go back."""
        self._inner = inner
        self._log = log
        self._clock = clock

    @property
    def url(self) -> str:
        """Where the inner store is."""
        return self._inner.url

    @property
    def lists_sorted(self) -> bool:
        """Whether the inner store's listings are sorted."""
        return self._inner.lists_sorted

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """Fetch from the inner store."""
        with self._counted(Verb.GET, key) as cost:
            fetched = await self._inner.get(key, span=span)
            cost.bytes_down = len(fetched.data)
            return fetched

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """Store in the inner store."""
        with self._counted(Verb.PUT, key, bytes_up=len(data)):
            return await self._inner.put(key, data, condition=condition)

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """List the inner store."""
        with self._counted(Verb.LIST, prefix):
            return await self._inner.list(prefix, cursor=cursor, limit=limit)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete from the inner store; one request, however many keys."""
        if not keys:
            await self._inner.delete(keys)
            return
        with self._counted(Verb.DELETE, keys[0]):
            await self._inner.delete(keys)

    async def aclose(self) -> None:
        """Close the inner store."""
        await self._inner.aclose()

    @contextmanager
    def _counted(self, verb: Verb, key: str, *, bytes_up: int = 0) -> Generator[_Cost]:
        """Write the request that the block makes into the log, unless it ends as one that was never made."""
        began_s = self._clock()
        cost = _Cost()
        outcome = "ok"
        try:
            yield cost
        except (StoreAnswer, asyncio.CancelledError) as error:
            outcome = type(error).__name__
            raise
        except BaseException:
            outcome = ""
            raise
        finally:
            if outcome:
                self._log.record(
                    verb,
                    key,
                    bytes_up=bytes_up,
                    bytes_down=cost.bytes_down,
                    outcome=outcome,
                    took_s=self._clock() - began_s,
                )


@dataclass(slots=True)
class _Cost:
    """What a request turned out to carry."""

    bytes_down: int = 0
