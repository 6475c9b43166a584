"""A snapshot: the whole state after a commit, so that a resume needs nothing older.

Header, big-endian, 80 bytes::

    0   8  sequence number of the commit after which this is the state
    8   8  epoch of that commit
    16  16 writer of that commit
    32  32 chain after that commit
    64  8  time of that commit, milliseconds since the Unix epoch
    72  8  zero

Payload: the blobs of the session and the fences (version 1 has neither), then the nodes of the tree from the root down,
each directory before what it holds, names ascending. A node is its depth, a kind byte, its name (empty for the root),
mode, mtime, birthtime, and for a file its contents. Then the number of databases, 0 or 1, and its contents.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from sessionfs_s3.errors import Corrupt, shown
from sessionfs_s3.format.contents import (
    ContentT,
    blobs_of,
    read_blob,
    read_content,
    table_of,
    write_blob,
    write_content,
)
from sessionfs_s3.format.frame import DIGEST_BYTES, HEADER_START, decode_frame, encode_frame
from sessionfs_s3.format.limits import ID_BYTES, SEQUENCE_MAX, TIME_MS_MAX
from sessionfs_s3.format.wire import Malformed, Reader, Writer
from sessionfs_s3.fs.chunk import Blob
from sessionfs_s3.fs.content import Content, Pages
from sessionfs_s3.fs.paths import PATH_BYTES_MAX, is_name
from sessionfs_s3.fs.tree import EMPTY_TREE, Directory, File, Node, Tree, contents

_KIND: Final = b"s"
_HEADER: Final = struct.Struct(">QQ16s32sQQ")
_DIRECTORY: Final = b"d"
_FILE: Final = b"f"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the commit numbered *sequence*; the other fields are that commit's (see :class:`Commit`).

    Attributes:
        chain: the chain *after* the commit.
        died: the blobs that the tree does not refer to any more, but an older snapshot or commit may; each with the
            number of the first snapshot without it.
        fences: the numbers of the claims above *fenced_from* that collection has kept, ascending; beside each the
            newest snapshot that its writer saw.
        fenced_from: at and below this number it is not known which commits are claims.
    """

    sequence: int
    epoch: int
    writer: bytes
    chain: bytes
    time_ms: int
    tree: Tree
    died: Mapping[Blob, int] = field(default_factory=lambda: MappingProxyType[Blob, int]({}))
    fences: Mapping[int, int] = field(default_factory=lambda: MappingProxyType[int, int]({}))
    fenced_from: int = 0

    @property
    def blobs(self) -> set[Blob]:
        """The blobs that the tree refers to."""
        return blobs_of(contents(self.tree))


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return the object that stores *snapshot*.

    Raises:
        ValueError: :func:`decode_snapshot` would refuse it: the state is larger than one frame may be, or the header
            contradicts itself.
    """
    broken = _broken_rule(snapshot)
    if broken is not None:
        raise ValueError(broken[1])
    header = _HEADER.pack(snapshot.sequence, snapshot.epoch, snapshot.writer, snapshot.chain, snapshot.time_ms, 0)
    out = Writer()
    blobs = _write_tables(out, snapshot)
    _write_tree(out, snapshot.tree, blobs)
    return encode_frame(_KIND, header, out.to_bytes())[0]


def _write_tables(out: Writer, snapshot: Snapshot) -> dict[Blob, int]:
    """Write the blobs and the fences; return each blob's place in the table."""
    alive = snapshot.blobs
    blobs = table_of(alive | snapshot.died.keys())
    for blob, died in snapshot.died.items():
        if blob in alive or not 1 <= died <= snapshot.sequence:
            raise ValueError(f"blob {blob.id.hex()} of snapshot {snapshot.sequence} died in {died}, or did not")
    for before, fence in pairwise((snapshot.fenced_from, *snapshot.fences, snapshot.sequence + 1)):
        if not 0 <= before < fence:
            raise ValueError(f"the claims of snapshot {snapshot.sequence} are not in order: {before}, {fence}")
    for fence, seen in snapshot.fences.items():
        if not 0 <= seen < fence:
            raise ValueError(f"claim {fence} saw snapshot {seen}")
    out.uint(len(blobs))
    for blob in blobs:
        write_blob(out, blob)
        out.uint(snapshot.died.get(blob, 0))
    out.uint(snapshot.fenced_from)
    out.uint(len(snapshot.fences))
    out.records(len(snapshot.fences))
    for fence, seen in snapshot.fences.items():
        out.uint(fence)
        out.uint(seen)
    return blobs


