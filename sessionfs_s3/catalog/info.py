"""What is known of a session, derived from its files as the runtime derives it for its own lists.

Measured with version 1.0.102: ``workspace.yaml`` tells name, client, context and creation; ``session.start``, the
first event, the creation where that is missing, and whether the session is a detached one; the first message of the
user is the summary of a session that has no name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from sessionfs_s3 import fs
from sessionfs_s3.catalog import workspace
from sessionfs_s3.catalog.journal import Journal, JsonObject, member, parsed, text
from sessionfs_s3.format.limits import TIME_MS_MAX
from sessionfs_s3.fs import File, Node, Tree
from sessionfs_s3.volume.contents import ContentReader

EVENTS_NAME: Final = "events.jsonl"
WORKSPACE_NAME: Final = "workspace.yaml"

WORKSPACE_BYTES_MAX: Final = 1024 * 1024
"""A larger ``workspace.yaml`` is not the runtime's: its own have some hundred bytes."""

_SUMMARY_CHARS_MAX: Final = 500
"""Where the runtime cuts a summary that it takes from a message."""

_SUMMARY_BYTES_MAX: Final = 1024 * 1024
"""How far the first message is looked for; only the system prompt comes before it."""

_CONTEXT: Final = {"cwd": "cwd", "git_root": "gitRoot", "repository": "repository", "branch": "branch"}


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session of a list.

    Attributes:
        id: its id.
        created_ms: when it was created, by the runtime's clock, in milliseconds since the Unix epoch.
        modified_ms: when the store received its newest commit, by the store's clock, in milliseconds likewise.
        bytes: the sizes of its files and its database together, as a user sees them.
        files: how many files it has.
        sequence: the number of its newest commit.
        epoch: the number of the claim that opened that commit's epoch; 0 where the session could not be read.
        summary: its name, else the user's first words; None while there are none.
        name: its name.
        client_name: which program created it or last resumed it.
        context: where it works: ``cwd``, ``gitRoot``, ``repository``, ``branch``, as far as they are known.
        detached: whether it is a maintenance session of the runtime's own, which lists hide.
    """

    id: str
    created_ms: int
    modified_ms: int
    bytes: int
    files: int
    sequence: int
    epoch: int
    summary: str | None
    name: str | None
    client_name: str | None
    context: Mapping[str, str] | None
    detached: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of a session say of it; see :class:`SessionInfo`."""

    created_ms: int
    bytes: int
    files: int
    summary: str | None
    name: str | None
    client_name: str | None
    context: Mapping[str, str] | None
    detached: bool


def file_at(tree: Tree, path: str) -> File | None:
    """Return the file at *path*, None where there is none."""
    try:
        node = fs.find(tree, fs.parse(path))
    except OSError:
        return None
    return node if isinstance(node, File) else None


async def facts_of(name: str, tree: Tree, reader: ContentReader, state_path: str) -> Facts | None:
    """Return what the session *name*, whose files are *tree*, says of itself; None if it is no session.

    It is one from the first event on: without ``events.jsonl`` no runtime resumes it.

    Raises:
        KeyNotFound, SessionFsError: as :meth:`ContentReader.read`.
    """
    events = file_at(tree, f"{state_path}/{EVENTS_NAME}")
    if events is None:
        return None
    journal = Journal(name, reader, events.content)
    note = await read_workspace(tree, reader, state_path)
    start = parsed((await journal.first()).data)
    data = member(start, "data") if text(start, "type") == "session.start" else {}
    named = note.get("name") or note.get("summary") or None
    created = _time_ms(note.get("created_at")), _time_ms(text(data, "startTime"))
    size, files = _sizes(tree)
    return Facts(
        created_ms=next((each for each in created if each is not None), events.birthtime_ms),
        bytes=size,
        files=files,
        summary=named or await _first_words(journal),
        name=named,
        client_name=note.get("client_name"),
        context=_context(note),
        detached=text(data, "detachedFromSpawningParentSessionId") is not None,
    )


async def read_workspace(tree: Tree, reader: ContentReader, state_path: str) -> Mapping[str, str]:
    """Return what ``workspace.yaml`` says by key; nothing where it is missing or not to be understood."""
    file = file_at(tree, f"{state_path}/{WORKSPACE_NAME}")
    if file is None or file.content.size > WORKSPACE_BYTES_MAX:
        return {}
    data = await reader.read(file.content)
    with contextlib.suppress(UnicodeDecodeError, workspace.Malformed):
        return workspace.read(data.decode())
    return {}


def _sizes(tree: Tree) -> tuple[int, int]:
    """Return the bytes of all files and the database, and the number of files."""
    size = 0 if tree.database is None else tree.database.size
    files = 0
    waiting: list[Node] = [tree.root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, File):
            size, files = size + node.content.size, files + 1
        else:
            waiting.extend(node.entries.values())
    return size, files


def _context(note: Mapping[str, str]) -> Mapping[str, str] | None:
    if "cwd" not in note:
        return None
    return MappingProxyType({name: note[key] for key, name in _CONTEXT.items() if key in note})


async def _first_words(journal: Journal) -> str | None:
    lines = journal.lines(0, min(journal.size, _SUMMARY_BYTES_MAX))
    try:
        async for line in lines:
            if b"user.message" in line.data and (words := _words(parsed(line.data))):
                return words
    finally:
        await lines.aclose()
    return None


def _words(event: JsonObject | None) -> str | None:
    if text(event, "type") != "user.message":
        return None
    words = re.sub(r"\s+", " ", text(member(event, "data"), "content") or "").strip()
    words = re.sub("[\ud800-\udfff]", "\ufffd", words)  # JSON may hold halves of characters, text may not
    return words if len(words) <= _SUMMARY_CHARS_MAX else f"{words[:_SUMMARY_CHARS_MAX].rstrip()}..."


def _time_ms(value: str | None) -> int | None:
    """Return an ISO 8601 time in milliseconds since the Unix epoch; None for what is none."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    time_ms = round(time.timestamp() * 1000)
    return time_ms if 0 <= time_ms <= TIME_MS_MAX else None
