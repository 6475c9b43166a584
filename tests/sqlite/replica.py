"""What a reader of the log would hold: the database file that the changes give, and how to look at it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from sessionfs_s3.sqlite import (
    PAGE_BYTES,
    DatabaseChange,
    Kind,
    Limits,
    Parameter,
    QueryResult,
    ScratchDatabase,
    Statement,
)


class Replica:
    """A live database, and beside it the image that its changes give."""

    def __init__(self, directory: Path, limits: Limits | None = None, clock: Callable[[], float] | None = None) -> None:
        self.image = bytearray()
        self.changes: list[DatabaseChange] = []
        self._directory = directory
        self._limits = limits or Limits()
        self._clock = clock
        self.scratch = directory / "scratch"
        self.scratch.mkdir(mode=0o700)
        self.live = self._open(None)

    def _open(self, image: Sequence[bytes] | None) -> ScratchDatabase:
        if self._clock is None:
            return ScratchDatabase.open(image, directory=self.scratch, limits=self._limits)
        return ScratchDatabase.open(image, directory=self.scratch, limits=self._limits, clock=self._clock)

    def exec(self, sql: str, params: Mapping[str, Parameter] | None = None) -> None:
        assert self._call("exec", sql, params) is None

    def run(self, sql: str, params: Mapping[str, Parameter] | None = None) -> QueryResult:
        result = self._call("run", sql, params)
        assert result is not None
        return result

    def query(self, sql: str, params: Mapping[str, Parameter] | None = None) -> QueryResult:
        result = self._call("query", sql, params)
        assert result is not None
        return result

    def value(self, sql: str, params: Mapping[str, Parameter] | None = None) -> object:
        (row,) = self.query(sql, params).rows
        (value,) = row.values()
        return value

    def transaction(self, *statements: Statement) -> tuple[QueryResult, ...]:
        results, change = self.live.transaction(statements)
        self.apply(change)
        return results

    def _call(self, kind: Kind, sql: str, params: Mapping[str, Parameter] | None) -> QueryResult | None:
        result, change = self.live.query(kind, sql, params)
        self.apply(change)
        return result

    def apply(self, change: DatabaseChange | None) -> None:
        """Apply *change* as the log would, after checking that it is what the contract says."""
        if change is None:
            return
        self.changes.append(change)
        assert change.size % PAGE_BYTES == 0
        assert change.extents
        free_from = -1
        for offset, contents in change.extents:
            assert offset > free_from, "extents are ascending and disjoint, and neighbours are merged"
            assert offset % PAGE_BYTES == 0
            assert len(contents) % PAGE_BYTES == 0
            assert contents
            free_from = offset + len(contents)
            if len(self.image) < free_from:
                self.image.extend(bytes(free_from - len(self.image)))
            self.image[offset:free_from] = contents
        assert free_from <= change.size
        del self.image[change.size :]
        self.image.extend(bytes(change.size - len(self.image)))

    def reopen(self) -> None:
        """Throw the live database away and make it again from the image, as another machine would."""
        self.live.close()
        chunks = [bytes(self.image[at : at + 10_000]) for at in range(0, len(self.image), 10_000)]
        self.live = self._open(chunks or None)

    def dump(self) -> list[str]:
        """Return the image as SQL, once SQLite has found it sound."""
        path = self._directory / "replica.db"
        path.write_bytes(self.image)
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            version = connection.execute("PRAGMA user_version").fetchone()
            return [f"user_version {version}", *connection.iterdump()]

    def log_bytes(self) -> int:
        return (self.scratch / "session.db-wal").stat().st_size
