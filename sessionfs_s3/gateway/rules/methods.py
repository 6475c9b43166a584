"""What the gateway does with a request of a client, by its method and parameters. Pure; a security boundary.

The tables stand in :mod:`sessionfs_s3.gateway.rules.method_tables`. Two rules follow from them. A session is only ever
reached by :func:`session_of`, after the gateway has looked up that it is the tenant's; and a request that names further
sessions (:func:`other_sessions`) passes only if those are the tenant's too. What one session of
a shared runtime may ask for at all stands in :mod:`sessionfs_s3.gateway.rules.sharing`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, cast

from sessionfs_s3.gateway.catalogue.arguments import SESSION_ID_CHARS_MAX, Arguments, is_session_id
from sessionfs_s3.gateway.errors import RpcError, failed
from sessionfs_s3.gateway.rules.method_tables import CATALOGUE, GLOBAL, OWN, PROCESS, SESSION, spelled
from sessionfs_s3.gateway.rules.sharing import LOCAL_KINDS, beyond


class Treatment(enum.Enum):
    """What becomes of a request."""

    ANSWER = "answered from the store"
    SESSION = "goes to the runtime that has the session"
    OWN = "answered by the gateway itself"
    GLOBAL = "goes to any runtime"
    PROCESS = "refused where several tenants share a runtime, else goes to the tenant's runtime"
    UNKNOWN = "in no schema that the gateway was written for"


def _table() -> dict[str, Treatment]:
    rows = [(CATALOGUE, Treatment.ANSWER), (SESSION, Treatment.SESSION), (OWN, Treatment.OWN)]
    rows += [(GLOBAL, Treatment.GLOBAL), *((families, Treatment.PROCESS) for families in PROCESS.values())]
    table: dict[str, Treatment] = {}
    for families, treated in rows:
        for name in spelled(families):
            assert name not in table, f"{name} stands in two tables"
            table[name] = treated
    return table


TREATMENTS: Final[Mapping[str, Treatment]] = _table()
"""By method, for parameters that ask for nothing out of the ordinary; see :func:`treatment`."""

_REASONS: Final = {name: reason for reason, families in PROCESS.items() for name in spelled(families)}

OPENING: Final = frozenset({"session.create", "session.resume", "sessions.open"})
"""What makes a session open on a runtime: the gateway chooses which, and from then on it is the session's home."""

_LEGACY: Final = frozenset(
    {"session.create", "session.destroy", "session.detach", "session.getMessages", "session.resume"}
)
"""Methods older than the schema, which say in other words that a session is missing."""

_OTHERS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "session.create": (("detachedFromSpawningParentSessionId",), ("parentSessionId",)),
    "session.mode.set": (("inheritPlanBaseFromSessionId",),),
    "session.resume": (("detachedFromSpawningParentSessionId",), ("parentSessionId",)),
    # Which of its two ids counts depends on its kind; where it has both, the other one is a further session.
    "sessions.open": (("options", "detachedFromSpawningParentSessionId"), ("options", "sessionId"), ("sessionId",)),
}
"""The parameters beside ``sessionId`` that name a session, of the methods that reach a runtime. All others that the
schema has belong to methods that are answered from the tenant's own catalogue, or refused on a shared runtime."""


def treatment(method: str, params: object) -> Treatment:
    """Return what to do with a request; *params* is any JSON value, as it came.

    A request whose parameters reach beyond its session is :attr:`Treatment.PROCESS`, whatever its method is otherwise.
    """
    usual = TREATMENTS.get(method, Treatment.UNKNOWN)
    if usual is Treatment.SESSION and beyond(method, params) is not None:
        return Treatment.PROCESS
    return usual


def is_of_session(method: str, params: object) -> bool:
    """Whether a :attr:`Treatment.PROCESS` request goes to its session's home, where no tenants share a runtime.

    A session with an MCP server that is a program, say, is one that the gateway has to place and to know.
    """
    if method == "sessions.open":
        return _object(params).get("kind") in LOCAL_KINDS
    return method.startswith("session.")


def refusal(method: str, params: object) -> RpcError:
    """Return the error for a :attr:`Treatment.PROCESS` request where several tenants share a runtime."""
    reason = beyond(method, params) or _REASONS.get(method) or "it is in no schema that the gateway was written for"
    return failed(
        method,
        f"not available where it could reach sessions of others: {reason}. A gateway that is started with "
        "--isolation tenant allows it to credentials for all of a tenant's sessions.",
    )


def with_session_id(method: str, params: Mapping[str, object], *, new_id: Callable[[], str]) -> Mapping[str, object]:
    """Return *params* with an id from *new_id* where they create a session and leave its id to the runtime.

    The gateway has to know whose a session is before the runtime asks for its first file.
    """
    if method == "session.create" and params.get("sessionId") is None:
        return {**params, "sessionId": new_id()}
    if method == "sessions.open" and params.get("kind") == "create":
        options = _object(params.get("options"))
        if options.get("sessionId") is None:
            return {**params, "options": {**options, "sessionId": new_id()}}
    return params


def session_of(method: str, params: object) -> str | None:
    """Return the session that a :attr:`Treatment.SESSION` request is about, None where it names none."""
    given = _object(params)
    if method == "sessions.open" and given.get("kind") == "create":
        given = _object(given.get("options"))
    found = given.get("sessionId")
    return found if isinstance(found, str) else None


def required_session(method: str, params: object) -> str:
    """Return the session that a :attr:`Treatment.SESSION` request is about.

    Raises:
        RpcError: it names none, or what cannot be one; the runtime's own words.
    """
    found = session_of(method, params)
    if found is None:
        if method.startswith("sessions."):
            raise failed(method, "Invalid sessionId: undefined")
        legacy = method in _LEGACY
        raise failed(method, "Missing sessionId parameter" if legacy else f"Missing sessionId in {method} request")
    if method in ("session.create", "session.resume") and not is_session_id(found):
        raise failed(method, f"Rejected {method} request with invalid sessionId: {found[:300]}")
    if method.startswith("sessions.") or len(found) > SESSION_ID_CHARS_MAX:
        return Arguments(method, {"sessionId": found}).session_id()
    return found


def other_sessions(method: str, params: object) -> list[str]:
    """Return the further sessions that a request names: each has to be the tenant's, on the same runtime.

    Raises:
        RpcError: one of them is no string.
    """
    found: list[str] = []
    for path in _OTHERS.get(method, ()):
        value = params
        for name in path:
            value = _object(value).get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise failed(method, f"parameter '{'.'.join(path)}' has to be a string")
        if value != session_of(method, params):
            found.append(value)
    return found


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
