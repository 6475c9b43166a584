"""What changes in a session's small files when it is forked: id, name, times, and checkpoints after the cut.

Pure; measured with version 1.0.102 of the runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sessionfs_s3.catalog import workspace
from sessionfs_s3.errors import InvalidInput

NAME_CHARS_MAX: Final = 100
"""The runtime's own bound on the name of a session."""

_SUFFIX: Final = " (fork)"
_CHECKPOINT: Final = re.compile(r"([0-9]{3,9})-.*\.md", re.DOTALL)
_ROW: Final = re.compile(r"\|[ \t]*([0-9]{1,9})[ \t]*\|")

_DROPPED: Final = ("mc_task_id", "mc_session_id", "remote_steerable")
"""What ties a session to a task elsewhere: the fork is another session."""


@dataclass(frozen=True, slots=True)
class ForkName:
    """What a fork is called, and what it was forked from.

    Attributes:
        source_id: the id of the session it was forked from.
        source_name: its name.
        target_id: the fork's id.
        name: the fork's name.
        given: whether somebody chose that.
    """

    source_id: str
    source_name: str
    target_id: str
    name: str
    given: bool

    @classmethod
    def of(cls, source_id: str, target_id: str, source_name: str | None, name: str | None) -> ForkName:
        """Return the names of a fork that is to be called *name*; None: as the source, with a note."""
        source_name = source_name or f"Session {source_id}"
        if name is not None:
            return cls(source_id, source_name, target_id, name, given=True)
        base = re.sub(r"\s+", " ", source_name.replace('"', "")).strip() or f"Session {source_id}"
        chosen = base[: NAME_CHARS_MAX - len(_SUFFIX)].rstrip() + _SUFFIX
        return cls(source_id, source_name, target_id, chosen, given=False)


def check_name(name: str) -> None:
    """Raise InvalidInput unless *name* may be given to a session: the runtime's rules."""
    if not name:
        raise InvalidInput("session name", name, "must not be empty")
    if name != name.strip():
        raise InvalidInput("session name", name, "must not begin or end with white space")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidInput("session name", name, f"must be at most {NAME_CHARS_MAX} characters")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise InvalidInput("session name", name, "must not hold lone surrogates")


def workspace_of_fork(data: bytes, name: ForkName, checkpoints: int | None, time_ms: int) -> bytes:
    """Return the ``workspace.yaml`` of a fork, given the source's; lines that have nothing to do with it stay.

    One that is missing or not to be understood is written anew.

    Args:
        data: the source's.
        name: the fork's name.
        checkpoints: the number of the last checkpoint that is taken along; None for all.
        time_ms: when it was forked, in milliseconds since the Unix epoch.
    """
    at = iso_time(time_ms)
    values: dict[str, str | None] = {
        "id": workspace.quoted(name.target_id),
        "name": workspace.quoted(name.name),
        "user_named": "true" if name.given else "false",
        "fork_count": "0",
        "created_at": at,
        "updated_at": at,
    } | dict.fromkeys(_DROPPED)
    if checkpoints is not None:
        values["summary_count"] = str(checkpoints)
    try:
        text = data.decode()
        workspace.read(text)
    except (UnicodeDecodeError, workspace.Malformed):
        text = ""
    if not text.strip():
        text = "id:\nsummary_count: 0\n"
    return workspace.edited(text, values).encode()


def is_after_cut(name: str, checkpoints: int) -> bool:
    """Return whether *name* is the file of a checkpoint that came after number *checkpoints*."""
    found = _CHECKPOINT.fullmatch(name)
    return found is not None and int(found[1]) > checkpoints


def index_cut(data: bytes, checkpoints: int) -> bytes:
    """Return the list of checkpoints *data* without the rows of those after number *checkpoints*."""
    rows = data.decode(errors="surrogateescape").split("\n")
    kept = [row for row in rows if (found := _ROW.match(row)) is None or int(found[1]) <= checkpoints]
    return "\n".join(kept).encode(errors="surrogateescape")


def iso_time(time_ms: int) -> str:
    """Return a time as the runtime writes it: ``2026-01-02T03:04:05.678Z``."""
    at = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return at.removesuffix("+00:00") + "Z"
