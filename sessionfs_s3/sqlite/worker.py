"""A worker: the process in which one session's SQL runs. Touches its scratch directory and the socket to its host.

The SQL is an agent's, and SQLite is much code: what goes wrong here ends here. The process has a limit on its memory,
on the size of a file and on its descriptors; an alarm ends it where a single step of SQLite takes longer than the whole
call may; its environment is empty, and it has none of its host's descriptors. It goes with its host, however that ends.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite.database import ScratchDatabase
from sessionfs_s3.sqlite.records import DatabaseChange, Limits, QueryResult, SqlError, Statement
from sessionfs_s3.sqlite.wire import (
    HEADER,
    Done,
    Frame,
    FrameKind,
    ProtocolError,
    change_frames,
    decode_call,
    decode_open,
    decode_statements,
    decoded_header,
    failed_frame,
    result_frames,
)

GRACE_S: Final = 2.0
"""How long after its time limit a call may go on before the alarm ends the process: the engine should end it first."""

_DESCRIPTORS_MAX: Final = 32
_NICE: Final = 5  # whatever the SQL does, the host's event loop comes first
_PAGE_BYTES: Final = resource.getpagesize()


class _Wire:
    """The worker's end of the socket; reads no byte beyond a frame, so that :meth:`interrupted` sees what follows."""

    def __init__(self, host: socket.socket) -> None:
        self._host = host

    def send(self, frame: Frame) -> None:
        self._host.sendall(frame.encoded())

    def receive(self) -> Frame:
        length, kind = decoded_header(self._read(HEADER.size))
        return Frame(kind, self._read(length))

    def interrupted(self) -> bool:
        """Return whether the host wants the call to end: it has sent something, or is gone."""
        try:
            self._host.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _read(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self._host.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(data)


def serve(host: socket.socket, directory: Path) -> None:
    """Serve one database in *directory*, which is made and removed, to *host* until that closes its end of the socket.

    What a process that was killed leaves behind, whoever made it has to remove.
    """
    wire = _Wire(host)
    try:
        frame = wire.receive()
        if frame.kind is not FrameKind.OPEN:
            raise ProtocolError(f"{frame.kind.name} before OPEN")
        limits, foreign_keys = decode_open(frame.payload)
        spent_bytes = _confine(limits)
        database = _open(wire, directory, limits, foreign_keys=foreign_keys)
        while database is not None:
            _call(wire, database, limits, lambda: _peak_bytes() > spent_bytes)
    except (EOFError, OSError):
        pass  # the host is gone
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _confine(limits: Limits) -> int:
    """Bound what this process may use; return how much memory it may have used before it is better replaced."""
    memory_bytes_max = 2 * limits.memory_bytes_max + 4 * limits.result_bytes_max + 3 * limits.change_bytes_max
    size = _mapped_bytes()
    if size is not None:
        _limit(resource.RLIMIT_AS, size + memory_bytes_max)
    _limit(resource.RLIMIT_FSIZE, 2 * limits.database_bytes_max + limits.wal_bytes_max + limits.change_bytes_max)
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS_MAX)
    _limit(resource.RLIMIT_CORE, 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that is too long fails instead
    apsw.hard_heap_limit(limits.memory_bytes_max)
    with suppress(OSError):
        os.nice(_NICE)
    return _peak_bytes() + limits.memory_bytes_max


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # not every system can limit everything
        resource.setrlimit(what, (value, value))


def _mapped_bytes() -> int | None:
    """Return how much address space this process has, where the system says it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE_BYTES
    except OSError:
        return None


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _open(wire: _Wire, directory: Path, limits: Limits, *, foreign_keys: bool) -> ScratchDatabase | None:
    """Receive the image and open the database; return None when that failed, once the host is told why."""
    image = _image(wire)
    first = next(image, None)
    try:
        directory.mkdir(mode=0o700)
        opened = ScratchDatabase.open(
            None if first is None else itertools.chain((first,), image),
            directory=directory,
            limits=limits,
            interrupted=wire.interrupted,
            foreign_keys=foreign_keys,
        )
    except (InvalidInput, OSError) as failure:
        for _ in image:
            pass  # the host sends to the end before it listens
        wire.send(failed_frame(failure))
        return None
    wire.send(Frame(FrameKind.READY))
    return opened


def _image(wire: _Wire) -> Iterator[bytes]:
    while (frame := wire.receive()).kind is FrameKind.IMAGE:
        yield frame.payload
    if frame.kind is not FrameKind.IMAGE_END:
        raise ProtocolError(f"{frame.kind.name} within an image")


def _call(wire: _Wire, database: ScratchDatabase, limits: Limits, is_spent: Callable[[], bool]) -> None:
    """Receive one call, run it and answer."""
    statements: list[Statement] = []
    while (frame := wire.receive()).kind is not FrameKind.CALL:
        if frame.kind is FrameKind.STATEMENTS:
            statements += decode_statements(frame.payload)
        elif frame.kind is not FrameKind.CANCEL:
            raise ProtocolError(f"{frame.kind.name} within a call")
    signal.setitimer(signal.ITIMER_REAL, limits.call_s + GRACE_S)
    is_broken = False
    try:
        results, change = _run(database, statements, is_transaction=decode_call(frame.payload))
    except Exception as failure:  # noqa: BLE001  # the host is told whatever it is
        is_broken = not isinstance(failure, SqlError | InvalidInput)
        results, change = (), None
        wire.send(failed_frame(failure))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for result in results:
        for each in result_frames(result):
            wire.send(each)
    for each in change_frames(change):
        wire.send(each)
    size = None if change is None else change.size
    wire.send(
        Done(size, is_spent=is_broken or is_spent(), foreign_keys=not is_broken and database.foreign_keys).frame()
    )


def _run(
    database: ScratchDatabase, statements: list[Statement], *, is_transaction: bool
) -> tuple[tuple[QueryResult | None, ...], DatabaseChange | None]:
    if is_transaction:
        return database.transaction(statements)
    (statement,) = statements
    result, change = database.query(statement.kind, statement.sql, statement.params)
    return (result,), change
