"""Paging through a conversation as it was when its first page was read, forward or from its end.

What was committed since does not show, and what was collected meanwhile ends the paging: it never goes on with
something else. That, the single use of a cursor and the limits are those of ``sessions.readPersistedEvents``.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sessionfs_s3.catalog.journal import Journal, JsonObject, Line, parsed, text
from sessionfs_s3.errors import InvalidInput, KeyNotFound

_logger = logging.getLogger(__name__)

EVENTS_DEFAULT: Final = 200
EVENTS_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 1024 * 1024
"""One event that is larger comes alone."""

_INTERNAL: Final = re.compile(r"model\.(?!call_)")
"""The runtime's own record of what it asked of the model while it compacted; it shows that to nobody."""

_PINNED_MAX: Final = 8
_IDLE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Some events of a conversation, in the order in which they were stored.

    Attributes:
        events: the events, as JSON objects.
        cursor: asks for the next page, once; always there, as in the runtime's answer.
        has_more: whether there is one.
        expired: the cursor was unknown, used before or too old, or what it led to is gone; there are no events then.
    """

    events: tuple[JsonObject, ...]
    cursor: str
    has_more: bool
    expired: bool = False


@dataclass(frozen=True, slots=True)
class _Pinned:
    """Where a paging stands: what is left are the bytes *start* to *stop* of *journal*."""

    session_id: str
    journal: Journal
    backward: bool
    start: int
    stop: int
    used_s: float


class Pager:
    """The pagings of one catalogue that are under way: at most eight, the one that rested longest goes first."""

    def __init__(self, uptime_s: Callable[[], float]) -> None:
        """Measure rests by the clock *uptime_s*."""
        self._uptime_s = uptime_s
        self._pinned: OrderedDict[str, _Pinned] = OrderedDict()

    async def first(self, session_id: str, journal: Journal, *, backward: bool, limit: int) -> EventsPage:
        """Return the first page of *journal*.

        Raises:
            InvalidInput: *limit* is not 1 to 1000.
            KeyNotFound, SessionFsError: as :meth:`Journal.lines`.
        """
        _check(limit)
        return await self._page(_Pinned(session_id, journal, backward, 0, journal.size, 0.0), limit)

    async def next(self, session_id: str, cursor: str, limit: int) -> EventsPage:
        """Return the page that *cursor* asks for. Raises as :meth:`first`, but for KeyNotFound."""
        _check(limit)
        pinned = self._pinned.pop(cursor, None)
        if pinned is None or pinned.session_id != session_id or self._uptime_s() - pinned.used_s > _IDLE_S:
            return EventsPage((), cursor, has_more=False, expired=True)
        try:
            return await self._page(pinned, limit)
        except KeyNotFound:  # a later state of the session has replaced it, and it was collected
            return EventsPage((), cursor, has_more=False, expired=True)

    async def _page(self, pinned: _Pinned, limit: int) -> EventsPage:
        taken = _Taken(limit)
        start, stop, journal = pinned.start, pinned.stop, pinned.journal
        lines = journal.lines_backward(stop) if pinned.backward else journal.lines(start, stop)
        try:
            async for line in lines:
                if not taken.add(journal, line):
                    break
                start, stop = (start, line.start) if pinned.backward else (line.stop, stop)
        finally:
            await lines.aclose()
        if pinned.backward:
            taken.events.reverse()
        cursor = f"stored-snapshot:v1:{uuid.uuid4()}"
        if start < stop:
            self._pinned[cursor] = replace(pinned, start=start, stop=stop, used_s=self._uptime_s())
            while len(self._pinned) > _PINNED_MAX:
                self._pinned.popitem(last=False)
        return EventsPage(tuple(taken.events), cursor, has_more=start < stop)


class _Taken:
    """The events of a page so far."""

    def __init__(self, limit: int) -> None:
        self.events: list[JsonObject] = []
        self._limit = limit
        self._size = 0

    def add(self, journal: Journal, line: Line) -> bool:
        """Add the event in *line*, if it is one to be shown; return False, and do not, where the page has no room."""
        event = parsed(line.data)
        if event is None and line.data.strip():
            if line.data.endswith(b"\n"):
                raise journal.corrupt(line.start, "not an event")
            _logger.warning("%s", journal.corrupt(line.start, "an unfinished event, passed over"))
        if event is None or _INTERNAL.match(text(event, "type") or ""):
            return True
        if len(self.events) >= self._limit or (self.events and self._size + len(line.data) > PAGE_BYTES_MAX):
            return False
        self._size += len(line.data)
        self.events.append(event)
        return True


def _check(limit: int) -> None:
    if not 1 <= limit <= EVENTS_MAX:
        raise InvalidInput("number of events", limit, f"must be 1 to {EVENTS_MAX}")
