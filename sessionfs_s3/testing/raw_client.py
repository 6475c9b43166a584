"""The client's end of the SDK's wire, bare: JSON-RPC 2.0 over TCP in the hands of a test, which may break its rules.

Touches one TCP connection. It keeps every message that arrives, in order, and adds nothing to what it is told to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]
"""A JSON object, as it stands on the wire."""

DEADLINE_S: Final = 30.0
UNANSWERED: Final = object()
"""What a callback returns to leave the server's request without an answer."""

_HEADER: Final = b"Content-Length: "
_BUFFER_BYTES: Final = 1 << 16


class RpcError(RuntimeError):
    """An error answer, received; or, raised by a callback, the one to give.

    Attributes:
        code: the JSON-RPC error code.
        message: its text.
        data: its further data, or None.
    """

    def __init__(self, code: int, message: str, data: object = None) -> None:
        """Carry an error's code, text and data."""
        super().__init__(f"{code}: {message}" + (f" {data!r}" if data is not None else ""))
        self.code = code
        self.message = message
        self.data = data


class ConnectionEnded(RuntimeError):
    """The server closed the connection, or broke its framing; the message says which."""


Answer: TypeAlias = Callable[[str, Json], Awaitable[object]]
"""Answers a request of the server: its method and params to the result, or :data:`UNANSWERED`; may raise RpcError."""


async def unanswered(_method: str, _params: Json) -> object:
    """Leave every request of the server without an answer."""
    return UNANSWERED


def framed(message: Mapping[str, object]) -> bytes:
    """Return *message* as the SDK frames it."""
    body = json.dumps(message, ensure_ascii=False).encode()
    return b"%b%d\r\n\r\n%b" % (_HEADER, len(body), body)


class RawClient:
    """One connection.

    Attributes:
        received: every message that has arrived, oldest first: answers, requests and notifications.
        ended: why nothing more will arrive; "" while the connection stands.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        """Use :func:`raw_client`."""
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._ids = itertools.count(1)
        self._news = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.received: list[Json] = []
        self.ended = ""
        self._start(self._read())

    async def send_bytes(self, data: bytes) -> None:
        """Send *data* as it is."""
        self._writer.write(data)
        await self._writer.drain()

    async def send(self, message: Mapping[str, object]) -> None:
        """Send *message* in a frame, with ``jsonrpc`` where it lacks it."""
        await self.send_bytes(framed({"jsonrpc": "2.0", **message}))

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Send a notification."""
        await self.send({"method": method, "params": params})

    async def begin(self, method: str, params: Mapping[str, object] | None = None, *, request_id: object = None) -> Any:  # noqa: ANN401  # any JSON may be an id
        """Send a request without waiting for its answer, and return its id: the next number where none is given."""
        number = next(self._ids) if request_id is None else request_id
        await self.send({"id": number, "method": method, "params": dict(params or {})})
        return number

    async def request(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        request_id: object = None,
        deadline_s: float = DEADLINE_S,
    ) -> Any:  # noqa: ANN401  # any JSON may be a result
        """Send a request and return its result.

        Raises:
            RpcError: it was answered with an error.
            ConnectionEnded: the connection ended before the answer.
            TimeoutError: there was no answer in time.
        """
        seen = len(self.received)
        number = await self.begin(method, params, request_id=request_id)
        return await self.answer_to(number, after=seen, deadline_s=deadline_s)

    async def answer_to(self, request_id: object, *, after: int = 0, deadline_s: float = DEADLINE_S) -> Any:  # noqa: ANN401
        """Wait for the answer to a request that was begun and return its result; raises as :meth:`request` does.

        Args:
            request_id: its id.
            after: how many of the received messages to pass over, for an id that is used again.
            deadline_s: how long to wait.
        """
        answer = await self.until(
            lambda message: "method" not in message and message.get("id") == request_id,
            after=after,
            deadline_s=deadline_s,
        )
        if "error" in answer:
            error = answer["error"]
            raise RpcError(error["code"], error["message"], error.get("data"))
        return answer.get("result")

    async def respond(self, request_id: object, result: object) -> None:
        """Answer a request of the server."""
        await self.send({"id": request_id, "result": result})

    async def respond_error(self, request_id: object, error: RpcError) -> None:
        """Answer a request of the server with an error."""
        answer: Json = {"code": error.code, "message": error.message}
        await self.send({"id": request_id, "error": answer | ({} if error.data is None else {"data": error.data})})

    async def until(self, wanted: Callable[[Json], bool], *, after: int = 0, deadline_s: float = DEADLINE_S) -> Json:
        """Return the first message that is *wanted*, of those received already, *after* so many of them, or to come.

        Raises:
            ConnectionEnded: the connection ended before one came.
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(deadline_s):
            while True:
                for message in self.received[after:]:
                    if wanted(message):
                        return message
                if self.ended:
                    raise ConnectionEnded(self.ended)
                self._news.clear()
                await self._news.wait()

    async def wait_ended(self, *, deadline_s: float = DEADLINE_S) -> str:
        """Wait until nothing more can arrive and return why. Raises TimeoutError when that takes too long."""
        with contextlib.suppress(ConnectionEnded):
            await self.until(lambda _: False, after=len(self.received), deadline_s=deadline_s)
        return self.ended

    def methods(self) -> list[str]:
        """Return the methods of all requests and notifications of the server, in order of arrival."""
        return [message["method"] for message in self.received if "method" in message]

    def stop_reading(self) -> None:
        """Be slow: take nothing more off the connection, but for a message that has begun to arrive."""
        self._reading.clear()

    def go_on_reading(self) -> None:
        """Read again."""
        self._reading.set()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._writer.write_eof()

    def drop(self) -> None:
        """Reset the connection, as a client does that dies."""
        self._writer.transport.abort()

    async def aclose(self) -> None:
        """Close the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            while True:
                await self._reading.wait()
                header = await self._reader.readuntil(b"\r\n\r\n")
                if not header.startswith(_HEADER):
                    raise ValueError(f"the server's header is {header!r}")
                message: Json = json.loads(await self._reader.readexactly(int(header[len(_HEADER) : -4])))
                self.received.append(message)
                self._news.set()
                if "method" in message and "id" in message:
                    self._start(self._serve(message))
        except asyncio.IncompleteReadError as error:
            self.ended = (
                f"the server closed the connection, in a frame: {error.partial!r}" if error.partial else "closed"
            )
        except (OSError, ValueError, asyncio.LimitOverrunError) as error:
            self.ended = f"{type(error).__name__}: {error}"
        finally:
            self._news.set()

    async def _serve(self, request: Json) -> None:
        with contextlib.suppress(OSError):  # the connection has ended meanwhile: nobody waits for the answer
            try:
                result = await self._answer(request["method"], request.get("params", {}))
            except RpcError as error:
                await self.respond_error(request["id"], error)
            else:
                if result is not UNANSWERED:
                    await self.respond(request["id"], result)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def raw_client(host: str, port: int, *, answer: Answer = unanswered) -> AsyncGenerator[RawClient]:
    """Connect to *host* and *port*; say nothing yet. The connection is closed at the end.

    Args:
        host: where the server listens.
        port: its port.
        answer: answers the server's requests.
    """
    client = RawClient(*await asyncio.open_connection(host, port, limit=_BUFFER_BYTES), answer)
    try:
        yield client
    finally:
        await client.aclose()
