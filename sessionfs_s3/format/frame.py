"""The frame around every object of the log: what it is, how long, compressed or not, and a checksum over all of it.

Big-endian, 64 bytes before the header::

    0   4  magic "SFS3"
    4   1  format version: 2; 1 is read as well
    5   1  kind: "c" commit, "s" snapshot, "b" blob
    6   2  flags: bit 0 payload compressed (Zstandard, shorter than it was), bit 1 encrypted (refused), others zero
    8   4  header length in bytes
    12  8  payload length in bytes, as stored
    20  8  payload length in bytes, decompressed
    28  4  zero
    32  32 SHA-256 of bytes 0 to 31, the header and the payload as stored
    64     header, then payload; nothing follows
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import zstandard

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format.limits import PAYLOAD_BYTES_MAX

FORMAT_VERSION: Final = 2
"""What is written."""

VERSIONS_READ: Final = (1, 2)
MAGIC: Final = b"SFS3"
DIGEST_BYTES: Final = 32
_FIXED: Final = struct.Struct(">4sBcHIQQI")

HEADER_START: Final = _FIXED.size + DIGEST_BYTES
"""Where the header of every frame begins, in bytes."""

_COMPRESSED: Final = 1
_ENCRYPTED: Final = 2

COMPRESS_BYTES_MIN: Final = 128
"""Payloads below this are stored as they are: Zstandard's own frame would cost more than it saves."""

_COMPRESS_LEVEL: Final = 3
"""Zstandard's default: the knee of its speed and ratio curve."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: its *header*, its *payload* (decompressed), and the *digest* that it carried and that fits."""

    version: int
    header: bytes
    payload: bytes
    digest: bytes

    def malformed(self, key: str, offset: int, reason: str) -> Corrupt:
        """Return the error for a payload that breaks a rule at *offset* bytes from its own, decompressed start.

        Its ``offset`` is where the payload starts in the object: inside a compressed one there is no closer place.
        """
        return Corrupt(key, HEADER_START + len(self.header), f"payload byte {offset}: {reason}")


def encode_frame(kind: bytes, header: bytes, payload: bytes, *, compress: bool = True) -> tuple[bytes, bytes]:
    """Return the frame around *header* and *payload*, and its digest. *kind* is one byte.

    With *compress* the payload is compressed where that makes it smaller.

    Raises:
        ValueError: the payload is over :data:`PAYLOAD_BYTES_MAX`; callers bound what they put together.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a payload of {len(payload)} bytes is over {PAYLOAD_BYTES_MAX}")
    flags, stored = 0, payload
    if compress and len(payload) >= COMPRESS_BYTES_MIN:
        compressed = compressed_form(payload)
        if len(compressed) < len(payload):
            flags, stored = _COMPRESSED, compressed
    fixed = _FIXED.pack(MAGIC, FORMAT_VERSION, kind, flags, len(header), len(stored), len(payload), 0)
    digest = _digest(fixed, header, stored)
    return b"".join((fixed, digest, header, stored)), digest


def decode_frame(key: str, kind: bytes, header_size: int, data: bytes) -> Frame:
    """Return what the frame *data*, stored at *key*, holds; *kind* and *header_size* are those expected.

    Raises:
        Corrupt: any rule above is broken, or the version, the kind or a flag is one that this version does not know.
    """
    if len(data) < HEADER_START:
        raise Corrupt(key, len(data), f"shorter than the {HEADER_START} bytes that every frame has")
    magic, version, found, flags, header_length, stored_length, payload_length, zero = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise Corrupt(key, 0, f"no frame: starts with {magic!r}, not {MAGIC!r}")
    if version not in VERSIONS_READ:
        readable = " and ".join(map(str, VERSIONS_READ))
        raise Corrupt(key, 4, f"format version {version}; this release reads versions {readable}")
    if found != kind:
        raise Corrupt(key, 5, f"kind {found!r} where {kind!r} belongs")
    if flags & _ENCRYPTED:
        raise Corrupt(key, 6, "flag bit 1 (encrypted) is set; this release cannot decrypt")
    if flags & ~_COMPRESSED:
        raise Corrupt(key, 6, f"unknown flags {flags:#06x}")
    if header_length != header_size:
        raise Corrupt(key, 8, f"header of {header_length} bytes where {header_size} belong")
    if HEADER_START + header_length + stored_length != len(data):
        announced = HEADER_START + header_length + stored_length
        raise Corrupt(key, 12, f"object of {len(data)} bytes, its lengths add up to {announced}")
    if payload_length > PAYLOAD_BYTES_MAX:
        raise Corrupt(key, 20, f"payload of {payload_length} bytes is over {PAYLOAD_BYTES_MAX}")
    if zero:
        raise Corrupt(key, 28, "reserved bytes are not zero")
    fixed, digest = data[: _FIXED.size], data[_FIXED.size : HEADER_START]
    header, stored = data[HEADER_START : HEADER_START + header_length], data[HEADER_START + header_length :]
    if _digest(fixed, header, stored) != digest:
        raise Corrupt(key, _FIXED.size, "the checksum does not match")
    payload = _payload(key, HEADER_START + header_length, stored, payload_length, flags)
    return Frame(version, header, payload, digest)


def _payload(key: str, offset: int, stored: bytes, length: int, flags: int) -> bytes:
    """Return the payload of *length* bytes that *stored*, at *offset* in the object, holds."""
    if not flags & _COMPRESSED:
        if len(stored) != length:
            raise Corrupt(key, 20, f"payload of {len(stored)} bytes, announced as {length}")
        return stored
    if len(stored) >= length:
        raise Corrupt(key, 20, f"compressed payload of {len(stored)} bytes is not shorter than its {length}")
    return decompressed_form(key, offset, stored, length)


def compressed_form(data: bytes) -> bytes:
    """Return *data* as a Zstandard frame that states its size."""
    return zstandard.ZstdCompressor(level=_COMPRESS_LEVEL).compress(data)


def decompressed_form(key: str, offset: int, stored: bytes, length: int) -> bytes:
    """Return the *length* bytes that *stored*, at *offset* of the object *key*, holds compressed.

    Raises:
        Corrupt: it is no Zstandard frame of exactly that length.
    """
    try:
        # The size inside the Zstandard frame decides what is allocated: it has to be the one that is expected.
        if zstandard.frame_content_size(stored) != length:
            raise Corrupt(key, offset, "the compressed data announce another length than is expected")
        return zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(key, offset, f"compressed data: {error}") from error


def _digest(fixed: bytes, header: bytes, stored: bytes) -> bytes:
    digest = hashlib.sha256(fixed)
    digest.update(header)
    digest.update(stored)
    return digest.digest()
