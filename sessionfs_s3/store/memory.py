"""A store in the memory of this process: for tests, simulations and trials. Touches nothing else.

Every verb gives the event loop at least one turn before it acts, and one after, so that what may interleave against a
real store interleaves here too; the act itself is one step, as S3 promises it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sessionfs_s3.errors import Closed, KeyNotFound, PreconditionFailed
from sessionfs_s3.store.arguments import check_key, check_keys, check_listing, check_span
from sessionfs_s3.store.protocol import (
    PAGE_ENTRIES_MAX,
    Condition,
    Entry,
    Fetched,
    IfAbsent,
    IfMatches,
    Page,
)


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    etag: str
    modified_ms: int


@dataclass(slots=True)
class _Objects:
    by_key: dict[str, _Object] = field(default_factory=dict[str, _Object])
    keys: list[str] = field(default_factory=list[str])
    """The keys in ascending order, so that a page costs its own length."""


_SHARED: Final[dict[str, _Objects]] = {}


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryStore:
    """Objects in a dictionary. ``memory://NAME`` is shared by name within the process, for as long as it runs."""

    def __init__(self, name: str = "", *, clock_ms: Callable[[], int] = _wall_clock_ms) -> None:
        """Open the store called *name*, or a new one of one's own when it is empty.

        Args:
            name: the shared store's name.
            clock_ms: the store's clock, in milliseconds since the Unix epoch.
        """
        self._url = f"memory://{name}"
        self._objects = _SHARED.setdefault(name, _Objects()) if name else _Objects()
        self._clock_ms = clock_ms
        self._closed = False

    @property
    def url(self) -> str:
        """Where this store is, for messages."""
        return self._url

    @property
    def lists_sorted(self) -> bool:
        """Listings come in ascending key order."""
        return True

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """Fetch an object or a span of it (:meth:`sessionfs_s3.store.protocol.Store.get`)."""
        self._require_open()
        check_key(key)
        check_span(span)
        await asyncio.sleep(0)
        found = self._objects.by_key.get(key)
        await asyncio.sleep(0)
        if found is None:
            raise KeyNotFound(key)
        if span is None:
            return Fetched(found.data, found.etag)
        return Fetched(found.data[span[0] : span[1]], found.etag if span[0] < len(found.data) else "")

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """Store an object (:meth:`sessionfs_s3.store.protocol.Store.put`)."""
        self._require_open()
        check_key(key)
        stored = bytes(data)
        etag = hashlib.blake2b(stored, digest_size=16).hexdigest()
        await asyncio.sleep(0)
        objects = self._objects
        standing = objects.by_key.get(key)
        if isinstance(condition, IfAbsent) and standing is not None:
            raise PreconditionFailed(key, "an object stands there")
        if isinstance(condition, IfMatches) and (standing is None or standing.etag != condition.etag):
            raise PreconditionFailed(key, "no object with this entity tag stands there")
        if standing is None:
            insort(objects.keys, key)
        objects.by_key[key] = _Object(stored, etag, self._clock_ms())
        await asyncio.sleep(0)
        return etag

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """List one page (:meth:`sessionfs_s3.store.protocol.Store.list`); the cursor is the last key listed."""
        self._require_open()
        check_listing(prefix, limit)
        await asyncio.sleep(0)
        objects = self._objects
        first = bisect_left(objects.keys, prefix)
        if cursor is not None:
            first = max(first, bisect_right(objects.keys, cursor))
        keys = [key for key in objects.keys[first : first + limit + 1] if key.startswith(prefix)]
        entries = tuple(
            Entry(key, len(stored.data), stored.etag, stored.modified_ms)
            for key, stored in ((key, objects.by_key[key]) for key in keys[:limit])
        )
        await asyncio.sleep(0)
        return Page(entries, entries[-1].key if len(keys) > limit else None)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects (:meth:`sessionfs_s3.store.protocol.Store.delete`)."""
        self._require_open()
        check_keys(keys)
        await asyncio.sleep(0)
        objects = self._objects
        for key in keys:
            if objects.by_key.pop(key, None) is not None:
                del objects.keys[bisect_left(objects.keys, key)]
        await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Let go of the objects; those of a named store stay for whoever opens it next."""
        self._closed = True
        self._objects = _Objects()

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self._url} is closed")
