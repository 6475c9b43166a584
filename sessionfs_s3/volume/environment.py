"""What the engine takes from the machine besides the store: clocks, randomness, threads, a host for databases.

The only module of ``volume`` that may import them. Waiting goes through the event loop's own timers.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from sessionfs_s3.sqlite import WORKERS_MAX, DatabaseHost, WorkerHost
from sessionfs_s3.volume.cache import ContentCache

T = TypeVar("T")


_PROCESS_CACHE: Final = ContentCache()


class RunInThread(Protocol):
    """Runs a blocking function off the event loop and returns what it returns."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Start *function* in a thread."""
        ...


class CommitWatch:
    """Tells whoever listens how commits end.

    Attributes:
        listener: called with "ok", or the name of the exception's class, and with how long the commit took with all its
            tries, in seconds; None: nobody listens. It must not raise.
    """

    def __init__(self) -> None:
        """Tell nobody."""
        self.listener: Callable[[str, float], None] | None = None

    def ended(self, outcome: str, took_s: float) -> None:
        """Tell of a commit that has ended."""
        if self.listener is not None:
            self.listener(outcome, took_s)


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine as the engine sees it.

    Attributes:
        wall_ms: the time of day, in milliseconds since the Unix epoch.
        uptime_s: seconds since any fixed moment, on a clock that goes on while the machine is suspended.
        random_bytes: that many unpredictable bytes.
        uniform: a number between 0 and 1, for jitter.
        run_in_thread: runs a blocking function off the event loop.
        databases: opens local copies of SQLite databases, which may be lost at any time.
        cache: what is kept of file contents; one for all volumes of a process.
        commits: who hears of commits.
    """

    wall_ms: Callable[[], int]
    uptime_s: Callable[[], float]
    random_bytes: Callable[[int], bytes]
    uniform: Callable[[], float]
    run_in_thread: RunInThread
    databases: DatabaseHost
    cache: ContentCache
    commits: CommitWatch = field(default_factory=CommitWatch)


def system_environment(*, sqlite_processes: int = WORKERS_MAX) -> Environment:
    """Return the environment of this process and machine, for use within one event loop.

    Databases run in at most *sqlite_processes* processes at a time.
    """
    return Environment(
        wall_ms=_wall_ms,
        uptime_s=_uptime_s,
        random_bytes=secrets.token_bytes,
        uniform=random.random,
        run_in_thread=asyncio.to_thread,
        databases=WorkerHost(sqlite_processes),
        cache=_PROCESS_CACHE,
    )


async def all_of(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all answers in order; the first failure cancels the rest, and waits for their end."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _wall_ms() -> int:
    # A clock that is set wrong must not make a commit that cannot be written: the format's times begin in 1970.
    return max(0, time.time_ns() // 1_000_000)


def _uptime_s() -> float:
    # Linux's monotonic clock stops during suspend; CLOCK_BOOTTIME does not. macOS's monotonic clock goes on by itself.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
