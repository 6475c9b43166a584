"""Frames that are posted together leave together, and none is lost or overtaken on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sessionfs_s3.gateway.frames import FrameStream, framed

SMALL = [b"%d" % number for number in range(5)]
LARGE = b"x" * 300_000


class CountingWriter(asyncio.StreamWriter):
    """Notes what is handed to the transport at a time."""

    def writelines(self, data: object) -> None:
        chunks = list(data)  # type: ignore[call-overload]
        self.__dict__.setdefault("written", []).append(b"".join(chunks))
        super().writelines(chunks)


@asynccontextmanager
async def stream() -> AsyncIterator[tuple[FrameStream, CountingWriter, asyncio.StreamReader]]:
    """A stream, its writer, and what its peer reads."""
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()
    async with await asyncio.start_server(lambda *pair: accepted.set_result(pair), "127.0.0.1", 0) as server:
        reader, plain = await asyncio.open_connection(*server.sockets[0].getsockname())
        peer, answers = await accepted
        writer = CountingWriter(plain.transport, plain.transport.get_protocol(), reader, asyncio.get_running_loop())
        writer.__dict__["written"] = []
        try:
            yield FrameStream(reader, writer), writer, peer
        finally:
            for each in (plain, answers):
                each.transport.abort()


async def test_what_is_posted_at_once_is_sent_at_once() -> None:
    async with stream() as (frames, writer, peer):
        for body in SMALL:
            await frames.write(body)
        whole = b"".join(map(framed, SMALL))
        assert (writer.__dict__["written"], frames.behind_bytes) == ([], len(whole))
        assert await peer.readexactly(len(whole)) == whole
        assert (writer.__dict__["written"], frames.behind_bytes) == ([whole], 0)


async def test_large_and_small_ones_keep_their_order() -> None:
    async with stream() as (frames, _, peer):
        bodies = [SMALL[0], LARGE, SMALL[1], LARGE, SMALL[2]]
        for body in bodies:
            frames.post(body)
        whole = b"".join(map(framed, bodies))
        assert await peer.readexactly(len(whole)) == whole


async def test_closing_sends_what_was_posted_and_aborting_drops_it() -> None:
    async with stream() as (frames, _, peer):
        frames.post(SMALL[0])
        frames.close()
        with pytest.raises(ConnectionResetError):
            frames.post(SMALL[1])
        assert await peer.read() == framed(SMALL[0])
    async with stream() as (frames, writer, peer):
        frames.post(SMALL[0])
        frames.abort()
        assert frames.behind_bytes == 0
        assert await peer.read() == b""
        assert writer.__dict__["written"] == []
