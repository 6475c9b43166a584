"""A commit: a batch of operations at a sequence number, written in an epoch by a writer, bound to all before it.

Header, big-endian, 104 bytes::

    0   8  sequence number, from 1
    8   8  epoch: the sequence number of the claim that opened it
    16  16 writer: random, one for each opening of a session for writing
    32  16 nonce: random, one for each commit
    48  32 chain before this commit; zeros in a claim, whose writer has not read that far yet
    80  8  time, milliseconds since the Unix epoch by the writer's clock
    88  4  number of operations
    92  4  flags: bit 0 claim, others zero
    96  8  in a claim the number of the newest snapshot that its writer saw, 0 for none; otherwise zero

The chain is a running digest: ``chain(0)`` is 32 zero bytes, ``chain(n) = SHA-256(chain(n-1) + digest of frame n)``.
A commit carries the chain before it, so a missing, swapped or foreign commit anywhere below is detected.

A *tombstone* is a claim that clears the session and does nothing else: the chain begins anew after it.

Payload: the blobs that the operations refer to, then the operations one after the other, a kind byte and its fields
(``docs/FORMAT.md``). Version 1 has no blobs.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sessionfs_s3.errors import Corrupt, shown
from sessionfs_s3.format.contents import blobs_of, read_blob, read_content, table_of, write_blob, write_content
from sessionfs_s3.format.frame import DIGEST_BYTES, HEADER_START, Frame, decode_frame, encode_frame
from sessionfs_s3.format.limits import ID_BYTES, SEQUENCE_MAX, TIME_MS_MAX
from sessionfs_s3.format.wire import Malformed, Reader, Writer
from sessionfs_s3.fs.chunk import Blob
from sessionfs_s3.fs.content import Content
from sessionfs_s3.fs.operations import (
    DATABASE_BYTES_MAX,
    AppendFile,
    Clear,
    MakeDirectory,
    Operation,
    Remove,
    Rename,
    WriteDatabase,
    WriteFile,
)
from sessionfs_s3.fs.paths import PATH_BYTES_MAX, Path, is_name, joined, length

_KIND: Final = b"c"
_HEADER: Final = struct.Struct(">QQ16s16s32sQIIQ")
_CLAIM: Final = 1
_CLEAR: Final = b"c"
_CLEAR_ALONE: Final = "only a claim that does nothing else, and saw no snapshot, clears a session"

CHAIN_START: Final = bytes(DIGEST_BYTES)
"""The chain before the first commit, and before a tombstone."""

TOMBSTONE_BYTES: Final = 170
"""The size of a tombstone, and of no other commit: header, an empty table of blobs, one operation without fields.

