"""What can be settled about a call before SQLite sees it, and what its results may use up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Literal, get_args

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.volume.sqlite.records import JsonValue, Kind, Limits, SqlError, Statement
from sessionfs_s3.volume.sqlite.script import significant, split
from sessionfs_s3.volume.sqlite.values import Bindings, bindings, json_bytes, well_formed

Control = Literal["BEGIN", "COMMIT", "ROLLBACK"]


class Prepared:
    """One statement or script, taken apart before anything is executed.

    Attributes:
        kind: how to execute it.
        parts: its statements; for ``query`` and ``run`` at most one.
        bindings: its parameters, for all of them.
    """

    def __init__(self, statement: Statement, limits: Limits) -> None:
        """Check *statement* and its parameters.

        Raises:
            InvalidInput: there is no such kind.
            SqlError: the text or a parameter is not acceptable, or ``query`` or ``run`` got several statements.
        """
        if statement.kind not in get_args(Kind):
            raise InvalidInput("SQL query type", statement.kind, f"must be one of {', '.join(get_args(Kind))}")
        sql = well_formed(statement.sql)
        if "\0" in sql:
            raise SqlError("the SQL text contains a NUL character")
        if len(sql) > limits.sql_bytes_max or len(sql.encode()) > limits.sql_bytes_max:
            raise SqlError(f"the SQL text is longer than {limits.sql_bytes_max:,} bytes", "limit")
        self.kind: Kind = statement.kind
        self.parts = split(sql)
        self.bindings: Bindings = bindings(statement.params)
        if self.kind != "exec" and len(self.parts) > 1:
            raise SqlError(f"{self.kind} takes one statement, and this is {len(self.parts)}; use exec")

    @property
    def is_pragma(self) -> bool:
        """Whether it is a PRAGMA and nothing else."""
        return len(self.parts) == 1 and next(significant(self.parts[0])) == "PRAGMA"


class Budget:
    """What is left of one call's limits on results."""

    def __init__(self, limits: Limits) -> None:
        """Begin with all that *limits* allow."""
        self._limits = limits
        self._rows = 0
        self._bytes = 0

    def spend(self, row: Mapping[str, JsonValue], names_bytes: int) -> None:
        """Count *row*, whose column names take *names_bytes* as JSON; raise SqlError if that is more than is left."""
        self._rows += 1
        self._bytes += names_bytes + sum(map(json_bytes, row.values()))
        if self._rows > self._limits.rows_max:
            raise SqlError(f"the result has more than {self._limits.rows_max:,} rows; use LIMIT", "limit")
        if self._bytes > self._limits.result_bytes_max:
            raise SqlError(f"the result is larger than {self._limits.result_bytes_max:,} bytes", "limit")


def control_word(part: str) -> Control | None:
    """Return what transaction control *part* is, in the forms that SQLite accepts without a savepoint."""
    match list(islice(significant(part), 4)):
        case (
            ["BEGIN"]
            | ["BEGIN", "TRANSACTION" | "DEFERRED" | "IMMEDIATE" | "EXCLUSIVE"]
            | ["BEGIN", "DEFERRED" | "IMMEDIATE" | "EXCLUSIVE", "TRANSACTION"]
        ):
            return "BEGIN"
        case ["COMMIT" | "END"] | ["COMMIT" | "END", "TRANSACTION"]:
            return "COMMIT"
        case ["ROLLBACK"] | ["ROLLBACK", "TRANSACTION"]:
            return "ROLLBACK"
        case _:
            return None
