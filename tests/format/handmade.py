"""The format written down a second time, from ``docs/FORMAT.md`` and without the codec, which is held against it."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pytest

from sessionfs_s3.errors import Corrupt

KEY: Final = "tenants/t/sessions/s/log/fffffffffffffff8.c"
SEQUENCE: Final = 7
WRITER: Final = bytes(range(16))
NONCE: Final = bytes(range(16, 32))
CHAIN: Final = bytes(range(100, 132))
TIME_MS: Final = 1_795_000_000_000
NO_TABLES: Final = bytes(3)
"""What the payload of a snapshot begins with where there are no blobs and no claims."""


def uint(value: int) -> bytes:
    """Return an integer as 7 bits a byte, low ones first."""
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + uint(value // 128)


def blob(data: bytes) -> bytes:
    """Return bytes after their length."""
    return uint(len(data)) + data


def held(data: bytes) -> bytes:
    """Return a part of contents: bytes where they stand."""
    return uint(2 * len(data)) + data


def run(index: int, offset: int, *chunks: tuple[int, bool, bytes]) -> bytes:
    """Return a part of contents: chunks (length, compressed, digest) of the blob *index*, from *offset* on."""
    refs = [uint(2 * length + compressed) + digest for length, compressed, digest in chunks]
    return uint(2 * len(chunks) + 1) + uint(index) + uint(offset) + b"".join(refs)


def content(size: int, *parts: bytes) -> bytes:
    """Return contents of *size* bytes in all."""
    return uint(size) + b"".join(parts)


def inline(data: bytes) -> bytes:
    """Return contents that are held where they stand."""
    return content(len(data), *([held(data)] if data else []))


def entry(epoch: int, blob_id: bytes, size: int) -> bytes:
    """Return the name and size of a blob as a table lists it."""
    return struct.pack(">Q16s", epoch, blob_id) + uint(size)


def table(*entries: bytes) -> bytes:
    """Return a table of blobs, or of numbers."""
    return uint(len(entries)) + b"".join(entries)


def text(value: str) -> bytes:
    """Return a string's UTF-8 form after its length."""
    return blob(value.encode())


def frame(
    kind: bytes,
    header: bytes,
    payload: bytes,
    *,
    stored: bytes | None = None,
    magic: bytes = b"SFS3",
    version: int = 2,
    flags: int | None = None,
    reserved: int = 0,
    header_length: int | None = None,
    stored_length: int | None = None,
    payload_length: int | None = None,
) -> bytes:
    """Return a frame with a right checksum; each field may be given another value than the one that belongs there."""
    body = payload if stored is None else stored
    fixed = magic + struct.pack(
        ">BcHIQQI",
        version,
        kind,
        (0 if stored is None else 1) if flags is None else flags,
        len(header) if header_length is None else header_length,
        len(body) if stored_length is None else stored_length,
        len(payload) if payload_length is None else payload_length,
        reserved,
    )
    return fixed + hashlib.sha256(fixed + header + body).digest() + header + body


def commit_header(
    *,
    sequence: int = SEQUENCE,
    epoch: int = 3,
    writer: bytes = WRITER,
    nonce: bytes = NONCE,
    chain: bytes = CHAIN,
    time_ms: int = TIME_MS,
    count: int = 0,
    flags: int = 0,
    seen: int = 0,
) -> bytes:
    """Return the 104 bytes of a commit's header."""
    return struct.pack(">QQ16s16s32sQIIQ", sequence, epoch, writer, nonce, chain, time_ms, count, flags, seen)


def snapshot_header(
    *,
    sequence: int = SEQUENCE,
    epoch: int = 3,
    writer: bytes = WRITER,
    chain: bytes = CHAIN,
    time_ms: int = TIME_MS,
    reserved: int = 0,
) -> bytes:
    """Return the 80 bytes of a snapshot's header."""
    return struct.pack(">QQ16s32sQQ", sequence, epoch, writer, chain, time_ms, reserved)


def blob_header(*, epoch: int = 3, blob_id: bytes = NONCE, reserved: int = 0) -> bytes:
    """Return the 32 bytes of a blob's header."""
    return struct.pack(">Q16sQ", epoch, blob_id, reserved)


def commit(payload: bytes, count: int, *blobs: bytes) -> bytes:
    """Return a commit of *count* operations and these entries of its table, right but for what *payload* holds."""
    return frame(b"c", commit_header(count=count), table(*blobs) + payload)


def commit_of_version_1(payload: bytes, count: int) -> bytes:
    """Return the same as version 1 had it: without a table."""
    return frame(b"c", commit_header(count=count), payload, version=1)


def snapshot(payload: bytes, tables: bytes = NO_TABLES) -> bytes:
    """Return a snapshot, right but for what *tables* and *payload* hold."""
    return frame(b"s", snapshot_header(), tables + payload)


def snapshot_of_version_1(payload: bytes) -> bytes:
    """Return the same as version 1 had it: without tables."""
    return frame(b"s", snapshot_header(), payload, version=1)


def tables(*blobs: tuple[bytes, int], fenced_from: int = 0, fences: Sequence[tuple[int, int]] = ()) -> bytes:
    """Return what a snapshot's payload begins with.

    A blob is its entry and the commit it died in; of claims there is the number and the snapshot that was seen.
    """
    listed = table(*(each + uint(died) for each, died in blobs))
    return listed + uint(fenced_from) + table(*(uint(fence) + uint(seen) for fence, seen in fences))


def node(depth: int, kind: bytes, name: str | bytes, data: bytes | None = None, *, mode: int = 0o644) -> bytes:
    """Return a node of a snapshot; *data* is what a file holds, None where that follows."""
    raw = name if isinstance(name, bytes) else name.encode()
    contents = b"" if data is None else inline(data)
    return uint(depth) + kind + blob(raw) + uint(mode) + uint(1000) + uint(1000) + contents


@contextmanager
def corrupt(offset: int, reason: str) -> Iterator[None]:
    """Expect ``Corrupt`` at *offset* of :data:`KEY` for a *reason* that holds this text."""
    with pytest.raises(Corrupt, match=re.escape(reason)) as caught:
        yield
    error = caught.value
    assert (error.key, error.offset) == (KEY, offset), f"{error.reason}, at byte {error.offset}"
    assert reason in error.reason
    assert str(error).endswith(f"{KEY}: corrupt at byte {offset}: {error.reason}")
