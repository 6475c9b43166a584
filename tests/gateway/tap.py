"""A wire tap before a runtime: it passes everything on, keeps a copy, and can be cut or be given another runtime."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sessionfs_s3.testing.raw_client import Json

HOST = "127.0.0.1"
_HEADER = b"Content-Length: "


@dataclass(eq=False)
class Line:
    """One connection.

    Attributes:
        there: what came from whoever connected, message by message.
        back: what the runtime sent.
    """

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    there: list[Json] = field(default_factory=list[Json])
    back: list[Json] = field(default_factory=list[Json])

    def cut(self) -> None:
        """Break the connection on both sides."""
        for writer in self.writers:
            writer.transport.abort()

    @property
    def holds_the_slot(self) -> bool:
        """Whether this is the connection on which the runtime asks for files."""
        return any(message.get("method") == "sessionFs.setProvider" for message in self.there)


class Tap:
    """The tap.

    Attributes:
        port: where it listens.
        target: the runtime's port; connections made from now on go there.
        lines: every connection so far, oldest first.
    """

    def __init__(self, target: int) -> None:
        """Use :func:`tapped`."""
        self.port = 0
        self.target = target
        self.lines: list[Line] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        for line in self.lines:
            line.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        line = Line((writer, there))
        self.lines.append(line)
        await asyncio.gather(_pass_on(reader, there, line.there), _pass_on(back, writer, line.back))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[Json]) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            header = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(header[len(_HEADER) : -4]))
            kept.append(json.loads(body))
            writer.write(header + body)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def tapped(target: int) -> AsyncIterator[Tap]:
    """Tap the runtime at the port *target*."""
    tap = Tap(target)
    server = await asyncio.start_server(tap.accept, HOST, 0)
    tap.port = server.sockets[0].getsockname()[1]
    try:
        yield tap
    finally:
        server.close()
        await tap.aclose()
