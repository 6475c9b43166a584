"""The format written down a second time, from ``docs/FORMAT.md`` and without the codec, which is held against it."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
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


def uint(value: int) -> bytes:
    """Return an integer as 7 bits a byte, low ones first."""
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + uint(value // 128)


def blob(data: bytes) -> bytes:
    """Return bytes after their length."""
    return uint(len(data)) + data


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
    version: int = 1,
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
    reserved: int = 0,
) -> bytes:
    """Return the 104 bytes of a commit's header."""
    return struct.pack(">QQ16s16s32sQIIQ", sequence, epoch, writer, nonce, chain, time_ms, count, flags, reserved)


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


def commit(payload: bytes, count: int) -> bytes:
    """Return a commit of *count* operations, right but for what *payload* holds."""
    return frame(b"c", commit_header(count=count), payload)


def snapshot(payload: bytes) -> bytes:
    """Return a snapshot, right but for what *payload* holds."""
    return frame(b"s", snapshot_header(), payload)


def node(depth: int, kind: bytes, name: str | bytes, content: bytes | None = None, *, mode: int = 0o644) -> bytes:
    """Return a node of a snapshot; *content* is that of a file."""
    raw = name if isinstance(name, bytes) else name.encode()
    contents = b"" if content is None else blob(content)
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
