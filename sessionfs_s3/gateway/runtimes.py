"""Runtimes, each with its provider slot held, and where they come from.

A runtime has one slot, sticky and global: whoever takes it first answers the file requests of every session, and when
that connection is gone, the runtime can keep nothing any more. So a runtime counts only while its link lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from sessionfs_s3.gateway.errors import RpcError
from sessionfs_s3.gateway.frames import FrameError, FrameStream
from sessionfs_s3.gateway.link import ANSWER_DEADLINE_S, Link
from sessionfs_s3.gateway.messages import Json, Malformed, Request, Response, encode, parse
from sessionfs_s3.gateway.process import RuntimeProcess, RuntimeUnavailable, start_process

if TYPE_CHECKING:
    from sessionfs_s3.gateway.sessions import OpenSession

_GREETING_ID: Final = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a runtime listens, what it demands, and the task or future that ends with it."""

    host: str
    port: int
    token: str | None
    ended: asyncio.Future[None]


class Source(Protocol):
    """Where runtimes come from."""

    def open(self) -> AbstractAsyncContextManager[Endpoint]:
        """Bring one up, to be entered; leaving gives it back. Raises RuntimeUnavailable."""
        ...


class Launched:
    """Runtimes that are started here."""

    def __init__(self, executable: Path, cache: Path, environment: Mapping[str, str]) -> None:
        """Start *executable*; see :func:`start_process`."""
        self._executable = executable
        self._cache = cache
        self._environment = dict(environment)
        self.processes: list[RuntimeProcess] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Endpoint]:
        """Start one."""
        async with start_process(self._executable, cache=self._cache, extra=self._environment) as process:
            self.processes.append(process)
            waiting = asyncio.create_task(process.wait())
            try:
                yield Endpoint("127.0.0.1", process.port, process.token, waiting)
            finally:
                self.processes.remove(process)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


class Running:
    """A runtime that somebody else starts: it is connected to, again and again when that fails."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        """Connect to *host* and *port*."""
        self._host, self._port, self._token = host, port, token

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Endpoint]:
        """Say where it is."""
        yield Endpoint(self._host, self._port, self._token, asyncio.get_running_loop().create_future())


class Host(Protocol):
    """Whoever answers a runtime."""

    async def serve(self, runtime: Runtime, request: Request) -> Json:
        """Answer a request of *runtime* to the holder of its slot. Raises RpcError."""
        ...

    def began(self, runtime: Runtime) -> None:
        """Make ready to answer *runtime*."""
        ...

    def notified(self, runtime: Runtime, message: Request) -> None:
        """Hear a notification of *runtime*."""
        ...

    def tried(self, outcome: str) -> None:
        """Hear how bringing a runtime up went: ``first``, ``again``, in place of one that ended, or ``failed``."""
        ...

    def lost(self, runtime: Runtime) -> None:
        """Hear that *runtime* ended by itself."""
        ...

    def ended(self, runtime: Runtime) -> None:
        """Hear that *runtime* cannot be used any more."""
        ...


class Runtime:
    """One runtime whose slot is held here.

    Attributes:
        name: for logs.
        owner: the tenant that it serves alone; None when it serves several.
        sessions: what is open on it, by id, whosever it is.
        hello: its own answer to ``connect``.
    """

    def __init__(self, name: str, owner: str | None, endpoint: Endpoint) -> None:
        """Be the runtime at *endpoint*, once :meth:`hold` has its slot."""
        self.name = name
        self.owner = owner
        self.sessions: dict[str, OpenSession] = {}
        self.hello: Mapping[str, Json] = {}
        self._endpoint = endpoint
        self._link: Link | None = None
        self.alive = False

    async def hold(self, slot: Mapping[str, Json], host: Host) -> None:
        """Connect, and take the provider slot with the parameters *slot*, on behalf of *host*.

        Raises:
            RuntimeUnavailable: it cannot be reached, refuses the token, or somebody else has had the slot.
        """

        async def serve(request: Request) -> Json:
            return await host.serve(self, request)

        try:
            self._link = Link(await self._connected(), serve, lambda request: host.notified(self, request))
            self.hello = cast("Mapping[str, Json]", await self._link.request("connect", self._greeting({})))
            host.began(self)
            await self._link.request("sessionFs.setProvider", slot)
        except (OSError, RpcError) as problem:
            await self.aclose()
            where = f"{self._endpoint.host}:{self._endpoint.port}"
            raise RuntimeUnavailable(f"the runtime at {where} cannot be used: {problem}") from problem
        self.alive = True

    async def ended(self) -> None:
        """Wait until it cannot be used any more."""
        assert self._link is not None
        await asyncio.wait([self._link.ended, self._endpoint.ended], return_when=asyncio.FIRST_COMPLETED)

    async def aclose(self) -> None:
        """Let go of it."""
        self.alive = False
        if self._link is not None:
            await self._link.aclose()

    async def connect(self, greeting: Mapping[str, Json]) -> tuple[FrameStream, Mapping[str, Json]]:
        """Return another connection to it, and what it answered to *greeting*, parameters of ``connect``.

        Raises:
            ConnectionError: it cannot be reached, or does not take the greeting.
        """
        stream = await self._connected()
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                await stream.write(encode(Request("connect", self._greeting(greeting), _GREETING_ID)))
                while (body := await stream.read()) is not None:
                    message = parse(body)
                    # What it broadcasts may come first, to whomever.
                    if isinstance(message, Response) and message.id == _GREETING_ID:
                        if "error" in message.body:
                            raise ConnectionRefusedError(f"the runtime refuses the connection: {message.body['error']}")
                        return stream, cast("Mapping[str, Json]", message.body.get("result"))
            raise ConnectionResetError("the runtime closed the connection")
        except (FrameError, Malformed, TimeoutError) as problem:
            stream.abort()
            raise ConnectionAbortedError(f"the runtime did not answer: {problem}") from problem
        except BaseException:
            # Given up, for the client has gone; or the runtime is gone.
            stream.abort()
            raise

    async def request(self, method: str, params: Mapping[str, Json]) -> Json:
        """Ask it something on the gateway's own behalf. Raises as :meth:`Link.request`."""
        if self._link is None:
            raise ConnectionResetError("the runtime is not connected")
        return await self._link.request(method, params)

    def _greeting(self, params: Mapping[str, Json]) -> dict[str, Json]:
        token = self._endpoint.token
        rest = {name: value for name, value in params.items() if name != "token"}
        return rest if token is None else {**rest, "token": token}

    async def _connected(self) -> FrameStream:
        reader, writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
        # A runtime that takes nothing for so long, or does not come to the end of a frame, is as good as gone.
        return FrameStream(reader, writer, frame_s_max=ANSWER_DEADLINE_S, stall_s_max=ANSWER_DEADLINE_S)
