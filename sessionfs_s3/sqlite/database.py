"""One session's SQLite database on local scratch: runs SQL, and hands out what each call changed.

Synchronous; runs on a thread of the caller's choice, one call at a time. Touches its scratch directory only, which may
vanish at any time: what has to last are the changes it returns, in order.

Transactions
------------
Every call is one transaction: it gives at most one change, and an error means that nothing of it was kept. That holds
for ``exec`` as well, where SQLite alone would keep the statements before the one that failed. A script may still say
BEGIN, COMMIT and ROLLBACK; they work as a savepoint within the call's own transaction. One that is left open rolls the
whole call back. In ``query``, ``run`` and transactions those words are refused, and SAVEPOINT everywhere, since nothing
that is open can outlast a call.

A single PRAGMA runs outside of a transaction: ``foreign_keys`` has no effect inside. Such a setting lasts until the
database is closed, and is not part of its contents.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# APSW's annotations name collections.abc.Buffer, which Python 3.11 does not have.

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import apsw

from sessionfs_s3.sqlite import scratch
from sessionfs_s3.sqlite.guard import Guard
from sessionfs_s3.sqlite.prepared import Budget, Control, Prepared, control_word
from sessionfs_s3.sqlite.records import (
    NO_RESULT,
    PAGE_BYTES,
    DatabaseChange,
    DatabaseFull,
    JsonValue,
    Kind,
    Limits,
    Parameter,
    QueryResult,
    ScratchError,
    SqlError,
    Statement,
)
from sessionfs_s3.sqlite.script import main_verb
from sessionfs_s3.sqlite.values import Bindings, to_json
from sessionfs_s3.sqlite.wal import UnexpectedLog, WalReader, merge

_T = TypeVar("_T")
_DEFAULT_LIMITS = Limits()
_SCRIPT = "sessionfs_script"  # the savepoint that stands for a script's own BEGIN


class ScratchDatabase:
    """An open database; :meth:`open` makes one. Not safe for calls at the same time, except for :meth:`cancel`."""

    def __init__(self, layout: scratch.Layout, limits: Limits, guard: Guard) -> None:
        """Open the database that *layout* describes, behind *guard*."""
        self._path = layout.path
        self._limits = limits
        self._guard = guard
        self._unlogged = layout.first_page
        self._is_new = layout.is_new  # until its first change
        self._lost: str | None = None
        self._reader: WalReader | None = None
        self._closed = False
        # Statements are not cached, so that the authorizer sees each one.
        self._connection = apsw.Connection(str(self._path), statementcachesize=0)
        try:
            self._connection.pragma("schema_version")  # makes SQLite open the log and its index
            self._guard.install(self._connection)
            self._reader = WalReader(self._path)
            self._mark = self._reader.mark()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        image: Iterable[bytes] | None,
        *,
        directory: Path,
        limits: Limits = _DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        interrupted: Callable[[], bool] = lambda: False,
        foreign_keys: bool = True,
    ) -> ScratchDatabase:
        """Open a database in *directory*, with the contents of *image*.

        Args:
            image: the database file in chunks, as all changes so far give it; None for a new, empty database, whose
                first change is then a complete image.
            directory: private to this session and to this database (mode 0700); files that an earlier one left there
                are replaced.
            limits: bounds on the database and on each call.
            clock: seconds, for the time limit.
            foreign_keys: whether they are enforced, until SQL says otherwise; as in the runtime's own database, whose
                prompts rely on it.
            interrupted: asked some thousand times a second while a call runs; true ends it, as :meth:`cancel` does.

        Raises:
            InvalidInput: *image* is no database with pages of 4096 bytes.
            OSError: *directory* cannot be written, or cannot hold a database in WAL mode.
        """
        layout = scratch.lay_out(directory, image)
        try:
            opened = cls(layout, limits, Guard(directory, limits, clock, interrupted))
            opened.foreign_keys = foreign_keys
            return opened
        except apsw.Error as failure:
            raise scratch.cannot_open(directory, failure) from failure

    def query(
        self, kind: Kind, sql: str, params: Mapping[str, Parameter] | None = None
    ) -> tuple[QueryResult | None, DatabaseChange | None]:
        """Run one statement (``query``, ``run``) or a script (``exec``), atomically.

        Args:
            kind: ``query`` and ``run`` are the same here: rows and counts are returned where there are any.
            sql: the text; a script's statements share *params*.
            params: named parameters; see :mod:`sessionfs_s3.sqlite.values`.

        Returns:
            The result, None for ``exec``; and what the call changed, None if nothing.

        Raises:
            SqlError: nothing of the call was kept.
            ScratchError: close this database, and rebuild it.
        """

        def work() -> QueryResult | None:
            prepared = Prepared(Statement(kind, sql, params), self._limits)
            if prepared.is_pragma:
                result = self._run(prepared, Budget(self._limits), alone=True)
            else:
                with self._transaction():
                    result = self._run(prepared, Budget(self._limits), alone=True)
            return None if kind == "exec" else result

        return self._call(work)

    def transaction(self, statements: Sequence[Statement]) -> tuple[tuple[QueryResult, ...], DatabaseChange | None]:
        """Run *statements* in order, all or none.

        Returns:
            One result per statement, empty for ``exec``; and what the transaction changed, None if nothing.

        Raises:
            SqlError: nothing was kept; the message ends with the number of the statement that failed, from 1.
            ScratchError: close this database, and rebuild it.
        """

        def work() -> tuple[QueryResult, ...]:
            budget = Budget(self._limits)
            results: list[QueryResult] = []
            with self._transaction():
                for number, statement in enumerate(statements, 1):
                    try:
                        results.append(self._run(Prepared(statement, self._limits), budget, alone=False))
                    except (apsw.Error, UnicodeDecodeError, SqlError) as failure:
                        explained = self._guard.explain(failure)
                        if not isinstance(explained, SqlError) or isinstance(explained, DatabaseFull):
                            raise
                        place = f"(statement {number} of {len(statements)})"
                        raise SqlError(f"{explained} {place}", explained.reason) from failure
            return tuple(results)

        return self._call(work)

    @property
    def foreign_keys(self) -> bool:
        """Whether foreign keys are enforced: SQL may change it, and it is not part of the database's contents."""
        with self._guard.trusted():
            return bool(self._connection.pragma("foreign_keys"))

    @foreign_keys.setter
    def foreign_keys(self, enforced: bool) -> None:
        with self._guard.trusted():
            self._connection.pragma("foreign_keys", int(enforced))

    def cancel(self) -> None:
        """End the call that is running on another thread, if any, with an SqlError; it is rolled back."""
        self._guard.cancel()

    def close(self) -> None:
        """Close the database and remove its files. May be called again."""
        if self._closed:
            return
        self._closed = True
        with suppress(apsw.Error):  # a last checkpoint may fail; the files go anyway
            self._connection.close()
        if self._reader is not None:
            self._reader.close()
        scratch.remove(self._path)

    # One call

    def _call(self, work: Callable[[], _T]) -> tuple[_T, DatabaseChange | None]:
        if self._closed:
            raise ScratchError("the session's local database is closed")
        if self._lost is not None:
            raise ScratchError(self._lost)
        try:
            with self._guard.call():
                outcome = work()
        except BaseException as failure:
            # Before anything is undone: then the disk may have room again.
            explained = self._guard.explain(failure) if isinstance(failure, Exception) else None
            self._roll_back()
            if isinstance(explained, ScratchError):
                self._lost = str(explained)
            if explained is None or explained is failure:
                raise
            raise explained from failure
        change = self._capture()
        self._tidy()
        return outcome, change

    @contextmanager
    def _transaction(self) -> Generator[None]:
        """Commit what the body does, if it did not fail; whoever catches the failure rolls back."""
        self._own("BEGIN IMMEDIATE")
        self._guard.in_transaction = True
        yield
        self._guard.in_transaction = False
        spilled_bytes = self._log().written_bytes() - self._mark.log_bytes
        if spilled_bytes > self._limits.change_bytes_max:
            raise SqlError(f"the call changes more than {self._limits.change_bytes_max:,} bytes", "limit")
        self._own("COMMIT")

    def _run(self, prepared: Prepared, budget: Budget, *, alone: bool) -> QueryResult:
        """Execute *prepared*; BEGIN, COMMIT and ROLLBACK are understood in a script that stands *alone*."""
        if prepared.kind != "exec":
            return self._fetch(prepared.parts[0], prepared.bindings, budget) if prepared.parts else NO_RESULT
        opened = False
        for part in prepared.parts:
            control = control_word(part) if alone else None
            if control is not None:
                opened = self._control(control, opened)
                continue
            self._guard.expect(part)
            with self._cursor() as cursor:
                for _ in cursor.execute(part, prepared.bindings, can_cache=False):
                    self._guard.check_time()
        if opened:
            raise SqlError("the script leaves a transaction open: all of it was rolled back")
        return NO_RESULT

    def _control(self, control: Control, opened: bool) -> bool:
        """Do what BEGIN, COMMIT or ROLLBACK means inside of the call's own transaction; say if one is open then."""
        if control == "BEGIN":
            if opened:
                raise SqlError("cannot start a transaction within a transaction")
            self._own(f"SAVEPOINT {_SCRIPT}")
            return True
        if not opened:
            raise SqlError(f"cannot {control.lower()} - no transaction is active")
        if control == "ROLLBACK":
            self._own(f"ROLLBACK TO {_SCRIPT}")
        self._own(f"RELEASE {_SCRIPT}")
        return False

    def _fetch(self, part: str, bound: Bindings, budget: Budget) -> QueryResult:
        self._guard.expect(part)
        connection = self._connection
        verb = main_verb(part)
        inserts = verb in ("INSERT", "REPLACE")
        changes_before = connection.total_changes()
        rowid_before = connection.last_insert_rowid()
        rows: list[dict[str, JsonValue]] = []
        columns: tuple[str, ...] = ()

        def begins(cursor: apsw.Cursor, *_: object) -> bool:
            # Only here can the columns of a statement without rows be asked for.
            nonlocal columns
            columns = tuple(str(column[0]) for column in cursor.description)
            return True

        with self._cursor() as cursor:
            cursor.exec_trace = begins
            cursor.execute(part, bound, can_cache=False)
            values: tuple[object, ...]
            for values in cursor:
                row: dict[str, JsonValue] = dict(zip(columns, map(to_json, values), strict=True))
                budget.spend(row)
                rows.append(row)
                self._guard.check_time()
        counts = inserts or verb in ("UPDATE", "DELETE")  # making a virtual table counts rows of its own, too
        affected = connection.changes() if counts and connection.total_changes() != changes_before else 0
        rowid = self._inserted_rowid(rowid_before) if inserts and affected else None
        return QueryResult(columns, tuple(rows), affected, rowid)

    def _inserted_rowid(self, before: int) -> int | None:
        """Return the rowid that the INSERT just executed gave, or None if it is not certain that it gave one.

        SQLite only says which rowid came last. The same one as before the statement may be of a new row in another
        table; or it is stale, if the conflict clause updated a row instead, or the table has no rowids.
        """
        after = self._connection.last_insert_rowid()
        if after != before:
            return after
        with self._guard.trusted():
            for table in self._guard.inserted:
                # For the name of a WITHOUT ROWID table this pragma lists its primary key; else there is no such index.
                keys = self._connection.execute("SELECT 1 FROM pragma_index_info(?)", (table,)).fetchall()
                if keys:
                    return None
        return None if self._guard.updated else after

    @contextmanager
    def _cursor(self) -> Generator[apsw.Cursor]:
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close(force=True)  # whatever was wrong with its statement has been raised already

    def _own(self, sql: str) -> None:
        with self._guard.trusted():
            self._connection.execute(sql).close(force=True)

    # The log

    def _log(self) -> WalReader:
        if self._reader is None:
            raise ScratchError("the session's local database is closed")
        return self._reader

    def _capture(self) -> DatabaseChange | None:
        """Return what was committed since the last capture."""
        try:
            mark = self._log().mark()
            if mark == self._mark:
                return None
            pages = self._log().pages(self._mark, mark)
            if not pages and mark.pages == self._mark.pages:
                self._mark = mark
                return None
            if self._unlogged is not None:
                pages.setdefault(1, self._unlogged)
            if self._is_new and len(pages) != mark.pages:
                raise UnexpectedLog(f"the first change has {len(pages)} of {mark.pages} pages")
        except BaseException as failure:
            # Committed here, and not reported: whatever it was, this copy is ahead of the log that it has to follow.
            lost = self._give_up("reading what the session's local database committed", failure)
            if isinstance(failure, Exception):
                raise lost from failure
            raise
        self._unlogged, self._is_new, self._mark = None, False, mark
        return DatabaseChange(mark.pages * PAGE_BYTES, merge(pages))

    def _roll_back(self) -> None:
        """Undo what a failed call did, and make sure that nothing of it was committed."""
        self._guard.in_transaction = False
        try:
            if self._connection.in_transaction:
                self._own("ROLLBACK")
            if self._log().mark() != self._mark:
                raise UnexpectedLog("a call that failed was committed")
        except (apsw.Error, OSError, UnexpectedLog) as failure:
            raise self._give_up("rolling the session's local database back", failure) from failure
        self._tidy()

    def _give_up(self, doing: str, failure: BaseException) -> ScratchError:
        self._lost = f"{doing} failed: {failure!r}"
        return ScratchError(self._lost)

    def _tidy(self) -> None:
        """Start the log over if it is too long, or if spilled pages of work that was rolled back stand at its end.

        The process may die at any point of this. If it fails, the log is only longer than it should be: the next call
        tries again.
        """
        with suppress(OSError, apsw.Error):
            written_bytes = self._log().written_bytes()
            if written_bytes > min(self._limits.wal_bytes_max, self._mark.log_bytes):
                self._own("PRAGMA wal_checkpoint(TRUNCATE)")
        try:
            self._mark = self._log().mark()
        except UnexpectedLog as failure:
            self._lost = f"the session's local database failed: {failure}"  # for the next call: this one is complete
