"""JSON-RPC frames over a stream: ``Content-Length: N``, an empty line, N bytes of JSON; the framing of the SDKs.

The framing is that of the Language Server Protocol's base protocol. Reading is bounded in bytes and in time before
more of a body is kept than comes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator
from typing import Final

from sessionfs_s3.volume.gate import ByteGate

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The runtime's own largest frame."""

HEADER_BYTES_MAX: Final = 512
"""The SDKs send 25 to 30 bytes; the base protocol has one more optional field, ``Content-Type``."""

LARGE_BYTES: Final = 256 * 1024
"""From this size on a frame is large: those of all connections together are bounded by what they share."""

_QUICKACK: Final[int] = getattr(socket, "TCP_QUICKACK", 0)
"""Linux only; 0 elsewhere."""

_USUAL: Final = re.compile(rb"Content-Length: ([0-9]{1,10})\r\n\r\n")
"""The whole header, as the SDKs and the runtime write it."""

_LENGTH: Final = re.compile(rb"content-length: *([0-9]{1,10})", re.IGNORECASE)
_TYPE: Final = re.compile(rb"content-type: *[\x20-\x7e]*", re.IGNORECASE)
_HEADER_END: Final = b"\r\n\r\n"
_BUFFER_BYTES: Final = 64 * 1024
_LITTLE_BYTES: Final = 16 * 1024
"""With no more than this to be sent nobody has to wait."""


class FrameError(Exception):
    """What came is no frame: the stream cannot be read on, for nobody knows where the next one begins."""


def framed(body: bytes) -> bytes:
    """Return *body* as a frame."""
    return _header(body) + body


