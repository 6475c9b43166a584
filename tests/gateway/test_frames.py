"""Frames: however the bytes arrive, a frame is read whole or refused by name, within bounds in bytes and seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionfs_s3.gateway.frames import HEADER_BYTES_MAX, LARGE_BYTES, FrameError, FrameStream, framed
from sessionfs_s3.volume.gate import ByteGate

SOON_S = 20.0
BYTES_MAX = 2048


class Nowhere(asyncio.Transport):
    """The writing end of a stream that is only read."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None

    def is_closing(self) -> bool:
        return True  # nothing is left to be closed

    def close(self) -> None:
        pass


def read_all(*pieces: bytes) -> tuple[list[bytes], str]:
    """Return the bodies in *pieces*, which arrive one by one, and the reason why there are no more; "" at the end."""

    async def reading() -> tuple[list[bytes], str]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = asyncio.StreamWriter(Nowhere(), protocol, reader, asyncio.get_running_loop())
        stream = FrameStream(reader, writer, frame_bytes_max=BYTES_MAX)

        async def feed() -> None:
            for piece in pieces:
                reader.feed_data(piece)
                await asyncio.sleep(0)
            reader.feed_eof()

        feeding = asyncio.create_task(feed())
        found: list[bytes] = []
        try:
            async with asyncio.timeout(SOON_S):
                async for body in stream.bodies():
                    found.append(body)  # noqa: PERF401  # what came before the failure counts
        except FrameError as problem:
            return found, str(problem)
        finally:
            await feeding
        return found, ""

    return asyncio.run(reading())


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


BODIES = st.lists(st.binary(max_size=300), max_size=4)
CUTS = st.lists(st.integers(0, 10_000), max_size=30)


@given(bodies=BODIES, cuts=CUTS)
@settings(max_examples=60, deadline=None)
def test_frames_are_read_wherever_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    assert read_all(*split(b"".join(map(framed, bodies)), cuts)) == (bodies, "")


def test_frames_are_read_byte_by_byte_and_in_one_piece() -> None:
    bodies = [b"{}", b"", b"\r\n\r\n", b"Content-Length: 5\r\n\r\nhello", bytes(range(256))]
    data = b"".join(map(framed, bodies))
    assert read_all(data) == (bodies, "")
    assert read_all(*(data[at : at + 1] for at in range(len(data)))) == (bodies, "")


@given(bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=3), cut=st.integers(1, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_connection_that_ends_within_a_frame_is_told_from_one_that_ends_after_it(
    bodies: list[bytes], cut: int
) -> None:
    data = b"".join(map(framed, bodies))
    short = data[: cut % len(data)]
    found, reason = read_all(short)
    whole = [framed(body) for body in found]
    assert found == bodies[: len(found)]
    assert (reason == "") == (short == b"".join(whole))
    assert not reason or "the connection ended" in reason


@given(garbage=st.binary(max_size=700), cuts=CUTS)
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused_or_ends_and_nothing_else_happens(garbage: bytes, cuts: list[int]) -> None:
    found, reason = read_all(*split(b"\x00" + garbage, cuts))
    assert not found
    assert reason


HEADERS = [
    (b"Content-Length: -1", "header line"),
    (b"Content-Length: +2", "header line"),
    (b"Content-Length: 2.0", "header line"),
    (b"Content-Length: 0x2", "header line"),
    (b"Content-Length: 1_0", "header line"),
    (b"Content-Length: two", "header line"),
    ("Content-Length: ٢".encode(), "header line"),  # a digit two to Python's int()
    (b"Content-Length: ", "header line"),
    (b"Content-Length : 2", "header line"),
    (b" Content-Length: 2", "header line"),
    (b"Content-Length: 2 ", "header line"),
    (b"Content-Length: 2\n", "header line"),
    (b"Content-Length: 2\r", "header line"),
    (b"Content-Length: 2\x00", "header line"),
    (b"Content-Length: 2, 2", "header line"),
    (b"Content-Length: 99999999999", "header line"),  # more digits than are looked at
    (b"Content-Length: 9999999999", "2048 are allowed"),
    (b"Content-Length: 2049", "2048 are allowed"),
    (b"Content-Length: 2\r\nContent-Length: 2", "2 Content-Length fields"),
    (b"Content-Length: 2\r\ncontent-length: 3", "2 Content-Length fields"),
    (b"Content-Type: application/json", "0 Content-Length fields"),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 2", "header line"),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2", "header line"),
    (b"\r\nContent-Length: 2", "header line"),
    (b"Content-Length: 2\r\n Content-Type: x", "header line"),
    (b"Content-Type: " + b"x" * HEADER_BYTES_MAX + b"\r\nContent-Length: 2", "a header of more than"),
    (b"x" * 200_000, "a header of more than"),
]


@pytest.mark.parametrize(("header", "reason"), HEADERS, ids=[repr(header[:40]) for header, _ in HEADERS])
def test_what_is_no_header_is_refused_by_the_rule_that_it_breaks(header: bytes, reason: str) -> None:
    found, why = read_all(framed(b"first"), header + b"\r\n\r\n{}")
    assert found == [b"first"]
    assert reason in why, why
    assert len(why) < 200, "a reason is for a log: it repeats no more than a line of what came"


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 2",
        b"content-LENGTH:2",
        b"Content-Length:    2",
        b"Content-Length: 0000000002",
        b"Content-Length: 2\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8",
        b"content-type:\r\nContent-Length: 2",
    ],
)
def test_what_the_base_protocol_allows_is_read(header: bytes) -> None:
    assert read_all(header + b"\r\n\r\n{}" + framed(b"next")) == ([b"{}", b"next"], "")


