"""What a session's SQL may do: the connection's settings, the authorizer, the time limit. Touches one connection.

An agent writes this SQL, so everything is refused that is not known to stay inside the session's own database file:
SQLite asks the authorizer about every action while it compiles a statement, including what views, triggers, table-
valued functions and nested statements do. Statements are never cached, so that it is asked each time.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# APSW's annotations name collections.abc.Buffer, which Python 3.11 does not have.

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from sessionfs_s3.sqlite.records import (
    PAGE_BYTES,
    DatabaseFull,
    Limits,
    ScratchError,
    SqlError,
    cancelled_error,
    timeout_error,
)
from sessionfs_s3.sqlite.scratch import MACHINE_CODES, primary_code
from sessionfs_s3.sqlite.script import significant

_MESSAGE_CHARS_MAX = 2000
_DISK_BYTES_MIN = 1 << 20  # with less than this, it is the disk that is full
_PROGRESS_STEPS = 10_000  # virtual machine steps between two looks at the clock: well under 1 ms

# Actions that stay inside the database, from https://www.sqlite.org/c3ref/c_alter_table.html. Whatever is not listed
# is refused: ATTACH, DETACH, everything TEMP (it would silently be gone after a resume), and what is yet unknown.
_ACTIONS = frozenset(
    {
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_ANALYZE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_DELETE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_DROP_VTABLE,
        apsw.SQLITE_INSERT,
        apsw.SQLITE_READ,
        apsw.SQLITE_RECURSIVE,
        apsw.SQLITE_REINDEX,
        apsw.SQLITE_SELECT,
        apsw.SQLITE_UPDATE,
    }
)
_CREATES = {  # in the database "temp", CREATE TABLE temp.x is no CREATE TEMP TABLE to the authorizer
    apsw.SQLITE_CREATE_INDEX: apsw.SQLITE_CREATE_TEMP_INDEX,
    apsw.SQLITE_CREATE_TABLE: apsw.SQLITE_CREATE_TEMP_TABLE,
    apsw.SQLITE_CREATE_TRIGGER: apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_CREATE_VIEW: apsw.SQLITE_CREATE_TEMP_VIEW,
    apsw.SQLITE_CREATE_VTABLE: apsw.SQLITE_CREATE_TEMP_TABLE,
}
_ACTION_NAMES = {
    apsw.SQLITE_ATTACH: "ATTACH (and VACUUM, which attaches)",
    apsw.SQLITE_DETACH: "DETACH",
    apsw.SQLITE_CREATE_TEMP_INDEX: "CREATE TEMP INDEX",
    apsw.SQLITE_CREATE_TEMP_TABLE: "CREATE TEMP TABLE",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "CREATE TEMP TRIGGER",
    apsw.SQLITE_CREATE_TEMP_VIEW: "CREATE TEMP VIEW",
}
_MODULES = frozenset({"fts5", "rtree", "rtree_i32"})
_FUNCTIONS_REFUSED = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_TABLES_REFUSED = frozenset({"dbstat", "sqlite_dbpage"})  # what is inside pages, and pages themselves

_PRAGMAS_ANY = frozenset(  # with or without an argument: a table, an index, a count
    {
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
        "application_id",
        "user_version",
    }
)
_PRAGMAS_READ = frozenset(  # without an argument only
    {
        "auto_vacuum",
        "collation_list",
        "compile_options",
        "data_version",
        "encoding",
        "foreign_keys",
        "freelist_count",
        "function_list",
        "journal_mode",
        "max_page_count",
        "page_count",
        "page_size",
        "schema_version",
    }
)

_TRUE = frozenset({"1", "on", "true", "yes"})

_REFUSED_WORDS = {
    "ATTACH": "ATTACH is refused: a session has one database",
    "DETACH": "DETACH is refused: a session has one database",
    "VACUUM": "VACUUM is refused: it would write the whole database anew; free pages are reused",
}
_TRANSACTION_WORDS = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})


class Guard:
    """Stands between the session's SQL and one connection.

    Attributes:
        inserted: tables that the last statement itself (no trigger) inserts into.
        updated: whether the last statement itself updates rows: UPDATE, or an upsert.
    """

    def __init__(
        self, directory: Path, limits: Limits, clock: Callable[[], float], interrupted: Callable[[], bool]
    ) -> None:
        """Enforce *limits* on a database in *directory*, by a *clock* in seconds; *interrupted* ends a call."""
        self._directory = directory
        self._limits = limits
        self._clock = clock
        self._interrupted = interrupted
        self._deadline_s: float | None = None
        self._cancelled = False
        self._expired = False
        self._trusted = False
        self._refusal: str | None = None
        self.in_transaction = False
        self.inserted: set[str] = set()
        self.updated = False

    def install(self, connection: apsw.Connection) -> None:
        """Settle *connection*: WAL as the log reader needs it, everything in bounds, the authorizer last."""
        limits = self._limits
        for pragma in (
            "cell_size_check = ON",
            "mmap_size = 0",
            "temp_store = MEMORY",  # nothing outside of the scratch directory
            "synchronous = OFF",  # durability comes from the session's log; the scratch file may be lost
            "wal_autocheckpoint = 0",
            "secure_delete = FAST",  # zeroes what is written anyway, and does not write freed pages just to zero them
            f"cache_size = -{max(1, limits.cache_bytes // 1024)}",
            f"max_page_count = {max(1, limits.database_bytes_max // PAGE_BYTES)}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for category, value in (
            (apsw.SQLITE_LIMIT_LENGTH, limits.value_bytes_max),
            (apsw.SQLITE_LIMIT_SQL_LENGTH, limits.sql_bytes_max),
            (apsw.SQLITE_LIMIT_ATTACHED, 0),
            (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),  # matching is quadratic, and one step to the clock
            (apsw.SQLITE_LIMIT_TRIGGER_DEPTH, 100),
            (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            connection.limit(category, value)
        for switch, on in (
            (apsw.SQLITE_DBCONFIG_DEFENSIVE, True),
            (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, False),
            (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, False),
            (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, False),
            (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, False),
            (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, False),
        ):
            connection.config(switch, int(on))
        connection.set_progress_handler(self._progress, _PROGRESS_STEPS)
        connection.authorizer = self._authorize

    @contextmanager
    def call(self) -> Generator[None]:
        """Start the clock for one call, and stop it at its end."""
        self._cancelled = self._expired = False
        self._refusal = None
        self._deadline_s = self._clock() + self._limits.call_s
        try:
            yield
        finally:
            self._deadline_s = None

    @contextmanager
    def trusted(self) -> Generator[None]:
        """Let the engine's own statements through, without a time limit: they are few and short."""
        self._trusted = True
        try:
            yield
        finally:
            self._trusted = False

    def cancel(self) -> None:
        """End the call that is running; safe from another thread."""
        self._cancelled = True

    def expect(self, statement: str) -> None:
        """Look at *statement* before SQLite does, for a plainer message than its own and for the clock.

        Raises:
            SqlError: it begins with a refused word, or the time is up.
        """
        self._refusal = None
        self.inserted.clear()
        self.updated = False
        first = next(significant(statement), "")
        if first in _REFUSED_WORDS:
            raise SqlError(_REFUSED_WORDS[first], "refused")
        if first in _TRANSACTION_WORDS:
            raise SqlError(_transaction_rule(first), "refused")
        self.check_time()

    def check_time(self) -> None:
        """Raise SqlError if the call's time is up, or it was cancelled."""
        if self._progress():
            raise self._time_error()

    def _time_error(self) -> SqlError:
        return cancelled_error() if self._cancelled else timeout_error(self._limits)

    def explain(self, failure: Exception) -> SqlError | ScratchError | None:
        """Return what the caller is told about *failure*, or None if it is none of SQLite's."""
        if isinstance(failure, SqlError | ScratchError):
            return failure
        primary = primary_code(failure)
        if isinstance(failure, MemoryError) or primary == apsw.SQLITE_NOMEM:
            size = self._limits.memory_bytes_max
            return SqlError(f"the call needs more memory than the {size:,} bytes that it may use", "limit")
        if isinstance(failure, UnicodeDecodeError):
            return SqlError("the result has TEXT that is not UTF-8: select CAST(… AS BLOB) instead")
        if not isinstance(failure, apsw.Error):
            return None
        if self._cancelled or self._expired:
            return self._time_error()
        if self._refusal is not None:
            return SqlError(self._refusal, "refused")
        if primary == apsw.SQLITE_FULL and _free_bytes(self._directory) > _DISK_BYTES_MIN:
            return DatabaseFull(self._limits.database_bytes_max)
        if primary in MACHINE_CODES:
            return ScratchError(f"the session's local database failed: {failure}")
        if isinstance(failure, apsw.BindingsError) and "has no name" in str(failure):
            return SqlError("parameters without a name (?) cannot be given here; use :name")
        return SqlError(_shortened(str(failure)), "limit" if primary == apsw.SQLITE_TOOBIG else "sql")

    def _progress(self) -> bool:
        if self._trusted or self._deadline_s is None:
            return False
        self._expired = self._expired or self._clock() > self._deadline_s
        self._cancelled = self._cancelled or self._interrupted()
        return self._expired or self._cancelled

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, inner: str | None
    ) -> int:
        if self._trusted:
            return apsw.SQLITE_OK
        if database == "temp":
            action = _CREATES.get(action, action)
        refusal = self._rule(action, first or "", second, inner is None)
        if refusal is None:
            return apsw.SQLITE_OK
        self._refusal = refusal
        return apsw.SQLITE_DENY

    def _rule(self, action: int, first: str, second: str | None, outermost: bool) -> str | None:
        """Return why *action* is refused, or None; *first* and *second* are the authorizer's arguments."""
        if action == apsw.SQLITE_INSERT and outermost:
            self.inserted.add(first)
        elif action == apsw.SQLITE_UPDATE and outermost:
            self.updated = True
        if action in _ACTIONS:
            return f"the table {first} is refused" if first.lower() in _TABLES_REFUSED else None
        if action == apsw.SQLITE_FUNCTION:
            return f"the function {second} is refused" if (second or "").lower() in _FUNCTIONS_REFUSED else None
        if action == apsw.SQLITE_PRAGMA:
            return self._pragma_rule(first.lower(), second)
        if action == apsw.SQLITE_CREATE_VTABLE:
            if (second or "").lower() in _MODULES:
                return None
            return f"virtual tables of {second} are refused; there are {', '.join(sorted(_MODULES))}"
        if action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
            return _transaction_rule(first)
        return f"{_ACTION_NAMES.get(action, f'action {action}')} is refused: a session has one database, kept for good"

    def _pragma_rule(self, name: str, value: str | None) -> str | None:
        if name in _PRAGMAS_ANY or (name in _PRAGMAS_READ and value is None):
            return None
        if name == "journal_mode" and (value or "").lower() == "wal":
            return None  # a common line of scripts, and true already
        if name == "foreign_keys":
            # Switching them on is a common first line of scripts, and true already.
            if not self.in_transaction or (value or "").lower() in _TRUE:
                return None
            return "PRAGMA foreign_keys has no effect inside a script or transaction: send it as a statement of its own"
        return f"PRAGMA {name}{'' if value is None else ' = ' + value} is refused"


def _free_bytes(directory: Path) -> int:
    """Return how much may still be written in *directory*: SQLite does not say which of two bounds it has met."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _shortened(message: str) -> str:
    """Return SQLite's *message*, which may quote names of megabytes, at a length that somebody may read."""
    return message if len(message) <= _MESSAGE_CHARS_MAX else f"{message[:_MESSAGE_CHARS_MAX]}…"


def _transaction_rule(word: str) -> str:
    return (
        f"{word} is refused: each call is committed as a whole, or not at all; leave BEGIN, COMMIT and their like out"
    )
