"""A delaying HTTP proxy in front of an S3 server, for benchmarks: each request takes as long as its verb says.

``python -m benchmarks.delay --upstream http://127.0.0.1:PORT`` listens on a free port of loopback. Every connection
has one of its own to the server: none waits for another. Requests and answers pass through unchanged, the Host header
included: signatures stay what they were. A request goes to the server at once; its answer is held back until a
delay has passed since it arrived. So the delay is all that a request takes, if the server is faster.

Standard output's first line is a JSON object with ``port`` and ``seed``. Each line on standard input asks something:
``take`` answers with one line, the requests that have ended since the last one (:class:`Exchange`, as lists) and the
processor seconds used so far. The end of standard input ends the process.

Uses the standard library only, so that starting costs little; takes uvloop where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import math
import random
import re
import sys
import time
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from benchmarks.harness.exchanges import FRAME_HEAD_BYTES, Exchange, payload_bytes, verb_of

MEDIAN_S: Final = {"PUT": 0.030, "GET": 0.015, "HEAD": 0.015, "LIST": 0.030, "DELETE": 0.030, "POST": 0.030}
"""Medians by verb: S3 in the same region takes 20 to 40 ms for a PUT and 10 to 20 ms for a GET."""

SIGMA: Final = 0.25
"""Of the logarithm."""

_TIMER_LAG_S: Final = 0.0005
"""The event loop's timers are rounded up to whole milliseconds: half of one too late on average, taken off here."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_HEAD_BYTES_MAX: Final = 64 * 1024


class Delays:
    """The delays, drawn from a seeded log-normal distribution, and the requests that had them."""

    def __init__(self, seed: int, fixed_s: float | None = None) -> None:
        """Draw from *seed*; with *fixed_s* every request takes exactly that."""
        self._random = random.Random(seed)  # noqa: S311  # has to be repeatable, not secret
        self._fixed_s = fixed_s
        self.connections = 0
        self.ended: list[Exchange] = []

    def draw_s(self, verb: str) -> float:
        """Return the next request's delay."""
        if self._fixed_s is not None:
            return self._fixed_s
        return MEDIAN_S.get(verb, 0.030) * math.exp(self._random.gauss(0.0, SIGMA))


class Body:
    """Finds the end of one message's body in the bytes that arrive."""

    def __init__(self, kind: Literal["length", "chunked", "close"], length: int = 0) -> None:
        """Expect a body of *length* bytes, one in chunks, or one that ends with the connection."""
        self.kind = kind
        self.size = 0
        self.done = kind == "length" and length == 0
        self._left = length
        self._line = b""
        self._last = False

    def feed(self, data: bytes) -> int:
        """Take what belongs to the body from the front of *data*; return how many bytes that were."""
        if self.kind == "close":
            taken = len(data)
        elif self.kind == "length":
            taken = min(self._left, len(data))
            self._left -= taken
            self.done = not self._left
        else:
            taken = self._feed_chunks(data)
        self.size += taken
        return taken

    def _feed_chunks(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at)
            self._line += data[at:] if end < 0 else data[at : end + 1]
            at = len(data) if end < 0 else end + 1
            if end >= 0:
                self._end_of_line()
        return at

    def _end_of_line(self) -> None:
        """Read a line between chunks: a size in hexadecimal; after the last, 0, trailers and an empty line."""
        line, self._line = self._line.strip(), b""
        if self._last:
            self.done = not line
        elif line:
            size = int(line.split(b";")[0], 16)
            self._left = size + 2 if size else 0
            self._last = not size


