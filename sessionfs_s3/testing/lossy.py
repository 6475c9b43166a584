"""A proxy that lets a PUT be stored and then loses the answer: what tells whether a client sends again by itself.

``async with lossy_proxy(server.endpoint_url) as proxy:`` listens on loopback and passes every request on, unchanged, to
the server behind it. Each PUT takes the next of ``proxy.losses``: the server carries the request out and answers, and
the client gets to see, instead of the answer, what the :class:`Loss` says. Speaks HTTP/1.1 as S3 clients and servers
do; what is signed is the proxy's own host, so the server behind it must be one that does not check signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

_INTERNAL_ERROR: Final = b"<Error><Code>InternalError</Code><Message>lost on purpose</Message></Error>"
_REFUSAL: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_INTERNAL_ERROR), _INTERNAL_ERROR)
)


class Loss(Enum):
    """What the client sees of an answer that is lost."""

    CLOSED = "the connection is closed"
    RESET = "the connection is reset"
    TIMEOUT = "nothing, until it gives up"
    ERROR = "500 InternalError"


@dataclass
class LossyProxy:
    """Where the proxy listens, what it still has to lose, and what became of the PUTs that came.

    Attributes:
        endpoint_url: where it listens.
        losses: for the next PUTs, one each, in order.
        puts: the status with which the server answered each PUT, in order.
    """

    endpoint_url: str = ""
    losses: list[Loss] = field(default_factory=list[Loss])
    puts: list[int] = field(default_factory=list[int])

    async def serve(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes over one connection, to the server at *host* and *port*, until either hangs up."""
        onward_reader, onward = await asyncio.open_connection(host, port)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._pass_one_on(reader, writer, onward_reader, onward):
                    pass
        finally:
            onward.close()
            writer.close()

    async def _pass_one_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        onward_reader: asyncio.StreamReader,
        onward: asyncio.StreamWriter,
    ) -> bool:
        """Pass a request and its answer on; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        if "expect" in _headers(head):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        onward.write(head + await _body(reader, head))
        await onward.drain()
        answer_head = await onward_reader.readuntil(b"\r\n\r\n")
        status = int(answer_head.split(b" ", 2)[1])
        bodiless = head.startswith(b"HEAD ") or status in (204, 304)
        answer = answer_head if bodiless else answer_head + await _body(onward_reader, answer_head)
        if head.startswith(b"PUT "):
            self.puts.append(status)
            if self.losses:
                return await self._lose(self.losses.pop(0), reader, writer)
        writer.write(answer)
        await writer.drain()
        return _headers(answer_head).get("connection", "").lower() != "close"

    async def _lose(self, loss: Loss, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if loss is Loss.ERROR:
            writer.write(_REFUSAL)
            await writer.drain()
            return True
        if loss is Loss.TIMEOUT:
            await reader.read()  # Until the client hangs up.
        if loss is Loss.RESET:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@contextlib.asynccontextmanager
async def lossy_proxy(server_url: str) -> AsyncGenerator[LossyProxy]:
    """Run a proxy in front of the server at *server_url*, on this event loop."""
    target = urlsplit(server_url)
    proxy = LossyProxy()
    serving: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(target.hostname or "", target.port or 80, reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").strip().split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    headers = _headers(head)
    if "chunked" not in headers.get("transfer-encoding", "").lower():
        return await reader.readexactly(int(headers.get("content-length", "0")))
    chunks = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        chunks += line
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        chunks += await reader.readexactly(size + 2)
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        chunks += line
    return bytes(chunks + b"\r\n")
