"""What a listing shows of a tenant's sessions: which have a log, and where each log ends.

One recursive listing of ``tenants/<tenant>/sessions/`` shows every session's newest commit, with the time at which the
store received it.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.format import TOMBSTONE_BYTES, Kind, SessionKeys, parse_log_name, tenant_prefix
from sessionfs_s3.format.keys import encode_id
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Entry, Page, Store
from sessionfs_s3.volume.environment import Environment, all_of
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.retry import until_answered

T = TypeVar("T")

_PAGES_BEFORE_RANGES: Final = 2
"""Full pages after which the listing goes on in ranges side by side. A tenant of two thousand objects costs two
requests; a larger one the same pages and at most 65 more, in the time of the longest range."""

_RANGES: Final = string.ascii_letters + string.digits + "._-%"
"""What the name of a session may begin with, encoded."""

_RANGES_AT_ONCE: Final = 32

_FIRST_ENTRIES: Final = 8
"""How many of one log's objects are asked for: the newest, its snapshot, and room for what is none of ours."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a session's log ends.

    Attributes:
        sequence: the number of the newest commit.
        etag: its entity tag; the commits of two lives of a session may share a number, but never this.
        modified_ms: when the store received it, in milliseconds since the Unix epoch by the store's clock.
        is_deleted: whether it is a tombstone: the session was deleted, and nobody has opened it for writing since.
    """

    sequence: int
    etag: str
    modified_ms: int
    is_deleted: bool

    def is_at(self, sequence: int, etag: str) -> bool:
        """Return whether this is the head of *sequence* and *etag*: then nothing was committed since."""
        return (self.sequence, self.etag) == (sequence, etag)


class _Log:
    """The newest commit of one session, as far as its log was listed."""

    def __init__(self) -> None:
        self._newest: tuple[int, bool, Entry] | None = None

    def add(self, entry: Entry, name: str) -> None:
        """Add the object *entry*, called *name* in the log."""
        found = parse_log_name(name)
        if found is None:
            return
        # A commit tells its time; the snapshot after it is younger. Either may be there without the other.
        candidate = (found.sequence, found.kind is Kind.COMMIT, entry)
        if self._newest is None or candidate[:2] > self._newest[:2]:
            self._newest = candidate

    def head(self) -> Head | None:
        """Return the end of the log; None where nothing was listed that belongs to one."""
        if self._newest is None:
            return None
        sequence, is_commit, entry = self._newest
        return Head(sequence, entry.etag, entry.modified_ms, is_commit and entry.size == TOMBSTONE_BYTES)


class TenantListing:
    """Lists the sessions and the catalogue of one tenant."""

    def __init__(self, store: Store, tenant: str, environment: Environment, options: VolumeOptions) -> None:
        """List *tenant* in *store*.

        Raises:
            InvalidInput: the tenant's id breaks a rule.
        """
        prefix = tenant_prefix(tenant)
        self.sessions = f"{prefix}sessions/"
        self.catalog = f"{prefix}catalog/"
        self._store = store
        self._environment = environment
        self._options = options

    async def ask(self, what: str, request: Callable[[], Awaitable[T]]) -> T:
        """Return the store's answer to an idempotent *request*; raises as :func:`.retry.until_answered`."""
        return await until_answered(what, request, self._options.patience, self._environment)

    async def heads(self) -> dict[str, Head]:
        """Return the head of every session that has a log, by id.

        Raises:
            Unavailable, Refused: the store does not answer, or refuses. It never looks like a tenant without sessions.
        """
        logs: dict[str, _Log] = {}
        cut = len(self.sessions)

        def take(page: Page) -> None:
            for entry in page.entries:
                session, _, rest = entry.key[cut:].partition("/")
                if rest.startswith("log/"):
                    logs.setdefault(session, _Log()).add(entry, rest[len("log/") :])

        await self._in_ranges(take)
        heads: dict[str, Head] = {}
        for encoded, log in logs.items():
            session_id = decoded(encoded)
            head = log.head()
            if session_id is not None and head is not None:
                heads[session_id] = head
        return heads

    async def head(self, keys: SessionKeys) -> Head | None:
        """Return the head of one session, None where it has no log. Raises as :meth:`heads`.

        One request of a few entries: names descend with the sequence number, so that the newest come first.
        """
        log = _Log()
        pages = self.pages(keys.log, _FIRST_ENTRIES if self._store.lists_sorted else PAGE_ENTRIES_MAX)
        try:
            async for page in pages:
                for entry in page.entries:
                    log.add(entry, entry.key.removeprefix(keys.log))
                # A commit and the snapshot after it stand side by side, and never at the end of the first page.
                if log.head() is not None and self._store.lists_sorted:
                    break
        finally:
            await pages.aclose()
        return log.head()

    async def hints(self) -> dict[str, Entry]:
        """Return the hints by the name of their object, which may be anything. Raises as :meth:`heads`."""
        found: dict[str, Entry] = {}
        async for page in self.pages(self.catalog):
            found.update({entry.key.removeprefix(self.catalog): entry for entry in page.entries})
        return found

    async def pages(self, prefix: str, first: int = PAGE_ENTRIES_MAX) -> AsyncGenerator[Page]:
        """Yield the pages of a listing, the first with at most *first* entries. Raises as :meth:`heads`."""
        cursor: str | None = None
        limit = first
        while True:
            page = await self._page(prefix, cursor, limit)
            yield page
            cursor, limit = page.cursor, PAGE_ENTRIES_MAX
            if cursor is None:
                return

    async def _page(self, prefix: str, cursor: str | None, limit: int) -> Page:
        return await self.ask(f"listing {prefix}", lambda: self._store.list(prefix, cursor=cursor, limit=limit))

    async def _in_ranges(self, take: Callable[[Page], None]) -> None:
        """Hand every page of the sessions to *take*: one after the other, and once there are many, in ranges."""
        cursor: str | None = None
        last = ""
        for _ in range(_PAGES_BEFORE_RANGES):
            page = await self._page(self.sessions, cursor, PAGE_ENTRIES_MAX)
            take(page)
            cursor = page.cursor
            if cursor is None:
                return
            last = page.entries[-1].key[len(self.sessions) :] if page.entries else last
        # What came in order need not come again.
        ranges = [each for each in _RANGES if not self._store.lists_sorted or each >= last[:1]]
        gate = asyncio.Semaphore(_RANGES_AT_ONCE)

        async def list_range(character: str) -> None:
            async with gate:
                async for page in self.pages(self.sessions + character):
                    take(page)

        await all_of(list_range(character) for character in ranges)


def decoded(name: str) -> str | None:
    """Return the id that is encoded as *name*; None where it is the name of no id."""
    try:
        session_id = unquote(name, errors="strict")
        return session_id if encode_id("session id", session_id) == name else None
    except (InvalidInput, UnicodeDecodeError):
        return None
