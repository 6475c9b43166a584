"""The session's SQLite database: a scratch file that follows the log; each commit of SQL is a commit of the log.

SQLite runs in a thread, one call at a time. What a statement changed (pages, never SQL text) is appended to the log
before the statement is acknowledged; when that fails, the scratch file is thrown away and made again from the tree.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from sessionfs_s3.errors import Closed
from sessionfs_s3.fs import EMPTY, Content, Tree, WriteDatabase
from sessionfs_s3.volume.committer import Durability, Plan
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.sqlite import (
    DatabaseChange,
    Limits,
    QueryResult,
    ScratchDatabase,
    SqlError,
    Statement,
)
from sessionfs_s3.volume.view import View

T = TypeVar("T")


class SessionDatabase:
    """One volume's database; opened with the first statement, so that an unused one costs nothing."""

    def __init__(
        self,
        view: View,
        change: Callable[[Plan, Durability], Awaitable[None]],
        environment: Environment,
        limits: Limits,
    ) -> None:
        """Follow the database that *view* shows; commit changes through *change*."""
        self._limits = limits
        self._view = view
        self._change = change
        self._environment = environment
        self._lock = asyncio.Lock()
        self._scratch: ScratchDatabase | None = None
        self._directory: Path | None = None
        self._content: Content | None = None
        self._resting: asyncio.Task[None] | None = None
        self._closed = False

    async def query(
        self,
        kind: Literal["exec", "query", "run"],
        sql: str,
        params: Mapping[str, float | str | None] | None,
        durability: Durability,
    ) -> QueryResult | None:
        """Run *sql* and commit what it changed.

        Raises:
            SqlError: SQLite refuses; nothing changed.
            SessionFsError: the commit failed; the database is as it was stored.
            OSError: EROFS, where the volume is open for reading only.
        """
        return await self._apart(self._run(lambda scratch: scratch.query(kind, sql, params), durability))

    async def transaction(self, statements: Sequence[Statement], durability: Durability) -> tuple[QueryResult, ...]:
        """Run *statements* in one transaction and commit what they changed. Raises as :meth:`query`."""
        return await self._apart(self._run(lambda scratch: scratch.transaction(statements), durability))

    def rest(self) -> bool:
        """Give the scratch file up in the background, unless a statement is running; return whether it is not."""
        if self._lock.locked():
            return False
        if self._scratch is not None:
            self._resting = asyncio.create_task(self._give_up())
        return True

    async def _give_up(self) -> None:
        async with self._lock:
            await self._discard()

    async def aclose(self) -> None:
        """Remove the scratch file; a statement that is running is ended, one that is being stored is waited for."""
        self._closed = True
        if self._scratch is not None:
            self._scratch.cancel()
        async with self._lock:
            await self._discard()

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        # A caller who gives up must not release the lock while the thread still works on the connection.
        return await asyncio.shield(asyncio.ensure_future(work))

    async def _run(
        self,
        work: Callable[[ScratchDatabase], tuple[T, DatabaseChange | None]],
        durability: Durability,
    ) -> T:
        async with self._lock:
            scratch = await self._current()
            try:
                result, change = await self._environment.run_in_thread(functools.partial(work, scratch))
                if change is not None:
                    operation = WriteDatabase(change.size, change.extents)
                    await self._change(lambda _: [operation], durability)
                    self._content = (await self._view.tree()).database
            except SqlError:
                raise
            except BaseException:
                await self._discard()
                raise
            return result

    async def _current(self) -> ScratchDatabase:
        """Return the scratch database, made anew where it does not hold what the tree holds."""
        if self._closed:
            raise Closed("the volume is closed")
        if self._scratch is not None and self._content is (await self._view.tree()).database:
            return self._scratch
        await self._discard()

        def database(tree: Tree) -> Content:
            # The last one asked for is the one that is read: a reader may move on when a blob was collected.
            self._content = tree.database
            return tree.database or EMPTY

        image = await self._view.read(database)
        self._directory = await self._environment.run_in_thread(self._environment.scratch_directory)
        opened = functools.partial(
            ScratchDatabase.open, [image] if self._content else None, directory=self._directory, limits=self._limits
        )
        self._scratch = await self._environment.run_in_thread(opened)
        return self._scratch

    async def _discard(self) -> None:
        scratch, self._scratch = self._scratch, None
        self._content = None
        directory, self._directory = self._directory, None
        if scratch is not None:
            await self._environment.run_in_thread(scratch.close)
        if directory is not None:
            await self._environment.run_in_thread(functools.partial(shutil.rmtree, directory, ignore_errors=True))
