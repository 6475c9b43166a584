"""What the fuzzer calls: each decoder with a right checksum around its input, and what has to hold of what it gives.

An input is one byte that chooses the target, and the rest. A target takes any bytes; it lets nothing but ``Corrupt``
count as a refusal, and encodes again what was decoded: the same bytes for the newest version, the same value for an
older one. Importing this module patches nothing; :func:`shorten_chunks` does.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import zstandard

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import (
    FORMAT_VERSION,
    TOMBSTONE_BYTES,
    Commit,
    Kind,
    SessionKeys,
    Snapshot,
    StoredChunk,
    decode_blob,
    decode_commit,
    decode_snapshot,
    encode_blob,
    encode_commit,
    encode_snapshot,
    pack_chunk,
    parse_blob_name,
    parse_log_name,
    unpack_chunk,
)
from sessionfs_s3.format import contents as format_contents
from sessionfs_s3.format.frame import decode_frame, encode_frame
from sessionfs_s3.fs import AppendFile, Blob, Chunk, Content, Directory, File, Pages, Place, Tree, WriteFile, digest_of
from sessionfs_s3.fs import chunk as fs_chunk
from sessionfs_s3.fs import content as fs_content
from tests.format import golden
from tests.fs.strategies import dump

KEY: Final = "fuzzed"
KEYS: Final = SessionKeys.of("t", "s")
HEADERS: Final = {b"c": 104, b"s": 80, b"b": 32}
SHORT_CHUNK_BYTES: Final = 32
SHORT_PAGES_CHUNK_BYTES: Final = 16
NUMBER_MAX: Final = (1 << 63) - 1
"""Largest number of a commit in a snapshot's tables."""


def shorten_chunks() -> None:
    """Make chunks so short, in this process, that inputs of some hundred bytes hold many of them."""
    for module in (fs_chunk, fs_content, format_contents):
        module.__dict__["CHUNK_BYTES"] = SHORT_CHUNK_BYTES
        module.__dict__["PAGES_CHUNK_BYTES"] = SHORT_PAGES_CHUNK_BYTES


def check(data: bytes) -> bool:
    """Run the target that *data* chooses; return whether its input was accepted. Raises where a decoder is wrong."""
    if not data:
        return False
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except Corrupt:
        return False
    return True


def framed(kind: bytes, header: bytes, payload: bytes, version: int) -> bytes:
    """Return an object with a right checksum."""
    fixed = b"SFS3" + struct.pack(">BcHIQQI", version, kind, 0, len(header), len(payload), len(payload), 0)
    return fixed + hashlib.sha256(fixed + header + payload).digest() + header + payload


