"""A bound on bytes that are under way side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class ByteGate:
    """Lets so many bytes pass side by side; who wants more than there is room for waits."""

    def __init__(self, bytes_max: int) -> None:
        """Have room for *bytes_max* bytes; a single larger one passes alone."""
        self._bytes_max = bytes_max
        self._passing = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def passing(self, size: int) -> AsyncGenerator[None]:
        """Hold *size* bytes of the room for as long as the body runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._passing or self._passing + size <= self._bytes_max)
            self._passing += size
        try:
            yield
        finally:
            async with self._changed:
                self._passing -= size
                self._changed.notify_all()
