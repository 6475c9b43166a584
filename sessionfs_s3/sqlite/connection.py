"""A host's connection to one worker: calls go out, results and changes come back, and what goes wrong is told apart.

Touches the worker's socket, the fork server, and the directory that a worker which was killed leaves behind.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, TypeVar

from sessionfs_s3.sqlite.forkserver import ForkServer
from sessionfs_s3.sqlite.prepared import check_request
from sessionfs_s3.sqlite.records import (
    PAGE_BYTES,
    DatabaseChange,
    JsonValue,
    Kind,
    Limits,
    Parameter,
    QueryResult,
    ScratchError,
    SqlError,
    Statement,
    cancelled_error,
    timeout_error,
)
from sessionfs_s3.sqlite.wire import (
    HEADER,
    PART_BYTES,
    Done,
    Frame,
    FrameKind,
    ProtocolError,
    call_frame,
    decode_extent,
    decode_failed,
    decode_result,
    decode_rows,
    decoded_header,
    open_frame,
    parts,
    statement_frames,
)

T = TypeVar("T")

_ANSWER_S_MAX: Final = 15.0
"""How long opening, or an answer beyond its call's own time, may take: a machine may be busy, and not for ever."""

_CANCEL_S_MAX: Final = 1.0
"""How long a worker may go on with a call that was cancelled, or with closing, before it is killed."""

_FRAMES_AT_ONCE: Final = 64
"""After so many frames the event loop does something else, however small they are."""

_FORK_SERVER: Final = ForkServer()

# What the connection itself raises. Not OSError: an image that comes from the store has those of its own.
_BROKEN: Final = (EOFError, ConnectionError, TimeoutError, ProtocolError)


