"""A plain TCP round-robin on loopback: it knows connections and bytes, and nothing of what they mean.

Listens on a free port; for each connection it connects to the next backend that accepts one. A backend that is stopped
(SIGSTOP) still accepts, in its kernel: so it is with every balancer that does not look further than TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final

HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 1 << 16


class Balancer:
    """Spreads connections over backends.

    Attributes:
        port: where it listens.
        ports: the backends' ports, in turn; may be changed at any time, for connections to come.
        served: how many connections went to each port.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        """Use :func:`balancer`."""
        self.port = 0
        self.ports = list(ports)
        self.served: dict[int, int] = {}
        self._turn = 0
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def aclose(self) -> None:
        """Break every connection."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            backend = await self._next()
            if backend is None:
                return
            try:
                there, back = _pass(reader, backend[1]), _pass(backend[0], writer)
                # What breaks on one side breaks on the other; an end that is only said is passed on.
                async with asyncio.TaskGroup() as both:
                    both.create_task(there)
                    both.create_task(back)
            except* OSError:
                pass
            finally:
                backend[1].transport.abort()
        finally:
            writer.transport.abort()

    async def _next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the next backend that accepts; None where none does."""
        for _ in range(len(self.ports)):
            port = self.ports[self._turn % len(self.ports)]
            self._turn += 1
            with contextlib.suppress(OSError):
                streams = await asyncio.open_connection(HOST, port, limit=_CHUNK_BYTES)
                self.served[port] = self.served.get(port, 0) + 1
                return streams
        return None


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until their end, and pass that on."""
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


@asynccontextmanager
async def balancer(ports: Iterable[int] = ()) -> AsyncGenerator[Balancer]:
    """Listen in front of the backends at *ports* of loopback until the end of the block."""
    spreading = Balancer(ports)
    server = await asyncio.start_server(spreading.accept, HOST, 0, limit=_CHUNK_BYTES)
    try:
        spreading.port = server.sockets[0].getsockname()[1]
        yield spreading
    finally:
        server.close()
        await spreading.aclose()
        await server.wait_closed()
