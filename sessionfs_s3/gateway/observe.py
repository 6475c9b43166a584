"""What a gateway tells its operator over HTTP, on a port of its own: ``/healthz``, ``/readyz`` and ``/metrics``.

Read-only, and without secrets: nothing here names a session, a key of the store or an address. It may listen beyond
loopback, so everything is bounded: how many connections there are, how long each lasts, and how much it may send.

A load balancer should ask ``/readyz`` and nothing else: it says whether the *next* session can be opened here. Whatever
restarts a gateway that hangs should ask ``/healthz``: that only says that the event loop turns, for a restart mends no
store that is down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST

from sessionfs_s3.store import Request as StoreRequest

if TYPE_CHECKING:
    from sessionfs_s3.gateway.server import Gateway

_logger = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 32
"""Some probes and scrapers; each makes one request on a connection."""

CONNECTION_S: Final = 10.0
"""From a connection's first byte to its last. Prometheus gives up after 10 s unless told otherwise (scrape_timeout)."""

HEADER_BYTES_MAX: Final = 4096

UNANSWERED_MIN: Final = 3
"""So many requests in a row without an answer, from all sessions together: a single one is a lost packet."""

FORGOTTEN_S: Final = 30.0
"""How long a failure of the store counts. A gateway that nobody uses would hear of no success either, and stay away for
ever: after this time it is tried again by whoever comes."""

SILENCE_S: Final = 5.0
"""A request that was given up after so long was not answered; one given up before was not needed any more."""

_FAILURES: Final = frozenset({"NoAnswer", "Denied"})


class StoreHealth:
    """Whether the store can be reached, as far as the requests tell that were made anyway. No input or output."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a doubt; *clock* tells seconds."""
        self._clock = clock
        self._failed_s = 0.0
        self._failures = 0
        self._why = ""

    def heard(self, request: StoreRequest) -> None:
        """Take in how a request ended. Whatever the store answers, even that something is not there, it answers."""
        given_up = request.outcome == "CancelledError"
        if given_up and request.took_s < SILENCE_S:
            return
        if not given_up and request.outcome not in _FAILURES:
            self._failures = 0
            return
        self._failures += 1
        self._failed_s = self._clock()
        self._why = "denies requests" if request.outcome == "Denied" else "does not answer"

    @property
    def obstacle(self) -> str:
        """What is wrong with the store; "" if nothing is known."""
        if self._failures < UNANSWERED_MIN or self._clock() - self._failed_s > FORGOTTEN_S:
            return ""
        return f"the store {self._why}"


class ObserveServer:
    """The HTTP server; an asynchronous context manager.

    Attributes:
        port: where it listens.
    """

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        """Tell of *gateway* on *host* and *port*; port 0: any that is free."""
        self.port = port
        self._gateway = gateway
        self._host = host
        app = web.Application(client_max_size=HEADER_BYTES_MAX)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.on_response_prepare.append(_last)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_logger,
            handle_signals=False,
            lingering_time=0,
            shutdown_timeout=1.0,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=64,
        )
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the address is in use or not this machine's."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, self._host, self.port)
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.end()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        return _Connection(server(), self._open)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        obstacles = self._gateway.obstacles
        return web.json_response({"ready": not obstacles, "obstacles": obstacles}, status=503 if obstacles else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._gateway.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Connection(asyncio.Protocol):
    """One connection of the HTTP server's, spoken by *inner*: one among few, and not for long.

    The server's own timeouts begin with the first request, so that a peer that says nothing would stay.
    """

    def __init__(self, inner: web.RequestHandler, others: set[_Connection]) -> None:
        self._inner = inner
        self._others = others
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner.connection_made(transport)
        if len(self._others) >= CONNECTIONS_MAX:
            transport.abort()
            return
        self._others.add(self)
        self._timer = asyncio.get_running_loop().call_later(CONNECTION_S, self.end)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._others.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(exc)

    def end(self) -> None:
        """Close it, whatever goes on."""
        if self._transport is not None:
            self._transport.abort()


async def _last(_request: web.Request, response: web.StreamResponse) -> None:
    """Let each response be the last of its connection."""
    response.force_close()
    response.headers["Connection"] = "close"
    response.headers["Cache-Control"] = "no-store"


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether it is more than a request that is none: whoever reaches the port could fill the log with those."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_logger.addFilter(_is_of_interest)