def _parts(kind: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Split *data* into a header, filled with zeros where it is short, and a payload."""
    size = HEADERS[kind]
    return data[:size].ljust(size, b"\0"), data[size:]


def _check_commit(data: bytes) -> None:
    sequence = int.from_bytes(data[64:72])
    found, digest = decode_commit(KEY, data, sequence=sequence)
    assert digest == data[32:64]
    assert found.is_tombstone == (len(data) == TOMBSTONE_BYTES), "a listing shows where a log begins anew"
    again, _ = encode_commit(found)
    if data[4] == FORMAT_VERSION:
        _assert_same(b"c", data, again)
    assert decode_commit(KEY, again, sequence=sequence)[0] == found


def _check_snapshot(data: bytes) -> None:
    sequence = int.from_bytes(data[64:72])
    found = decode_snapshot(KEY, data, sequence=sequence)
    if data[4] != FORMAT_VERSION and sequence > NUMBER_MAX:
        found = replace(found, fenced_from=NUMBER_MAX)
    again = encode_snapshot(found)
    if data[4] == FORMAT_VERSION:
        _assert_same(b"s", data, again)
    read = decode_snapshot(KEY, again, sequence=sequence)
    assert dump(read.tree) == dump(found.tree)
    assert replace(read, tree=found.tree) == found


def _check_blob(data: bytes) -> None:
    found = decode_blob(KEY, data)
    payload = data[96:]
    again, blob, (place,) = encode_blob(
        found.epoch, found.id, [StoredChunk(payload, False, digest_of(payload), len(payload))]
    )
    assert (again, blob) == (data, found)
    assert unpack_chunk(KEY, place, payload) == payload


def _assert_same(kind: bytes, data: bytes, again: bytes) -> None:
    """Assert that two objects say the same before compression: what decodes has no other form."""
    ours, theirs = (decode_frame(KEY, kind, HEADERS[kind], each) for each in (data, again))
    assert (ours.header, ours.payload) == (theirs.header, theirs.payload), "what decodes has another form"


def _commit_1(data: bytes) -> None:
    _check_commit(framed(b"c", *_parts(b"c", data), version=1))


def _commit_2(data: bytes) -> None:
    _check_commit(framed(b"c", *_parts(b"c", data), version=2))


def _snapshot_1(data: bytes) -> None:
    _check_snapshot(framed(b"s", *_parts(b"s", data), version=1))


def _snapshot_2(data: bytes) -> None:
    _check_snapshot(framed(b"s", *_parts(b"s", data), version=2))


def _blob(data: bytes) -> None:
    _check_blob(framed(b"b", *_parts(b"b", data), version=2))


def _frame(data: bytes) -> None:
    """Take *data* as a whole object, every field as it comes, and only its checksum mended."""
    if len(data) >= 64:
        data = data[:32] + hashlib.sha256(data[:32] + data[64:]).digest() + data[64:]
    {b"c": _check_commit, b"s": _check_snapshot, b"b": _check_blob}.get(data[5:6], _check_commit)(data)


def _compressed(data: bytes) -> None:
    """Take *data* as a Zstandard frame, and announce what it announces."""
    try:
        length = zstandard.frame_content_size(data)
    except zstandard.ZstdError:
        length = 0
    fixed = b"SFS3" + struct.pack(">BcHIQQI", 2, b"b", 1, 0, len(data), length if 0 <= length < 1 << 20 else 9, 0)
    found = decode_frame(KEY, b"b", 0, fixed + hashlib.sha256(fixed + data).digest() + data)
    assert len(data) < len(found.payload) == length
    again, _ = encode_frame(b"b", b"", found.payload)
    assert decode_frame(KEY, b"b", 0, again).payload == found.payload


def _chunk(data: bytes) -> None:
    """Take *data* as a size (two bytes), a flag, and the stored form of a chunk whose digest fits if anything can."""
    size, compressed, stored = int.from_bytes(data[:2]) + 1, bool(data[2:3]) and bool(data[2] & 1), data[3:]
    digest = digest_of(stored)
    if compressed:
        try:
            digest = digest_of(zstandard.ZstdDecompressor().decompressobj().decompress(stored)[: 1 << 17])
        except zstandard.ZstdError:
            digest = bytes(16)
    place = Place(Blob(1, bytes(16), 1 << 20), 96, len(stored), compressed, digest, size)
    found = unpack_chunk(KEY, place, stored)
    assert (len(found), digest_of(found)) == (size, digest)
    packed = pack_chunk(found)
    again = replace(place, length=len(packed.data), compressed=packed.compressed)
    assert unpack_chunk(KEY, again, packed.data) == found


def _names(data: bytes) -> None:
    name = data.decode("utf-8", "surrogateescape")
    log = parse_log_name(name)
    if log is not None:
        key = KEYS.commit if log.kind is Kind.COMMIT else KEYS.snapshot
        assert key(log.sequence) == KEYS.log + name
    blob = parse_blob_name(name)
    if blob is not None:
        assert KEYS.blob(Blob(*blob, 0)) == KEYS.blobs + name
    if log is None and blob is None:
        raise Corrupt(KEY, 0, "not ours")


TARGETS: Final[tuple[Callable[[bytes], None], ...]] = (
    _commit_2,
    _snapshot_2,
    _commit_1,
    _snapshot_1,
    _blob,
    _frame,
    _compressed,
    _chunk,
    _names,
)


def seeds() -> Iterator[bytes]:
    """Return inputs that reach far: the golden files, as they are and decompressed, and objects with small chunks."""
    number = {target: bytes([index]) for index, target in enumerate(TARGETS)}
    by_kind = {(b"c", 1): _commit_1, (b"c", 2): _commit_2, (b"s", 1): _snapshot_1, (b"s", 2): _snapshot_2}
    objects = [golden.path(name).read_bytes() for name in golden.GOLDEN]
    for data in [*objects, *_small_objects()]:
        kind, version = data[5:6], data[4]
        yield number[_frame] + data
        target = _blob if kind == b"b" else by_kind[kind, version]
        found = decode_frame(KEY, kind, HEADERS[kind], data)
        yield number[target] + found.header + found.payload
    packed = pack_chunk(b"x" * 300)
    yield number[_compressed] + packed.data
    yield number[_chunk] + (299).to_bytes(2) + b"\1" + packed.data
    yield number[_chunk] + (4).to_bytes(2) + b"\0plain"
    yield number[_names] + KEYS.commit(7).removeprefix(KEYS.log).encode()
    yield number[_names] + KEYS.snapshot(7).removeprefix(KEYS.log).encode()
    yield number[_names] + KEYS.blob(Blob(7, bytes(16), 1)).removeprefix(KEYS.blobs).encode()


def _small_objects() -> Iterator[bytes]:
    """Return a commit and a snapshot with runs of chunks of the size that is in force."""
    size = fs_chunk.CHUNK_BYTES
    one, other = Blob(2, bytes(16), 1 << 20), Blob(3, b"\1" * 16, 1 << 21)
    places = [
        Place(one, 96, size, False, b"\2" * 16, size),
        Place(one, 96 + size, 5, True, b"\3" * 16, size),
        Place(other, 200, size, False, b"\4" * 16, size),
        Place(one, 300, 7, False, b"\5" * 16, 7),
    ]
    chunks = [Chunk(place.size, place) for place in places]
    mixed = Content((Chunk.held(b"m" * size), *chunks[:2], Chunk.held(b"tail")), 3 * size + 4)
    far = Content((*chunks,), 3 * size + 7)
    commit = golden.GOLDEN["v2/commit"].value
    assert isinstance(commit, Commit)
    operations = (WriteFile(("f",), mixed, 0, 1), AppendFile(("f",), far, 2))
    yield encode_commit(replace(commit, operations=operations))[0]
    snapshot = golden.GOLDEN["v2/snapshot"].value
    assert isinstance(snapshot, Snapshot)
    root = Directory(MappingProxyType({"a": File(mixed, 0, 1, 1), "b": File(far, 0, 1, 1)}), 0, 1, 1)
    place = Place(one, 400, step := fs_chunk.PAGES_CHUNK_BYTES, False, b"\6" * 16, step)
    pages = Pages((Chunk.held(b"p" * step), Chunk(step, place), Chunk.held(b"end")), 2 * step + 3)
    died = {replace(one, epoch=1): 20}
    yield encode_snapshot(replace(snapshot, tree=Tree(root, pages), died=died, fences={7: 0, 9: 8}, fenced_from=3))
