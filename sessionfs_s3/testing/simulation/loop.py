"""An event loop whose time moves only when nothing is left to do: hours pass in milliseconds, always the same way."""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

from sessionfs_s3.testing.simulation.databases import NO_KILLS, Kills, LocalDatabases
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import Environment

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LIFE: ContextVar[str] = ContextVar("life", default="")
"""Whose tasks and timers these are: the name of one life of a replica, "" for the world's own."""

START_MS = 1_700_000_000_000
"""Time of day at the start of every run, in milliseconds since the Unix epoch."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set: somebody waits for ever."""


class _Selector(selectors.SelectSelector):
    """Waits for nothing: where the loop would sleep, its time moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("every task waits, and no timer is set")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; its time starts at 0 and is moved by timers alone."""

    def __init__(self) -> None:
        """Make a loop that has seen nothing."""
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._suspended: dict[str, tuple[float, float]] = {}

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.now_s

    def suspend(self, life: str, duration_s: float) -> None:
        """Suspend the machine of *life*: until it goes on, none of its timers runs out, and no answer reaches it."""
        self._suspended[life] = (self.time(), self.time() + duration_s)

    def end(self, life: str) -> None:
        """End *life*: none of its timers runs out any more."""
        self._suspended[life] = (self.time(), math.inf)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call *callback* at *when*; later by as much as the machine that asks for it is suspended until then."""
        life = (context or copy_context()).get(LIFE, "")
        if not life:
            return super().call_at(when, callback, *args, context=context)

        def ring() -> None:
            since_s, until_s = self._suspended.get(life, (0.0, 0.0))
            if handle.cancelled():
                return
            if until_s == math.inf:
                return
            if self.time() < until_s:
                asyncio.SelectorEventLoop.call_at(self, self.time() + until_s - since_s, ring, context=context)
            else:
                callback(*args)

        handle = super().call_at(when, ring, context=context)
        return handle


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run *main* to its end in a loop of its own and return what it returns."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        # What the end of the run cut off is not worth a word when it is collected as garbage.
        loop.set_exception_handler(lambda _loop, _context: None)
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()


def environment(
    loop: VirtualLoop,
    rng: random.Random,
    databases: LocalDatabases,
    *,
    ahead_s: Callable[[], float] = lambda: 0.0,
    kills: Kills = NO_KILLS,
) -> Environment:
    """Return an environment whose clocks are *loop*'s and whose randomness is *rng*'s, with databases in *databases*.

    Its time of day is *ahead_s* seconds ahead; the clock that counts suspension is right, as on real machines. Its
    databases are lost as *kills* says.
    """

    async def run_in_thread(function: Callable[[], T]) -> T:
        # A thread takes a while, during which anything may happen.
        await asyncio.sleep(rng.uniform(0.0, 0.01))
        return function()

    return Environment(
        wall_ms=lambda: START_MS + int((loop.time() + ahead_s()) * 1000),
        uptime_s=loop.time,
        random_bytes=rng.randbytes,
        uniform=rng.random,
        run_in_thread=run_in_thread,
        databases=databases.host(run_in_thread, rng, kills),
        cache=ContentCache(rng.choice([0, 1000, 1 << 20])),
    )
