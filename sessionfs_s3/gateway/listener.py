"""Where clients come in: connections, their limits before it is known whose they are, and the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

from sessionfs_s3.gateway import messages
from sessionfs_s3.gateway.auth.attempts import address_group
from sessionfs_s3.gateway.auth.authenticator import AuthenticationRequired, Authenticator, NotAuthenticated
from sessionfs_s3.gateway.auth.limits import LimitExceeded
from sessionfs_s3.gateway.client import Client
from sessionfs_s3.gateway.errors import RpcError, as_answer
from sessionfs_s3.gateway.frames import FrameError, FrameStream
from sessionfs_s3.gateway.logs import know
from sessionfs_s3.gateway.messages import Json, Malformed, Request, parse
from sessionfs_s3.gateway.rules.sharing import shared_params

if TYPE_CHECKING:
    from sessionfs_s3.gateway.server import Gateway

_logger = logging.getLogger(__name__)

GREETING_BYTES_MAX: Final = 64 * 1024
"""The largest frame of somebody who has not said who they are: a token has 16 KiB at the most."""

GREETINGS_MAX: Final = 3
"""Frames within which a connection has to have said who it is."""

KEEPALIVE_S: Final = 60
"""After so long in silence a peer is asked whether it is still there, three times, a sixth of that apart."""


class Listener:
    """Listens for clients; an asynchronous context manager.

    Attributes:
        port: where it listens.
        connections: how many connections are open, those that are not let in yet included.
    """

    def __init__(self, gateway: Gateway, authenticator: Authenticator) -> None:
        """Listen for *gateway*, letting in whom *authenticator* knows."""
        self.port = 0
        self._gateway = gateway
        self._options = gateway.options
        self._authenticator = authenticator
        self._unknown: dict[asyncio.StreamWriter, str] = {}
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._served: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._served)

    @property
    def _strangers(self) -> int:
        """How many connections have not said yet who they are."""
        return len(self._unknown)

    def _make_room(self, group: str) -> bool:
        """Turn away the oldest stranger of the address that has most of them; return whether *group* is another one.

        Whoever knows one address can keep out only those who come from there, too.
        """
        largest, count = Counter(self._unknown.values()).most_common(1)[0]
        if largest == group or count <= 1:
            return False
        oldest = next(writer for writer, each in self._unknown.items() if each == largest)
        del self._unknown[oldest]
        oldest.transport.abort()
        return True

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the address is in use or not this machine's."""
        options = self._options
        self._server = await asyncio.start_server(
            self._accept,
            options.host,
            options.port,
            ssl=options.tls,
            ssl_handshake_timeout=None if options.tls is None else options.handshake_s,
            backlog=512,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self.stop()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)

    def stop(self) -> None:
        """Let nobody in any more."""
        if self._server is not None:
            self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        group = address_group(_host(writer))
        if self._strangers >= self._options.handshakes_max and not self._make_room(group):
            self._gateway.metrics.handshake(ConnectionRefusedError())
            writer.transport.abort()
            return
        # Counted at once: the tasks of connections that come together begin only after all of them are accepted.
        self._unknown[writer] = group
        task = asyncio.create_task(self._serve(reader, writer))
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        options = self._options
        with contextlib.suppress(OSError):  # the connection is lost already, which whoever reads finds out
            _keep_alive(writer.get_extra_info("socket"))
        stream = FrameStream(
            reader,
            writer,
            frame_bytes_max=GREETING_BYTES_MAX,
            frame_s_max=options.frame_s,
            stall_s_max=options.stall_s,
            quick=True,
        )
        metrics = self._gateway.metrics
        metrics.accepted(stream)
        know(client=str(next(self._numbers)))
        _logger.debug("a connection is accepted")
        client: Client | None = None
        try:
            try:
                async with asyncio.timeout(options.handshake_s) as limit:
                    client, first = await self._greet(stream, writer, limit)
            finally:
                self._unknown.pop(writer, None)
            if client is None:
                _logger.debug("a connection ends: it did not say who it is")
            else:
                await self._run(client, first)
        except TimeoutError as problem:
            metrics.handshake(problem)
            _logger.info("a connection is dropped: it did not say in time who it is")
        except (FrameError, OSError) as problem:
            metrics.handshake(problem)
            _logger.info("a connection is dropped: %s", problem)
        except Exception:
            _logger.exception("serving a connection")
        finally:
            if client is not None:
                self._gateway.leave(client)
                _logger.info("a client has left")
            metrics.closed(stream)
            stream.abort() if client is None else stream.close()

    async def _run(self, client: Client, first: Request | None) -> None:
        """Serve *client* until it goes, or until its credential has expired."""
        expires_s = client.identity.expires_s
        if expires_s is None:
            await client.run(first)
            return
        expiring = asyncio.get_running_loop().call_later(max(0.0, expires_s - time.time()), client.drop)
        try:
            await client.run(first)
        finally:
            expiring.cancel()

    async def _greet(
        self, stream: FrameStream, writer: asyncio.StreamWriter, limit: asyncio.Timeout
    ) -> tuple[Client | None, Request | None]:
        """Return the client once it has said who it is, and what it asked instead of that; None when it has not.

        Whoever is known may wait for longer than *limit*: a tenant's first runtime may have to be started.

        Raises:
            FrameError, OSError: the connection cannot be used.
        """
        for _ in range(GREETINGS_MAX):
            body = await stream.read()
            if body is None:
                break
            try:
                message = parse(body)
            except Malformed as problem:
                await stream.write(messages.error(problem.id, as_answer(problem)))
                continue
            if not isinstance(message, Request):
                continue
            try:
                client = await self._let_in(stream, message, writer, limit)
                return client, None if message.method == "connect" else message
            except (RpcError, NotAuthenticated, LimitExceeded, Malformed) as problem:
                self._gateway.metrics.handshake(problem)
                limit.reschedule(asyncio.get_running_loop().time() + self._options.handshake_s)
                if not message.is_notification:
                    told = as_answer(problem)
                    await stream.write(messages.error(message.id, told))
        return None, None

    async def _let_in(
        self, stream: FrameStream, message: Request, writer: asyncio.StreamWriter, limit: asyncio.Timeout
    ) -> Client:
        """Return the client that begins with *message*. Raises NotAuthenticated, LimitExceeded, RpcError, Malformed."""
        greets = message.method == "connect"
        if not greets and not self._authenticator.open_to_all:
            raise AuthenticationRequired
        token = message.params.get("token") if greets else None
        identity = await self._authenticator.authenticate(token, peer=_host(writer))
        limit.reschedule(None)
        know(tenant=identity.tenant, subject=identity.subject)
        hello: Mapping[str, Json] = self._hello(message) if greets else {}
        gateway = self._gateway
        client = gateway.enter(lambda tenant: Client(gateway, stream, identity, tenant, hello), identity)
        try:
            # It counts against its tenant's limits now, and may wait for a runtime: no stranger's place is taken.
            self._unknown.pop(writer, None)
            answer = await gateway.hello(hello, identity.tenant)
            if greets:
                await client.send(messages.result(message.id, answer))
        except BaseException:
            gateway.leave(client)
            raise
        gateway.metrics.handshake(None)
        _logger.info("a client is let in")
        return client

    def _hello(self, message: Request) -> Mapping[str, Json]:
        """Return what runtimes are told of a client. Raises RpcError when no runtime would read that."""
        told = {name: value for name, value in message.params.items() if name != "token"}
        if not messages.is_read_by_runtimes(messages.dumps(told), told):
            raise RpcError(messages.PARSE_ERROR, "half of a character, or nested too deep: no runtime reads it")
        return cast("Mapping[str, Json]", shared_params("connect", told)) if self._gateway.shared else told


def _host(writer: asyncio.StreamWriter) -> str:
    address: object = writer.get_extra_info("peername")
    return str(cast("tuple[object, ...]", address)[0]) if isinstance(address, tuple) and address else "unknown"


def _keep_alive(connection: socket.socket) -> None:
    """Find out by itself when the peer is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", KEEPALIVE_S), ("TCP_KEEPINTVL", KEEPALIVE_S // 6), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # macOS has other names
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
