"""Blobs: every chunk reads back from its own place; damage is found by whoever reads the chunk, or the whole blob."""

from __future__ import annotations

import hashlib
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import CHUNKS_START, StoredChunk, decode_blob, encode_blob, pack_chunk, unpack_chunk
from sessionfs_s3.fs import CHUNK_BYTES, Blob, Place, digest_of
from tests.format.handmade import KEY, NONCE, blob_header, corrupt, frame
from tests.fs.strategies import examples

NOISE = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(100))
TEXT = b'{"type":"user.message","text":"the same words again and again"}\n' * 40
CHUNKS = [TEXT, NOISE, b"x", bytes(CHUNK_BYTES)]
DATA = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.builds(lambda size, value: bytes([value]) * size, st.integers(1, CHUNK_BYTES), st.integers(0, 255)),
    st.sampled_from(CHUNKS),
)


def blob_of(chunks: list[bytes]) -> tuple[bytes, Blob, list[Place]]:
    return encode_blob(3, NONCE, [pack_chunk(chunk) for chunk in chunks])


def stored_at(data: bytes, place: Place) -> bytes:
    return data[place.offset : place.offset + place.length]


@examples(150)
@given(st.lists(DATA, min_size=1, max_size=5), st.integers(1, (1 << 64) - 1), st.binary(min_size=16, max_size=16))
def test_chunks_read_back(chunks: list[bytes], epoch: int, blob_id: bytes) -> None:
    data, blob, places = encode_blob(epoch, blob_id, [pack_chunk(chunk) for chunk in chunks])
    assert decode_blob(KEY, data) == blob == Blob(epoch, blob_id, len(data))
    end = CHUNKS_START
    for chunk, place in zip(chunks, places, strict=True):
        assert (place.blob, place.offset, place.size) == (blob, end, len(chunk))
        assert place.digest == hashlib.sha256(chunk).digest()[:16]
        assert place.length < place.size if place.compressed else place.length == place.size
        assert unpack_chunk(KEY, place, stored_at(data, place)) == chunk
        end += place.length
    assert end == len(data), "nothing but chunks, and no gap"


def test_a_blob_is_stored_as_the_specification_says() -> None:
    packed = zstandard.ZstdCompressor(level=3).compress(TEXT)
    data, _, places = blob_of([TEXT, NOISE, b"x"])
    assert data == frame(b"b", blob_header(), packed + NOISE + b"x")
    assert CHUNKS_START == 96
    assert [(place.offset, place.length, place.compressed) for place in places] == [
        (96, len(packed), True),
        (96 + len(packed), len(NOISE), False),
        (96 + len(packed) + len(NOISE), 1, False),
    ]


@pytest.mark.parametrize("data", [b"x" * 127, NOISE, b"x"], ids=["127 bytes", "noise", "a byte"])
def test_what_does_not_become_shorter_is_stored_as_it_is(data: bytes) -> None:
    assert pack_chunk(data) == StoredChunk(data, False, digest_of(data), len(data))


def test_what_becomes_shorter_is_compressed() -> None:
    packed = pack_chunk(b"x" * 128)
    assert (packed.compressed, packed.size, packed.digest) == (True, 128, digest_of(b"x" * 128))
    assert len(packed.data) < 128


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "shorter than the 64 bytes"),
        (frame(b"b", blob_header(epoch=0), b"x"), 64, "no blob has epoch 0"),
        (frame(b"b", blob_header(reserved=1), b"x"), 88, "reserved bytes are not zero"),
        (frame(b"b", blob_header(reserved=1 << 63), b"x"), 88, "reserved bytes are not zero"),
        (frame(b"b", blob_header(), b"x", version=1), 4, "format version 1 has no blobs"),
        (frame(b"b", blob_header(), b"x", version=3), 4, "format version 3"),
        (frame(b"c", blob_header(), b"x"), 5, "kind b'c' where b'b' belongs"),
        (frame(b"s", blob_header(), b"x"), 5, "kind b's' where b'b' belongs"),
        (frame(b"b", blob_header() + b"\0", b"x"), 8, "header of 33 bytes where 32 belong"),
        (frame(b"b", blob_header(), b""), 20, "a blob without chunks"),
        (
            frame(b"b", blob_header(), TEXT, stored=zstandard.ZstdCompressor().compress(TEXT)),
            6,
            "a blob is not compressed as a whole",
        ),
    ],
)
def test_each_rule(data: bytes, offset: int, reason: str) -> None:
    with corrupt(offset, reason):
        decode_blob(KEY, data)


def test_every_flipped_bit_and_every_lost_tail_of_a_blob_is_noticed() -> None:
    good, _, _ = blob_of([TEXT, b"plain"])
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_blob(KEY, bytes(bad))
    for size in range(len(good)):
        with pytest.raises(Corrupt):
            decode_blob(KEY, good[:size])
    with pytest.raises(Corrupt):
        decode_blob(KEY, good + b"\0")


