"""Contents on the wire: bytes and runs of chunks read back, in one form only; every rule has its error."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import blobs_of, decode_commit, wire
from sessionfs_s3.format.contents import read_content, table_of, write_content
from sessionfs_s3.format.wire import Malformed, Reader, Writer
from sessionfs_s3.fs import CHUNK_BYTES, EMPTY, Blob, Chunk, Content, Place
from tests.format.handmade import (
    KEY,
    SEQUENCE,
    commit_header,
    content,
    entry,
    frame,
    held,
    run,
    table,
    text,
    uint,
)
from tests.fs.strategies import ANY_CONTENTS, BLOBS, check_content, examples

BLOB = Blob(1, bytes(16), 1 << 20)
OTHER = Blob(2, bytes(16), CHUNK_BYTES + 96)
TABLE = (BLOB, OTHER)
DIGEST = b"\x07" * 16
CHUNK = bytes(CHUNK_BYTES)
WHOLE = (CHUNK_BYTES, False, DIGEST)
"""A chunk of full size that is stored as it is."""


def written(value: Content, blobs: Sequence[Blob] = TABLE) -> bytes:
    out = Writer()
    write_content(out, value, {each: index for index, each in enumerate(blobs)})
    return out.to_bytes()


def read(data: bytes, blobs: Sequence[Blob] = TABLE) -> tuple[Content, set[Blob]]:
    reader = Reader(data)
    used: set[Blob] = set()
    found = read_content(reader, blobs, used, Content)
    reader.end()
    return found, used


@examples(300)
@given(ANY_CONTENTS)
def test_contents_read_back(value: Content) -> None:
    blobs = tuple(table_of(blobs_of([value])))
    stored = written(value, blobs)
    found, used = read(stored, blobs)
    assert found == value
    assert used == set(blobs)
    check_content(found)
    assert written(found, blobs) == stored


def sealed(*places: Place) -> Content:
    return Content(tuple(Chunk(place.size, place) for place in places), sum(place.size for place in places))


def at(offset: int, length: int = CHUNK_BYTES, size: int = CHUNK_BYTES, of: Blob = BLOB) -> Place:
    return Place(of, offset, length, length < size, DIGEST, size)


BY_HAND: list[tuple[Content, bytes]] = [
    (EMPTY, b"\0"),
    (Content.of(b"x"), content(1, held(b"x"))),
    (Content.of(CHUNK + b"x"), content(CHUNK_BYTES + 1, held(CHUNK + b"x"))),
    (sealed(at(96, 5, 5)), content(5, run(0, 96, (5, False, DIGEST)))),
    (sealed(at(96, 1)), content(CHUNK_BYTES, run(0, 96, (1, True, DIGEST)))),
    (sealed(at(96), at(96 + CHUNK_BYTES, 3, 3)), content(CHUNK_BYTES + 3, run(0, 96, WHOLE, (3, False, DIGEST)))),
    (sealed(at(96), at(97)), content(2 * CHUNK_BYTES, run(0, 96, WHOLE), run(0, 97, WHOLE))),
    (sealed(at(96, 7), at(103)), content(2 * CHUNK_BYTES, run(0, 96, (7, True, DIGEST), WHOLE))),
    (sealed(at(96), at(96)), content(2 * CHUNK_BYTES, run(0, 96, WHOLE), run(0, 96, WHOLE))),
    (sealed(at(96, of=OTHER), at(96)), content(2 * CHUNK_BYTES, run(1, 96, WHOLE), run(0, 96, WHOLE))),
    (
        Content.of(CHUNK).joined(sealed(at(96))).joined(Content.of(b"tail")),
        content(2 * CHUNK_BYTES + 4, held(CHUNK), run(0, 96, WHOLE), held(b"tail")),
    ),
    (sealed(at((1 << 20) - CHUNK_BYTES)), content(CHUNK_BYTES, run(0, (1 << 20) - CHUNK_BYTES, WHOLE))),
]


@pytest.mark.parametrize(("value", "stored"), BY_HAND)
def test_contents_are_stored_as_the_specification_says(value: Content, stored: bytes) -> None:
    assert written(value) == stored
    assert read(stored)[0] == value


RECORD_BYTES_MAX = 1024
"""What a record takes once decoded, at most."""

PART = 4
"""Where the first part begins behind a size from 65,536 to 2,097,151: three bytes of size, and one for a short part."""


@pytest.mark.parametrize(
    ("stored", "at", "reason"),
    [
        (b"", 0, "ends inside an integer"),
        (content(1), 1, "ends inside an integer"),
        (content(1, held(b"")), 1, "an empty part"),
        (content(1, uint(1)), 1, "an empty part"),
        (content(1, held(b"x"), held(b"")), 3, "1 bytes too many"),
        (content(0, held(b"")), 1, "1 bytes too many"),
        (content(1, held(b"xy")), 2, "a part of 2 bytes where 1 are left"),
        (
            content(1 << 62, uint(2 << 60)),
            18,
            f"{1 << 60} bytes announced, 0 left",
        ),
        (content(3, held(b"x"), held(b"yz")), 2, "a part of 1 bytes ends inside a chunk"),
        (content(CHUNK_BYTES + 1, held(CHUNK), held(b"x")), 6 + CHUNK_BYTES, "two parts that could be one"),
        (content(2 * CHUNK_BYTES, held(CHUNK), held(CHUNK)), 6 + CHUNK_BYTES, "two parts that could be one"),
        (content(CHUNK_BYTES + 1, held(CHUNK[1:]), held(b"xy")), 6, "a part of 65535 bytes ends inside a chunk"),
        (content(9, uint(18), b"short"), 2, "9 bytes announced, 5 left"),
        (content(5, run(0, 96, (5, False, DIGEST), (5, False, DIGEST))), 2, "2 chunks where 5 bytes are left"),
        (content(1 << 20, uint(2 * 17 + 1)), PART, "17 chunks where 1048576 bytes are left"),
        (content(5, run(2, 96, (5, False, DIGEST))), 2, "blob 2 of 2"),
        (content(5, run(1 << 50, 96, (5, False, DIGEST))), 2, f"blob {1 << 50} of 2"),
        (content(5, run(0, 96, (0, False, DIGEST))), 4, "a chunk of 5 bytes stored in 0"),
        (content(5, run(0, 96, (0, True, DIGEST))), 4, "a chunk of 5 bytes stored in 0"),
        (content(5, run(0, 96, (6, False, DIGEST))), 4, "a chunk of 5 bytes stored in 6"),
        (content(5, run(0, 96, (6, True, DIGEST))), 4, "a chunk of 5 bytes stored in 6"),
        (content(5, run(0, 96, (1 << 61, True, DIGEST))), 4, f"a chunk of 5 bytes stored in {1 << 61}"),
        (content(5, run(0, 96, (5, True, DIGEST))), 4, "a chunk of 5 bytes stored in 5"),
        (content(5, run(0, 96, (4, False, DIGEST))), 4, "a chunk of 5 bytes stored in 4"),
        (content(5, run(0, 95, (5, False, DIGEST))), 4, "a chunk from 95 to 100 in a blob of 1048576 bytes"),
        (content(5, run(0, 0, (5, False, DIGEST))), 4, "a chunk from 0 to 5 in a blob"),
        (content(CHUNK_BYTES, run(1, 97, WHOLE)), PART + 2, "a chunk from 97 to 65633 in a blob of 65632 bytes"),
        (content(5, run(1, 1 << 62, (5, False, DIGEST))), 12, "in a blob of 65632 bytes"),
        (
            content(2 * CHUNK_BYTES, run(1, 96, (CHUNK_BYTES - 1, True, DIGEST), (2, True, DIGEST))),
            PART + 2 + 19,
            "a chunk from 65631 to 65633 in a blob of 65632 bytes",
        ),
        (
            content(CHUNK_BYTES + 5, run(0, 96, WHOLE), run(0, 96 + CHUNK_BYTES, (5, False, DIGEST))),
            PART + 2 + 19,
            "two parts that could be one",
        ),
        (content(5, run(0, 96, (5, False, DIGEST))[:-1]), 5, "16 bytes announced, 15 left"),
        (content(5, run(0, 96, (5, False, DIGEST)), held(b"x")), 21, "2 bytes too many"),
    ],
)
def test_each_rule(stored: bytes, at: int, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        read(stored)
    assert caught.value.offset == at, caught.value


PIECES = st.one_of(
    st.binary(max_size=4),
    st.integers(0, 300).map(uint),
    st.sampled_from([stored for _, stored in BY_HAND]),
    st.sampled_from([held(b"x"), held(CHUNK), run(0, 96, WHOLE), run(0, 96 + CHUNK_BYTES, WHOLE), run(1, 96, WHOLE)]),
    st.sampled_from([uint(count * CHUNK_BYTES + more) for count in range(4) for more in range(2)]),
)


@examples(600)
@given(st.lists(PIECES, max_size=6).map(b"".join))
def test_what_decodes_has_no_other_form(stored: bytes) -> None:
    reader = Reader(stored)
    with contextlib.suppress(Malformed):
        found = read_content(reader, TABLE, set(), Content)
        check_content(found)
        assert written(found) == stored[: reader.offset]


def test_blobs_of_finds_what_has_to_be_read() -> None:
    changed = sealed(at(96, of=OTHER)).patched(CHUNK_BYTES, [(0, b"x")])
    assert blobs_of([]) == blobs_of([Content.of(b"x")]) == set()
    assert blobs_of([sealed(at(96)), Content.of(b"x"), changed]) == {BLOB, OTHER}
    with pytest.raises(ValueError, match="has to be read before it is stored"):
        written(changed)


@examples(50)
@given(st.sets(BLOBS))
def test_a_table_is_in_order(blobs: set[Blob]) -> None:
    found = table_of(blobs)
    names = [(each.epoch, each.id) for each in found]
    assert names == sorted(names)
    assert list(found.values()) == list(range(len(blobs)))
    for each in blobs:
        with pytest.raises(ValueError, match="of two sizes"):
            table_of([*blobs, replace(each, size=each.size - 1)])


def bomb(count: int, kind: str) -> tuple[bytes, int]:
    """Return a commit that unfolds into *count* records, and the length of its payload; the commit is far smaller."""
    table_of_one = table(entry(1, bytes(16), 1 << 40))
    write = b"w" + text("/a") + uint(0) + uint(0)
    if kind == "one run":
        refs = b"".join([uint(2 * 8 + 1), DIGEST]) * count
        refs = uint(2 * count + 1) + uint(0) + uint(96) + refs
        payload, operations = table_of_one + write + content(count * CHUNK_BYTES, refs), 1
    elif kind == "many files":
        small = write + content(5, run(0, 96, (5, False, DIGEST)))
        payload, operations = table_of_one + small * (count // 2), count // 2
    else:
        names = [entry(number, bytes(16), 1 << 40) for number in range(1, count + 1)]
        payload, operations = table(*names), 0
    compressed = zstandard.ZstdCompressor(level=3).compress(payload)
    return frame(b"c", commit_header(count=operations), payload, stored=compressed), len(payload)


def peak_of(data: bytes) -> tuple[int, str]:
    """Return how much memory decoding takes at its worst, and why it fails."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt) as caught:
            decode_commit(KEY, data, sequence=SEQUENCE)
        return tracemalloc.get_traced_memory()[1], caught.value.reason
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["one run", "many files", "blobs"])
def test_many_records_from_a_small_commit_are_refused_before_they_take_memory(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "RECORDS_MAX", 1000)
    data, payload_bytes = bomb(40_000, kind)
    assert len(data) < payload_bytes // 3
    peak, reason = peak_of(data)
    assert "records announced, 1000 are allowed" in reason
    assert peak < payload_bytes + 1000 * RECORD_BYTES_MAX + 64 * 1024


@pytest.mark.parametrize("kind", ["one run", "many files"])
def test_a_record_takes_at_most_a_kilobyte(kind: str) -> None:
    data, payload_bytes = bomb(20_000, kind)
    tracemalloc.start()
    try:
        found, _ = decode_commit(KEY, data, sequence=SEQUENCE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.operations) == (1 if kind == "one run" else 10_000)
    assert peak < payload_bytes + 20_000 * RECORD_BYTES_MAX


def test_a_size_alone_takes_nothing() -> None:
    # Eight bytes may announce exabytes: nothing is made before the parts are there.
    tracemalloc.start()
    try:
        for stored in (
            content((1 << 63) - 1),
            content((1 << 63) - 1, uint(2 * (1 << 61))),
            content(1 << 62, uint(2049)),
        ):
            with pytest.raises(Malformed):
                read(stored)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