def _write_tree(out: Writer, tree: Tree, blobs: Mapping[Blob, int]) -> None:
    waiting: list[tuple[int, str, Node]] = [(0, "", tree.root)]
    while waiting:
        depth, name, node = waiting.pop()
        out.records(1)
        out.uint(depth)
        out.raw(_DIRECTORY if isinstance(node, Directory) else _FILE)
        out.text(name)
        out.mode(node.mode)
        out.time(node.mtime_ms)
        out.time(node.birthtime_ms)
        if isinstance(node, File):
            write_content(out, node.content, blobs)
        else:
            children = sorted(node.entries.items(), reverse=True)
            waiting.extend((depth + 1, child, each) for child, each in children)
    out.uint(0)
    out.uint(1 if tree.database is not None else 0)
    if tree.database is not None:
        write_content(out, tree.database, blobs)


def decode_snapshot(key: str, data: bytes, *, sequence: int) -> Snapshot:
    """Return the snapshot that is stored as *data* at *key*.

    Raises:
        Corrupt: it is no snapshot, or not the one after commit *sequence*.
    """
    frame = decode_frame(key, _KIND, _HEADER.size, data)
    number, epoch, writer, chain, time_ms, zero = _HEADER.unpack(frame.header)
    if number != sequence:
        raise Corrupt(key, HEADER_START, f"snapshot {number} stands where snapshot {sequence} belongs")
    if zero:
        raise Corrupt(key, HEADER_START + 72, "reserved bytes are not zero")
    snapshot = Snapshot(number, epoch, writer, chain, time_ms, EMPTY_TREE)
    broken = _broken_rule(snapshot)
    if broken is not None:
        raise Corrupt(key, HEADER_START + broken[0], broken[1])
    reader = Reader(frame.payload)
    try:
        tables = _Tables(reader, number) if frame.version > 1 else None
        root = _read_tree(reader, tables)
        databases = reader.uint()
        if databases > 1:
            raise Malformed(reader.offset - 1, f"{databases} databases")
        database = _read_content(reader, tables, Pages) if databases else None
        reader.end()
        if tables is None:
            # Which commits are claims, version 1 does not tell.
            return replace(snapshot, tree=Tree(root, database), fenced_from=number)
        died = tables.died()
    except Malformed as error:
        raise frame.malformed(key, error.offset, error.reason) from None
    return replace(snapshot, tree=Tree(root, database), died=died, fences=tables.fences, fenced_from=tables.fenced_from)


class _Tables:
    """The blobs and fences of a snapshot of the commit *sequence*."""

    def __init__(self, reader: Reader, sequence: int) -> None:
        self._reader = reader
        self._died_at: list[int] = []
        self.blobs: list[Blob] = []
        self.used: set[Blob] = set()
        for _ in range(reader.uint()):
            self.blobs.append(read_blob(reader, self.blobs[-1] if self.blobs else None))
            self._died_at.append(self._number("a blob died in", sequence))
        self.fenced_from = self._number("claims are known from", sequence)
        count = reader.uint()
        reader.records(count)
        fences: dict[int, int] = {}
        last = self.fenced_from
        for _ in range(count):
            start = reader.offset
            fence = self._number("a claim has", sequence)
            if fence <= last:
                raise Malformed(start, "the claims are not in order")
            fences[fence] = self._number("a claim saw the snapshot of", fence - 1)
            last = fence
        self.fences = MappingProxyType(fences)

    def died(self) -> Mapping[Blob, int]:
        """Return the blobs that died, and when; every other one has to be referred to by now."""
        died = dict(zip(self.blobs, self._died_at, strict=True))
        for blob, sequence in died.items():
            if (blob in self.used) == bool(sequence):
                raise Malformed(
                    self._reader.offset, f"blob {blob.id.hex()} is referred to, or died: not both, not neither"
                )
        return MappingProxyType({blob: sequence for blob, sequence in died.items() if sequence})

    def _number(self, what: str, most: int) -> int:
        start = self._reader.offset
        number = self._reader.uint()
        if number > most:
            raise Malformed(start, f"{what} commit {number}, which comes after {most}")
        return number