class WorkerDatabase:
    """A database in a worker process.

    Attributes:
        busy: whether a call is running.
        lost: whether the worker is gone, or has to be replaced before the next call.
        foreign_keys: whether the database enforces foreign keys.
    """

    def __init__(
        self,
        number: int,
        directory: Path,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        limits: Limits,
        used: Callable[[WorkerDatabase], None],
    ) -> None:
        """Use :meth:`open`."""
        self.busy = False
        self.lost = False
        self.foreign_keys = True
        self._number = number
        self._directory = directory
        self._reader, self._writer = streams
        self._limits = limits
        self._used = used
        self._size = 0
        self._cancelled = False
        self._closing: asyncio.Task[None] | None = None
        self._killing: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        image: AsyncIterable[bytes],
        limits: Limits,
        directory: Path,
        used: Callable[[WorkerDatabase], None],
        *,
        foreign_keys: bool = True,
    ) -> Self:
        """Start a worker and give it *image*; *used* is told when a call, or the worker's life, has ended.

        Its files are in a new directory, of this user's alone, in *directory*.

        Raises:
            InvalidInput, ScratchError: as :meth:`DatabaseHost.open`; and whatever *image* raises.
        """
        scratch = directory / f"sessionfs-{secrets.token_hex(8)}"
        chunks = aiter(image)
        forking = asyncio.ensure_future(asyncio.to_thread(_FORK_SERVER.fork, scratch))
        try:
            first = await anext(chunks, b"")  # the store is asked while the process starts
            await asyncio.wait([forking])
        except BaseException:
            forking.add_done_callback(_let_go)
            raise
        try:
            number, mine = forking.result()
        except OSError as failure:
            raise ScratchError(f"no process for the session's database: {failure.strerror}") from failure
        mine.setblocking(False)
        database = cls(number, scratch, await asyncio.open_unix_connection(sock=mine), limits, used)
        try:
            await database._give(first, chunks, foreign_keys=foreign_keys)
        except BaseException as failure:
            database.abandon()
            await database.aclose()
            if isinstance(failure, _BROKEN):
                raise ScratchError(f"the session's database could not be opened: {failure!r}") from failure
            raise
        return database

    async def query(
        self, kind: Kind, sql: str, params: Mapping[str, Parameter] | None
    ) -> tuple[QueryResult | None, DatabaseChange | None]:
        """Run one statement or script; see :meth:`ScratchDatabase.query`."""
        (result,), change = await self._call([Statement(kind, sql, params)], is_transaction=False)
        return result, change

    async def transaction(
        self, statements: Sequence[Statement]
    ) -> tuple[tuple[QueryResult, ...], DatabaseChange | None]:
        """Run *statements* in one transaction; see :meth:`ScratchDatabase.transaction`."""
        results, change = await self._call(statements, is_transaction=True)
        return tuple(result for result in results if result is not None), change

    def cancel(self) -> None:
        """End the call that is running; the worker is killed if it does not do so at once."""
        if self.busy and not self._cancelled:
            self._cancelled = True
            self._writer.write(Frame(FrameKind.CANCEL).encoded())
            self._killing = asyncio.get_running_loop().call_later(_CANCEL_S_MAX, self.abandon)

    def abandon(self) -> None:
        """Kill the worker."""
        self.lost = True
        _FORK_SERVER.kill(self._number)

    async def aclose(self) -> None:
        """End the worker, and make sure that nothing of it stays."""
        self.lost = True
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        # One task for all who call: one of them that gives up leaves it to the others, or to the event loop.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._writer.write_eof()
        if not await self._ends():
            self.abandon()
            await self._ends()
        # Only now: a worker that still runs might make its directory again.
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
        self._used(self)

    async def _ends(self) -> bool:
        """Return whether the worker ends within the time that it may take for that."""
        try:
            async with asyncio.timeout(_CANCEL_S_MAX):
                while await self._reader.read(PART_BYTES):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    async def _give(self, first: bytes, rest: AsyncIterator[bytes], *, foreign_keys: bool) -> None:
        await self._send([open_frame(self._limits, foreign_keys=foreign_keys)])
        await self._send_image(first)
        async for chunk in rest:
            await self._send_image(chunk)
        await self._send([Frame(FrameKind.IMAGE_END)])
        async with asyncio.timeout(_ANSWER_S_MAX):
            frame = await self._receive()
        if frame.kind is FrameKind.FAILED:
            raise decode_failed(frame.payload)
        if frame.kind is not FrameKind.READY:
            raise ProtocolError(f"{frame.kind.name} instead of READY")
        self.foreign_keys = foreign_keys

    async def _send_image(self, chunk: bytes) -> None:
        async with asyncio.timeout(_ANSWER_S_MAX):
            await self._send(Frame(FrameKind.IMAGE, part) for part in parts(chunk))
        self._size += len(chunk)

    async def _call(
        self, statements: Sequence[Statement], *, is_transaction: bool
    ) -> tuple[list[QueryResult | None], DatabaseChange | None]:
        check_request(statements, self._limits)
        if self.lost:
            raise ScratchError("the session's local database is gone")
        # From here on nobody else may end it, and whoever closes it has to cancel.
        self.busy, self._cancelled = True, False
        try:
            # Encoded before anything is sent: what cannot be encoded must not leave half a call behind.
            frames = await _gradually(statement_frames(statements))
            if self._cancelled:
                raise cancelled_error()
            answer = await self._exchange([*frames, call_frame(is_transaction=is_transaction)], len(statements))
        finally:
            self.busy = False
            if self._killing is not None:
                self._killing.cancel()
                self._killing = None
            self._used(self)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _exchange(
        self, frames: Sequence[Frame], count: int
    ) -> tuple[list[QueryResult | None], DatabaseChange | None] | Exception:
        """Send the *frames* of a call of *count* statements and receive the answer; a failure is returned."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            async with asyncio.timeout(self._limits.call_s + _ANSWER_S_MAX):
                await self._send(frames)
                return await self._answer(count)
        except _BROKEN as failure:
            self.abandon()
            raise self._explained(failure, loop.time() - started_s) from failure
        except BaseException:
            self.abandon()  # what it would still say is nobody's answer
            raise

    def _explained(self, failure: BaseException, ran_s: float) -> SqlError | ScratchError:
        """Return why a call got no answer: in every case nothing of it was reported, so nothing of it is stored."""
        if self._cancelled:
            return cancelled_error()
        if ran_s >= self._limits.call_s:
            return timeout_error(self._limits)
        return ScratchError(f"the process of the session's database has ended: {failure!r}")

    async def _answer(self, count: int) -> tuple[list[QueryResult | None], DatabaseChange | None] | Exception:
        """Receive the answer to a call of *count* statements; a failure that the worker tells is returned."""
        limits = self._limits
        bytes_max = 4 * limits.result_bytes_max + 2 * limits.change_bytes_max
        results: list[QueryResult | None] = []
        rows: list[dict[str, JsonValue]] = []
        extents: list[tuple[int, bytes]] = []
        failure: Exception | None = None
        number = 0
        while True:
            frame = await self._receive()
            bytes_max -= len(frame.payload)
            if bytes_max < 0:
                raise ProtocolError("an answer that is longer than the limits allow")
            number += 1
            if number % _FRAMES_AT_ONCE == 0:
                await asyncio.sleep(0)
            match frame.kind:
                case FrameKind.ROWS:
                    rows += decode_rows(frame.payload)
                case FrameKind.RESULT:
                    results.append(decode_result(frame.payload, rows))
                    rows = []
                case FrameKind.EXTENT:
                    extents.append(decode_extent(frame.payload))
                case FrameKind.FAILED:
                    failure = decode_failed(frame.payload)
                case FrameKind.DONE if failure is not None or len(results) == count:
                    done = Done.of(frame.payload)
                    self.lost = self.lost or done.is_spent
                    self.foreign_keys = done.foreign_keys
                    return failure or (results, self._change(done.size, extents))
                case _:
                    raise ProtocolError(f"{frame.kind.name} within an answer")

    def _change(self, size: int | None, extents: Sequence[tuple[int, bytes]]) -> DatabaseChange | None:
        """Return what a call changed; raise ProtocolError where that cannot be."""
        if size is None:
            if extents:
                raise ProtocolError("extents of no change")
            return None
        # It may be over its limit where that was higher once, and does not grow then.
        if size % PAGE_BYTES or size > max(self._limits.database_bytes_max, self._size):
            raise ProtocolError(f"a database of {size} bytes")
        change = DatabaseChange(size, _runs(size, extents))
        self._size = size
        return change

    async def _send(self, frames: Iterable[Frame]) -> None:
        for number, frame in enumerate(frames, 1):
            self._writer.write(frame.encoded())
            await self._writer.drain()
            if number % _FRAMES_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _receive(self) -> Frame:
        length, kind = decoded_header(await self._reader.readexactly(HEADER.size))
        return Frame(kind, await self._reader.readexactly(length))


def _runs(size: int, extents: Sequence[tuple[int, bytes]]) -> tuple[tuple[int, bytes], ...]:
    """Return *extents* with neighbours merged; raise ProtocolError where they cannot be of *size* bytes."""
    runs: list[tuple[int, list[bytes]]] = []
    end = 0
    for offset, contents in extents:
        if offset < end or offset % PAGE_BYTES or len(contents) % PAGE_BYTES:
            raise ProtocolError("extents out of order")
        if not runs or offset > end:
            runs.append((offset, []))
        runs[-1][1].append(contents)
        end = offset + len(contents)
    if not runs or end > size:
        raise ProtocolError(f"{end} bytes of {size}")
    return tuple((offset, b"".join(contents)) for offset, contents in runs)


def _let_go(forking: asyncio.Future[tuple[int, socket.socket]]) -> None:
    """Let a worker go that nobody waits for any more."""
    if not forking.cancelled() and forking.exception() is None:
        forking.result()[1].close()


async def _gradually(items: Iterable[T]) -> list[T]:
    """Return *items* as a list, letting the event loop do something else between them."""
    made: list[T] = []
    for item in items:
        made.append(item)
        await asyncio.sleep(0)
    return made
