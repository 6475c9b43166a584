"""What changes in the conversation when a session is forked: its first line, where it ends, and a line that says so."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from sessionfs_s3.catalog.journal import WINDOW_BYTES, Journal, JsonObject, Line, member, parsed, text
from sessionfs_s3.catalog.renaming import ForkName, iso_time
from sessionfs_s3.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a fork's part of a conversation ends.

    Attributes:
        event_id: the first event that is left out.
        stop: where it starts, in bytes.
        checkpoints: the number of the last checkpoint that was written before it, 0 for none.
    """

    event_id: str
    stop: int
    checkpoints: int


async def cut_before(journal: Journal, session_id: str, event_id: str) -> Cut:
    """Return the cut before the event *event_id* of the conversation of *session_id*.

    Only lines that hold the id are decoded, and those of checkpoints.

    Raises:
        InvalidInput: there is no such event, or it is the first: nothing would be left.
        KeyNotFound, SessionFsError: as :meth:`Journal.lines`.
    """
    try:
        wanted = event_id.encode()
    except UnicodeEncodeError:
        raise InvalidInput("event id", event_id, "must not hold lone surrogates") from None
    checkpoints = 0
    lines = journal.lines()
    try:
        async for line in lines:
            if wanted in line.data and text(parsed(line.data), "id") == event_id:
                if not line.start:
                    raise InvalidInput("event id", event_id, f"is the first of session {session_id!r}: nothing is left")
                return Cut(event_id, line.start, checkpoints)
            if b"session.compaction_complete" in line.data:
                checkpoints = max(checkpoints, _checkpoint(line))
    finally:
        await lines.aclose()
    raise InvalidInput("event id", event_id, f"is not in session {session_id!r}")


async def rewritten(
    journal: Journal, name: ForkName, cut: Cut | None, time_ms: int, random_id: bytes
) -> AsyncGenerator[bytes]:
    """Yield the conversation of a fork: its own first line, the source's bytes up to *cut*, and where it came from.

    Args:
        journal: the source's.
        name: the fork's names.
        cut: where it ends; None at its end.
        time_ms: when it was forked, in milliseconds since the Unix epoch.
        random_id: 16 random bytes, from which the new event gets its id.

    Raises:
        Corrupt: it does not begin with ``session.start``, or does not end with an event.
        KeyNotFound, SessionFsError: as :meth:`Journal.lines`.
    """
    stop = journal.size if cut is None else cut.stop
    first = await journal.first()
    start = journal.event(first)
    if text(start, "type") != "session.start" or not member(start, "data"):
        raise journal.corrupt(0, "does not begin with session.start")
    last = await journal.last(stop)
    yield _encoded(_start(start, name, time_ms))
    for at in range(first.stop, stop, WINDOW_BYTES):
        yield await journal.read(at, min(at + WINDOW_BYTES, stop))
    if last.start and not last.data.endswith(b"\n"):
        yield b"\n"
    yield _encoded(_origin(name, cut, time_ms, random_id, text(journal.event(last), "id")))


def _start(event: JsonObject, name: ForkName, time_ms: int) -> JsonObject:
    """Return ``session.start`` as the fork has it."""
    at = iso_time(time_ms)
    data = {key: value for key, value in member(event, "data").items() if key != "remoteSteerable"}
    return {**event, "data": {**data, "sessionId": name.target_id, "startTime": at}, "timestamp": at}


def _origin(name: ForkName, cut: Cut | None, time_ms: int, random_id: bytes, parent_id: str | None) -> JsonObject:
    """Return the event by which the runtime tells where a fork came from."""
    where = "" if cut is None else f"before event {cut.event_id} "
    source, target = (json.dumps(each, ensure_ascii=False) for each in (name.source_name, name.name))
    message = f"Forked from {source} ({name.source_id}) {where}as {target} ({name.target_id})."
    return {
        "type": "session.info",
        "id": str(uuid.UUID(bytes=random_id, version=4)),
        "timestamp": iso_time(time_ms),
        "parentId": parent_id,
        "data": {"infoType": "fork", "message": message},
    }


def _encoded(event: JsonObject) -> bytes:
    try:
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which was escaped and has to stay so
        line = json.dumps(event, separators=(",", ":")).encode()
    return line + b"\n"


def _checkpoint(line: Line) -> int:
    """Return the number of the checkpoint that the event in *line* completed, 0 for none."""
    event = parsed(line.data)
    number = member(event, "data").get("checkpointNumber")
    if not isinstance(number, int) or isinstance(number, bool) or text(event, "type") != "session.compaction_complete":
        return 0
    return number
