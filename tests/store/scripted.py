"""A server that does as it is told: answers a request with given bytes, or not at all, and writes down what came."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

from sessionfs_s3.store import ClientSettings, Store, open_store


class Act(Enum):
    """What the server does instead of answering."""

    CLOSE = "reads the request, closes the connection"
    RESET = "reads the request, resets the connection"
    STALL = "reads the request, never answers"
    DEAF = "reads the head of the request only, never answers"


@dataclass(frozen=True)
class Came:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """What the server still has to say, what came, and where it is."""

    port: int = 0
    says: list[bytes | Act] = field(default_factory=list)
    came: list[Came] = field(default_factory=list)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, prefix: str = "p") -> str:
        return f"s3://bucket/{prefix}?endpoint_url=http://127.0.0.1:{self.port}&region=us-east-1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer_one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        says = self.says.pop(0) if self.says else Act.CLOSE
        if says is Act.DEAF:
            self.came.append(Came(method, target, headers, b""))
            await asyncio.Event().wait()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.came.append(Came(method, target, headers, body))
        if says is Act.STALL:
            self.stalled.set()
            await asyncio.Event().wait()
        if says is Act.RESET:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(says, Act):
            return False
        writer.write(says)
        await writer.drain()
        return b"Connection: close" not in says


@contextlib.asynccontextmanager
async def scripted_server() -> AsyncIterator[Scripted]:
    script = Scripted()
    serving: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(script.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def store_at(script: Scripted, settings: ClientSettings | None = None) -> AsyncIterator[Store]:
    """Open the store that the server plays."""
    async with contextlib.aclosing(await open_store(script.url(), settings=settings)) as store:
        yield store


def answer(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """Return a response; underscores in names of headers stand for hyphens."""
    content = body.encode() if isinstance(body, str) else body
    named = {"Content-Length": str(len(content))} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def refusal(status: int, code: str, message: str = "as scripted", extra: str = "", **headers: str) -> bytes:
    """Return an error as S3 writes it."""
    xml = f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}<RequestId>1</RequestId></Error>"
    return answer(status, xml, Content_Type="application/xml", **headers)