@pytest.mark.parametrize("chunk", [TEXT, NOISE[:200], b"x"], ids=["compressed", "plain", "a byte"])
def test_every_flipped_bit_of_a_chunk_is_noticed(chunk: bytes) -> None:
    data, _, (_, place, _) = blob_of([b"before", chunk, b"after"])
    good = stored_at(data, place)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            found = unpack_chunk(KEY, place, bytes(bad))
        except Corrupt as error:
            assert (error.key, error.offset) == (KEY, place.offset)  # noqa: PT017  # some bits may change nothing
            continue
        # A bit of Zstandard's own frame that its decoder does not look at (RFC 8878, 3.1.1.1.1: the unused bit).
        assert place.compressed
        assert found == chunk
    for size in range(len(good)):
        with corrupt(place.offset, f"a chunk of {len(good)} bytes ends after {size}"):
            unpack_chunk(KEY, place, good[:size])
    with corrupt(place.offset, f"ends after {len(good) + 1}"):
        unpack_chunk(KEY, place, good + b"\0")


def test_another_chunk_in_the_same_place_is_noticed() -> None:
    data, _, (first, second) = blob_of([b"one", b"two"])
    with corrupt(first.offset, "the chunk's digest does not match"):
        unpack_chunk(KEY, first, stored_at(data, second))
    packed = pack_chunk(bytes(1000))
    place = Place(first.blob, 96, len(packed.data), True, packed.digest, 1000)
    other = zstandard.ZstdCompressor(level=3).compress(b"\1" * 1000)
    assert len(other) == len(packed.data)
    with corrupt(96, "the chunk's digest does not match"):
        unpack_chunk(KEY, place, other)


def lying(size: int, announced: int) -> bytes:
    """Return Zstandard's frame of *size* zeros that announces another size."""
    data = zstandard.ZstdCompressor(level=3).compress(bytes(size))
    at = data.index(struct.pack("<I", size))
    return data[:at] + struct.pack("<I", announced) + data[at + 4 :]


WHOLE = zstandard.ZstdCompressor(level=3).compress(bytes(CHUNK_BYTES))
HOSTILE = {
    "not Zstandard": b"x" * 50,
    "cut short": WHOLE[:-1],
    "much more than a chunk": zstandard.ZstdCompressor(level=3).compress(bytes(100_000_000)),
    "more than it announces": lying(100_000_000, CHUNK_BYTES),
    "no size": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(CHUNK_BYTES)),
    "two frames": WHOLE * 2,
    "a frame and more": WHOLE + b"\0",
    "an empty frame": zstandard.ZstdCompressor().compress(b""),
    "less than a chunk": zstandard.ZstdCompressor(level=3).compress(bytes(CHUNK_BYTES - 1)),
    "other bytes": zstandard.ZstdCompressor(level=3).compress(b"\1" * CHUNK_BYTES),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_compression_is_corrupt_and_cheap(name: str) -> None:
    stored = HOSTILE[name]
    place = Place(Blob(3, NONCE, 1 << 30), 96, len(stored), True, digest_of(bytes(CHUNK_BYTES)), CHUNK_BYTES)
    assert peak_bytes(lambda: unpack_chunk(KEY, place, stored)) < CHUNK_BYTES + 64 * 1024


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt) as caught:
            call()
        assert (caught.value.key, caught.value.offset) == (KEY, 96)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@examples(300)
@given(st.binary(max_size=300), st.booleans(), st.integers(1, CHUNK_BYTES))
def test_arbitrary_bytes_are_no_chunk(stored: bytes, compressed: bool, size: int) -> None:
    place = Place(Blob(3, NONCE, 1 << 30), 96, len(stored), compressed, bytes(16), size)
    with pytest.raises(Corrupt) as caught:
        unpack_chunk(KEY, place, stored)
    assert (caught.value.key, caught.value.offset) == (KEY, 96)


@examples(300)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_arbitrary_headers_with_a_right_checksum(header: bytes, payload: bytes) -> None:
    data = frame(b"b", header, payload)
    try:
        found = decode_blob(KEY, data)
    except Corrupt as error:
        assert error.key == KEY  # noqa: PT017  # most headers are none, and some are
    else:
        again, blob, _ = encode_blob(found.epoch, found.id, [StoredChunk(payload, False, bytes(16), len(payload))])
        assert (again, blob) == (data, found)


@pytest.mark.parametrize(
    ("epoch", "blob_id", "chunks", "reason"),
    [
        (0, NONCE, [b"x"], "epoch 0"),
        (1 << 64, NONCE, [b"x"], "epoch 18446744073709551616"),
        (1, NONCE[:15], [b"x"], "an id of 15 bytes"),
        (1, NONCE, [], "0 chunks"),
        (1, NONCE, [b"x", b""], "no blob has an empty chunk"),
    ],
)
def test_nothing_is_encoded_that_would_not_be_decoded(
    epoch: int, blob_id: bytes, chunks: list[bytes], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_blob(epoch, blob_id, [pack_chunk(chunk) for chunk in chunks])


def test_a_blob_is_never_over_the_limit_of_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionfs_s3.format.frame.PAYLOAD_BYTES_MAX", 1000)
    noise = random.Random(1).randbytes(1001)
    assert decode_blob(KEY, blob_of([noise[:1000]])[0]).size == CHUNKS_START + 1000
    with pytest.raises(ValueError, match="1001 bytes is over 1000"):
        blob_of([noise[:1000], b"x"])


def test_a_place_is_as_long_as_what_stands_there() -> None:
    data, _, (place,) = blob_of([NOISE])
    with corrupt(place.offset, "the chunk's digest does not match"):
        unpack_chunk(KEY, replace(place, length=10, size=10), data[96:106])
