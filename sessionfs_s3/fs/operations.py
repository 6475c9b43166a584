"""The operations that a commit carries: data that says what changed, never how a caller asked for it.

Each is complete in itself (times and modes are values, not defaults to be filled in later), so that applying a log
gives the same tree on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sessionfs_s3.fs.content import Content
from sessionfs_s3.fs.paths import Path, length

DATABASE_BYTES_MAX: Final = 1 << 32
"""Largest database: 4 GiB. A tree takes no operation beyond it, so that a size alone can never exhaust memory."""

_FIELDS_BYTES_MAX: Final = 32
"""What an operation or an extent takes as stored, at most, beside its paths and data."""

_NAME_BYTES: Final = 8
"""What each name of a path counts beside its own bytes, so that no batch has more names than a commit may have."""

_CHUNK_BYTES_MAX: Final = 64
"""What a chunk in a blob of its own takes as stored, at most: its place, and its blob's name."""


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Create the directory *path*, which does not exist, and its missing parents, all with *mode* and *time_ms*.

    Parents come with it because a path can be 2,048 levels deep: an operation for each would make the commit, and the
    time to apply it, grow with the square of that. *time_ms* is in milliseconds since the Unix epoch.
    """

    path: Path
    mode: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Create the file *path*, whose parent exists, with *mode*, or replace its contents and keep its mode."""

    path: Path
    content: Content
    mode: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class AppendFile:
    """Add *content* at the end of the file *path*, which exists.

    Contents that are sealed in blobs begin where a chunk of the file ends.
    """

    path: Path
    content: Content
    time_ms: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove what is at *path*, with everything below it."""

    path: Path
    time_ms: int


@dataclass(frozen=True, slots=True)
class Rename:
    """Move what is at *source* to *target*, replacing a file or an empty directory there."""

    source: Path
    target: Path
    time_ms: int


@dataclass(frozen=True, slots=True)
class WriteDatabase:
    """Write the *extents* ``(offset, bytes)`` into the session's SQLite database, which then has *size* bytes."""

    size: int
    extents: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Clear:
    """Begin anew: no files, no database, whatever was there."""


Operation = MakeDirectory | WriteFile | AppendFile | Remove | Rename | WriteDatabase | Clear


def payload_bytes(operation: Operation) -> int:
    """Return how many bytes *operation* takes in a commit, at most: the measure that batches are bounded by.

    Never less than what is stored before compression, and never 0: paths count too, so that neither many operations
    nor long paths make a commit larger than a frame may be.
    """
    match operation:
        case WriteFile(path=path, content=content) | AppendFile(path=path, content=content):
            return _FIELDS_BYTES_MAX + _path_bytes(path) + content.size + _CHUNK_BYTES_MAX * len(content.chunks)
        case WriteDatabase(extents=extents):
            return _FIELDS_BYTES_MAX + sum(_FIELDS_BYTES_MAX + len(data) for _, data in extents)
        case Rename(source=source, target=target):
            return _FIELDS_BYTES_MAX + _path_bytes(source) + _path_bytes(target)
        case MakeDirectory(path=path) | Remove(path=path):
            return _FIELDS_BYTES_MAX + _path_bytes(path)
        case Clear():
            return _FIELDS_BYTES_MAX


def _path_bytes(path: Path) -> int:
    return length(path) + _NAME_BYTES * len(path)
