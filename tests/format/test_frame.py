"""Frames: every rule has its error, at its offset; a checksum covers all but itself; memory stays bounded."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format.frame import FORMAT_VERSION, VERSIONS_READ, Frame, decode_frame, encode_frame
from sessionfs_s3.format.limits import PAYLOAD_BYTES_MAX
from tests.format.handmade import KEY, corrupt, frame
from tests.fs.strategies import DATA, examples

HEADER = b"0123456789abcdef"
PAYLOAD_AT = 64 + len(HEADER)
ZEROS = bytes(100_000)


def decode(data: bytes) -> Frame:
    return decode_frame(KEY, b"c", len(HEADER), data)


def compressed(payload: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(payload)


@examples(200)
@given(DATA)
def test_frames_read_back(payload: bytes) -> None:
    data, digest = encode_frame(b"c", HEADER, payload)
    assert decode(data) == Frame(2, HEADER, payload, digest)
    assert encode_frame(b"c", HEADER, payload, compress=False)[0] == frame(b"c", HEADER, payload)
    assert data[32:64] == digest == hashlib.sha256(data[:32] + data[64:]).digest()
    assert len(data) <= PAYLOAD_AT + len(payload), "a frame never costs more than its 64 bytes"


NOISE = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(100))


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 127, NOISE], ids=["empty", "a byte", "127 bytes", "noise"])
def test_short_and_incompressible_payloads_are_stored_as_they_are(payload: bytes) -> None:
    assert encode_frame(b"c", HEADER, payload)[0] == frame(b"c", HEADER, payload)


def test_long_payloads_are_compressed() -> None:
    data, _ = encode_frame(b"c", HEADER, ZEROS)
    assert len(data) < 200
    assert struct.unpack_from(">HIQQ", data, 6) == (1, len(HEADER), len(data) - PAYLOAD_AT, len(ZEROS))
    assert zstandard.ZstdDecompressor().decompress(data[PAYLOAD_AT:]) == ZEROS


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "shorter than the 64 bytes"),
        (frame(b"c", b"", b"")[:63], 63, "shorter than the 64 bytes"),
        (frame(b"c", HEADER, b"", magic=b"SFS4"), 0, "starts with b'SFS4'"),
        (b"<?xml version='1.0'?><Error>" * 9, 0, "starts with b'<?xm'"),
        (frame(b"c", HEADER, b"", version=0), 4, "format version 0; this release reads versions 1 and 2"),
        (frame(b"c", HEADER, b"", version=3), 4, "format version 3; this release reads versions 1 and 2"),
        (frame(b"c", HEADER, b"", version=255), 4, "format version 255; this release reads versions 1 and 2"),
        (frame(b"s", HEADER, b""), 5, "kind b's' where b'c' belongs"),
        (frame(b"\0", HEADER, b""), 5, "kind b'\\x00' where b'c' belongs"),
        (frame(b"c", HEADER, b"", flags=2), 6, "flag bit 1 (encrypted) is set; this release cannot decrypt"),
        (frame(b"c", HEADER, b"", flags=3), 6, "flag bit 1 (encrypted) is set; this release cannot decrypt"),
        (frame(b"c", HEADER, b"", flags=4), 6, "unknown flags 0x0004"),
        (frame(b"c", HEADER, b"", flags=0x8001), 6, "unknown flags 0x8001"),
        (frame(b"c", HEADER + b"x", b""), 8, "header of 17 bytes where 16 belong"),
        (frame(b"c", HEADER, b"", header_length=0), 8, "header of 0 bytes where 16 belong"),
        (frame(b"c", HEADER, b"", header_length=(1 << 32) - 1), 8, "header of 4294967295 bytes where 16 belong"),
        (frame(b"c", HEADER, b"abc", stored_length=2), 12, "object of 83 bytes, its lengths add up to 82"),
        (frame(b"c", HEADER, b"abc", stored_length=(1 << 64) - 1), 12, "object of 83 bytes"),
        (frame(b"c", HEADER, b"abc") + b"\0", 12, "object of 84 bytes, its lengths add up to 83"),
        (frame(b"c", HEADER, b"abc") * 2, 12, "object of 166 bytes, its lengths add up to 83"),
        (frame(b"c", HEADER, b"abc", payload_length=PAYLOAD_BYTES_MAX + 1), 20, "payload of 268435457 bytes is over"),
        (frame(b"c", HEADER, b"abc", payload_length=(1 << 64) - 1), 20, "is over 268435456"),
        (frame(b"c", HEADER, b"abc", payload_length=4), 20, "payload of 3 bytes, announced as 4"),
        (frame(b"c", HEADER, b"abc", payload_length=0), 20, "payload of 3 bytes, announced as 0"),
        (frame(b"c", HEADER, b"", reserved=1), 28, "reserved bytes are not zero"),
    ],
)
def test_each_broken_rule_is_named(data: bytes, offset: int, reason: str) -> None:
    with corrupt(offset, reason):
        decode(data)


@pytest.mark.parametrize("version", VERSIONS_READ)
def test_every_version_is_read_and_told_apart(version: int) -> None:
    for payload, stored in ((b"abc", None), (ZEROS, compressed(ZEROS))):
        found = decode(frame(b"c", HEADER, payload, stored=stored, version=version))
        assert (found.version, found.header, found.payload) == (version, HEADER, payload)


def test_the_newest_version_is_written() -> None:
    assert encode_frame(b"c", HEADER, b"")[0][4] == FORMAT_VERSION == max(VERSIONS_READ)


def expected_offset(byte: int) -> set[int]:
    """Return where damage in the first bytes is noticed: by the field's own rule, or by the checksum at 32."""
    for start, end in ((0, 4), (4, 5), (5, 6), (8, 12)):
        if start <= byte < end:
            return {start}
    if byte in {6, 7}:
        return {6, 32}
    if 12 <= byte < 20:
        return {12}
    if 20 <= byte < 28:
        return {20, 32}
    return {28} if 28 <= byte < 32 else {32}