def test_the_largest_frame_is_read_and_one_byte_more_is_not() -> None:
    assert read_all(framed(b"x" * BYTES_MAX)) == ([b"x" * BYTES_MAX], "")
    assert "2049 bytes, 2048 are allowed" in read_all(framed(b"x" * (BYTES_MAX + 1)))[1]


@dataclass
class Pair:
    """Both ends of a connection: the stream, and the bare peer."""

    stream: FrameStream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def connected(**settings: float | ByteGate | None) -> AsyncIterator[Pair]:
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        asyncio.get_running_loop().create_future()
    )
    server = await asyncio.start_server(lambda r, w: accepted.set_result((r, w)), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    stream = FrameStream(*await accepted, **settings)  # type: ignore[arg-type]  # each has its own type
    try:
        yield Pair(stream, reader, writer)
    finally:
        stream.abort()
        writer.transport.abort()
        server.close()


@pytest.mark.parametrize(
    "sent", [b"C", b"Content-Length: 5\r\n\r", b"Content-Length: 5\r\n\r\n", framed(b"12345")[:-1]]
)
async def test_a_frame_that_does_not_come_to_its_end_is_given_up(sent: bytes) -> None:
    async with connected(frame_s_max=0.05) as pair:
        pair.writer.write(sent)
        with pytest.raises(FrameError, match=r"longer than 0\.05 s"):
            async with asyncio.timeout(SOON_S):
                await pair.stream.read()


async def test_a_frame_in_drips_is_given_up_however_steadily_they_come() -> None:
    async with connected(frame_s_max=0.3) as pair:

        async def drip() -> None:
            for byte in framed(b"x" * 1000):
                pair.writer.write(bytes([byte]))
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        with pytest.raises(FrameError, match="longer than"):
            async with asyncio.timeout(SOON_S):
                await pair.stream.read()
        dripping.cancel()


async def test_silence_between_frames_is_no_frame_that_takes_long() -> None:
    async with connected(frame_s_max=0.05) as pair:
        pair.writer.write(framed(b"1"))
        assert await pair.stream.read() == b"1"
        await asyncio.sleep(0.2)
        pair.writer.write(framed(b"2"))
        assert await pair.stream.read() == b"2"


async def write_for_ever(stream: FrameStream) -> None:
    while True:
        await stream.write(b"x" * 60_000)


async def test_a_peer_that_takes_nothing_is_given_up_and_loses_what_was_meant_for_it() -> None:
    async with connected(stall_s_max=0.1) as pair:
        pair.reader._transport.pause_reading()  # type: ignore[attr-defined]  # nothing of it is public
        with pytest.raises(ConnectionAbortedError, match="took nothing for"):
            await asyncio.wait_for(write_for_ever(pair.stream), SOON_S)
        assert pair.stream.closed
        with pytest.raises(ConnectionResetError):
            pair.stream.post(b"{}")


async def test_a_connection_that_is_closed_does_not_wait_for_ever_for_a_peer_that_takes_nothing() -> None:
    async with connected(stall_s_max=0.1) as pair:
        pair.reader._transport.pause_reading()  # type: ignore[attr-defined]  # nothing of it is public
        pair.stream.post(b"x" * 32 * 1024 * 1024)
        pair.stream.close()
        assert pair.stream.behind_bytes, "the kernel took it all: the test shows nothing"
        async with asyncio.timeout(SOON_S):
            await pair.stream._writer.wait_closed()
        assert not pair.stream.behind_bytes


async def test_a_peer_that_takes_a_little_now_and_then_is_waited_for() -> None:
    async with connected(stall_s_max=0.4) as pair:
        size = 8 * 1024 * 1024

        async def slowly() -> int:
            taken = 0
            while taken < size:
                taken += len(await pair.reader.read(256 * 1024))
                await asyncio.sleep(0.02)
            return taken

        reading = asyncio.create_task(slowly())
        async with asyncio.timeout(SOON_S):
            await pair.stream.write(b"x" * size)
            assert await reading >= size


async def test_large_frames_of_several_connections_wait_for_each_other_and_small_ones_do_not() -> None:
    gate = ByteGate(LARGE_BYTES + 1)
    async with connected() as one, connected() as two:
        for pair in (one, two):
            pair.stream.limit(frame_bytes_max=LARGE_BYTES, gate=gate)
        first = one.stream.bodies()
        one.writer.write(framed(b"1" * LARGE_BYTES))
        assert len(await anext(first)) == LARGE_BYTES
        second = two.stream.bodies()
        two.writer.write(framed(b"small"))
        assert await anext(second) == b"small"
        two.writer.write(framed(b"2" * LARGE_BYTES))
        waiting = asyncio.ensure_future(anext(second))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done, "two large frames pass side by side"
        one.writer.write(framed(b"next"))
        async with asyncio.timeout(SOON_S):
            assert await anext(first) == b"next"
            assert len(await waiting) == LARGE_BYTES
        await second.aclose()
        await first.aclose()


async def test_a_large_frame_that_breaks_off_gives_its_room_back() -> None:
    gate = ByteGate(LARGE_BYTES)
    for _ in range(2):
        async with connected() as pair:
            pair.stream.limit(frame_bytes_max=LARGE_BYTES, gate=gate)
            pair.writer.write(framed(b"x" * LARGE_BYTES)[:-1])
            pair.writer.close()
            bodies = pair.stream.bodies()
            with pytest.raises(FrameError, match="the connection ended"):
                async with asyncio.timeout(SOON_S):
                    await anext(bodies)
    assert gate._passing == 0
