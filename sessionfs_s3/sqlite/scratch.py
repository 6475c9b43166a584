"""The files of a scratch database: writing an image, making it a WAL database, removing it. Touches its directory only.

One directory holds one database at a time; whatever an earlier one left there is removed first.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# APSW's annotations name collections.abc.Buffer, which Python 3.11 does not have.

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite.records import PAGE_BYTES

_NAME = "session.db"
_SUFFIXES = ("", "-wal", "-shm", "-journal")

# https://www.sqlite.org/fileformat2.html#the_database_header
_MAGIC = b"SQLite format 3\x00"
_PAGE_SIZE = slice(16, 18)
_VERSIONS = slice(18, 20)
_VERSIONS_WAL = b"\x02\x02"

# Primary result codes that blame the local file or the machine, not the SQL or the image (sqlite.org/rescode.html).
MACHINE_CODES = frozenset(
    {
        apsw.SQLITE_PERM,
        apsw.SQLITE_BUSY,
        apsw.SQLITE_READONLY,
        apsw.SQLITE_IOERR,
        apsw.SQLITE_CANTOPEN,
        apsw.SQLITE_PROTOCOL,
        apsw.SQLITE_NOTADB,
        apsw.SQLITE_FULL,  # the disk: that the database is as large as it may be is found out before
    }
)


def primary_code(failure: Exception) -> int | None:
    """Return SQLite's primary result code, or None for what APSW raises of its own."""
    code = getattr(failure, "result", None)
    return code if isinstance(code, int) and code > 0 else None


def cannot_open(directory: Path, failure: apsw.Error) -> OSError | InvalidInput:
    """Return what *failure* to open a database in *directory* means: no fit place, or no sound image."""
    if primary_code(failure) in MACHINE_CODES - {apsw.SQLITE_NOTADB} | {apsw.SQLITE_NOMEM}:
        return OSError(f"SQLite cannot open a database in {directory}: {failure}")
    return InvalidInput("SQLite image", _NAME, str(failure))


@dataclass(frozen=True, slots=True)
class Layout:
    """A database on disk, in WAL mode.

    Attributes:
        path: of the database file.
        is_new: whether it was made here, from no image.
        first_page: page 1, if that is not what the image has there, else None.
    """

    path: Path
    is_new: bool
    first_page: bytes | None


def lay_out(directory: Path, image: Iterable[bytes] | None) -> Layout:
    """Write *image* (None or nothing: a new empty database) into *directory*, as a database in WAL mode.

    Raises:
        InvalidInput: *image* is no SQLite database with pages of 4096 bytes.
        OSError: *directory* cannot be written, or cannot hold a database in WAL mode.
    """
    path = directory.absolute() / _NAME
    remove(path)
    try:
        head, size = _write(path, image or ())
        if size:
            _check(head, size)
        # Switching to WAL mode writes page 1 in place, where no frame of the log would ever show it.
        first_page = None if head[_VERSIONS] == _VERSIONS_WAL else _switch_to_wal(path)
    except BaseException:
        remove(path)
        raise
    return Layout(path, size == 0, first_page)


def _switch_to_wal(path: Path) -> bytes:
    """Put the database at *path* into WAL mode, and return its first page."""
    with closing(apsw.Connection(str(path))) as connection:
        try:
            connection.pragma("page_size", PAGE_BYTES)
            connection.pragma("synchronous", "OFF")
            mode = connection.pragma("journal_mode", "WAL")
        except apsw.Error as failure:
            raise cannot_open(path.parent, failure) from failure
    if mode != "wal":
        raise OSError(f"SQLite cannot use WAL mode in {path.parent}: it answers {mode}")
    with path.open("rb") as file:
        return file.read(PAGE_BYTES)


def _write(path: Path, image: Iterable[bytes]) -> tuple[bytes, int]:
    """Write the file, readable by its owner only, and return its first 100 bytes or more, and its size."""
    head, size = b"", 0
    path.touch(mode=0o600, exist_ok=False)  # SQLite gives the log and its index the same mode
    with path.open("wb") as file:
        for chunk in image:
            if len(head) < 100:
                head += chunk[:100]
            size += len(chunk)
            file.write(chunk)
    return head, size


def _check(head: bytes, size: int) -> None:
    if not head.startswith(_MAGIC):
        raise InvalidInput("SQLite image", head[:16], "does not begin as a database does")
    page_bytes = int.from_bytes(head[_PAGE_SIZE], "big")
    if page_bytes != PAGE_BYTES:
        raise InvalidInput("SQLite image with page size", page_bytes, f"must be {PAGE_BYTES} bytes")
    if size % PAGE_BYTES:
        raise InvalidInput("SQLite image of size", size, f"must be a whole number of {PAGE_BYTES}-byte pages")


def remove(path: Path) -> None:
    """Remove the database at *path* and the files that SQLite keeps beside it; those that are missing are no error."""
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
