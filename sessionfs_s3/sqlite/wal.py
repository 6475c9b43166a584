"""Reading what a commit added to SQLite's write-ahead log. Reads the database and its log and index, writes nothing.

Which frames are committed
--------------------------
The log file alone does not say it. Behind the last commit may stand frames of a transaction that outgrew the page cache
and was rolled back: their salts match, and their checksums continue the chain. A later, shorter commit overwrites only
the first of them. A commit whose very last step failed leaves a whole commit behind. And SQLite 3.40 (not 3.53) commits
frames without salt and checksum, where a savepoint was rolled back that had overwritten a spilled page: crash recovery,
which reads salts, cumulative checksums and commit flags, would lose that commit. (In Python it would also take 0.1 ms
for each page.)

SQLite's own readers trust none of that, but the *wal-index* in shared memory: its ``mxFrame`` is the last committed
frame, published as the last step of a commit and never by a rollback. So does this module. A commit's frames are those
after the ``mxFrame`` seen before it, up to the one seen after it; that the last of them carries the commit flag and
the database's size is checked, and that none belongs to another log.

The layout of both is fixed: processes with different versions of SQLite may share them. See
https://www.sqlite.org/walformat.html and https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sessionfs_s3.sqlite.records import PAGE_BYTES

_INDEX_VERSION = 3007000
_INDEX_HEADER = struct.Struct("=I8xB3xII8x8s8x")  # version, initialised, mxFrame, pages, salt; in native order
_LOG_HEADER_BYTES = 32
_FRAME_HEADER = struct.Struct(">II8s8x")  # page number, pages after commit or 0, salt; big-endian
_NO_SALT = bytes(8)
_FRAME_BYTES = _FRAME_HEADER.size + PAGE_BYTES
# Fields of the database's header that count its changes, for readers that do not see the log's index; see
# https://www.sqlite.org/fileformat2.html#the_database_header.
_CHANGE_COUNTER = slice(24, 28)
_VALID_FOR = slice(92, 100)  # the change counter once more, and the version of SQLite that wrote it
_FRAMES_READ_MAX = 256  # about 1 MiB at a time


class UnexpectedLog(Exception):
    """The log and its index contradict each other or this module; nothing read from them may be used."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the log: everything up to it is committed.

    Attributes:
        salt: changes whenever the log starts over.
        frames: committed frames in the log (``mxFrame``).
        pages: size of the database then, in pages.
    """

    salt: bytes
    frames: int
    pages: int

    @property
    def log_bytes(self) -> int:
        """Length of the log up to here, in bytes."""
        return _LOG_HEADER_BYTES + self.frames * _FRAME_BYTES if self.frames else 0


class WalReader:
    """Follows the log of one open database.

    Must be closed after the connection: closing any descriptor of the database or its index drops the process's POSIX
    locks on it, the connection's included.
    """

    def __init__(self, database: Path) -> None:
        """Follow the log of *database*, whose connection has read it at least once, so that both files exist."""
        self._log_path = database.with_name(database.name + "-wal")
        self._newest: dict[int, int] = {}  # page to its last frame in the log, for the part that has been read
        with ExitStack() as opened:
            self._database = opened.enter_context(database.open("rb", buffering=0))
            self._log = opened.enter_context(self._log_path.open("rb", buffering=0))
            index = opened.enter_context(database.with_name(database.name + "-shm").open("rb", buffering=0))
            self._index = mmap.mmap(index.fileno(), 2 * _INDEX_HEADER.size, access=mmap.ACCESS_READ)
            self._opened = opened.pop_all()

    def mark(self) -> Mark:
        """Return the last commit, as SQLite's readers would see it.

        Raises:
            UnexpectedLog: the wal-index is not initialised, or has an unknown version.
        """
        size = _INDEX_HEADER.size
        first, second = self._index[:size], self._index[size : 2 * size]
        version, initialised, frames, pages, salt = _INDEX_HEADER.unpack(first)
        # Two copies are written one after the other; they differ only while a writer is at work, and none is now.
        if first != second or version != _INDEX_VERSION or not initialised:
            raise UnexpectedLog(f"the wal-index header is not usable (version {version}, initialised {initialised})")
        if not frames:  # then the log says nothing, and the database has all of it
            pages = os.fstat(self._database.fileno()).st_size // PAGE_BYTES
        return Mark(salt, frames, pages)

    def written_bytes(self) -> int:
        """Return the length of the log file: commits, what the open transaction has spilled, and leftovers."""
        return self._log_path.stat().st_size

    def pages(self, since: Mark, until: Mark) -> dict[int, bytes]:
        """Return every page that is another after *until* than it was after *since*, by page number from 1.

        SQLite also writes pages that are as they were: of an UPDATE to the same values, or of what was rolled back to a
        savepoint. To be asked for each stretch of the log once, and in order.

        Raises:
            UnexpectedLog: a frame does not belong to this log, or the last one is not the commit that *until* names.
        """
        done = since.frames if since.salt == until.salt else 0
        if not done:
            self._newest.clear()  # the log has started over: all that it held is in the database
        newest: dict[int, bytes] = {}
        frames: dict[int, int] = {}
        commit = until.pages
        while done < until.frames:
            count = min(until.frames - done, _FRAMES_READ_MAX)
            chunk = self._read(_LOG_HEADER_BYTES + done * _FRAME_BYTES, count * _FRAME_BYTES)
            for start in range(0, len(chunk), _FRAME_BYTES):
                page, commit, salt = _FRAME_HEADER.unpack_from(chunk, start)
                if page == 0 or salt not in (until.salt, _NO_SALT):
                    raise UnexpectedLog(f"frame {done + 1 + start // _FRAME_BYTES} belongs to another log")
                newest[page] = chunk[start + _FRAME_HEADER.size : start + _FRAME_BYTES]
                frames[page] = done + start // _FRAME_BYTES
            done += count
        if commit != until.pages:
            raise UnexpectedLog(f"frame {until.frames} is not the last commit")
        changed = {
            page: contents
            for page, contents in newest.items()
            # A transaction that shrinks the database may have spilled pages that it then gave up.
            if page <= until.pages and (page > since.pages or contents != self._before(page))
        }
        if changed.keys() == {1} and _counted(changed[1]) == _counted(self._before(1)):
            changed = {}
        self._newest.update(frames)
        return changed

    def _before(self, page: int) -> bytes:
        """Return the contents of *page* after what has been read of the log."""
        frame = self._newest.get(page)
        if frame is not None:
            return self._read(_LOG_HEADER_BYTES + frame * _FRAME_BYTES + _FRAME_HEADER.size, PAGE_BYTES)
        self._database.seek((page - 1) * PAGE_BYTES)
        return self._database.read(PAGE_BYTES)

    def _read(self, offset: int, length: int) -> bytes:
        self._log.seek(offset)
        chunk = b""
        while len(chunk) < length:
            more = self._log.read(length - len(chunk))
            if not more:
                raise UnexpectedLog(f"the log ends at byte {offset + len(chunk)}, before its last commit")
            chunk += more
        return chunk

    def close(self) -> None:
        """Let go of both files."""
        self._index.close()
        self._opened.close()


def _counted(page: bytes) -> bytes:
    """Return the database's first page without its counters, which also change when nothing else does."""
    return b"".join(
        (page[: _CHANGE_COUNTER.start], page[_CHANGE_COUNTER.stop : _VALID_FOR.start], page[_VALID_FOR.stop :])
    )


def merge(pages: dict[int, bytes]) -> tuple[tuple[int, bytes], ...]:
    """Return *pages* as extents: ``(offset in bytes, contents)``, ascending, neighbours merged."""
    runs: list[tuple[int, list[bytes]]] = []
    following = 0
    for page in sorted(pages):
        if page != following:
            runs.append(((page - 1) * PAGE_BYTES, []))
        runs[-1][1].append(pages[page])
        following = page + 1
    return tuple((offset, b"".join(contents)) for offset, contents in runs)
