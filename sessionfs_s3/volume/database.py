"""The session's SQLite database: a local copy that follows the log; each commit of SQL is a commit of the log.

SQL runs in the local copy, one call at a time. What a call changed (pages, never SQL text) is appended to the log
before the call is acknowledged; when that fails, the copy is thrown away, and made anew with the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from sessionfs_s3.errors import Closed, Unavailable
from sessionfs_s3.fs import EMPTY, Content, Tree, WriteDatabase
from sessionfs_s3.sqlite import (
    Database,
    DatabaseChange,
    DatabaseHost,
    Limits,
    Parameter,
    QueryResult,
    SqlError,
    Statement,
)
from sessionfs_s3.volume.committer import Durability, Plan
from sessionfs_s3.volume.view import View

T = TypeVar("T")

_WINDOW_BYTES: Final = 32 * 1024 * 1024
"""How much of a database is read at a time, side by side, when the local copy is made: what that takes in memory."""

_TRIES_MAX: Final = 5
"""How often the database may change under a reader while it makes its copy."""


class _Changed(Exception):
    """The database is not the one any more of which the copy was begun."""


class SessionDatabase:
    """One volume's database; opened with the first statement, so that an unused one costs nothing."""

    def __init__(
        self,
        view: View,
        change: Callable[[Plan, Durability], Awaitable[None]],
        host: DatabaseHost,
        limits: Limits,
    ) -> None:
        """Follow the database that *view* shows in copies that *host* opens; commit changes through *change*."""
        self._limits = limits
        self._view = view
        self._change = change
        self._host = host
        self._lock = asyncio.Lock()
        self._copy: Database | None = None
        self._content: Content | None = None
        self._resting: asyncio.Task[None] | None = None
        self._opening: asyncio.Future[Database] | None = None
        self._foreign_keys = True
        self._closed = False

    async def query(
        self,
        kind: Literal["exec", "query", "run"],
        sql: str,
        params: Mapping[str, Parameter] | None,
        durability: Durability,
    ) -> QueryResult | None:
        """Run *sql* and commit what it changed.

        Raises:
            SqlError: SQLite refuses; nothing changed.
            ScratchError: the local copy failed; nothing changed.
            SessionFsError: the commit failed; the database is as it was stored.
            OSError: EROFS, where the volume is open for reading only; EDQUOT (a :class:`DatabaseFull`).
        """
        return await self._apart(self._run(lambda copy: copy.query(kind, sql, params), durability))

    async def transaction(self, statements: Sequence[Statement], durability: Durability) -> tuple[QueryResult, ...]:
        """Run *statements* in one transaction and commit what they changed. Raises as :meth:`query`."""
        return await self._apart(self._run(lambda copy: copy.transaction(statements), durability))

    def rest(self) -> bool:
        """Give the copy up in the background, unless a statement is running; return whether it is not."""
        if self._lock.locked():
            return False
        if self._copy is not None:
            self._resting = asyncio.create_task(self._give_up())
        return True

    async def aclose(self) -> None:
        """Remove the copy; a statement that is running is ended, one that is being stored is waited for."""
        self._closed = True
        if self._copy is not None:
            self._copy.cancel()
        if self._opening is not None:
            self._opening.cancel()
        await self._give_up()

    async def _give_up(self) -> None:
        async with self._lock:
            await self._discard()

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        # A caller who gives up must not release the lock while the statement goes on in the copy.
        task = asyncio.ensure_future(work)
        task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def _run(
        self,
        work: Callable[[Database], Awaitable[tuple[T, DatabaseChange | None]]],
        durability: Durability,
    ) -> T:
        async with self._lock:
            copy = await self._current()
            try:
                result, change = await work(copy)
                if change is not None:
                    operation = WriteDatabase(change.size, change.extents)
                    await self._change(lambda _: [operation], durability)
                    self._content = (await self._view.tree()).database
            except BaseException as failure:
                if not isinstance(failure, SqlError) or copy.lost:
                    await self._discard()
                raise
            self._foreign_keys = copy.foreign_keys
            return result

    async def _current(self) -> Database:
        """Return the local copy, made anew where it does not hold what the tree holds."""
        for _ in range(_TRIES_MAX):
            if self._closed:
                raise Closed("the volume is closed")
            content = (await self._view.tree()).database
            if self._copy is not None and not self._copy.lost and self._content is content:
                return self._copy
            await self._discard()
            try:
                self._copy = await self._open(content)
            except _Changed:
                continue
            self._content = content
        raise Unavailable("the session's database changes faster than it can be read")

    async def _open(self, content: Content | None) -> Database:
        opening = self._host.open(self._image(content), self._limits, foreign_keys=self._foreign_keys)
        self._opening = asyncio.ensure_future(opening)
        try:
            return await self._opening
        except asyncio.CancelledError:
            if self._closed:
                raise Closed("the volume is closed") from None
            raise
        finally:
            self._opening = None

    async def _image(self, content: Content | None) -> AsyncIterator[bytes]:
        """Yield the bytes of the database that is *content*; raise _Changed where the session has another by now."""

        def find(tree: Tree) -> Content:
            # A reader's tree may move on when a blob was collected: then this would be some of each.
            if tree.database is not content:
                raise _Changed
            return content or EMPTY

        size = 0 if content is None else content.size
        for start in range(0, size, _WINDOW_BYTES):
            yield await self._view.read(find, start, min(start + _WINDOW_BYTES, size))

    async def _discard(self) -> None:
        copy, self._copy = self._copy, None
        self._content = None
        if copy is not None:
            await copy.aclose()


def _retrieve(task: asyncio.Future[Any]) -> None:
    # Where the caller has given up, its failure must not end as "exception was never retrieved".
    if not task.cancelled():
        task.exception()