class Client(asyncio.Protocol):
    """A client's connection; owns the one to the server."""

    def __init__(self, delays: Delays, host: str, port: int) -> None:
        """Hand on to the server at *host* and *port*."""
        self._delays = delays
        self._where = (host, port)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._server: Server | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._incoming = b""
        self._body: Body | None = None
        self._front = b""
        self._number = 0
        self._unsent: list[bytes] = []
        self._held: list[bytes] | None = None
        self._line = ("", "")
        self._delay_s = self._started_s = self._answered_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        self._transport = cast("asyncio.Transport", transport)  # Of uvloop's, isinstance() says no.
        self._delays.connections += 1
        self._number = self._delays.connections
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            _, self._server = await self._loop.create_connection(lambda: Server(self), *self._where)
        except OSError:
            self.end()
            return
        for data in self._unsent:
            self._server.write(data)
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        """Hand on the request's bytes; what comes after its end waits for the answer."""
        self._incoming += data
        if self._body is None:
            end = self._incoming.find(b"\r\n\r\n")
            if end < 0:
                if len(self._incoming) > _HEAD_BYTES_MAX:
                    self.end()
                return
            self._begin(self._incoming[: end + 4])
        assert self._body is not None
        taken = self._body.feed(self._incoming)
        if taken:
            part, self._incoming = self._incoming[:taken], self._incoming[taken:]
            if len(self._front) < FRAME_HEAD_BYTES:
                self._front += part[:FRAME_HEAD_BYTES]
            self._send(part)

    def _begin(self, head: bytes) -> None:
        self._incoming = self._incoming[len(head) :]
        self._started_s = self._loop.time()
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        length = _LENGTH.search(head)
        self._body = Body("chunked") if _CHUNKED.search(head) else Body("length", int(length[1]) if length else 0)
        verb = verb_of(method, target)
        self._line = (verb, target)
        self._front = b""
        self._held = []
        self._answered_s = 0.0
        self._delay_s = self._delays.draw_s(verb)
        self._send(head)

    def _send(self, data: bytes) -> None:
        if self._server is None:
            self._unsent.append(data)
        else:
            self._server.write(data)

    @property
    def is_head(self) -> bool:
        """Whether the request under way is one whose answer has no body."""
        return self._line[0] == "HEAD"

    def answer(self, data: bytes) -> None:
        """Hold back a part of the answer, or hand it on when its time has come."""
        if self._transport is None:
            return
        if not self._answered_s:
            self._answered_s = self._loop.time()
            wait_s = self._started_s + self._delay_s - self._answered_s - _TIMER_LAG_S
            if wait_s <= 0:
                self._held = None
            else:
                self._loop.call_later(wait_s, self._release)
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def interim(self, data: bytes) -> None:
        """Hand on an answer of the kind 1xx, which is not the answer yet."""
        if self._transport is not None:
            self._transport.write(data)

    def _release(self) -> None:
        held, self._held = self._held, None
        if self._transport is not None and held:
            self._transport.write(b"".join(held))
        if self._server is not None and self._server.finished is not None:
            self._finish(*self._server.finished)

    def answered(self, status: int, size: int, close: bool) -> None:
        """Learn that the server's answer is complete."""
        if self._held is None:
            self._finish(status, size, close)

    def _finish(self, status: int, size: int, close: bool) -> None:
        assert self._body is not None
        verb, target = self._line
        times = (self._started_s, self._delay_s, self._answered_s, self._loop.time())
        sizes = (self._body.size, size, payload_bytes(self._front))
        self._delays.ended.append(Exchange(verb, target, status, *times, *sizes, self._number))
        self._body = None
        if self._server is not None:
            self._server.finished = None
        if close:
            self.end()
        elif self._incoming:
            self.data_received(b"")

    def pause_writing(self) -> None:
        """Let the server wait while the client takes no more."""
        if self._server is not None:
            self._server.pause(paused=True)

    def resume_writing(self) -> None:
        """Go on."""
        if self._server is not None:
            self._server.pause(paused=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the connection to the server too."""
        del exc
        self._transport = None
        if self._body is not None:
            verb, target = self._line
            times = (self._started_s, self._delay_s, self._answered_s, self._loop.time())
            lost = Exchange(verb, target, 0, *times, self._body.size, 0, payload_bytes(self._front), self._number)
            self._delays.ended.append(lost)
            self._body = None
        if self._server is not None:
            self._server.close()

    def end(self) -> None:
        """Close both connections, after what has been written."""
        if self._transport is not None:
            self._transport.close()


class Server(asyncio.Protocol):
    """The connection to the server that belongs to one client's."""

    def __init__(self, client: Client) -> None:
        """Hand answers on to *client*."""
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._incoming = b""
        self._body: Body | None = None
        self._status = 0
        self._close = False
        self.finished: tuple[int, int, bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # Of uvloop's, isinstance() says no.

    def write(self, data: bytes) -> None:
        """Send a part of a request."""
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Find where the answer ends while handing it on."""
        self._incoming += data
        while self._body is None:
            end = self._incoming.find(b"\r\n\r\n")
            if end < 0:
                return
            head, self._incoming = self._incoming[: end + 4], self._incoming[end + 4 :]
            status = int(head.split(b" ", 2)[1])
            if status < 200:
                self._client.interim(head)
                continue
            self._begin(head, status)
        part, self._incoming = self._incoming, b""
        if part:
            self._body.feed(part)
            self._client.answer(part)
        self._end_if_done()

    def _begin(self, head: bytes, status: int) -> None:
        length = _LENGTH.search(head)
        if self._client.is_head or status in (204, 304):
            self._body = Body("length")
        elif _CHUNKED.search(head):
            self._body = Body("chunked")
        else:
            self._body = Body("length", int(length[1])) if length else Body("close")
        self._status, self._close = status, _CLOSE.search(head) is not None
        self._client.answer(head)

    def _end_if_done(self) -> None:
        if self._body is not None and self._body.done:
            self.finished = (self._status, self._body.size, self._close)
            self._body = None
            self._client.answered(*self.finished)

    def connection_lost(self, exc: Exception | None) -> None:
        """End an answer whose end this is; else end the client's connection: the answer will never come."""
        del exc
        self._transport = None
        if self._body is not None and self._body.kind == "close":
            self._body.done = self._close = True
            self._end_if_done()
        elif self.finished is None:
            self._client.end()

    def pause(self, *, paused: bool) -> None:
        """Read nothing for a while, or go on."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def close(self) -> None:
        """Close."""
        if self._transport is not None:
            self._transport.close()


async def serve(upstream: str, seed: int, fixed_s: float | None) -> None:
    """Run the proxy until standard input ends."""
    parts = urlsplit(upstream)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise SystemExit(f"--upstream {upstream}: must be http://HOST:PORT")
    host, port = parts.hostname, parts.port
    loop = asyncio.get_running_loop()
    delays = Delays(seed, fixed_s)
    listening = await loop.create_server(lambda: Client(delays, host, port), "127.0.0.1", 0, backlog=1024)
    _say({"port": listening.sockets[0].getsockname()[1], "seed": seed, "loop": type(loop).__module__})
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while command := (await commands.readline()).decode().strip():
        if command != "take":
            raise SystemExit(f"unknown command {command!r}: only 'take' is known")
        ended, delays.ended = delays.ended, []
        _say({"ended": ended, "cpu_s": time.process_time()})
    listening.close()


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the proxy as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay", description="A delaying proxy for S3.")
    parser.add_argument("--upstream", required=True, help="the server: http://127.0.0.1:PORT")
    parser.add_argument("--seed", type=int, default=None, help="of the delays; printed")
    parser.add_argument("--fixed-s", type=float, default=None, help="every delay, in seconds, in place of drawing them")
    options = parser.parse_args(arguments)
    seed: int = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    with contextlib.suppress(ImportError, KeyboardInterrupt):
        run = importlib.import_module("uvloop").run
        run(serve(options.upstream, seed, options.fixed_s))
        return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.upstream, seed, options.fixed_s))


if __name__ == "__main__":
    main()
