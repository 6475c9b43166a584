"""``sessions.readPersistedEvents``: a session's stored events in pages, each cursor good on any gateway.

Pure. The runtime's cursors stand for a snapshot that it keeps in memory; these say where to go on, up to which event,
and which event stood before: a journal that was rewritten meanwhile (a rewind, say) is noticed, and the cursor has
then expired, as the runtime's has. A cursor opens nothing: the session is looked up again for each page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from sessionfs_s3.gateway.arguments import Arguments

EVENTS_MAX: Final = 1000
EVENTS_DEFAULT: Final = 200
PAGE_BYTES_MAX: Final = 1024 * 1024
"""What the runtime's schema promises of a page; one event that is larger comes alone."""

_PREFIX: Final = "persisted-snapshot:v1:"
_CURSOR_CHARS_MAX: Final = 512
_FIELDS: Final = ("sessionId", "cursor", "max", "direction")

Event = Mapping[str, object]


@dataclass(frozen=True)
class PageRequest:
    """One page that a client asks for; see ``SessionsReadPersistedEventsRequest`` of the runtime's schema."""

    session_id: str
    cursor: str | None
    count_max: int
    backward: bool


@dataclass(frozen=True)
class _Position:
    """Where a page begins: *at* is an index, *end* the number of events of the snapshot, *anchor* the event beside."""

    session: str
    backward: bool
    at: int
    end: int
    anchor: str


def page_request(arguments: Arguments) -> PageRequest:
    """Read and check the parameters; the runtime is strict about these."""
    session_id = arguments.session_id()
    for name in arguments.names():
        if name not in _FIELDS:
            expected = ", ".join(f"`{field}`" for field in _FIELDS)
            raise _invalid(arguments, f"unknown field `{name}`, expected one of {expected}")
    cursor, count, direction = (arguments.get(name) for name in _FIELDS[1:])
    if cursor is not None and not isinstance(cursor, str):
        raise _invalid(arguments, f"invalid type: {_type(cursor)}, expected a string")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
        raise _invalid(arguments, f"invalid type: {_type(count)}, expected i64")
    if direction is not None and not isinstance(direction, str):
        raise _invalid(arguments, f"invalid type: {_type(direction)}, expected string or map")
    if direction not in (None, "forward", "backward"):
        raise _invalid(arguments, f"unknown variant `{direction[:80]}`, expected `forward` or `backward`")
    wanted = EVENTS_DEFAULT if count is None else min(max(count, 1), EVENTS_MAX)
    return PageRequest(session_id, cursor, wanted, direction == "backward")


def page(arguments: Arguments, request: PageRequest, events: Sequence[Event]) -> dict[str, object]:
    """Return the page that *request* asks for, of the session's *events*, oldest first; there is at least one.

    Raises:
        RpcError: the cursor is another session's.
    """
    if request.cursor is None:
        at = len(events) if request.backward else 0
        position = _Position(_digest(request.session_id), request.backward, at, len(events), "")
    else:
        read = _read_cursor(request.cursor)
        if read is not None and read.session != _digest(request.session_id):
            raise arguments.error("Persisted event cursor belongs to a different session")
        if read is None or not _holds(read, events):
            return {"events": [], "cursor": request.cursor, "hasMore": False, "cursorStatus": "expired"}
        position = read
    start, stop = _window(position, request.count_max, events)
    at = start if position.backward else stop
    following = _Position(position.session, position.backward, at, position.end, _anchor(position.backward, at, events))
    return {
        "events": list(events[start:stop]),
        "cursor": _cursor(following),
        "hasMore": start > 0 if position.backward else stop < position.end,
        "cursorStatus": "ok",
    }


def _window(position: _Position, count_max: int, events: Sequence[Event]) -> tuple[int, int]:
    """Return which events the page holds: as many as asked for and as fit, at least one."""
    indexes = range(position.at - 1, -1, -1) if position.backward else range(position.at, position.end)
    taken = size = 0
    for index in indexes[:count_max]:
        size += len(json.dumps(events[index], ensure_ascii=False).encode(errors="replace"))
        if taken and size > PAGE_BYTES_MAX:
            break
        taken += 1
    return (position.at - taken, position.at) if position.backward else (position.at, position.at + taken)


def _holds(position: _Position, events: Sequence[Event]) -> bool:
    """Whether there is something left to read, of the same events that the first page was of."""
    last = len(events) if position.backward else position.end - 1
    more = 0 < position.at <= last and (position.backward or position.end <= len(events))
    return more and _anchor(position.backward, position.at, events) == position.anchor


def _anchor(backward: bool, at: int, events: Sequence[Event]) -> str:
    """Return the id of the last event that was served: the one before *at*, or at it when going backward."""
    index = at if backward else at - 1
    return _digest(str(events[index].get("id"))) if 0 <= index < len(events) else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _cursor(position: _Position) -> str:
    fields = [position.session, position.backward, position.at, position.end, position.anchor]
    return _PREFIX + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def _read_cursor(text: str) -> _Position | None:
    """Return what a cursor says, None when it is none of ours."""
    if not text.startswith(_PREFIX) or len(text) > _CURSOR_CHARS_MAX:
        return None
    try:
        decoded: object = json.loads(base64.b64decode(text.removeprefix(_PREFIX), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    fields = cast("list[object]", decoded) if isinstance(decoded, list) else []
    match fields:
        case [str(session), bool(backward), int(at), int(end), str(anchor)]:
            return _Position(session, backward, at, end, anchor)
        case _:
            return None


def _invalid(arguments: Arguments, why: str) -> Exception:
    return arguments.error(f"invalid {arguments.method} params: {why}")


def _type(value: object) -> str:
    """Return how the runtime names a JSON value of a type that it did not expect."""
    match value:
        case bool():
            return f"boolean `{json.dumps(value)}`"
        case int():
            return f"integer `{str(value)[:40]}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f"string {json.dumps(value[:80], ensure_ascii=False)}"
        case list():
            return "sequence"
        case _:
            return "map"
