"""The balancer of the chaos test: turn by turn, past those that are not there, and as deaf to contents as TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sessionfs_s3.testing.balancer import HOST, Balancer, balancer


@asynccontextmanager
async def backend(name: bytes) -> AsyncIterator[int]:
    """A server that says *name*, then what it is told until its end, and then goodbye."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        writer.write(await reader.read())
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def say(spreading: Balancer, words: bytes) -> bytes:
    """Say *words* on a new connection, end there, and return everything that comes back."""
    reader, writer = await asyncio.open_connection(HOST, spreading.port)
    try:
        writer.write(words)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def test_connections_take_turns_and_pass_over_who_is_not_there() -> None:
    async with AsyncExitStack() as stack:
        gone = AsyncExitStack()
        ports = [
            await stack.enter_async_context(backend(b"a")),
            await gone.enter_async_context(backend(b"b")),
            await stack.enter_async_context(backend(b"c")),
        ]
        spreading = await stack.enter_async_context(balancer(ports))
        assert [await say(spreading, b"!") for _ in range(4)] == [b"a!bye", b"b!bye", b"c!bye", b"a!bye"]
        await gone.aclose()
        assert [await say(spreading, b"?") for _ in range(3)] == [b"c?bye", b"a?bye", b"c?bye"]
        assert spreading.served == {ports[0]: 3, ports[1]: 1, ports[2]: 3}
        spreading.ports.clear()
        assert await say(spreading, b"") == b""


async def test_much_passes_whole() -> None:
    words = bytes(range(256)) * 20_000
    async with backend(b"a") as port, balancer([port]) as spreading:
        assert await say(spreading, words) == b"a" + words + b"bye"


async def test_what_breaks_on_one_side_breaks_on_the_other() -> None:
    broken = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        broken.set()

    server = await asyncio.start_server(serve, HOST, 0)
    async with balancer([server.sockets[0].getsockname()[1]]) as spreading:
        _, writer = await asyncio.open_connection(HOST, spreading.port)
        writer.write(b"hello")
        await writer.drain()
        writer.transport.abort()
        await asyncio.wait_for(broken.wait(), 30)
    server.close()
    await server.wait_closed()
