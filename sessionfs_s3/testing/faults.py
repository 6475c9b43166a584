"""A store that fails on demand: lost answers, lost requests, conflicts, refusals, stalls. Wraps any other store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeVar

from sessionfs_s3.errors import Conflict, Denied, NoAnswer
from sessionfs_s3.store.protocol import (
    PAGE_ENTRIES_MAX,
    Condition,
    Fetched,
    Page,
    Store,
)

T = TypeVar("T")
Verb = Literal["GET", "PUT", "LIST", "DELETE"]


class Fate(Enum):
    """What happens to one request."""

    LOST_ANSWER = "carried out, the answer never comes"
    LOST_REQUEST = "not carried out, and no answer"
    CONFLICT = "409: not carried out"
    DENIED = "403: not carried out"


@dataclass(slots=True)
class Fault:
    """A *fate* for the next *times* requests of *verb* whose key holds *key*; with *gate* they wait for it first.

    Attributes:
        reached: set when the first such request arrives.
        ended: set when the first such request has its answer.
    """

    verb: Verb
    fate: Fate | None = None
    key: str = ""
    times: int = 1
    gate: asyncio.Event | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class FaultyStore:
    """*inner*, but for the requests that a fault in :attr:`faults` is waiting for.

    Attributes:
        faults: what is still to happen, the first that fits is taken.
        requests: every request as (verb, key), in order.
    """

    def __init__(self, inner: Store) -> None:
        """Wrap *inner*; closing this closes nothing, so that a test can look at what is stored."""
        self.inner = inner
        self.faults: list[Fault] = []
        self.requests: list[tuple[Verb, str]] = []

    @property
    def url(self) -> str:
        """That of the wrapped store."""
        return self.inner.url

    @property
    def lists_sorted(self) -> bool:
        """That of the wrapped store."""
        return self.inner.lists_sorted

    def inject(self, fault: Fault) -> Fault:
        """Add *fault* and return it."""
        self.faults.append(fault)
        return fault

    def count(self, verb: Verb) -> int:
        """Return how many requests of *verb* were made."""
        return sum(1 for made, _ in self.requests if made == verb)

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """See :class:`Store`."""
        return await self._through("GET", key, lambda: self.inner.get(key, span=span))

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """See :class:`Store`."""
        return await self._through("PUT", key, lambda: self.inner.put(key, data, condition=condition))

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """See :class:`Store`."""
        return await self._through("LIST", prefix, lambda: self.inner.list(prefix, cursor=cursor, limit=limit))

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`Store`."""
        await self._through("DELETE", keys[0] if keys else "", lambda: self.inner.delete(keys))

    async def aclose(self) -> None:
        """Leave the wrapped store open."""

    async def _through(self, verb: Verb, key: str, request: Callable[[], Awaitable[T]]) -> T:
        self.requests.append((verb, key))
        fault = self._next(verb, key)
        if fault is None:
            return await request()
        fault.reached.set()
        if fault.gate is not None:
            await fault.gate.wait()
        try:
            return await self._meet(fault.fate, key, request)
        finally:
            fault.ended.set()

    async def _meet(self, fate: Fate | None, key: str, request: Callable[[], Awaitable[T]]) -> T:
        match fate:
            case Fate.LOST_ANSWER:
                await request()
                raise NoAnswer(key, Fate.LOST_ANSWER.value)
            case Fate.LOST_REQUEST:
                raise NoAnswer(key, Fate.LOST_REQUEST.value)
            case Fate.CONFLICT:
                raise Conflict(key, Fate.CONFLICT.value)
            case Fate.DENIED:
                raise Denied(key, Fate.DENIED.value)
            case None:
                return await request()

    def _next(self, verb: Verb, key: str) -> Fault | None:
        for fault in self.faults:
            if fault.verb == verb and fault.key in key and fault.times > 0:
                fault.times -= 1
                return fault
        return None