@pytest.mark.parametrize("payload", [b"", b"some payload", ZEROS], ids=["empty", "plain", "compressed"])
def test_every_flipped_bit_is_noticed(payload: bytes) -> None:
    good, _ = encode_frame(b"c", HEADER, payload)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt) as caught:
            decode(bytes(bad))
        assert caught.value.offset in expected_offset(bit // 8), f"bit {bit}: {caught.value}"


@pytest.mark.parametrize("payload", [b"", b"some payload", ZEROS], ids=["empty", "plain", "compressed"])
def test_every_truncation_and_every_tail_is_noticed(payload: bytes) -> None:
    good, _ = encode_frame(b"c", HEADER, payload)
    for size in range(len(good)):
        with corrupt(size if size < 64 else 12, "shorter than" if size < 64 else f"object of {size} bytes"):
            decode(good[:size])
    for tail in (b"\0", b"x", bytes(1000), good):
        with corrupt(12, f"object of {len(good) + len(tail)} bytes"):
            decode(good + tail)


def lying_size(payload: bytes, announced: int) -> bytes:
    """Return Zstandard's frame of *payload* with another size in its header (RFC 8878, 3.1.1.1.4: 4 bytes here)."""
    data = compressed(payload)
    assert data[4] >> 6 == 2, "a content size of 4 bytes"
    at = data.index(struct.pack("<I", len(payload)))
    return data[:at] + struct.pack("<I", announced) + data[at + 4 :]


def with_dictionary(payload: bytes) -> bytes:
    dictionary = zstandard.ZstdCompressionDict(
        b"words of a dictionary, " * 50, dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    return zstandard.ZstdCompressor(dict_data=dictionary).compress(payload)


SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"skip"

HOSTILE: dict[str, tuple[bytes, int]] = {
    "not Zstandard": (b"x" * 50, 1000),
    "empty": (b"", 1000),
    "cut short": (compressed(ZEROS)[:-3], len(ZEROS)),
    "no size": (zstandard.ZstdCompressor(write_content_size=False).compress(ZEROS), len(ZEROS)),
    "another size than the frame's": (compressed(ZEROS), len(ZEROS) - 1),
    "much more than the frame's": (compressed(bytes(PAYLOAD_BYTES_MAX + 1)), 20_000),
    "more than both announce": (lying_size(bytes(10_000_000), 100_000), 100_000),
    "less than both announce": (lying_size(ZEROS, 110_000), 110_000),
    "an empty frame for something": (compressed(b""), 100),
    "a size of zero, and more behind it": (compressed(b"") + b"junk", 0),
    "two frames": (compressed(ZEROS) + compressed(b"x"), len(ZEROS)),
    "two frames that make up the length": (compressed(ZEROS) * 2, 2 * len(ZEROS)),
    "a frame and more": (compressed(ZEROS) + b"\0", len(ZEROS)),
    "a skippable frame before it": (SKIPPABLE + compressed(ZEROS), len(ZEROS)),
    "a skippable frame behind it": (compressed(ZEROS) + SKIPPABLE, len(ZEROS)),
    "only a skippable frame": (SKIPPABLE, 0),
    "a dictionary": (with_dictionary(b"words of a dictionary, " * 90), 23 * 90),
    "no shorter than what it stands for": (compressed(b"x"), 1),
    "a checksum of its own that is wrong": (
        zstandard.ZstdCompressor(write_checksum=True).compress(ZEROS)[:-4] + b"0000",
        len(ZEROS),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_compression_is_corrupt_and_cheap(name: str) -> None:
    stored, length = HOSTILE[name]
    data = frame(b"c", HEADER, b"", stored=stored, payload_length=length)
    with pytest.raises(Corrupt, match=r"compressed (data|payload)") as caught:
        decode(data)
    assert caught.value.key == KEY
    assert caught.value.offset in {20, PAYLOAD_AT}
    assert peak_bytes(lambda: decode(data)) < length + 64 * 1024


def test_what_is_allocated_is_bounded_by_the_announced_length() -> None:
    announced = PAYLOAD_BYTES_MAX
    data = frame(b"c", HEADER, b"", stored=lying_size(ZEROS, announced), payload_length=announced)
    assert peak_bytes(lambda: decode(data)) < PAYLOAD_BYTES_MAX + 64 * 1024
    data = frame(b"c", HEADER, b"", stored=lying_size(ZEROS, announced + 1), payload_length=announced + 1)
    assert peak_bytes(lambda: decode(data)) < 64 * 1024


def peak_bytes(call: Callable[[], object]) -> int:
    """Return how much memory *call*, which raises ``Corrupt``, took at its worst."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_payload_over_the_limit_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionfs_s3.format.frame.PAYLOAD_BYTES_MAX", 1000)
    assert decode(encode_frame(b"c", HEADER, bytes(1000))[0]).payload == bytes(1000)
    with pytest.raises(ValueError, match="1001 bytes is over 1000"):
        encode_frame(b"c", HEADER, bytes(1001))


@examples(400)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_corrupt(data: bytes) -> None:
    for each in (data, b"SFS3\x01c" + data, b"SFS3\x02c" + data):
        with pytest.raises(Corrupt) as caught:
            decode(each)
        assert caught.value.key == KEY
        assert 0 <= caught.value.offset <= len(each)


@examples(400)
@given(st.binary(max_size=200), st.booleans(), st.integers(0, 500))
def test_arbitrary_stored_payloads_with_a_right_checksum(stored: bytes, is_compressed: bool, length: int) -> None:
    data = frame(b"c", HEADER, stored, flags=int(is_compressed), payload_length=length)
    with contextlib.suppress(Corrupt):
        assert len(decode(data).payload) == length
