"""How stored sessions look in the runtime's answers: its metadata records, its filters, its choice of the last one.

Pure. What the catalogue knows of a session becomes ``LocalSessionMetadataValue`` of the runtime's schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from sessionfs_s3.catalog import SessionInfo
from sessionfs_s3.gateway.catalogue.arguments import NAME_CHARS_MAX

_CONTEXT_FIELDS: Final = ("cwd", "gitRoot", "repository", "hostType", "branch")
_FILTER_FIELDS: Final = ("cwd", "gitRoot", "repository", "branch")
_HOST_TYPES: Final = frozenset({"github", "ado"})

_PREFIX: Final = re.compile(r"[0-9a-f-]{7,35}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def newest_first(infos: Iterable[SessionInfo]) -> list[SessionInfo]:
    """Return *infos* as the runtime lists them: by the time of the last change, the newest first."""
    return sorted(infos, key=lambda info: (-info.modified_ms, info.id))


def metadata(info: SessionInfo) -> dict[str, object]:
    """Return all that is known of a session, as the runtime's metadata record."""
    return basic(info) | details(info)


def basic(info: SessionInfo) -> dict[str, object]:
    """Return the record of a session beyond ``metadataLimit``: without what the runtime would have to read."""
    return {
        "sessionId": info.id,
        "startTime": timestamp(info.created_ms),
        "modifiedTime": timestamp(info.modified_ms),
        "isRemote": False,
        "isDetached": info.detached,
    }


def details(info: SessionInfo) -> dict[str, object]:
    """Return the rest of the record. The runtime gives the name as the summary too, and so does this."""
    title = info.name or info.summary
    optional = {
        "summary": info.summary or info.name,
        "name": title,
        "clientName": info.client_name,
        "context": _context(info),
    }
    return {key: value for key, value in optional.items() if value is not None}


def timestamp(time_ms: int) -> str:
    """Return *time_ms* as the runtime writes times: ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def matches(info: SessionInfo, wanted: Mapping[str, object] | None) -> bool:
    """Whether a session passes the filter: all fields that are strings agree; other fields are ignored."""
    context = info.context or {}
    return all(
        context.get(field) == value
        for field in _FILTER_FIELDS
        if wanted is not None and isinstance(value := wanted.get(field), str)
    )


def last_for(infos: Iterable[SessionInfo], context: Mapping[str, object]) -> SessionInfo | None:
    """Return the newest session that has most to do with a working directory.

    The runtime's order: same repository and branch, same repository, same git root, same directory, any at all.
    """
    ordered = newest_first(infos)
    tiers: tuple[tuple[str, ...], ...] = (("repository", "branch"), ("repository",), ("gitRoot",), ("cwd",), ())
    for fields in tiers:
        if all(context.get(field) is not None for field in fields):
            same = _same(context, fields)
            if (found := next(filter(same, ordered), None)) is not None:
                return found
    return None


def find_by_prefix(ids: Iterable[str], prefix: str) -> str | None:
    """Return the only UUID of *ids* that begins with *prefix*: 7 to 35 of its characters, in either case."""
    wanted = prefix.lower()
    if _PREFIX.fullmatch(wanted) is None:
        return None
    found = [each for each in ids if _UUID.fullmatch(each) and each.lower().startswith(wanted)]
    return found[0] if len(found) == 1 else None


def fork_name(info: SessionInfo, taken: Iterable[str | None]) -> str:
    """Return the runtime's name for a fork that was given none: ``… (fork)``, ``… (fork 2)`` and so on.

    The runtime counts a session's forks in its ``workspace.yaml``; here the first name that is not *taken* is used.
    """
    base = info.name or info.summary or f"Session {info.id[:8]}"
    used = set(taken)
    number = 1
    while True:
        suffix = " (fork)" if number == 1 else f" (fork {number})"
        name = base[: NAME_CHARS_MAX - len(suffix)] + suffix
        if name not in used:
            return name
        number += 1


def _same(context: Mapping[str, object], fields: Iterable[str]) -> Callable[[SessionInfo], bool]:
    return lambda info: all((info.context or {}).get(field) == context[field] for field in fields)


def _context(info: SessionInfo) -> dict[str, object] | None:
    """Return the session's context with nothing but what the schema allows; it needs at least a directory."""
    known = {field: value for field in _CONTEXT_FIELDS if isinstance(value := (info.context or {}).get(field), str)}
    if known.get("hostType") not in _HOST_TYPES:
        known.pop("hostType", None)
    return dict(known) if "cwd" in known else None
