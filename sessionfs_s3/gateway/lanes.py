"""Work in order: what belongs to one lane is done one after the other, lanes side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

STEPS_MAX: Final = 512
"""Steps of one client that wait, notifications included: of those, nobody can be told that they are too many."""

HELD_BYTES_MAX: Final = 8 * 1024 * 1024
"""What the messages that wait may hold before the client is kept from sending more."""

PAUSE_S: Final = 1.0
"""How long a client with many steps is kept from asking for more, at the most, when none of them is done."""


class Lanes:
    """Lanes by name; one exists while something is to be done in it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._last: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._held_bytes = 0

    def enter(self, name: str, step: Callable[[], Awaitable[None]], size: int = 0) -> asyncio.Task[None]:
        """Take *step*, which must not raise and holds *size* bytes, after everything else of the lane *name*."""
        task = asyncio.create_task(self._after(self._last.get(name), step))
        self._last[name] = task
        self._tasks[task] = size
        self._held_bytes += size
        task.add_done_callback(lambda _: self._leave(name, task))
        return task

    @property
    def full(self) -> bool:
        """Whether so many steps wait that no more should."""
        return len(self._tasks) >= STEPS_MAX

    async def settle(self) -> None:
        """Wait a little for the oldest step, where many wait: whoever goes on asking is in no hurry."""
        if len(self._tasks) >= STEPS_MAX // 2 or self._held_bytes >= HELD_BYTES_MAX:
            await asyncio.wait([next(iter(self._tasks))], timeout=PAUSE_S)

    async def aclose(self) -> None:
        """Give up everything that is not done."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, before: asyncio.Task[None] | None, step: Callable[[], Awaitable[None]]) -> None:
        if before is not None:
            await asyncio.wait([before])
        await step()

    def _leave(self, name: str, task: asyncio.Task[None]) -> None:
        self._held_bytes -= self._tasks.pop(task, 0)
        if self._last.get(name) is task:
            del self._last[name]
