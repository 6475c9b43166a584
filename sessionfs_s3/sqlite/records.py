"""What crosses the boundary of the SQLite engine: statements, results, changes, limits, errors. Pure."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

from sessionfs_s3.errors import InvalidInput

PAGE_BYTES = 4096
"""Size of a database page in bytes: SQLite's default since 3.12, fixed here so that images and extents agree."""

Kind = Literal["exec", "query", "run"]
"""How to execute: ``exec`` a script without results, ``query`` and ``run`` one statement."""

Parameter: TypeAlias = "float | str | bytes | None"
"""What a named parameter may be; ``int`` and ``bool`` are among the floats, as Python's typing has it."""

JsonValue: TypeAlias = "str | int | float | None"
"""What a column of a result row may be: see :mod:`sessionfs_s3.sqlite.values`."""

Reason = Literal["sql", "refused", "timeout", "full", "limit"]
"""Why a call failed: SQLite's own error, a rule of the guard, time, the database's size, or another limit."""


class SqlError(Exception):
    """The SQL failed or was refused, and nothing of the call was kept: it is rolled back for certain.

    The message is SQLite's own, or names the rule that was broken.

    Attributes:
        reason: why, in one of the words of :data:`Reason`.
    """

    def __init__(self, message: str, reason: Reason = "sql") -> None:
        """Carry SQLite's own *message*, or the rule that was broken."""
        super().__init__(message)
        self.reason: Reason = reason


class DatabaseFull(SqlError, OSError):
    """The database would be larger than it may be; nothing of the call was kept. ``errno`` is EDQUOT."""

    def __init__(self, size_max: int) -> None:
        """Say that the database may have *size_max* bytes."""
        super().__init__(f"the database is full: it may have {size_max:,} bytes; nothing was changed", "full")
        self.errno = errno.EDQUOT
        self.size_max = size_max


class ScratchError(Exception):
    """The local copy failed under the engine (disk, memory), and may differ from what was reported.

    Nothing of the call was reported, so nothing of it may be stored: close this database and rebuild it from the log.
    Every later call but ``close`` fails with the same error.
    """


@dataclass(frozen=True, slots=True)
class Statement:
    """One entry of a transaction: SQL text, how to execute it, and its named parameters."""

    kind: Kind
    sql: str
    params: Mapping[str, Parameter] | None = None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What one statement answered.

    Attributes:
        columns: names in order, duplicates included.
        rows: one mapping per row; of columns with the same name the last one's value stands, as in the JavaScript
            drivers.
        rows_affected: rows that an INSERT, UPDATE or DELETE changed, triggers left out; 0 for anything else.
        last_insert_rowid: rowid of the last row that this statement inserted, else None.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, JsonValue], ...]
    rows_affected: int
    last_insert_rowid: int | None


NO_RESULT = QueryResult((), (), 0, None)


@dataclass(frozen=True, slots=True)
class DatabaseChange:
    """What one committed call did to the database file.

    Attributes:
        size: of the file afterwards, in bytes.
        extents: ``(offset in bytes, contents)``, ascending and disjoint, neighbouring pages merged. Written over the
            old file, which is then cut or extended to *size*, they give the new one.
    """

    size: int
    extents: tuple[tuple[int, bytes], ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one session's database and on each call; the defaults suit agents, not data warehouses.

    Attributes:
        call_s: seconds that one call may run. The clock is looked at between steps of SQLite's virtual machine; one
            call of a built-in function is one step, and ``instr`` and ``replace`` take quadratic time.
        sql_bytes_max: length of one call's SQL text, as UTF-8; in a transaction, of each statement's.
        statements_max: statements of one transaction.
        request_bytes_max: SQL text and parameters of one call, as UTF-8; a frame from the runtime holds 64 MiB.
        value_bytes_max: one string, blob or row.
        rows_max: result rows of one call.
        result_bytes_max: result of one call, as the SDK writes it in JSON; a frame to the runtime holds 64 MiB.
        database_bytes_max: the database file.
        change_bytes_max: pages that one call may write, give or take *cache_bytes*: the change is held in memory.
        wal_bytes_max: the write-ahead log is emptied when a call leaves it longer than this.
        cache_bytes: SQLite's page cache.
        memory_bytes_max: what SQLite may allocate, where the database runs in a process of its own: sorts, groups and
            temporary tables are kept in memory.
    """

    call_s: float = 30.0
    sql_bytes_max: int = 4 << 20
    statements_max: int = 20_000
    request_bytes_max: int = 64 << 20
    value_bytes_max: int = 4 << 20
    rows_max: int = 100_000
    result_bytes_max: int = 32 << 20
    database_bytes_max: int = 256 << 20
    change_bytes_max: int = 64 << 20
    wal_bytes_max: int = 4 << 20
    cache_bytes: int = 2 << 20
    memory_bytes_max: int = 64 << 20

    def __post_init__(self) -> None:
        """Refuse a bound that is not positive."""
        for limit in fields(self):
            value: float = getattr(self, limit.name)
            if not value > 0:
                raise InvalidInput(f"SQLite limit {limit.name}", value, "must be greater than zero")


def timeout_error(limits: Limits) -> SqlError:
    """Return what a call that took too long is told."""
    return SqlError(f"the call ran for more than {limits.call_s:g} s and was rolled back", "timeout")


def cancelled_error() -> SqlError:
    """Return what a call that was cancelled is told."""
    return SqlError("the call was cancelled and rolled back", "timeout")
