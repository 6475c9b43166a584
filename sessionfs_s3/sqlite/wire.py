"""What a host and its worker processes say to each other: frames, and the records inside them. Pure.

A frame is the length of its payload (4 bytes, big-endian), its kind (1 byte) and the payload: bytes of the database or
JSON. Nothing that arrives is ever executed or unpickled: a worker runs hostile SQL, and its host has the credentials.

A host opens: OPEN, any number of IMAGE, IMAGE_END; the answer is READY or FAILED.
A host calls: any number of STATEMENTS, CALL. The answer is, for each result, any number of ROWS and one RESULT, then
any number of EXTENT, or instead of all that FAILED; and then DONE. CANCEL may follow a CALL; it is ignored once that
is answered.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Final, cast

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite.records import (
    DatabaseChange,
    DatabaseFull,
    JsonValue,
    Limits,
    Parameter,
    QueryResult,
    ScratchError,
    SqlError,
    Statement,
)

HEADER: Final = struct.Struct(">IB")
PART_BYTES: Final = 256 * 1024
"""About how much goes into one frame: small enough that an event loop does something else between two."""

FRAME_BYTES_MAX: Final = 128 * 1024 * 1024
"""No frame is longer. A statement with its parameters stands in one, and so does a row, which are within their limits
well before; but JSON takes six bytes for a control character."""

_STATEMENT_BYTES_MAX: Final = FRAME_BYTES_MAX - PART_BYTES
_OFFSET: Final = struct.Struct(">Q")


class FrameKind(IntEnum):
    """What a frame is."""

    OPEN = 1
    IMAGE = 2
    IMAGE_END = 3
    STATEMENTS = 4
    CALL = 5
    CANCEL = 6
    READY = 7
    ROWS = 8
    RESULT = 9
    EXTENT = 10
    DONE = 11
    FAILED = 12


class ProtocolError(Exception):
    """What arrived is no frame, or not one that may come now."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its *kind* and *payload*."""

    kind: FrameKind
    payload: bytes = b""

    def encoded(self) -> bytes:
        """Return the frame as it is sent."""
        return HEADER.pack(len(self.payload), self.kind) + self.payload


def decoded_header(header: bytes) -> tuple[int, FrameKind]:
    """Return the length of the payload that follows *header*, and its kind. Raises ProtocolError."""
    length, kind = HEADER.unpack(header)
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame of {length} bytes")
    try:
        return length, FrameKind(kind)
    except ValueError as error:
        raise ProtocolError(f"a frame of kind {kind}") from error


# Opening


def open_frame(limits: Limits, *, foreign_keys: bool) -> Frame:
    """Return the frame that asks for a database within *limits*, which enforces foreign keys or does not."""
    return Frame(FrameKind.OPEN, _json({"limits": asdict(limits), "foreign_keys": foreign_keys}))


def decode_open(payload: bytes) -> tuple[Limits, bool]:
    """Return the limits of an OPEN frame, and whether foreign keys are enforced."""
    fields = json.loads(payload)
    return Limits(**fields["limits"]), fields["foreign_keys"]


def parts(data: bytes) -> Iterator[bytes]:
    """Yield *data* in parts that fit a frame."""
    for start in range(0, len(data), PART_BYTES):
        yield data[start : start + PART_BYTES]


# Calling


def statement_frames(statements: Iterable[Statement]) -> Iterator[Frame]:
    """Yield *statements* in STATEMENTS frames, as many in each as fit.

    Raises:
        SqlError: a parameter has no form in JSON.
    """
    batch: list[bytes] = []
    size = 0
    for number, statement in enumerate(statements, 1):
        params = [[name, *_encoded(value)] for name, value in (statement.params or {}).items()]
        try:
            encoded = _json([statement.kind, statement.sql, params])
        except (TypeError, ValueError) as error:
            raise SqlError(f"a parameter of statement {number} is neither null, a number nor a string") from error
        if len(encoded) > _STATEMENT_BYTES_MAX:
            raise SqlError(f"statement {number} is longer than {_STATEMENT_BYTES_MAX:,} bytes as JSON", "limit")
        if batch and size + len(encoded) > PART_BYTES:
            yield Frame(FrameKind.STATEMENTS, b"[" + b",".join(batch) + b"]")
            batch, size = [], 0
        batch.append(encoded)
        size += len(encoded)
    if batch:
        yield Frame(FrameKind.STATEMENTS, b"[" + b",".join(batch) + b"]")


def decode_statements(payload: bytes) -> Iterator[Statement]:
    """Yield the statements of a STATEMENTS frame."""
    for kind, sql, params in json.loads(payload):
        decoded: dict[str, Parameter] = {
            name: base64.b64decode(value) if is_blob else value for name, is_blob, value in params
        }
        yield Statement(kind, sql, decoded)


def call_frame(*, is_transaction: bool) -> Frame:
    """Return the frame that runs the statements sent so far, as a transaction or alone."""
    return Frame(FrameKind.CALL, _json(is_transaction))


