"""What ``sessions.readPersistedEvents`` is asked: its parameters, checked as strictly as by the runtime. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from sessionfs_s3.gateway.catalogue.arguments import Arguments
from sessionfs_s3.gateway.errors import RpcError

EVENTS_MAX: Final = 1000
EVENTS_DEFAULT: Final = 200

_FIELDS: Final = ("sessionId", "cursor", "max", "direction")


@dataclass(frozen=True)
class PageRequest:
    """One page that a client asks for; see ``SessionsReadPersistedEventsRequest`` of the runtime's schema."""

    session_id: str
    cursor: str | None
    count_max: int
    backward: bool


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


def _invalid(arguments: Arguments, why: str) -> RpcError:
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
