"""The sessions that one client may see: its tenant's, stored or open here, as far as its credential permits.

Everything that the gateway answers about sessions goes through here, so that the rule stands in one place: what the
credential does not permit looks as if it did not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from sessionfs_s3.catalog import SessionInfo
from sessionfs_s3.gateway.catalogue import listing

_AT_ONCE_MAX: Final = 8
"""Sessions that one request looks at or deletes at the same time: each is a handful of requests to the store."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class EventsPage(Protocol):
    """Some stored events of a session, oldest first."""

    @property
    def events(self) -> Sequence[Mapping[str, object]]:
        """The events."""
        ...

    @property
    def cursor(self) -> str:
        """Asks for the next page."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether there is one."""
        ...

    @property
    def expired(self) -> bool:
        """Whether the cursor led nowhere; there are no events then."""
        ...


class Catalog(Protocol):
    """The stored sessions of one tenant."""

    async def ids(self) -> Iterable[str]:
        """Return every session's id."""
        ...

    async def list(self) -> Iterable[SessionInfo]:
        """Return what is known of every session."""
        ...

    async def info(self, session_id: str) -> SessionInfo | None:
        """Return what is known of a session, None where nothing is stored of it."""
        ...

    async def delete(self, session_id: str) -> int | None:
        """Delete a session, whoever has it open; return the bytes freed, None where there was none."""
        ...

    async def fork(self, source: str, target: str, *, before_event: str | None, name: str | None) -> object:
        """Copy a session under a new id, up to the event *before_event* and without it.

        InvalidInput where there is no such event, FileNotFoundError where there is no such session.
        """
        ...

    async def events(self, session_id: str, *, cursor: str | None, limit: int, backward: bool) -> EventsPage:
        """Return a page of a session's stored events; FileNotFoundError where nothing is stored of it."""
        ...

    async def state_file(self, session_id: str, name: str) -> bytes | None:
        """Return a file of a session's state directory, None where there is none."""
        ...


class LiveSessions(Protocol):
    """What the gateway knows of one tenant's sessions that are open right now, for one client's credential."""

    def open_here(self) -> Collection[str]:
        """Return the tenant's sessions that are open on a runtime of this gateway."""
        ...

    def epoch(self, session_id: str) -> int:
        """Return the epoch in which this gateway wrote last to a session that was open here; 0 where none is known."""
        ...

    async def close(self, session_id: str) -> None:
        """Have the runtime drop a session; everything is stored when this returns."""
        ...

    def deleted(self, session_id: str) -> None:
        """Tell the tenant's clients that a session is no more."""
        ...

    def permits(self, session_id: str) -> bool:
        """Whether the credential may use the session; one that it may not looks as if it did not exist."""
        ...


class VisibleSessions:
    """A tenant's catalogue as one client sees it."""

    def __init__(self, catalog: Catalog, live: LiveSessions) -> None:
        """Show of *catalog* what *live* permits."""
        self._catalog = catalog
        self._live = live

    def permits(self, session_id: str) -> bool:
        """Whether the client may use the session."""
        return self._live.permits(session_id)

    def open(self) -> list[str]:
        """Return the sessions that are open here."""
        return [each for each in self._live.open_here() if self._live.permits(each)]

    async def written_elsewhere(self, session_id: str, since_ms: int) -> bool:
        """Return whether another process has written to a session since *since_ms*, by the store's clock."""
        info = await self.info(session_id)
        return info is not None and info.modified_ms >= since_ms and info.epoch != self._live.epoch(session_id)

    async def close(self, session_id: str) -> bool:
        """Close a session where it is open here; return whether it was."""
        opened = session_id in self.open()
        if opened:
            await self._live.close(session_id)
        return opened

    async def all(self) -> list[SessionInfo]:
        """Return all that are stored, the newest first."""
        return listing.newest_first(info for info in await self._catalog.list() if self._live.permits(info.id))

    async def listed(self) -> list[SessionInfo]:
        """Return what a user is shown: all but detached maintenance sessions."""
        return [info for info in await self.all() if not info.detached]

    async def info(self, session_id: str) -> SessionInfo | None:
        """Return what is known of a stored session."""
        return await self._catalog.info(session_id) if self._live.permits(session_id) else None

    async def events(
        self, session_id: str, *, cursor: str | None = None, limit: int, backward: bool = False
    ) -> EventsPage | None:
        """Return a page of a session's stored events; None where there is no such session."""
        if not self._live.permits(session_id):
            return None
        try:
            return await self._catalog.events(session_id, cursor=cursor, limit=limit, backward=backward)
        except FileNotFoundError:
            return None

    async def fork(self, source: str, target: str, *, before_event: str | None, name: str) -> None:
        """Copy a session under a new id; see :meth:`Catalog.fork`."""
        await self._catalog.fork(source, target, before_event=before_event, name=name)

    async def state_file(self, session_id: str, name: str) -> bytes | None:
        """Return a file of a session's state directory."""
        return await self._catalog.state_file(session_id, name) if self._live.permits(session_id) else None

    async def by_prefix(self, prefix: str) -> str | None:
        """Return the only stored session whose id is a UUID that begins with *prefix*."""
        return listing.find_by_prefix((each for each in await self._catalog.ids() if self._live.permits(each)), prefix)

    async def remove(self, session_id: str) -> int | None:
        """Delete a session, closing it first where it is open here; return the bytes freed, None if there was none."""
        if not self._live.permits(session_id):
            return None
        opened = await self.close(session_id)
        freed = await self._catalog.delete(session_id)
        if freed is None and not opened:
            return None
        self._live.deleted(session_id)
        return freed or 0

    async def remove_all(self, session_ids: Sequence[str]) -> dict[str, int | None]:
        """Delete sessions; all are tried before the first failure is raised."""
        return dict(zip(session_ids, await each_of(session_ids, self.remove), strict=True))


async def each_of(items: Sequence[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Return what *work* makes of each of *items*, a few at a time; all are tried before a failure is raised."""
    results: list[_R] = []
    failures: list[BaseException] = []
    for start in range(0, len(items), _AT_ONCE_MAX):
        done = await asyncio.gather(*map(work, items[start : start + _AT_ONCE_MAX]), return_exceptions=True)
        results += [result for result in done if not isinstance(result, BaseException)]
        failures += [result for result in done if isinstance(result, BaseException)]
    if failures:
        raise failures[0]
    return results
