"""Databases as an event loop sees them: opened by a host, which runs each in a worker process of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite.connection import WorkerDatabase
from sessionfs_s3.sqlite.records import DatabaseChange, Kind, Limits, Parameter, QueryResult, Statement

WORKERS_MAX: Final = 64
"""How many worker processes a host keeps by default: each has some megabytes of its own while it idles."""


class Database(Protocol):
    """One open database, wherever it runs. One call at a time."""

    @property
    def lost(self) -> bool:
        """Whether the database is gone, or to be given up: it has to be made again from what is stored."""
        ...

    @property
    def foreign_keys(self) -> bool:
        """Whether foreign keys are enforced after the last call: a setting that no page holds."""
        ...

    async def query(
        self, kind: Kind, sql: str, params: Mapping[str, Parameter] | None
    ) -> tuple[QueryResult | None, DatabaseChange | None]:
        """Run one statement or script; see :meth:`ScratchDatabase.query`."""
        ...

    async def transaction(
        self, statements: Sequence[Statement]
    ) -> tuple[tuple[QueryResult, ...], DatabaseChange | None]:
        """Run *statements*, all or none; see :meth:`ScratchDatabase.transaction`."""
        ...

    def cancel(self) -> None:
        """End the call that is running, if any, with an SqlError."""
        ...

    async def aclose(self) -> None:
        """Give the database up; nothing of it stays on this machine. May be called twice, and not during a call."""
        ...


class DatabaseHost(Protocol):
    """Opens databases."""

    async def open(self, image: AsyncIterable[bytes], limits: Limits, *, foreign_keys: bool) -> Database:
        """Open a database with the contents of *image*; without any, a new one.

        Raises:
            InvalidInput: *image* is no database.
            ScratchError: the database could not be opened, for reasons that may pass.
            Exception: what *image* itself raises.
        """
        ...


class WorkerHost:
    """Runs each database in a process of its own, at most so many at a time; for use within one event loop.

    When there are as many as there may be, the one that has idled longest makes room: it is lost, and made again when
    it is needed. While all of them are busy, whoever wants another one waits.
    """

    def __init__(self, workers_max: int = WORKERS_MAX, directory: Path | None = None) -> None:
        """Keep at most *workers_max* processes; their files in *directory*, or where the system has temporary files."""
        if workers_max < 1:
            raise InvalidInput("number of SQLite processes", workers_max, "must be at least 1")
        self._workers_max = workers_max
        self._directory = directory
        self._workers: list[WorkerDatabase] = []  # in the order of their last use
        self._opening = 0
        self._changed = asyncio.Event()

    @property
    def workers(self) -> int:
        """How many processes run databases now."""
        return sum(not each.lost for each in self._workers)

    async def open(self, image: AsyncIterable[bytes], limits: Limits, *, foreign_keys: bool = True) -> WorkerDatabase:
        """Open a database in a worker of its own. See :meth:`DatabaseHost.open`."""
        await self._make_room()
        self._opening += 1
        try:
            directory = self._directory or Path(tempfile.gettempdir())
            database = await WorkerDatabase.open(image, limits, directory, self._used, foreign_keys=foreign_keys)
            self._workers.append(database)
            return database
        finally:
            self._opening -= 1
            self._changed.set()

    async def _make_room(self) -> None:
        """Return when there is room for one more; nothing else may run before it is taken."""
        while True:
            for gone in [each for each in self._workers if each.lost and not each.busy]:
                await gone.aclose()
                with suppress(ValueError):  # somebody else may have waited for the same
                    self._workers.remove(gone)
            if len(self._workers) + self._opening < self._workers_max:
                return
            idle = next((each for each in self._workers if not each.busy), None)
            if idle is not None:
                await idle.aclose()
                continue
            self._changed.clear()
            await self._changed.wait()

    def _used(self, database: WorkerDatabase) -> None:
        """Note that a call on *database*, or its life, has ended."""
        if database in self._workers and not database.lost:
            self._workers.remove(database)
            self._workers.append(database)
        self._changed.set()
