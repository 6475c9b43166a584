"""What can be settled about a call before SQLite sees it, and what its results may use up. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, Literal, get_args

from sessionfs_s3.errors import InvalidInput, shown
from sessionfs_s3.sqlite.records import JsonValue, Kind, Limits, Parameter, SqlError, Statement
from sessionfs_s3.sqlite.script import significant, split
from sessionfs_s3.sqlite.values import Bindings, bindings, utf8_bytes, well_formed

_PARAMETERS_MAX: Final = 32_766
"""SQLite's own default limit, SQLITE_LIMIT_VARIABLE_NUMBER."""

Control = Literal["BEGIN", "COMMIT", "ROLLBACK"]


def check_count(count: int, limits: Limits) -> None:
    """Raise SqlError when a transaction may not have *count* statements."""
    if count > limits.statements_max:
        raise SqlError(f"the transaction has {count:,} statements; {limits.statements_max:,} may be", "limit")


def check_request(statements: Sequence[Statement], limits: Limits) -> None:
    """Check what can be checked of *statements* without looking at every byte, before they travel anywhere.

    Raises:
        InvalidInput: there is no such kind, or text or parameters are of the wrong type.
        SqlError: they are too many, or too long.
    """
    check_count(len(statements), limits)
    size = 0
    for statement in statements:
        _check_kind(statement)
        _check_type("SQL text", statement.sql, str, "must be a string")
        params: Mapping[str, Parameter] = {} if statement.params is None else statement.params
        _check_type("SQL parameters", params, Mapping, "must be a mapping from names to values")
        if len(statement.sql) > limits.sql_bytes_max:
            raise _too_long(limits)
        size += utf8_bytes(statement.sql) + _params_bytes(params, limits)
    if size > limits.request_bytes_max:
        raise SqlError(f"SQL text and parameters take more than {limits.request_bytes_max:,} bytes", "limit")


def _params_bytes(params: Mapping[str, Parameter], limits: Limits) -> int:
    if len(params) > _PARAMETERS_MAX:
        raise SqlError(f"a statement has {len(params):,} parameters; {_PARAMETERS_MAX:,} may be", "limit")
    size = 0
    for name, value in params.items():
        _check_type("SQL parameter name", name, str, "must be a string")
        length = len(value) if isinstance(value, (str, bytes)) else 8
        if isinstance(value, str) and length <= limits.value_bytes_max:
            length = utf8_bytes(value)
        if length > limits.value_bytes_max:
            raise SqlError(f"the parameter {shown(name)} is longer than {limits.value_bytes_max:,} bytes", "limit")
        size += len(name) + length
    return size


def _check_type(what: str, value: object, kind: type[object], rule: str) -> None:
    if not isinstance(value, kind):
        raise InvalidInput(what, value, rule)


def _check_kind(statement: Statement) -> None:
    if statement.kind not in get_args(Kind):
        raise InvalidInput("SQL query type", statement.kind, f"must be one of {', '.join(get_args(Kind))}")


def _too_long(limits: Limits) -> SqlError:
    return SqlError(f"the SQL text is longer than {limits.sql_bytes_max:,} bytes", "limit")


class Prepared:
    """One statement or script, taken apart before anything is executed.

    Attributes:
        kind: how to execute it.
        parts: its statements; for ``query`` and ``run`` at most one.
        bindings: its parameters, for all of them.
    """

    def __init__(self, statement: Statement, limits: Limits) -> None:
        """Check *statement*, which :func:`check_request` has passed, and its parameters.

        Raises:
            InvalidInput: there is no such kind.
            SqlError: the text or a parameter is not acceptable, or ``query`` or ``run`` got several statements.
        """
        _check_kind(statement)
        sql = well_formed(statement.sql)
        if "\0" in sql:
            raise SqlError("the SQL text contains a NUL character")
        if utf8_bytes(sql) > limits.sql_bytes_max:
            raise _too_long(limits)
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

    def spend(self, row: Mapping[str, JsonValue]) -> None:
        """Count *row*; raise SqlError if that is more than is left."""
        self._rows += 1
        self._bytes += len(json.dumps(row))  # as the SDK writes it
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
