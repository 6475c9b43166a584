"""Noticing that nobody has asked for anything in a while: one timer, which a call does not have to move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls *rest* once nothing has touched it for *after_s* seconds, and again until that says that it was done."""

    def __init__(self, after_s: float | None, rest: Callable[[], bool]) -> None:
        """Wait for the first touch; with None for ever."""
        self._after_s = after_s
        self._rest = rest
        self._touched_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Begin to count anew."""
        if self._after_s is None:
            return
        loop = asyncio.get_running_loop()
        self._touched_s = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._after_s, self._look)

    def cancel(self) -> None:
        """Call nothing any more."""
        self._after_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        assert self._after_s is not None
        loop = asyncio.get_running_loop()
        idle_s = loop.time() - self._touched_s
        if idle_s >= self._after_s and self._rest():
            self._timer = None
            return
        # What keeps it from resting, a change that nobody waits for, may stay: it is asked ever more rarely.
        self._timer = loop.call_later(max(self._after_s - idle_s, idle_s), self._look)
