"""A blob: chunks of files, each compressed and checked by itself, so that any range of them can be read alone.

Header, big-endian, 32 bytes::

    0   8  epoch in which it was written
    8   16 id: random
    24  8  zero

Payload, never compressed as a whole: the stored form of one chunk after the other. A chunk is stored as a Zstandard
frame where that is shorter, else as it is. Where each begins, how long it is and its digest stand with whoever refers
to it (:mod:`~sessionfs_s3.format.contents`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format.frame import (
    COMPRESS_BYTES_MIN,
    HEADER_START,
    compressed_form,
    decode_frame,
    decompressed_form,
    encode_frame,
)
from sessionfs_s3.format.limits import ID_BYTES, SEQUENCE_MAX
from sessionfs_s3.fs.chunk import Blob, Place, digest_of

_KIND: Final = b"b"
_VERSION_MIN: Final = 2
_HEADER: Final = struct.Struct(">Q16sQ")

CHUNKS_START: Final = HEADER_START + _HEADER.size
"""Where the first chunk of every blob begins, in bytes."""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it stands in a blob: *data*, maybe *compressed*; *digest* and *size* are of what it stands for."""

    data: bytes
    compressed: bool
    digest: bytes
    size: int


def pack_chunk(data: bytes) -> StoredChunk:
    """Return the stored form of the chunk *data*."""
    packed = compressed_form(data) if len(data) >= COMPRESS_BYTES_MIN else data
    shorter = len(packed) < len(data)
    return StoredChunk(packed if shorter else data, shorter, digest_of(data), len(data))


def unpack_chunk(key: str, place: Place, stored: bytes) -> bytes:
    """Return the chunk whose stored form *stored* was read at *place* of the object *key*.

    Raises:
        Corrupt: it is cut short, not what was stored there, or not compressed as it should be.
    """
    if len(stored) != place.length:
        raise Corrupt(key, place.offset, f"a chunk of {place.length} bytes ends after {len(stored)}")
    data = decompressed_form(key, place.offset, stored, place.size) if place.compressed else stored
    if len(data) != place.size or digest_of(data) != place.digest:
        raise Corrupt(key, place.offset, "the chunk's digest does not match")
    return data


def encode_blob(epoch: int, blob_id: bytes, chunks: Sequence[StoredChunk]) -> tuple[bytes, Blob, list[Place]]:
    """Return the object that stores *chunks*, its name and size, and where each of them is in it.

    Raises:
        ValueError: no chunks, an empty one, an epoch or id that is none, or more than one frame may hold.
    """
    if not all(chunk.data for chunk in chunks):
        raise ValueError("no blob has an empty chunk")
    if not chunks or not 1 <= epoch <= SEQUENCE_MAX or len(blob_id) != ID_BYTES:
        raise ValueError(f"no blob has {len(chunks)} chunks, epoch {epoch} and an id of {len(blob_id)} bytes")
    payload = b"".join(chunk.data for chunk in chunks)
    data, _ = encode_frame(_KIND, _HEADER.pack(epoch, blob_id, 0), payload, compress=False)
    blob = Blob(epoch, blob_id, len(data))
    places: list[Place] = []
    offset = CHUNKS_START
    for chunk in chunks:
        places.append(Place(blob, offset, len(chunk.data), chunk.compressed, chunk.digest, chunk.size))
        offset += len(chunk.data)
    return data, blob, places


def decode_blob(key: str, data: bytes) -> Blob:
    """Return the name and size of the blob that is stored as *data* at *key*: what can be checked of it alone.

    Raises:
        Corrupt: it is no blob, or damaged.
    """
    frame = decode_frame(key, _KIND, _HEADER.size, data)
    if frame.version < _VERSION_MIN:
        raise Corrupt(key, 4, f"format version {frame.version} has no blobs")
    epoch, blob_id, zero = _HEADER.unpack(frame.header)
    if not epoch:
        raise Corrupt(key, HEADER_START, "no blob has epoch 0")
    if zero:
        raise Corrupt(key, HEADER_START + 24, "reserved bytes are not zero")
    if len(frame.payload) + CHUNKS_START != len(data):
        raise Corrupt(key, 6, "a blob is not compressed as a whole")
    if not frame.payload:
        raise Corrupt(key, 20, "a blob without chunks")
    return Blob(epoch, blob_id, len(data))
