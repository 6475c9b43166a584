"""A snapshot: the whole state after a commit, so that a resume needs nothing older.

Header, big-endian, 80 bytes::

    0   8  sequence number of the commit after which this is the state
    8   8  epoch of that commit
    16  16 writer of that commit
    32  32 chain after that commit
    64  8  time of that commit, milliseconds since the Unix epoch
    72  8  zero

Payload: the nodes of the tree from the root down, each directory before what it holds, names ascending. A node is its
depth, a kind byte, its name (empty for the root), mode, mtime, birthtime, and for a file its contents. Then the number
of databases, 0 or 1, and its contents.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sessionfs_s3.errors import Corrupt, shown
from sessionfs_s3.format.frame import DIGEST_BYTES, HEADER_START, decode_frame, encode_frame
from sessionfs_s3.format.limits import ID_BYTES, SEQUENCE_MAX, TIME_MS_MAX
from sessionfs_s3.format.wire import Malformed, Reader, Writer
from sessionfs_s3.fs.content import Content
from sessionfs_s3.fs.paths import PATH_BYTES_MAX, is_name
from sessionfs_s3.fs.tree import EMPTY_TREE, Directory, File, Node, Tree

_KIND: Final = b"s"
_HEADER: Final = struct.Struct(">QQ16s32sQQ")
_DIRECTORY: Final = b"d"
_FILE: Final = b"f"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the commit numbered *sequence*; the other fields are that commit's (see :class:`Commit`).

    Attributes:
        chain: the chain *after* the commit.
    """

    sequence: int
    epoch: int
    writer: bytes
    chain: bytes
    time_ms: int
    tree: Tree


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
    waiting: list[tuple[int, str, Node]] = [(0, "", snapshot.tree.root)]
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
            _write_content(out, node.content)
        else:
            children = sorted(node.entries.items(), reverse=True)
            waiting.extend((depth + 1, child, each) for child, each in children)
    out.uint(0)
    out.uint(1 if snapshot.tree.database is not None else 0)
    if snapshot.tree.database is not None:
        _write_content(out, snapshot.tree.database)
    return encode_frame(_KIND, header, out.to_bytes())[0]


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
        root = _read_tree(reader)
        databases = reader.uint()
        if databases > 1:
            raise Malformed(reader.offset - 1, f"{databases} databases")
        database = Content.of(reader.blob()) if databases else None
        reader.end()
    except Malformed as error:
        raise frame.malformed(key, error.offset, error.reason) from None
    return replace(snapshot, tree=Tree(root, database))


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


def _write_content(out: Writer, content: Content) -> None:
    out.uint(content.size)
    for chunk in content.chunks:
        out.raw(chunk)


@dataclass(slots=True)
class _Open:
    """A directory whose entries are still being read; *room* is what is left of the longest path, in bytes."""

    entries: dict[str, Node]
    last: str
    room: int


def _read_tree(reader: Reader) -> Directory:
    """Read nodes up to the next depth of 0, which ends the tree."""
    root_entries: dict[str, Node] = {}
    depth = reader.uint()
    kind, name, mode, mtime_ms, birthtime_ms = _read_fields(reader)
    if depth or kind != _DIRECTORY or name:
        raise Malformed(0, "the first node is not the root")
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
            parent.entries[name] = File(Content.of(reader.blob()), mode, mtime_ms, birthtime_ms)
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
