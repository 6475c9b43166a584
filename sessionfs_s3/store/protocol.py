"""The store protocol: five verbs over keys and bytes. What every adapter promises, and what it may not do.

An adapter translates one verb into one request and its answer into a value or one of the
:class:`~sessionfs_s3.errors.StoreAnswer` errors. It never retries, never caches, never emulates a precondition with a
read; retries and their meaning belong to the engine. The promises below are checked by
:class:`sessionfs_s3.testing.store.StoreConformance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Store only where no object has the key (``If-None-Match: *``)."""


@dataclass(frozen=True, slots=True)
class IfMatches:
    """Replace only the object whose entity tag is ``etag`` (``If-Match``)."""

    etag: str


@dataclass(frozen=True, slots=True)
class Unconditional:
    """Store whatever stands there."""


Condition = IfAbsent | IfMatches | Unconditional
IF_ABSENT: Final = IfAbsent()
UNCONDITIONAL: Final = Unconditional()

PAGE_ENTRIES_MAX: Final = 1000
"""Entries in one page of a listing: the limit of S3's ListObjectsV2."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object's contents, or the part that was asked for.

    Attributes:
        data: the bytes.
        etag: the whole object's entity tag, opaque, as :class:`IfMatches` takes it; "" when the span lay past its end.
    """

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in a listing.

    Attributes:
        key: its whole key.
        size: its size in bytes.
        etag: its entity tag, opaque.
        modified_ms: when the store received it, by the store's clock, in milliseconds since the Unix epoch.
    """

    key: str
    size: int
    etag: str
    modified_ms: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing.

    Attributes:
        entries: up to the limit asked for; in ascending key order where the store's ``lists_sorted`` says so.
        cursor: what to pass for the next page, opaque; None after the last page.
    """

    entries: tuple[Entry, ...]
    cursor: str | None


class Store(Protocol):
    """An object store, or a prefix of one. Keys are relative to it: ASCII ``[A-Za-z0-9._%/-]``, no leading slash.

    Every verb is one request. It raises :class:`~sessionfs_s3.errors.NoAnswer` when the outcome is not known,
    :class:`~sessionfs_s3.errors.Denied` when the store refuses for good. Arguments that break a rule raise
    :class:`~sessionfs_s3.errors.InvalidInput` before any request, use after closing
    :class:`~sessionfs_s3.errors.Closed`. Safe for concurrent use in one event loop. A cancelled ``put`` may still be
    carried out.
    """

    @property
    def url(self) -> str:
        """Where this store is, for messages; never holds a secret."""
        ...

    @property
    def lists_sorted(self) -> bool:
        """Whether listings come in ascending key order (S3 directory buckets do not)."""
        ...

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """Fetch an object, or its bytes from ``span[0]`` up to, not including, ``span[1]`` (clamped to its size).

        Reads what the last acknowledged put of the key stored. A span that starts at or past the end yields no bytes,
        and no entity tag, which S3 does not tell then. Raises KeyNotFound.
        """
        ...

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """Store an object, whole or not at all, and return its entity tag. Durable when it returns.

        Of any number of concurrent puts with :data:`IF_ABSENT` to one key exactly one succeeds. Raises
        PreconditionFailed when the condition does not hold (IfMatches on a missing key included), Conflict when another
        request was under way and nothing was stored.
        """
        ...

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """List the objects whose keys start with *prefix*: one page, of 1 to 1000 entries at the most.

        Lists every object whose put was acknowledged before the call, and none deleted before it. Only a cursor of None
        ends a listing: a page may hold fewer entries than asked for, even none, and go on.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete up to 1000 objects; a key that no object has is not an error. No keys, no request."""
        ...

    async def aclose(self) -> None:
        """Give connections and memory back; further calls are refused. May be called twice."""
        ...
