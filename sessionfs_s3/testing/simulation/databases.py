"""Databases of simulated machines: the engine's own SQLite, in this process, on a directory that goes with the run.

A call is answered after a virtual while, during which anything may happen, before SQLite is at work and after; what a
machine that died had open is closed with the run. Real disk is touched and nothing else real.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from sessionfs_s3.sqlite import (
    DatabaseChange,
    Kind,
    Limits,
    Parameter,
    QueryResult,
    ScratchDatabase,
    ScratchError,
    Statement,
)
from sessionfs_s3.volume.environment import RunInThread

T = TypeVar("T")


_MEMORY: Final = "/dev/shm"  # noqa: S108  # a private directory in it, where there is one: much faster than a disk


class Killed(ScratchError):
    """The process that the database ran in was killed."""


@dataclass(frozen=True, slots=True)
class Kills:
    """How often a database is lost, as its process would be: probabilities for each call.

    Attributes:
        within: it is killed before the answer, whether SQLite has committed or not.
        after: it is gone by the next call.
    """

    within: float = 0.0
    after: float = 0.0


NO_KILLS: Final = Kills()


class LocalDatabases:
    """Where the databases of one run are; to be entered with ``with``."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._stack = ExitStack()
        self._directory: Path | None = None
        self._count = 0

    def host(self, run_in_thread: RunInThread, rng: random.Random, kills: Kills) -> LocalHost:
        """Return a machine's host, whose work takes as long as *run_in_thread* says; *rng* chooses the *kills*."""
        return LocalHost(self, run_in_thread, rng, kills)

    def open(self, image: Sequence[bytes], limits: Limits, *, foreign_keys: bool = True) -> ScratchDatabase:
        """Open a database in a directory of its own."""
        if self._directory is None:
            place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
            temporary = tempfile.TemporaryDirectory(prefix="sessionfs-sim-", dir=place)
            self._directory = Path(self._stack.enter_context(temporary))
        self._count += 1
        directory = self._directory / str(self._count)
        directory.mkdir(mode=0o700)
        database = ScratchDatabase.open(image or None, directory=directory, limits=limits, foreign_keys=foreign_keys)
        self._stack.callback(database.close)
        return database

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every database and remove the directory."""
        self._stack.close()


class LocalHost:
    """Opens the databases of one machine."""

    def __init__(self, databases: LocalDatabases, run_in_thread: RunInThread, rng: random.Random, kills: Kills) -> None:
        """Open them among *databases*."""
        self._databases = databases
        self._run_in_thread = run_in_thread
        self._rng = rng
        self._kills = kills

    async def open(self, image: AsyncIterable[bytes], limits: Limits, *, foreign_keys: bool = True) -> LocalDatabase:
        """Open a database; see :class:`~sessionfs_s3.sqlite.DatabaseHost`."""
        chunks = [chunk async for chunk in image]
        opened = await self._run_in_thread(lambda: self._databases.open(chunks, limits, foreign_keys=foreign_keys))
        return LocalDatabase(opened, self._run_in_thread, self._rng, self._kills)


class LocalDatabase:
    """One open database; see :class:`~sessionfs_s3.sqlite.Database`."""

    def __init__(self, opened: ScratchDatabase, run_in_thread: RunInThread, rng: random.Random, kills: Kills) -> None:
        """Run the calls on *opened*."""
        self.lost = False
        self.foreign_keys = opened.foreign_keys
        self._opened = opened
        self._run_in_thread = run_in_thread
        self._rng = rng
        self._kills = kills

    async def query(
        self, kind: Kind, sql: str, params: Mapping[str, Parameter] | None
    ) -> tuple[QueryResult | None, DatabaseChange | None]:
        """Run one statement or script."""
        return await self._call(lambda: self._opened.query(kind, sql, params))

    async def transaction(
        self, statements: Sequence[Statement]
    ) -> tuple[tuple[QueryResult, ...], DatabaseChange | None]:
        """Run *statements*, all or none."""
        return await self._call(lambda: self._opened.transaction(statements))

    def cancel(self) -> None:
        """End the call that is running."""
        self._opened.cancel()

    async def aclose(self) -> None:
        """Remove the database."""
        self.lost = True
        await self._run_in_thread(self._opened.close)

    async def _call(self, call: Callable[[], T]) -> T:
        if self.lost:
            raise Killed("the process of the database is gone")
        killed = self._rng.random() < self._kills.within
        answer = await self._run_in_thread(call)
        await self._run_in_thread(lambda: None)  # the answer takes its time, too
        if killed:
            self.lost = True
            raise Killed("the process of the database was killed")
        self.lost = self._rng.random() < self._kills.after
        self.foreign_keys = self._opened.foreign_keys
        return answer