class FrameStream:
    """Frames over one connection. One task reads; any task may write, and waits until the peer takes what it wrote.

    Attributes:
        received_bytes: the bodies read so far, together.
        sent_bytes: the bodies sent so far, together.
        stalled: whether the connection was given up because the peer took nothing.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        frame_s_max: float | None = None,
        stall_s_max: float | None = None,
        gate: ByteGate | None = None,
        quick: bool = False,
    ) -> None:
        """Speak over *reader* and *writer*.

        Args:
            reader: what the peer sends.
            writer: what the peer gets.
            frame_bytes_max: the largest body that is read, in bytes.
            frame_s_max: how long a frame may take from its first byte to its last, in seconds; None: for ever.
            stall_s_max: how long the peer may take nothing of what is written, in seconds; None: for ever.
            gate: what large frames share with those of other connections; None: nothing.
            quick: acknowledge at once what the peer sends. The SDKs write header and body one after the other, and
                their kernel keeps the body back until the header is acknowledged: 40 ms for every message otherwise.
        """
        self._reader = reader
        self._writer = writer
        self._frame_bytes_max = frame_bytes_max
        self._frame_s_max = frame_s_max
        self._stall_s_max = stall_s_max
        self._gate = gate
        self._closed = False
        self._held = bytearray()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._due_s: float | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.stalled = False
        self._quick: socket.socket | None = writer.get_extra_info("socket") if quick and _QUICKACK else None
        self._acknowledge()
        transport = writer.transport
        transport.set_write_buffer_limits(high=_BUFFER_BYTES, low=_LITTLE_BYTES)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the connection is lost."""
        return self._closed or self._writer.is_closing()

    @property
    def behind_bytes(self) -> int:
        """How much of what was sent the peer has not taken, in bytes."""
        return self._unsent_bytes + self._writer.transport.get_write_buffer_size()

    async def read(self) -> bytes | None:
        """Return the next body, None when the peer has closed the connection. Raises as :meth:`bodies`."""
        length = await self._announced()
        return None if length is None else await self._body(length)

    async def bodies(self) -> AsyncGenerator[bytes]:
        """Yield one body after the other until the peer closes the connection between two frames.

        A large one counts against the gate from before it is read until the next one is asked for.

        Raises:
            FrameError: it is no frame, is larger than allowed or took longer, or the connection ended within it.
            OSError: the connection is broken.
        """
        while (length := await self._announced()) is not None:
            if self._gate is None or length < LARGE_BYTES:
                yield await self._body(length)
            else:
                async with self._gate.passing(length):
                    yield await self._body(length)

    def limit(self, *, frame_bytes_max: int, gate: ByteGate) -> None:
        """Read frames of up to *frame_bytes_max* bytes from now on, large ones through *gate*."""
        self._frame_bytes_max = frame_bytes_max
        self._gate = gate

    async def write(self, body: bytes) -> None:
        """Send *body* as a frame, and wait while the peer is behind.

        Raises:
            OSError: the connection is lost; ConnectionAbortedError when the peer took nothing for too long.
        """
        self.post(body)
        await self.drain()

    def post(self, body: bytes) -> None:
        """Send *body* as a frame without waiting. Raises ConnectionResetError when the connection is closed."""
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        self.sent_bytes += len(body)
        header = _header(body)
        if not self._unsent:
            # Everything that is posted until the loop comes round goes out together: a system call for each costs more
            # than all else that is done for a small message.
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += (header, body)
        self._unsent_bytes += len(header) + len(body)
        if self._unsent_bytes >= _BUFFER_BYTES:
            self._flush()

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was sent. Raises as :meth:`write`."""
        if self.behind_bytes <= _LITTLE_BYTES and not self.closed:
            return
        self._flush()
        transport = self._writer.transport
        left = transport.get_write_buffer_size()
        while True:
            try:
                async with asyncio.timeout(self._stall_s_max):
                    await self._writer.drain()
                    return
            except TimeoutError:
                now = transport.get_write_buffer_size()
                if now >= left:
                    self.stalled = True
                    self.abort()
                    raise ConnectionAbortedError(f"the peer took nothing for {self._stall_s_max:g} s") from None
                left = now

    def close(self) -> None:
        """Close the connection once what was written has been sent, or the peer has had the time to take it."""
        self._flush()
        if not self._closed and self.behind_bytes and self._stall_s_max is not None:
            # A peer that takes nothing would keep the connection, and what is buffered for it, for ever.
            asyncio.get_running_loop().call_later(self._stall_s_max, self._writer.transport.abort)
        self._closed = True
        self._writer.close()

    def abort(self) -> None:
        """Close the connection at once, dropping what has not been sent."""
        self._closed = True
        self._unsent, self._unsent_bytes = [], 0
        self._writer.transport.abort()

    async def _announced(self) -> int | None:
        self._due_s = None
        held = self._held
        if not held and not await self._receive():
            return None
        # Frames mostly arrive whole, and several at a time: then nothing here waits.
        usual = _USUAL.match(held)
        if usual is not None and (length := int(usual[1])) <= self._frame_bytes_max:
            del held[: usual.end()]
            return length
        while (end := held.find(_HEADER_END, 0, HEADER_BYTES_MAX)) < 0:
            if len(held) >= HEADER_BYTES_MAX:
                raise FrameError(f"a header of more than {HEADER_BYTES_MAX} bytes")
            await self._receive_in_time()
        header = bytes(held[: end + len(_HEADER_END)])
        del held[: len(header)]
        return _length(header, self._frame_bytes_max)

    async def _body(self, length: int) -> bytes:
        held = self._held
        while len(held) < length:
            await self._receive_in_time()
        with memoryview(held) as view:
            body = bytes(view[:length])
        del held[:length]
        self.received_bytes += length
        return body

    async def _receive(self) -> bool:
        """Take in what has come, waiting for it; return whether there was anything before the end."""
        data = await self._reader.read(_BUFFER_BYTES)
        self._acknowledge()
        self._held += data
        return bool(data)

    async def _receive_in_time(self) -> None:
        """Take in more of a frame that has begun. Raises FrameError when there is no more, or none in time."""
        if self._due_s is None and self._frame_s_max is not None:
            self._due_s = asyncio.get_running_loop().time() + self._frame_s_max
        try:
            async with asyncio.timeout_at(self._due_s):
                more = await self._receive()
        except TimeoutError:
            raise FrameError(f"a frame took longer than {self._frame_s_max:g} s") from None
        if not more:
            raise FrameError(f"the connection ended {len(self._held)} bytes into what was announced")

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if unsent and not self._writer.is_closing():
            self._writer.writelines(unsent)

    def _acknowledge(self) -> None:
        """Ask for quick acknowledgements, which the kernel forgets after some packets: tcp(7), TCP_QUICKACK."""
        if self._quick is not None:
            with contextlib.suppress(OSError):
                self._quick.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def _header(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body)


def _length(header: bytes, frame_bytes_max: int) -> int:
    """Return the length of the body that *header* announces. Raises FrameError."""
    lengths: list[int] = []
    for line in header[:-4].split(b"\r\n"):
        if found := _LENGTH.fullmatch(line):
            lengths.append(int(found[1]))
        elif not _TYPE.fullmatch(line):
            # Not quoted, for the log: what stands there may be a message whose length was announced wrongly.
            told = f"a header line of {len(line)} bytes"
            raise FrameError(f"{told}: only Content-Length: N and Content-Type: … may stand there")
    if len(lengths) != 1:
        raise FrameError(f"{len(lengths)} Content-Length fields in one header, one is needed")
    if lengths[0] > frame_bytes_max:
        raise FrameError(f"a frame of {lengths[0]} bytes, {frame_bytes_max} are allowed")
    return lengths[0]