def decode_call(payload: bytes) -> bool:
    """Return whether a CALL frame asks for a transaction."""
    return bool(json.loads(payload))


# Answering


def result_frames(result: QueryResult | None) -> Iterator[Frame]:
    """Yield ROWS frames and a RESULT frame for one statement's *result*."""
    batch: list[bytes] = []
    size = 0
    for row in () if result is None else result.rows:
        encoded = _json(row)
        batch.append(encoded)
        size += len(encoded)
        if size > PART_BYTES:
            yield Frame(FrameKind.ROWS, b"[" + b",".join(batch) + b"]")
            batch, size = [], 0
    if batch:
        yield Frame(FrameKind.ROWS, b"[" + b",".join(batch) + b"]")
    rest = None if result is None else [result.rows_affected, result.last_insert_rowid, *result.columns]
    yield Frame(FrameKind.RESULT, _json(rest))


def decode_rows(payload: bytes) -> list[dict[str, JsonValue]]:
    """Return the rows of a ROWS frame. Raises ProtocolError."""
    rows = _loaded(payload)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in cast("list[object]", rows)):
        raise ProtocolError("rows that are none")
    return cast("list[dict[str, JsonValue]]", rows)


def decode_result(payload: bytes, rows: Sequence[dict[str, JsonValue]]) -> QueryResult | None:
    """Return the result of a RESULT frame with the *rows* that came before it. Raises ProtocolError."""
    match _loaded(payload):
        case None:
            return None
        case [int() as rows_affected, None | int() as rowid, *columns]:
            return QueryResult(tuple(map(str, columns)), tuple(rows), rows_affected, rowid)
        case _:
            raise ProtocolError("a result that is none")


def change_frames(change: DatabaseChange | None) -> Iterator[Frame]:
    """Yield EXTENT frames for what *change* wrote, in order."""
    for offset, contents in () if change is None else change.extents:
        for index, part in enumerate(parts(contents)):
            yield Frame(FrameKind.EXTENT, _OFFSET.pack(offset + index * PART_BYTES) + part)


def decode_extent(payload: bytes) -> tuple[int, bytes]:
    """Return the offset and the contents of an EXTENT frame. Raises ProtocolError."""
    if len(payload) <= _OFFSET.size:
        raise ProtocolError("an extent without contents")
    return _OFFSET.unpack_from(payload)[0], payload[_OFFSET.size :]


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer.

    Attributes:
        size: of the database file, None if nothing changed.
        is_spent: whether the worker wants to be replaced before the next call.
        foreign_keys: whether the database enforces foreign keys now.
    """

    size: int | None
    is_spent: bool
    foreign_keys: bool

    def frame(self) -> Frame:
        """Return the DONE frame that says so."""
        return Frame(FrameKind.DONE, _json([self.size, self.is_spent, self.foreign_keys]))

    @classmethod
    def of(cls, payload: bytes) -> Done:
        """Return what a DONE frame says. Raises ProtocolError."""
        match _loaded(payload):
            case [None | int() as size, bool() as is_spent, bool() as foreign_keys]:
                return cls(size, is_spent, foreign_keys)
            case _:
                raise ProtocolError("an end that is none")


def failed_frame(failure: Exception) -> Frame:
    """Return the frame that says why an open or a call failed."""
    match failure:
        case DatabaseFull():
            told: list[object] = ["full", failure.size_max]
        case SqlError():
            told = ["sql", str(failure), failure.reason]
        case InvalidInput():
            told = ["input", failure.what, failure.rule, str(failure)]
        case OSError():
            # Without the path: it is the host's, and whoever is told may be an agent.
            told = ["scratch", f"this machine cannot hold the session's database: {failure.strerror or 'failed'}"]
        case _:
            told = ["scratch", str(failure) or repr(failure)]
    return Frame(FrameKind.FAILED, _json(told))


def decode_failed(payload: bytes) -> Exception:
    """Return what a FAILED frame says."""
    match _loaded(payload):
        case ["full", int() as size_max]:
            return DatabaseFull(size_max)
        case ["sql", str() as message, "sql" | "refused" | "timeout" | "full" | "limit" as reason]:
            return SqlError(message, reason)
        case ["input", str() as what, str() as rule, str() as message]:
            failed = InvalidInput(what, "", rule)
            failed.args = (message,)
            return failed
        case ["scratch", str() as message]:
            return ScratchError(message)
        case _:
            raise ProtocolError("a failure that is none")


def _encoded(value: Parameter) -> tuple[bool, Any]:
    return (True, base64.b64encode(value).decode()) if isinstance(value, bytes) else (False, value)


def _json(value: object) -> bytes:
    # Lone surrogates are for the worker to replace; json.loads takes them back.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _loaded(payload: bytes) -> Any:  # noqa: ANN401  # JSON; whoever asks looks what it is
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("no JSON") from error
