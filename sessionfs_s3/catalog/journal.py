"""``events.jsonl``, the conversation: read by ranges, line by line, never as a whole.

A session's conversation can have hundreds of megabytes. Here it takes the memory of a window and of its longest line.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, cast

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.fs import Content
from sessionfs_s3.volume.contents import ContentReader

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""How much is read at a time: four of the ranged GETs that a read makes side by side."""

_FIRST_WINDOW_BYTES: Final = 64 * 1024
"""The first window, one chunk: most of what is looked for stands at the beginning."""

EVENT_BYTES_MAX: Final = 96 * 1024 * 1024
"""The longest event: a frame of the runtime's protocol, 64 MiB, as it may grow by being written as JSON once more."""

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: where it starts, in bytes, and its bytes with the newline, if it has one."""

    start: int
    data: bytes

    @property
    def stop(self) -> int:
        """Where the next one starts."""
        return self.start + len(self.data)


class Journal:
    """One state of a session's conversation."""

    def __init__(self, name: str, reader: ContentReader, content: Content) -> None:
        """Read *content* through *reader*; *name* is the session's, for errors."""
        self.content = content
        self._name = name
        self._reader = reader

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.content.size

    async def read(self, start: int, stop: int) -> bytes:
        """Return bytes *start* to *stop*. Raises as :meth:`ContentReader.read`."""
        return await self._reader.read(self.content, start, stop)

    async def lines(self, start: int = 0, stop: int | None = None) -> AsyncGenerator[Line]:
        """Yield the lines from *start*, where one begins, to *stop*; an unfinished one comes as it is.

        Raises:
            Corrupt: a line is longer than any event.
            KeyNotFound, SessionFsError: as :meth:`ContentReader.read`.
        """
        stop = self.size if stop is None else stop
        pending = bytearray()
        at, window = start, _FIRST_WINDOW_BYTES
        while at < stop:
            data = await self.read(at, min(at + window, stop))
            at, window = at + len(data), WINDOW_BYTES
            await asyncio.sleep(0)  # what is in memory is read without waiting: others have their turn too
            searched = len(pending)
            pending += data
            begin = 0
            while (end := pending.find(b"\n", max(begin, searched))) >= 0:
                yield Line(start, bytes(pending[begin : end + 1]))
                start += end + 1 - begin
                begin = end + 1
            del pending[:begin]
            if len(pending) > EVENT_BYTES_MAX:
                raise self.corrupt(start, f"a line of over {EVENT_BYTES_MAX} bytes")
        if pending:
            yield Line(start, bytes(pending))

    async def lines_backward(self, stop: int | None = None) -> AsyncGenerator[Line]:
        """Yield the lines before *stop*, the last one first. Raises as :meth:`lines`."""
        stop = self.size if stop is None else stop
        pending = b""
        at, window = stop, _FIRST_WINDOW_BYTES
        while at:
            begin = max(0, at - window)
            # A newline at the end of what is pending ends its line; any other ends the one before.
            data = await self.read(begin, at)
            unsearched = len(data)
            pending = data + pending
            at, window = begin, WINDOW_BYTES
            end = len(pending)
            while (found := pending.rfind(b"\n", 0, min(end - 1, unsearched))) >= 0:
                yield Line(at + found + 1, pending[found + 1 : end])
                end = found + 1
            pending = pending[:end]
            if len(pending) > EVENT_BYTES_MAX:
                raise self.corrupt(at, f"a line of over {EVENT_BYTES_MAX} bytes")
        if pending:
            yield Line(0, pending)

    async def first(self) -> Line:
        """Return the first line; an empty one where there is none. Raises as :meth:`lines`."""
        lines = self.lines()
        try:
            return await anext(lines, Line(0, b""))
        finally:
            await lines.aclose()

    async def last(self, stop: int) -> Line:
        """Return the last line before *stop*; an empty one where there is none. Raises as :meth:`lines`."""
        lines = self.lines_backward(stop)
        try:
            return await anext(lines, Line(0, b""))
        finally:
            await lines.aclose()

    def event(self, line: Line) -> JsonObject:
        """Return the event in *line*.

        Raises:
            Corrupt: it holds none.
        """
        event = parsed(line.data)
        if event is None:
            raise self.corrupt(line.start, "not an event")
        return event

    def corrupt(self, offset: int, reason: str) -> Corrupt:
        """Return the error that the conversation breaks a rule at *offset* bytes."""
        return Corrupt(self._name, offset, reason)


def parsed(data: bytes) -> JsonObject | None:
    """Return the JSON object that *data* is, None if it is none."""
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("JsonObject", value) if isinstance(value, dict) else None


def member(event: JsonObject | None, name: str) -> JsonObject:
    """Return the object that is member *name* of *event*; an empty one where there is none."""
    value = None if event is None else event.get(name)
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def text(event: JsonObject | None, name: str) -> str | None:
    """Return the text that is member *name* of *event*, None where there is none."""
    value = None if event is None else event.get(name)
    return value if isinstance(value, str) else None