A claim without operations has 169 bytes (168 in version 1), and no other operation takes less than 3: a listing alone
tells where a log begins anew. The only claim that has operations besides is the first commit of a log.
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit, as encoded and decoded.

    Attributes:
        sequence: its place in the log, from 1.
        epoch: the sequence number of the claim that opened its epoch; a claim's own.
        writer: who wrote it, 16 random bytes for each opening.
        nonce: 16 random bytes for each commit, by which a writer knows its own after a lost response.
        chain: the chain before it; :data:`CHAIN_START` in a claim.
        time_ms: when it was written, in milliseconds since the Unix epoch, by the writer's clock.
        claim: whether it opens an epoch.
        operations: what it changes, in order.
        snapshot_seen: in a claim the number of the newest snapshot that its writer saw, 0 for none: a newer one of an
            earlier epoch came too late and does not count. Version 1 does not tell; its claims saw everything.
    """

    sequence: int
    epoch: int
    writer: bytes
    nonce: bytes
    chain: bytes
    time_ms: int
    claim: bool
    operations: tuple[Operation, ...]
    snapshot_seen: int = 0

    @property
    def blobs(self) -> set[Blob]:
        """The blobs that the operations refer to."""
        return blobs_of(each.content for each in self.operations if isinstance(each, (WriteFile, AppendFile)))

    @property
    def is_tombstone(self) -> bool:
        """Whether it deletes the session: everything below it counts for nothing."""
        return Clear() in self.operations


def encode_commit(commit: Commit) -> tuple[bytes, bytes]:
    """Return the object that stores *commit*, and its digest, which :func:`next_chain` takes.

    Raises:
        ValueError: :func:`decode_commit` would refuse it: a header that contradicts itself, or too much in one commit.
    """
    broken = _broken_rule(commit)
    if broken is not None:
        raise ValueError(broken[1])
    if commit.is_tombstone and not _may_clear(commit):
        raise ValueError(_CLEAR_ALONE)
    header = _HEADER.pack(
        commit.sequence,
        commit.epoch,
        commit.writer,
        commit.nonce,
        commit.chain,
        commit.time_ms,
        len(commit.operations),
        _CLAIM if commit.claim else 0,
        commit.snapshot_seen,
    )
    out = Writer()
    out.records(len(commit.operations))
    blobs = table_of(commit.blobs)
    out.uint(len(blobs))
    for blob in blobs:
        write_blob(out, blob)
    for operation in commit.operations:
        _encode_operation(out, operation, blobs)
    return encode_frame(_KIND, header, out.to_bytes())


def decode_commit(key: str, data: bytes, *, sequence: int) -> tuple[Commit, bytes]:
    """Return the commit that is stored as *data* at *key*, and its digest.

    Raises:
        Corrupt: it is no commit, or not the one numbered *sequence*.
    """
    frame = decode_frame(key, _KIND, _HEADER.size, data)
    number, epoch, writer, nonce, chain, time_ms, count, flags, seen = _HEADER.unpack(frame.header)
    if number != sequence:
        raise Corrupt(key, HEADER_START, f"commit {number} stands where commit {sequence} belongs")
    if flags & ~_CLAIM:
        raise Corrupt(key, HEADER_START + 92, f"unknown commit flags {flags:#x}")
    if frame.version == 1:
        if seen:
            raise Corrupt(key, HEADER_START + 96, "reserved bytes are not zero")
        seen = number - 1 if flags & _CLAIM else 0
    commit = Commit(number, epoch, writer, nonce, chain, time_ms, bool(flags & _CLAIM), (), seen)
    broken = _broken_rule(commit)
    if broken is not None:
        raise Corrupt(key, HEADER_START + broken[0], broken[1])
    commit = replace(commit, operations=_decode_operations(key, frame, count))
    if commit.is_tombstone and not _may_clear(commit):
        raise frame.malformed(key, 0, _CLEAR_ALONE)
    return commit, frame.digest


def next_chain(chain: bytes, digest: bytes) -> bytes:
    """Return the chain after a commit whose frame has *digest*, given the *chain* before it."""
    return hashlib.sha256(chain + digest).digest()


def _may_clear(commit: Commit) -> bool:
    """Return whether *commit* is one that may clear the session: a claim that does nothing else, and saw nothing."""
    return commit.claim and len(commit.operations) == 1 and not commit.snapshot_seen


def _broken_rule(commit: Commit) -> tuple[int, str] | None:
    """Return which rule the header of *commit* breaks, with the offset of that field in bytes, or None."""
    number, epoch = commit.sequence, commit.epoch
    if not 1 <= number <= SEQUENCE_MAX:
        return 0, f"no commit has sequence number {number}"
    if not 1 <= epoch <= number:
        return 8, f"commit {number} is in epoch {epoch}, which a later commit would open"
    if commit.claim and epoch != number:
        return 8, f"commit {number} is a claim, but in epoch {epoch}"
    if not commit.claim and epoch == number:
        return 92, f"commit {number} opens its own epoch, but is no claim"
    for offset, what, data, size in (
        (16, "writer", commit.writer, ID_BYTES),
        (32, "nonce", commit.nonce, ID_BYTES),
        (48, "chain", commit.chain, DIGEST_BYTES),
    ):
        if len(data) != size:
            return offset, f"{what} of {len(data)} bytes, not {size}"
    if commit.claim and commit.chain != CHAIN_START:
        return 48, "a claim carries a chain"
    if not 0 <= commit.time_ms <= TIME_MS_MAX:
        return 80, f"time {commit.time_ms} ms is not between 0 and {TIME_MS_MAX} ms"
    if not 0 <= commit.snapshot_seen < (number if commit.claim else 1):
        return 96, f"commit {number} saw snapshot {commit.snapshot_seen}"
    return None


def _decode_operations(key: str, frame: Frame, count: int) -> tuple[Operation, ...]:
    reader = Reader(frame.payload)
    try:
        reader.records(count)
        contents = _Contents(reader, frame.version)
        operations: list[Operation] = []
        for _ in range(count):
            kind = reader.raw(1)
            decode = _DECODERS.get(kind)
            if decode is None or (kind == _CLEAR and frame.version == 1):
                raise Malformed(reader.offset - 1, f"unknown operation {kind!r}")
            operations.append(decode(reader, contents))
        contents.end()
        reader.end()
    except Malformed as error:
        raise frame.malformed(key, error.offset, error.reason) from None
    return tuple(operations)


class _Contents:
    """Takes contents off a payload: in version 1 bytes and nothing else."""

    def __init__(self, reader: Reader, version: int) -> None:
        self._reader = reader
        self._version = version
        self._blobs: list[Blob] = []
        self._used: set[Blob] = set()
        if version > 1:
            for _ in range(reader.uint()):
                self._blobs.append(read_blob(reader, self._blobs[-1] if self._blobs else None))

    def take(self) -> Content:
        if self._version == 1:
            return Content.of(self._reader.blob())
        return read_content(self._reader, self._blobs, self._used, Content)

    def end(self) -> None:
        if len(self._used) < len(self._blobs):
            raise Malformed(self._reader.offset, "a blob that nothing refers to")


def _encode_operation(out: Writer, operation: Operation, blobs: Mapping[Blob, int]) -> None:
    match operation:
        case MakeDirectory(path, mode, time_ms):
            out.raw(b"d")
            _write_path(out, path)
            out.mode(mode)
            out.time(time_ms)
        case WriteFile(path, content, mode, time_ms):
            out.raw(b"w")
            _write_path(out, path)
            out.mode(mode)
            out.time(time_ms)
            write_content(out, content, blobs)
        case AppendFile(path, content, time_ms):
            out.raw(b"a")
            _write_path(out, path)
            out.time(time_ms)
            write_content(out, content, blobs)
        case Remove(path, time_ms):
            out.raw(b"r")
            _write_path(out, path)
            out.time(time_ms)
        case Rename(source, target, time_ms):
            out.raw(b"m")
            _write_path(out, source)
            _write_path(out, target)
            out.time(time_ms)
        case WriteDatabase(size, extents):
            if size > DATABASE_BYTES_MAX:
                raise ValueError(f"a database of {size} bytes is over {DATABASE_BYTES_MAX}")
            out.raw(b"q")
            out.uint(size)
            out.uint(len(extents))
            out.records(len(extents))
            for offset, data in extents:
                out.uint(offset)
                out.blob(data)
        case Clear():
            out.raw(_CLEAR)


def _write_path(out: Writer, path: Path) -> None:
    if not all(map(is_name, path)) or length(path) > PATH_BYTES_MAX:
        raise ValueError(f"{shown(joined(path))} is not a normalised absolute path")
    out.records(len(path))
    out.text(joined(path))


def _read_path(reader: Reader) -> Path:
    start = reader.offset
    text = reader.text()
    names = tuple(text[1:].split("/")) if len(text) > 1 else ()
    if not text.startswith("/") or not all(map(is_name, names)) or length(names) > PATH_BYTES_MAX:
        raise Malformed(start, "not a normalised absolute path")
    reader.records(len(names))
    return names


def _read_database(reader: Reader) -> WriteDatabase:
    start = reader.offset
    size = reader.uint()
    if size > DATABASE_BYTES_MAX:
        raise Malformed(start, f"database of {size} bytes is over {DATABASE_BYTES_MAX}")
    count = reader.uint()
    reader.records(count)
    extents = tuple((reader.uint(), reader.blob()) for _ in range(count))
    return WriteDatabase(size, extents)


def _read_write(reader: Reader, contents: _Contents) -> WriteFile:
    path, mode, time_ms = _read_path(reader), reader.mode(), reader.time()
    return WriteFile(path, contents.take(), mode, time_ms)


def _read_append(reader: Reader, contents: _Contents) -> AppendFile:
    path, time_ms = _read_path(reader), reader.time()
    return AppendFile(path, contents.take(), time_ms)


_DECODERS: Final[dict[bytes, Callable[[Reader, _Contents], Operation]]] = {
    b"d": lambda reader, _: MakeDirectory(_read_path(reader), reader.mode(), reader.time()),
    b"w": _read_write,
    b"a": _read_append,
    b"r": lambda reader, _: Remove(_read_path(reader), reader.time()),
    b"m": lambda reader, _: Rename(_read_path(reader), _read_path(reader), reader.time()),
    b"q": lambda reader, _: _read_database(reader),
    _CLEAR: lambda _reader, _contents: Clear(),
}
