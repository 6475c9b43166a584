"""Commits: every operation reads back as it was, every rule of header and payload has its error, and no other."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import CHAIN_START, Commit, decode_commit, encode_commit, next_chain, wire
from sessionfs_s3.format.commit import _DECODERS
from sessionfs_s3.format.frame import decode_frame
from sessionfs_s3.format.limits import TIME_MS_MAX
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    AppendFile,
    Blob,
    Chunk,
    Content,
    MakeDirectory,
    Operation,
    Place,
    Remove,
    Rename,
    WriteDatabase,
    WriteFile,
)
from sessionfs_s3.fs.operations import DATABASE_BYTES_MAX, payload_bytes
from tests.format.handmade import (
    CHAIN,
    KEY,
    NONCE,
    SEQUENCE,
    TIME_MS,
    WRITER,
    blob,
    commit,
    commit_header,
    commit_of_version_1,
    content,
    corrupt,
    entry,
    frame,
    held,
    inline,
    run,
    table,
    text,
    uint,
)
from tests.fs.strategies import TIMES, check_content, examples, operations

PAYLOAD_AT = 168
NONE = table()
COMMIT = Commit(SEQUENCE, 3, WRITER, NONCE, CHAIN, TIME_MS, False, ())
CLAIM = Commit(SEQUENCE, SEQUENCE, WRITER, NONCE, CHAIN_START, TIME_MS, True, ())
COUNTER = st.integers(1, (1 << 64) - 1)
IDS = st.binary(min_size=16, max_size=16)


def decode(data: bytes, sequence: int = SEQUENCE) -> Commit:
    return decode_commit(KEY, data, sequence=sequence)[0]


def payload_of(batch: Sequence[Operation]) -> bytes:
    """Return the payload of a commit of these operations, before compression."""
    return decode_frame(KEY, b"c", 104, encode_commit(replace(COMMIT, operations=tuple(batch)))[0]).payload


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    sequence = draw(COUNTER)
    claim = sequence == 1 or draw(st.booleans())
    epoch = sequence if claim else draw(st.integers(1, sequence - 1))
    chain = CHAIN_START if claim else draw(st.binary(min_size=32, max_size=32))
    batch = draw(st.lists(operations(), max_size=6).map(tuple))
    seen = draw(st.integers(0, sequence - 1)) if claim else 0
    return Commit(sequence, epoch, draw(IDS), draw(IDS), chain, draw(TIMES), claim, batch, seen)


@examples(300)
@given(commits())
def test_commits_read_back(value: Commit) -> None:
    data, digest = encode_commit(value)
    assert decode_commit(KEY, data, sequence=value.sequence) == (value, digest)
    assert digest == data[32:64]
    assert next_chain(value.chain, digest) == hashlib.sha256(value.chain + digest).digest()


@examples(300)
@given(operations())
def test_an_operation_takes_no_more_than_it_is_counted_for(operation: Operation) -> None:
    # Before compression: what is counted must hold where nothing can be compressed.
    assert len(payload_of([operation])) <= payload_bytes(operation)


BY_HAND: list[tuple[Operation, bytes]] = [
    (MakeDirectory((), 0o755, 5), b"d" + text("/") + uint(0o755) + uint(5)),
    (MakeDirectory(("a", "é"), 0o7777, TIME_MS), b"d" + text("/a/é") + uint(0o7777) + uint(TIME_MS)),
    (WriteFile(("f",), Content.of(b"data"), 0o600, 0), b"w" + text("/f") + uint(0o600) + uint(0) + inline(b"data")),
    (AppendFile(("f",), Content.of(b""), TIME_MS_MAX), b"a" + text("/f") + uint(TIME_MS_MAX) + inline(b"")),
    (Remove(("d", "e"), 9), b"r" + text("/d/e") + uint(9)),
    (Rename(("a",), ("b", "c"), 9), b"m" + text("/a") + text("/b/c") + uint(9)),
    (WriteDatabase(0, ()), b"q" + uint(0) + uint(0)),
    (
        WriteDatabase(DATABASE_BYTES_MAX, ((0, b"SQLite"), (1 << 31, b""))),
        b"q" + uint(1 << 32) + uint(2) + uint(0) + blob(b"SQLite") + uint(1 << 31) + blob(b""),
    ),
]


@pytest.mark.parametrize(("operation", "stored"), BY_HAND)
def test_every_operation_is_stored_as_the_specification_says(operation: Operation, stored: bytes) -> None:
    data, _ = encode_commit(replace(COMMIT, operations=(operation,)))
    assert data == commit(stored, 1)
    assert decode(commit(stored, 1)).operations == (operation,)


def test_every_kind_of_operation_is_in_the_table_above() -> None:
    assert {stored[:1] for _, stored in BY_HAND} == set(_DECODERS) - {b"c"}, "clear has rules of its own"


def test_the_header_is_stored_as_the_specification_says() -> None:
    claim = commit_header(epoch=SEQUENCE, chain=bytes(32), flags=1)
    assert encode_commit(COMMIT)[0] == frame(b"c", commit_header(), NONE)
    assert encode_commit(CLAIM)[0] == frame(b"c", claim, NONE)
    for version, payload in ((1, b""), (2, NONE)):
        assert decode(frame(b"c", commit_header(), payload, version=version)) == COMMIT
    assert decode(frame(b"c", claim, NONE)) == CLAIM
    seeing = commit_header(epoch=SEQUENCE, chain=bytes(32), flags=1, seen=6)
    assert encode_commit(replace(CLAIM, snapshot_seen=6))[0] == frame(b"c", seeing, NONE)
    assert decode(frame(b"c", seeing, NONE)) == replace(CLAIM, snapshot_seen=6)
    assert decode(frame(b"c", claim, b"", version=1)) == replace(CLAIM, snapshot_seen=6), "it saw all there was"


@pytest.mark.parametrize(
    ("fields", "offset", "reason"),
    [
        ({"sequence": 8}, 64, "commit 8 stands where commit 7 belongs"),
        ({"sequence": 0}, 64, "commit 0 stands where commit 7 belongs"),
        ({"sequence": (1 << 64) - 1}, 64, "commit 18446744073709551615 stands where commit 7 belongs"),
        ({"epoch": 0}, 72, "commit 7 is in epoch 0"),
        ({"epoch": 8}, 72, "commit 7 is in epoch 8, which a later commit would open"),
        ({"epoch": (1 << 64) - 1}, 72, "commit 7 is in epoch 18446744073709551615"),
        ({"flags": 1, "chain": bytes(32)}, 72, "commit 7 is a claim, but in epoch 3"),
        ({"epoch": 7}, 156, "commit 7 opens its own epoch, but is no claim"),
        ({"epoch": 7, "flags": 1}, 112, "a claim carries a chain"),
        ({"epoch": 7, "flags": 1, "chain": bytes(31) + b"\1"}, 112, "a claim carries a chain"),
        ({"time_ms": TIME_MS_MAX + 1}, 144, "is not between 0 and 253402300799999 ms"),
        ({"time_ms": (1 << 64) - 1}, 144, "time 18446744073709551615 ms"),
        ({"flags": 2}, 156, "unknown commit flags 0x2"),
        ({"flags": 0x80000001}, 156, "unknown commit flags 0x80000001"),
        ({"count": 1}, PAYLOAD_AT, "payload byte 1: 1 bytes announced, 0 left"),
        ({"count": (1 << 32) - 1}, PAYLOAD_AT, "payload byte 0: 4294967295 records announced, 1048576 are allowed"),
    ],
)
def test_each_rule_of_the_header(fields: dict[str, Any], offset: int, reason: str) -> None:
    for version, payload in ((2, NONE), (1, b"")):
        where = reason.replace("payload byte 1:", "payload byte 0:") if version == 1 else reason
        with corrupt(offset, where):
            decode(frame(b"c", commit_header(**fields), payload, version=version))


@pytest.mark.parametrize(
    ("fields", "version", "reason"),
    [
        ({"seen": 1}, 1, "reserved bytes are not zero"),
        ({"seen": 1 << 63, "epoch": 7, "flags": 1, "chain": bytes(32)}, 1, "reserved bytes are not zero"),
        ({"seen": 1}, 2, "commit 7 saw snapshot 1"),
        ({"seen": 7, "epoch": 7, "flags": 1, "chain": bytes(32)}, 2, "commit 7 saw snapshot 7"),
        ({"seen": (1 << 64) - 1, "epoch": 7, "flags": 1, "chain": bytes(32)}, 2, "saw snapshot 18446744073709551615"),
    ],
)
def test_only_a_claim_of_the_newest_version_says_what_it_saw(fields: dict[str, Any], version: int, reason: str) -> None:
    with corrupt(160, reason):
        decode(frame(b"c", commit_header(**fields), NONE if version == 2 else b"", version=version))


def test_the_first_commit_is_a_claim() -> None:
    first = commit_header(sequence=1, epoch=1, chain=bytes(32), flags=1)
    assert decode(frame(b"c", first, NONE), sequence=1).claim
    with corrupt(156, "commit 1 opens its own epoch, but is no claim"):
        decode(frame(b"c", commit_header(sequence=1, epoch=1, chain=bytes(32)), NONE), sequence=1)
    with corrupt(64, "no commit has sequence number 0"):
        decode(frame(b"c", commit_header(sequence=0, epoch=0), NONE), sequence=0)


REMOVE = b"r" + text("/a") + uint(1)


@pytest.mark.parametrize(
    ("payload", "count", "at", "reason"),
    [
        (REMOVE, 0, 0, "5 bytes too many"),
        (REMOVE + b"\0", 1, 5, "1 bytes too many"),
        (REMOVE, 2, 5, "1 bytes announced, 0 left"),
        (REMOVE[:-1], 1, 4, "ends inside an integer"),
        (b"\0", 1, 0, "unknown operation b'\\x00'"),
        (REMOVE + b"x" + text("/a"), 2, 5, "unknown operation b'x'"),
        (b"r" + text("") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("a") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("//") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/a/") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/a//b") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/./a") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/a/..") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/../../etc/passwd") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/a\0b") + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/" + "x" * 256) + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/é" + "x" * 254) + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + text("/d" * 2049) + uint(1), 1, 1, "not a normalised absolute path"),
        (b"r" + blob(b"/\xff") + uint(1), 1, 1, "text is not UTF-8"),
        (b"r" + blob(b"/\xed\xa0\x80") + uint(1), 1, 1, "text is not UTF-8"),
        (b"r" + uint(1 << 62) + b"/", 1, 10, "4611686018427387904 bytes announced"),
        (b"r" + text("/a") + uint(TIME_MS_MAX + 1), 1, 4, "time 253402300800000 is over 253402300799999"),
        (b"r" + text("/a") + b"\xff" * 9, 1, 12, "integer of more than 63 bits"),
        (b"r" + text("/a") + b"\x81\x00", 1, 5, "integer not in its shortest form"),
        (b"d" + text("/a") + uint(0o10000) + uint(1), 1, 4, "mode 4096 is over 4095"),
        (b"w" + text("/a") + uint(0o10000) + uint(1) + inline(b""), 1, 4, "mode 4096 is over 4095"),
        (b"m" + text("/a") + text("b") + uint(1), 1, 4, "not a normalised absolute path"),
        (b"q" + uint(DATABASE_BYTES_MAX + 1) + uint(0), 1, 1, "database of 4294967297 bytes is over 4294967296"),
        (b"q" + uint(1 << 60) + uint(0), 1, 1, "database of 1152921504606846976 bytes is over 4294967296"),
        (b"q" + uint(9) + uint(1 << 62), 1, 11, "4611686018427387905 records announced, 1048576 are allowed"),
        (b"q" + uint(9) + uint((1 << 20) - 1), 1, 5, "ends inside an integer"),
        (b"q" + uint(9) + uint(1 << 20), 1, 5, "1048577 records announced, 1048576 are allowed"),
        (b"q" + uint(9) + uint(1) + uint(0) + uint(1 << 30), 1, 9, "1073741824 bytes announced, 0 left"),
    ],
)
def test_each_rule_of_the_payload(payload: bytes, count: int, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at + len(NONE)}: {reason}"):
        decode(commit(payload, count))
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}"):
        decode(commit_of_version_1(payload, count))


WRITE = b"w" + text("/a") + uint(0) + uint(1)


@pytest.mark.parametrize(
    ("payload", "count", "at", "reason"),
    [
        (WRITE + uint(1 << 40), 1, 12, "1099511627776 bytes announced, 0 left"),
        (WRITE + blob(b"x")[:1], 1, 7, "1 bytes announced, 0 left"),
        (WRITE + blob(b"x") + b"\0", 1, 8, "1 bytes too many"),
        (WRITE + inline(b"x"), 1, 8, "1 bytes too many"),
    ],
)
def test_version_1_has_bytes_where_contents_are_now(payload: bytes, count: int, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}"):
        decode(commit_of_version_1(payload, count))


def test_version_1_reads_as_it_always_did() -> None:
    stored = WRITE + blob(b"data") + b"a" + text("/f") + uint(5) + blob(b"")
    expected = (WriteFile(("a",), Content.of(b"data"), 0, 1), AppendFile(("f",), Content.of(b""), 5))
    assert decode(commit_of_version_1(stored, 2)).operations == expected
    large = bytes(range(256)) * 1000
    found = decode(commit_of_version_1(WRITE + blob(large), 1)).operations
    assert found == (WriteFile(("a",), Content.of(large), 0, 1),)
    assert isinstance(found[0], WriteFile)
    check_content(found[0].content)


def test_a_commit_with_blobs_is_stored_as_the_specification_says() -> None:
    # Two blobs, in the order of their epochs and not of their use; one of them twice, once with a chunk compressed.
    old, new = Blob(2, b"\xff" * 16, 200_000), Blob(3, bytes(16), 1 << 40)
    digests = [bytes([number]) * 16 for number in range(4)]
    places = [
        Place(new, 1 << 30, CHUNK_BYTES, False, digests[0], CHUNK_BYTES),
        Place(new, (1 << 30) + CHUNK_BYTES, 77, True, digests[1], CHUNK_BYTES),
        Place(old, 96, CHUNK_BYTES, False, digests[2], CHUNK_BYTES),
        Place(new, 96, 3, False, digests[3], 3),
    ]
    large = Content(tuple(Chunk(place.size, place) for place in places), 3 * CHUNK_BYTES + 3)
    value = replace(
        COMMIT,
        operations=(WriteFile(("a",), large, 0, 1), AppendFile(("a",), Content.of(b"x"), 2)),
    )
    stored = commit(
        WRITE
        + content(
            3 * CHUNK_BYTES + 3,
            run(1, 1 << 30, (CHUNK_BYTES, False, digests[0]), (77, True, digests[1])),
            run(0, 96, (CHUNK_BYTES, False, digests[2])),
            run(1, 96, (3, False, digests[3])),
        )
        + b"a"
        + text("/a")
        + uint(2)
        + inline(b"x"),
        2,
        entry(2, b"\xff" * 16, 200_000),
        entry(3, bytes(16), 1 << 40),
    )
    assert decode(stored) == value
    assert value.blobs == {old, new}
    assert decode_frame(KEY, b"c", 104, encode_commit(value)[0]).payload == stored[PAYLOAD_AT:]


ONE = entry(1, bytes(16), 1000)
SEALED = WRITE + content(5, run(0, 96, (5, False, bytes(16))))


@pytest.mark.parametrize(
    ("payload", "count", "at", "reason"),
    [
        (b"", 0, 0, "ends inside an integer"),
        (uint(1 << 40), 0, 6, "8 bytes announced, 0 left"),
        (table(ONE), 0, 27, "a blob that nothing refers to"),
        (table(ONE) + WRITE + inline(b"x"), 1, 36, "a blob that nothing refers to"),
        (table(ONE, entry(1, b"\1" * 16, 1000)) + SEALED, 1, 80, "a blob that nothing refers to"),
        (table(ONE, ONE) + SEALED, 1, 27, "the blobs are not in order"),
        (table(ONE, entry(1, bytes(16), 1001)) + SEALED, 1, 27, "the blobs are not in order"),
        (table(entry(1, b"\1" * 16, 1000), ONE) + SEALED, 1, 27, "the blobs are not in order"),
        (table(entry(2, bytes(16), 1000), entry(1, b"\1" * 16, 1000)) + SEALED, 1, 27, "the blobs are not in order"),
        (table(entry(0, bytes(16), 1000)) + SEALED, 1, 1, "no blob has epoch 0"),
        (table(ONE[:-3]) + b"", 0, 9, "16 bytes announced, 15 left"),
        (table(ONE[:24]) + b"", 0, 25, "ends inside an integer"),
    ],
)
def test_each_rule_of_the_table(payload: bytes, count: int, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}"):
        decode(frame(b"c", commit_header(count=count), payload))


def test_records_of_a_commit_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "RECORDS_MAX", 6)
    write = WriteDatabase(9, ((0, b"a"), (1, b"b"), (2, b"c")))
    good = replace(COMMIT, operations=(write, Remove(("a",), 1)))
    assert decode(encode_commit(good)[0]) == good, "2 operations, 3 extents and 1 name"
    for over in ((write, Remove(("a", "b"), 1)), (write, write)):
        with pytest.raises(ValueError, match="records"):
            encode_commit(replace(COMMIT, operations=over))
    stored = BY_HAND[-2][1]
    with corrupt(PAYLOAD_AT, "7 records announced, 6 are allowed"):
        decode(commit(stored * 7, 7))
    deep = b"r" + text("/a" * 6) + uint(1)
    with corrupt(PAYLOAD_AT, "7 records announced, 6 are allowed"):
        decode(commit(deep, 1))
    place = Place(Blob(1, bytes(16), 1 << 20), 96, CHUNK_BYTES, False, bytes(16), CHUNK_BYTES)
    chunks = [replace(place, offset=96 + index * CHUNK_BYTES) for index in range(4)]
    for count, is_good in ((3, True), (4, False)):
        value = Content(tuple(Chunk(CHUNK_BYTES, each) for each in chunks[:count]), count * CHUNK_BYTES)
        several = replace(COMMIT, operations=(WriteFile(("a",), value, 0, 1),))
        refs = [(CHUNK_BYTES, False, bytes(16))] * count
        by_hand = commit(WRITE + content(count * CHUNK_BYTES, run(0, 96, *refs)), 1, entry(1, bytes(16), 1 << 20))
        if is_good:
            assert decode(encode_commit(several)[0]) == decode(by_hand) == several, (
                "1 operation, 1 name, 1 blob, 3 chunks"
            )
            continue
        with pytest.raises(ValueError, match="records"):
            encode_commit(several)
        with corrupt(PAYLOAD_AT, "7 records announced, 6 are allowed"):
            decode(by_hand)
    names = [entry(number, bytes(16), 100) for number in range(1, 8)]
    with corrupt(PAYLOAD_AT, "7 records announced, 6 are allowed"):
        decode(commit(b"", 0, *names))


def sealed(
    *,
    epoch: int = 1,
    blob_id: bytes = bytes(16),
    blob_size: int = 2000,
    offset: int = 96,
    length: int = 1000,
    compressed: bool = False,
    changed: bool = False,
) -> WriteFile:
    """Return a file of one chunk of 1,000 bytes in a blob."""
    place = Place(Blob(epoch, blob_id, blob_size), offset, length, compressed, bytes(16), 1000)
    chunk = Chunk(1000, place)
    return WriteFile(("a",), Content((chunk.changed(1000, [(0, b"x")]) if changed else chunk,), 1000), 0, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence": 0}, "no commit has sequence number 0"),
        ({"sequence": -1}, "no commit has sequence number -1"),
        ({"sequence": 1 << 64}, "no commit has sequence number"),
        ({"epoch": 0}, "epoch 0"),
        ({"epoch": 7}, "is no claim"),
        ({"epoch": 8}, "epoch 8"),
        ({"claim": True}, "is a claim, but in epoch 3"),
        ({"claim": True, "epoch": 7}, "a claim carries a chain"),
        ({"writer": b"short"}, "writer of 5 bytes, not 16"),
        ({"nonce": bytes(17)}, "nonce of 17 bytes, not 16"),
        ({"chain": b""}, "chain of 0 bytes, not 32"),
        ({"time_ms": -1}, "time -1 ms"),
        ({"time_ms": TIME_MS_MAX + 1}, "time 253402300800000 ms"),
        ({"snapshot_seen": 1}, "commit 7 saw snapshot 1"),
        ({"snapshot_seen": -1}, "commit 7 saw snapshot -1"),
        ({"claim": True, "epoch": 7, "chain": CHAIN_START, "snapshot_seen": 7}, "commit 7 saw snapshot 7"),
        ({"claim": True, "epoch": 7, "chain": CHAIN_START, "snapshot_seen": -1}, "commit 7 saw snapshot -1"),
        ({"operations": (Remove(("a/b",), 1),)}, "not a normalised absolute path"),
        ({"operations": (Remove(("..",), 1),)}, "not a normalised absolute path"),
        ({"operations": (Remove(("",), 1),)}, "not a normalised absolute path"),
        ({"operations": (Remove(("x" * 256,), 1),)}, "not a normalised absolute path"),
        ({"operations": (Remove(("d",) * 2049, 1),)}, "not a normalised absolute path"),
        ({"operations": (Rename(("a",), (".",), 1),)}, "not a normalised absolute path"),
        ({"operations": (Remove(("\ud800",), 1),)}, "surrogates not allowed"),
        ({"operations": (Remove(("a",), -1),)}, "-1 is not an unsigned integer"),
        ({"operations": (MakeDirectory(("a",), 0o10000, 1),)}, "mode 0o10000"),
        ({"operations": (WriteDatabase(DATABASE_BYTES_MAX + 1, ()),)}, "database of 4294967297 bytes"),
        ({"operations": (WriteDatabase(-1, ()),)}, "-1 is not an unsigned integer"),
        ({"operations": (sealed(changed=True),)}, "a chunk has to be read before it is stored"),
        ({"operations": (sealed(epoch=0),)}, "no blob has epoch 0"),
        ({"operations": (sealed(epoch=1 << 64),)}, "no blob has epoch 18446744073709551616"),
        ({"operations": (sealed(blob_id=bytes(15)),)}, "an id of 15 bytes"),
        ({"operations": (sealed(blob_size=1 << 63),)}, "is not an unsigned integer below 2**63"),
        ({"operations": (sealed(), sealed(blob_size=2001))}, "of two sizes"),
        ({"operations": (sealed(offset=95),)}, "a chunk from 95 to 1095 in a blob of 2000 bytes"),
        ({"operations": (sealed(offset=1001),)}, "a chunk from 1001 to 2001 in a blob of 2000 bytes"),
        ({"operations": (sealed(length=0, compressed=True),)}, "a chunk of 1000 bytes stored in 0"),
        ({"operations": (sealed(length=1001),)}, "a chunk of 1000 bytes stored in 1001"),
        ({"operations": (sealed(length=999),)}, "a chunk of 1000 bytes stored in 999"),
        ({"operations": (sealed(compressed=True),)}, "a chunk of 1000 bytes stored in 1000"),
    ],
)
def test_nothing_is_encoded_that_would_not_be_decoded(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        encode_commit(replace(COMMIT, **changes))


def test_a_path_of_exactly_4096_bytes_is_stored() -> None:
    longest = MakeDirectory(("d",) * 2048, 0o755, 1)
    assert decode(encode_commit(replace(COMMIT, operations=(longest,)))[0]).operations == (longest,)


PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([bytes([kind]) for kind in b"dwarmq"]),
    st.sampled_from(["/", "/a", "/a/b", "/..", "a", ""]).map(text),
    st.integers(0, 1 << 64).map(uint),
    st.sampled_from([stored for _, stored in BY_HAND]),
    st.sampled_from([SEALED, WRITE, inline(b""), inline(b"x"), held(b"x"), run(0, 96, (5, False, bytes(16)))]),
)
TABLES = st.sampled_from([NONE, table(ONE), table(ONE, entry(2, bytes(16), 500)), table(ONE, ONE), b""])


@examples(600)
@given(TABLES, st.lists(PIECES, max_size=8).map(b"".join), st.one_of(st.integers(0, 8), st.integers(0, (1 << 32) - 1)))
def test_arbitrary_payloads_with_a_right_checksum(blobs: bytes, payload: bytes, count: int) -> None:
    data = frame(b"c", commit_header(count=count), blobs + payload)
    with contextlib.suppress(Corrupt):
        found = decode(data)
        assert payload_of(found.operations) == data[PAYLOAD_AT:], "what decodes has no other form"


@examples(300)
@given(st.lists(operations(), min_size=1, max_size=4).map(tuple), st.data())
def test_damaged_payloads_with_a_right_checksum(batch: tuple[Operation, ...], data: st.DataObject) -> None:
    payload = payload_of(batch)
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 4)))
    damaged = payload[:start] + data.draw(st.binary(max_size=4)) + payload[end:]
    with contextlib.suppress(Corrupt):
        found = decode(frame(b"c", commit_header(count=len(batch)), damaged))
        assert payload_of(found.operations) == damaged, "what decodes has no other form"


@examples(200)
@given(st.binary(min_size=104, max_size=104))
def test_arbitrary_headers_with_a_right_checksum(header: bytes) -> None:
    data = frame(b"c", header, NONE)
    with contextlib.suppress(Corrupt):
        assert encode_commit(decode(data, int.from_bytes(header[:8])))[0] == data


def test_the_chain_notices_what_a_frame_cannot() -> None:
    _, first = encode_commit(replace(CLAIM, sequence=1, epoch=1))
    _, second = encode_commit(replace(COMMIT, sequence=2, epoch=1, chain=next_chain(CHAIN_START, first)))
    _, foreign = encode_commit(replace(CLAIM, sequence=1, epoch=1, writer=NONCE))
    chains = {
        next_chain(next_chain(CHAIN_START, first), second),
        next_chain(next_chain(CHAIN_START, second), first),
        next_chain(next_chain(CHAIN_START, foreign), second),
        next_chain(CHAIN_START, second),
    }
    assert len(chains) == 4, "in order, swapped, with a foreign commit, and with one missing"