def _read_content(reader: Reader, tables: _Tables | None, kind: type[ContentT]) -> ContentT:
    content = kind.of(reader.blob()) if tables is None else read_content(reader, tables.blobs, tables.used, kind)
    for chunk in content.chunks:
        chunk.settled = True
    return content


def _broken_rule(snapshot: Snapshot) -> tuple[int, str] | None:
    """Return which rule the header of *snapshot* breaks, with the offset of that field in bytes, or None."""
    number, epoch = snapshot.sequence, snapshot.epoch
    if not 1 <= number <= SEQUENCE_MAX:
        return 0, f"no snapshot has sequence number {number}"
    if not 1 <= epoch <= number:
        return 8, f"snapshot {number} is in epoch {epoch}, which a later commit would open"
    if len(snapshot.writer) != ID_BYTES:
        return 16, f"writer of {len(snapshot.writer)} bytes, not {ID_BYTES}"
    if len(snapshot.chain) != DIGEST_BYTES:
        return 32, f"chain of {len(snapshot.chain)} bytes, not {DIGEST_BYTES}"
    if not 0 <= snapshot.time_ms <= TIME_MS_MAX:
        return 64, f"time {snapshot.time_ms} ms is not between 0 and {TIME_MS_MAX} ms"
    return None


@dataclass(slots=True)
class _Open:
    """A directory whose entries are still being read; *room* is what is left of the longest path, in bytes."""

    entries: dict[str, Node]
    last: str
    room: int


def _read_tree(reader: Reader, tables: _Tables | None) -> Directory:
    """Read nodes up to the next depth of 0, which ends the tree."""
    root_entries: dict[str, Node] = {}
    start = reader.offset
    depth = reader.uint()
    kind, name, mode, mtime_ms, birthtime_ms = _read_fields(reader)
    if depth or kind != _DIRECTORY or name:
        raise Malformed(start, "the first node is not the root")
    root = Directory(MappingProxyType(root_entries), mode, mtime_ms, birthtime_ms)
    stack = [_Open(root_entries, "", PATH_BYTES_MAX)]
    while True:
        start = reader.offset
        depth = reader.uint()
        if depth == 0:
            return root
        if depth > len(stack):
            raise Malformed(start, f"a node at depth {depth} below one at depth {len(stack) - 1}")
        del stack[depth:]
        parent = stack[-1]
        kind, name, mode, mtime_ms, birthtime_ms = _read_fields(reader)
        room = parent.room - len(name.encode()) - 1
        if not is_name(name) or name <= parent.last or room < 0:
            raise Malformed(start, f"name {shown(name)} is invalid, repeated, out of order or too deep")
        parent.last = name
        if kind == _FILE:
            parent.entries[name] = File(_read_content(reader, tables, Content), mode, mtime_ms, birthtime_ms)
        else:
            entries: dict[str, Node] = {}
            parent.entries[name] = Directory(MappingProxyType(entries), mode, mtime_ms, birthtime_ms)
            stack.append(_Open(entries, "", room))


def _read_fields(reader: Reader) -> tuple[bytes, str, int, int, int]:
    reader.records(1)
    kind = reader.raw(1)
    if kind not in {_DIRECTORY, _FILE}:
        raise Malformed(reader.offset - 1, f"unknown node {kind!r}")
    return kind, reader.text(), reader.mode(), reader.time(), reader.time()
