"""A connection to a runtime on which the gateway itself asks and answers: the one that holds the provider slot."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.frames import FrameError, FrameStream
from sessionfs_s3.gateway.messages import Json, Malformed, Request, Response, encode, error, parse, result

_logger = logging.getLogger(__name__)

ANSWER_DEADLINE_S: Final = 30.0

Serve = Callable[[Request], Awaitable[Json]]
Notified = Callable[[Request], None]


class Link:
    """JSON-RPC in both directions over one connection. Every request that comes is answered, whatever happens."""

    def __init__(self, stream: FrameStream, serve: Serve, notified: Notified) -> None:
        """Speak over *stream*: *serve* answers requests, *notified* hears notifications."""
        self._stream = stream
        self._serve = serve
        self._notified = notified
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._read())

    @property
    def ended(self) -> asyncio.Task[None]:
        """Done when the connection is."""
        return self._reading

    async def request(self, method: str, params: Mapping[str, Json], *, deadline_s: float = ANSWER_DEADLINE_S) -> Json:
        """Return the runtime's answer to *method*.

        Raises:
            RpcError: it answered with an error.
            ConnectionError: the connection is lost.
            TimeoutError: no answer within *deadline_s* seconds.
        """
        number = next(self._ids)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            if self._reading.done():
                raise ConnectionResetError("the connection to the runtime is lost")
            async with asyncio.timeout(deadline_s):
                await self._stream.write(encode(Request(method, params, number)))
                answer = await waiting
        finally:
            del self._waiting[number]
            waiting.cancel()
        problem = answer.body.get("error")
        if problem is not None:
            raise _error_of(problem)
        return answer.body.get("result")

    async def aclose(self) -> None:
        """Close the connection, and wait until nothing of it runs any more."""
        self._stream.abort()
        self._reading.cancel()
        await asyncio.gather(self._reading, *self._serving, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for body in self._stream.bodies():
                self._take(parse(body))
                # A runtime that does not take its answers is not heard before it has.
                await self._stream.drain()
        except (FrameError, Malformed, OSError) as problem:
            _logger.warning("the connection to a runtime is lost: %s", problem)
        except Exception:
            _logger.exception("hearing what a runtime says")
        finally:
            self._stream.abort()
            lost = ConnectionResetError("the connection to the runtime is lost")
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(lost)

    def _take(self, message: Request | Response) -> None:
        if isinstance(message, Response):
            waiting = self._waiting.get(message.id) if isinstance(message.id, int) else None
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif message.is_notification:
            self._notified(message)
        else:
            # A task each: they start in the order in which the requests came, and the provider keeps that order.
            task = asyncio.create_task(self._answer(message))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _answer(self, request: Request) -> None:
        try:
            answer = result(request.id, await self._serve(request))
        except RpcError as problem:
            answer = error(request.id, problem)
        except Exception as problem:
            _logger.exception("answering %s", request.method)
            answer = error(request.id, RpcError(FAILED, str(problem) or type(problem).__name__))
        try:
            await self._stream.write(answer)
        except OSError:
            return  # The reader finds that out, too.


def _error_of(problem: Json) -> RpcError:
    told: Mapping[str, Json] = cast("Mapping[str, Json]", problem) if isinstance(problem, Mapping) else {}
    code, message = told.get("code"), told.get("message")
    return RpcError(code if isinstance(code, int) else FAILED, str(message), told.get("data"))
