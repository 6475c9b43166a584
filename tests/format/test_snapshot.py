"""Snapshots: every tree reads back as it was, in one form only; every rule of the payload has its error."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3 import fs
from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import Snapshot, decode_snapshot, encode_snapshot, wire
from sessionfs_s3.format.frame import decode_frame
from sessionfs_s3.format.limits import TIME_MS_MAX
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    EMPTY,
    EMPTY_TREE,
    Blob,
    Chunk,
    Content,
    Directory,
    File,
    MakeDirectory,
    Node,
    Pages,
    Place,
    Tree,
    WriteFile,
)
from tests.format.handmade import (
    CHAIN,
    KEY,
    NO_TABLES,
    SEQUENCE,
    TIME_MS,
    WRITER,
    blob,
    content,
    corrupt,
    entry,
    frame,
    inline,
    node,
    run,
    snapshot,
    snapshot_header,
    snapshot_of_version_1,
    table,
    tables,
    text,
    uint,
)
from tests.fs.strategies import BLOBS, TIMES, dump, examples, trees

PAYLOAD_AT = 144
NUMBER_MAX = (1 << 63) - 1
EMPTY_SNAPSHOT = Snapshot(SEQUENCE, 3, WRITER, CHAIN, TIME_MS, EMPTY_TREE)
ROOT = node(0, b"d", "", mode=0o755)
END = uint(0) + uint(0)


def decode(data: bytes, sequence: int = SEQUENCE) -> Snapshot:
    return decode_snapshot(KEY, data, sequence=sequence)


def payload_of(value: Snapshot) -> bytes:
    """Return the payload of a snapshot before compression."""
    return decode_frame(KEY, b"s", 80, encode_snapshot(value)).payload


def directory(entries: dict[str, Node]) -> Directory:
    return Directory(MappingProxyType(entries), 0o755, 1000, 1000)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    sequence = draw(st.integers(1, (1 << 64) - 1))
    writer, chain = draw(st.binary(min_size=16, max_size=16)), draw(st.binary(min_size=32, max_size=32))
    value = Snapshot(sequence, draw(st.integers(1, sequence)), writer, chain, draw(TIMES), draw(trees()))
    # A number in a table is below 2**63, whatever the snapshot's own.
    numbers = st.integers(1, min(sequence, NUMBER_MAX))
    died = {blob: draw(numbers) for blob in draw(st.lists(BLOBS, unique=True)) if blob not in value.blobs}
    fences = sorted(draw(st.sets(numbers, max_size=4)))
    fenced_from = draw(st.integers(0, min([sequence, NUMBER_MAX, *(fence - 1 for fence in fences)])))
    seen = {fence: draw(st.integers(0, fence - 1)) for fence in fences}
    return replace(value, died=died, fences=MappingProxyType(seen), fenced_from=fenced_from)


@examples(150)
@given(snapshots())
def test_snapshots_read_back(value: Snapshot) -> None:
    data = encode_snapshot(value)
    found = decode(data, value.sequence)
    assert found == value
    assert dump(found.tree) == dump(value.tree)
    assert encode_snapshot(found) == data, "the same state is always the same bytes"


def test_a_snapshot_is_stored_as_the_specification_says() -> None:
    leaf = File(Content.of(b"data"), 0o600, 1000, 1000)
    tree = Tree(
        directory({"b": leaf, "a": directory({"é": directory({}), "c": leaf}), "a.c": replace(leaf, content=EMPTY)}),
        Pages.of(b"SQLite"),
    )
    payload = b"".join(
        [
            ROOT,
            node(1, b"d", "a", mode=0o755),
            node(2, b"f", "c", b"data", mode=0o600),
            node(2, b"d", "é", mode=0o755),
            node(1, b"f", "a.c", b"", mode=0o600),
            node(1, b"f", "b", b"data", mode=0o600),
            uint(0),
            uint(1) + inline(b"SQLite"),
        ]
    )
    assert len(payload) + 3 < 128, "so that it is not compressed"
    assert encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree)) == snapshot(payload)
    assert decode(snapshot(payload)).tree == tree
    assert decode(snapshot(ROOT + END)).tree == Tree(directory({}))
    assert decode(snapshot(ROOT + uint(0) + uint(1) + inline(b""))).tree == Tree(directory({}), Pages((), 0))


OLD, NEW = Blob(2, b"\xff" * 16, 200_000), Blob(3, bytes(16), 1 << 40)
OLD_ENTRY, NEW_ENTRY = entry(2, b"\xff" * 16, 200_000), entry(3, bytes(16), 1 << 40)


def test_blobs_and_claims_are_stored_as_the_specification_says() -> None:
    place = Place(NEW, 96, 5, True, b"\7" * 16, 9)
    tree = Tree(directory({"b": File(Content((Chunk(9, place),), 9), 0o600, 1000, 1000)}))
    value = replace(
        EMPTY_SNAPSHOT, tree=tree, died=MappingProxyType({OLD: 6}), fenced_from=1, fences={2: 0, 3: 2, 7: 5}
    )
    payload = ROOT + node(1, b"f", "b", mode=0o600) + content(9, run(1, 96, (5, True, b"\7" * 16))) + END
    stored = snapshot(payload, tables((OLD_ENTRY, 6), (NEW_ENTRY, 0), fenced_from=1, fences=((2, 0), (3, 2), (7, 5))))
    assert decode_frame(KEY, b"s", 80, encode_snapshot(value)).payload == stored[PAYLOAD_AT:]
    assert decode(stored) == value
    assert value.blobs == {NEW}


def test_version_1_has_neither_blobs_nor_claims() -> None:
    payload = ROOT + node(1, b"f", "b") + blob(b"data") + uint(0) + uint(1) + blob(b"db")
    leaf = File(Content.of(b"data"), 0o644, 1000, 1000)
    expected = replace(EMPTY_SNAPSHOT, tree=Tree(directory({"b": leaf}), Pages.of(b"db")), fenced_from=SEQUENCE)
    assert decode(snapshot_of_version_1(payload)) == expected, "any commit up to here may be a claim"
    again = decode(encode_snapshot(expected))
    assert again == expected


def test_what_a_snapshot_held_is_settled() -> None:
    tree = Tree(directory({"b": File(Content.of(b"data"), 0o600, 1, 1)}), Pages.of(b"db"))
    for data in (
        encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree)),
        snapshot_of_version_1(ROOT + node(1, b"f", "b") + blob(b"data") + uint(0) + uint(1) + blob(b"db")),
    ):
        chunks = [chunk for each in fs.contents(decode(data).tree) for chunk in each.chunks]
        assert [chunk.settled for chunk in chunks] == [True, True], "the next snapshot seals them"


SEALED = node(1, b"f", "b") + content(9, run(0, 96, (5, True, bytes(16))))
ONE = tables((OLD_ENTRY, 0))


@pytest.mark.parametrize(
    ("payload", "at", "reason"),
    [
        (b"", 0, "ends inside an integer"),
        (uint(1 << 40), 6, "8 bytes announced, 0 left"),
        (table(OLD_ENTRY), 28, "ends inside an integer"),
        (tables((OLD_ENTRY, 8)), 28, "a blob died in commit 8, which comes after 7"),
        (tables((OLD_ENTRY, 1 << 62)), 28, "a blob died in commit 4611686018427387904, which comes after 7"),
        (tables((OLD_ENTRY, 1), (OLD_ENTRY, 1)), 29, "the blobs are not in order"),
        (tables((NEW_ENTRY, 1), (OLD_ENTRY, 1)), 32, "the blobs are not in order"),
        (tables((entry(0, bytes(16), 100), 1)), 1, "no blob has epoch 0"),
        (tables(fenced_from=8), 1, "claims are known from commit 8, which comes after 7"),
        (tables(fences=((0, 0),)), 3, "the claims are not in order"),
        (tables(fences=((8, 0),)), 3, "a claim has commit 8, which comes after 7"),
        (tables(fences=((3, 0), (3, 0))), 5, "the claims are not in order"),
        (tables(fences=((3, 0), (2, 0))), 5, "the claims are not in order"),
        (tables(fenced_from=3, fences=((3, 0),)), 3, "the claims are not in order"),
        (tables(fenced_from=3, fences=((2, 0), (5, 0))), 3, "the claims are not in order"),
        (tables(fences=((3, 3),)), 4, "a claim saw the snapshot of commit 3, which comes after 2"),
        (
            tables(fences=((1, 0), (7, 1 << 60))),
            6,
            f"a claim saw the snapshot of commit {1 << 60}, which comes after 6",
        ),
        (tables(fences=((3, 2),)), 5, "ends inside an integer"),
        (bytes(2) + uint((1 << 20) + 1), 5, "1048577 records announced, 1048576 are allowed"),
        (bytes(2) + uint(1 << 20), 5, "ends inside an integer"),
        (ONE + ROOT + END, 42, f"blob {OLD.id.hex()} is referred to, or died: not both, not neither"),
        (tables((OLD_ENTRY, 3)) + ROOT + SEALED + END, 73, f"blob {OLD.id.hex()} is referred to, or died"),
        (
            tables((OLD_ENTRY, 0), (NEW_ENTRY, 0)) + ROOT + SEALED + END,
            104,
            f"blob {NEW.id.hex()} is referred to, or died",
        ),
        (NO_TABLES + ROOT + SEALED + END, 24, "blob 0 of 0"),
    ],
)
def test_each_rule_of_the_tables(payload: bytes, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}"):
        decode(frame(b"s", snapshot_header(), payload))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_contents_of_every_size(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    tree = Tree(directory({"f": File(Content.of(data), 0o600, 1, 1)}), Pages.of(data))
    assert decode(encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree))).tree == tree


@pytest.mark.parametrize(
    ("fields", "offset", "reason"),
    [
        ({"sequence": 8}, 64, "snapshot 8 stands where snapshot 7 belongs"),
        ({"epoch": 0}, 72, "snapshot 7 is in epoch 0"),
        ({"epoch": 8}, 72, "snapshot 7 is in epoch 8, which a later commit would open"),
        ({"time_ms": TIME_MS_MAX + 1}, 128, "time 253402300800000 ms"),
        ({"reserved": 1}, 136, "reserved bytes are not zero"),
    ],
)
def test_each_rule_of_the_header(fields: dict[str, Any], offset: int, reason: str) -> None:
    for version, payload in ((2, NO_TABLES + ROOT + END), (1, ROOT + END)):
        with corrupt(offset, reason):
            decode(frame(b"s", snapshot_header(**fields), payload, version=version))


def test_there_is_no_snapshot_before_the_first_commit() -> None:
    with corrupt(64, "no snapshot has sequence number 0"):
        decode(frame(b"s", snapshot_header(sequence=0, epoch=0), NO_TABLES + ROOT + END), sequence=0)


AT = len(ROOT)
LEVELS = [node(depth, b"d", "d" if depth else "") for depth in range(2050)]
A_FILE = node(1, b"f", "b", b"x")
A_DIRECTORY = node(1, b"d", "b")


@pytest.mark.parametrize(
    ("payload", "at", "reason"),
    [
        (b"", 0, "ends inside an integer"),
        (END, 1, "unknown node b'\\x00'"),
        (node(0, b"f", "", b""), 0, "the first node is not the root"),
        (node(1, b"d", ""), 0, "the first node is not the root"),
        (node(0, b"d", "root") + END, 0, "the first node is not the root"),
        (node(0, b"l", ""), 1, "unknown node b'l'"),
        (ROOT, AT, "ends inside an integer"),
        (ROOT + uint(0), AT + 1, "ends inside an integer"),
        (ROOT + uint(0) + uint(2), AT + 1, "2 databases"),
        (ROOT + uint(0) + uint(1), AT + 2, "ends inside an integer"),
        (ROOT + uint(0) + uint(1) + uint(1 << 60), AT + 11, "ends inside an integer"),
        (ROOT + END + b"\0", AT + 2, "1 bytes too many"),
        (ROOT + uint(0) + uint(1) + inline(b"db") + b"db", AT + 6, "2 bytes too many"),
        (ROOT + node(2, b"f", "b", b"") + END, AT, "a node at depth 2 below one at depth 0"),
        (ROOT + node(1 << 40, b"d", "b") + END, AT, "a node at depth 1099511627776 below one at depth 0"),
        (ROOT + A_FILE + node(2, b"f", "c", b"") + END, AT + len(A_FILE), "a node at depth 2 below one at depth 0"),
        (
            ROOT + A_DIRECTORY + node(3, b"d", "c") + END,
            AT + len(A_DIRECTORY),
            "a node at depth 3 below one at depth 1",
        ),
        (ROOT + A_FILE + node(1, b"f", "b", b"") + END, AT + len(A_FILE), "name 'b' is invalid"),
        (ROOT + A_DIRECTORY + node(1, b"f", "b", b"") + END, AT + len(A_DIRECTORY), "name 'b' is invalid"),
        (ROOT + A_FILE + node(1, b"d", "a") + END, AT + len(A_FILE), "name 'a' is invalid"),
        (ROOT + A_FILE + node(1, b"d", "B") + END, AT + len(A_FILE), "name 'B' is invalid"),
        (ROOT + node(1, b"d", "") + END, AT, "name '' is invalid"),
        (ROOT + node(1, b"d", ".") + END, AT, "name '.' is invalid"),
        (ROOT + node(1, b"d", "..") + END, AT, "name '..' is invalid"),
        (ROOT + node(1, b"f", "a/b", b"") + END, AT, "name 'a/b' is invalid"),
        (ROOT + node(1, b"f", "../../etc/passwd", b"") + END, AT, "name '../../etc/passwd' is invalid"),
        (ROOT + node(1, b"f", "a\0", b"") + END, AT, "name 'a\\x00' is invalid"),
        (ROOT + node(1, b"d", "x" * 256) + END, AT, "name 'xxxxxxxxx"),
        (ROOT + node(1, b"d", "é" * 128) + END, AT, "name 'ééééééééé"),
        (ROOT + node(1, b"d", b"\xff") + END, AT + 2, "text is not UTF-8"),
        (ROOT + node(1, b"x", "b") + END, AT + 1, "unknown node b'x'"),
        (ROOT + node(1, b"d", "b", mode=0o10000) + END, AT + 4, "mode 4096 is over 4095"),
        (ROOT + node(1, b"f", "b") + uint(1 << 62), AT + 19, "ends inside an integer"),
        (ROOT + uint(1) + b"d" + text("b") + uint(0) + uint(TIME_MS_MAX + 1), AT + 5, "time 253402300800000 is over"),
        (
            b"".join(LEVELS) + END,
            len(b"".join(LEVELS[:2049])),
            "name 'd' is invalid, repeated, out of order or too deep",
        ),
    ],
)
def test_each_rule_of_the_payload(payload: bytes, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at + len(NO_TABLES)}: {reason}"):
        decode(snapshot(payload))


@pytest.mark.parametrize(
    ("payload", "at", "reason"),
    [
        (b"", 0, "ends inside an integer"),
        (node(0, b"f", "") + blob(b""), 0, "the first node is not the root"),
        (ROOT + uint(0) + uint(2), AT + 1, "2 databases"),
        (ROOT + uint(0) + uint(1) + uint(1 << 60), AT + 11, "1152921504606846976 bytes announced, 0 left"),
        (ROOT + uint(0) + uint(1) + blob(b"db") + b"db", AT + 5, "2 bytes too many"),
        (ROOT + node(1, b"f", "b") + uint(1 << 62), AT + 19, "4611686018427387904 bytes announced, 0 left"),
        (ROOT + node(1, b"d", "b") + node(1, b"d", "b") + END, AT + 10, "name 'b' is invalid"),
    ],
)
def test_each_rule_of_the_payload_of_version_1(payload: bytes, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}"):
        decode(snapshot_of_version_1(payload))


def test_the_deepest_tree_reads_back() -> None:
    deepest = ("d",) * 2047
    tree = fs.apply(EMPTY_TREE, MakeDirectory(deepest, 0o755, 1))
    tree = fs.apply(tree, WriteFile((*deepest, "f"), Content.of(b"bottom"), 0o644, 2))
    found = decode(encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree))).tree
    assert dump(found) == dump(tree)
    assert fs.stat(found, (*deepest, "f")).size == 6
    over = fs.Tree(directory({"dd": tree.root.entries["d"]}))
    with corrupt(PAYLOAD_AT, "too deep"):
        decode(encode_snapshot(replace(EMPTY_SNAPSHOT, tree=over)))


def test_nodes_are_bounded_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "RECORDS_MAX", 3)
    names = ["a", "b", "c"]
    tree = Tree(directory({name: directory({}) for name in names[:2]}))
    assert decode(encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree))).tree == tree
    with pytest.raises(ValueError, match="records"):
        encode_snapshot(replace(EMPTY_SNAPSHOT, tree=Tree(directory({name: directory({}) for name in names}))))
    with corrupt(PAYLOAD_AT, "4 records announced, 3 are allowed"):
        decode(snapshot(ROOT + b"".join(node(1, b"d", name) for name in names) + END))
    # Blobs, claims and chunks count as nodes do.
    with corrupt(PAYLOAD_AT, "4 records announced, 3 are allowed"):
        decode(snapshot(ROOT + END, tables((OLD_ENTRY, 1), (NEW_ENTRY, 1), fences=((1, 0), (2, 0)))))
    full = tables((OLD_ENTRY, 0))
    assert decode(snapshot(ROOT + END, tables((OLD_ENTRY, 1), fences=((1, 0),)))).fences == {1: 0}
    with corrupt(PAYLOAD_AT, "4 records announced, 3 are allowed"):
        decode(snapshot(ROOT + SEALED + END, full))
    with pytest.raises(ValueError, match="records"):
        encode_snapshot(replace(EMPTY_SNAPSHOT, died={OLD: 1, NEW: 1}, fences={1: 0, 2: 0}))


def test_a_state_that_is_too_large_is_refused_before_it_takes_memory() -> None:
    tree = replace(EMPTY_TREE, database=Pages((), 0).patched(1 << 32, ()))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="over 268435456 bytes"):
            encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024, "4 GiB are never put together, only the sizes of its chunks"


def referring() -> Tree:
    """Return a tree that refers to the blob :data:`OLD`."""
    place = Place(OLD, 96, 5, True, bytes(16), 9)
    return Tree(directory({"b": File(Content((Chunk(9, place),), 9), 0o600, 1000, 1000)}))


def small(mode: int, mtime_ms: int) -> Tree:
    return Tree(Directory(MappingProxyType({}), mode, mtime_ms, 0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence": 0}, "no snapshot has sequence number 0"),
        ({"sequence": 1 << 64}, "no snapshot has sequence number"),
        ({"epoch": 0}, "epoch 0"),
        ({"epoch": 8}, "epoch 8"),
        ({"writer": b"short"}, "writer of 5 bytes, not 16"),
        ({"chain": bytes(33)}, "chain of 33 bytes, not 32"),
        ({"time_ms": -1}, "time -1 ms"),
        ({"time_ms": TIME_MS_MAX + 1}, "time 253402300800000 ms"),
        ({"died": {OLD: 0}}, "of snapshot 7 died in 0, or did not"),
        ({"died": {OLD: 8}}, "of snapshot 7 died in 8, or did not"),
        ({"died": {OLD: -1}}, "of snapshot 7 died in -1, or did not"),
        ({"died": {OLD: 3}, "tree": referring()}, "of snapshot 7 died in 3, or did not"),
        ({"died": {replace(OLD, size=1): 3}, "tree": referring()}, "of two sizes"),
        ({"died": {replace(OLD, epoch=0): 3}}, "no blob has epoch 0"),
        ({"died": {replace(OLD, id=b""): 3}}, "an id of 0 bytes"),
        ({"fences": {0: 0}}, "the claims of snapshot 7 are not in order: 0, 0"),
        ({"fences": {3: 0, 2: 0}}, "not in order: 3, 2"),
        ({"fences": {8: 0}}, "not in order: 8, 8"),
        ({"fences": {3: 3}}, "claim 3 saw snapshot 3"),
        ({"fences": {3: -1}}, "claim 3 saw snapshot -1"),
        ({"fenced_from": 3, "fences": {3: 0}}, "not in order: 3, 3"),
        ({"fenced_from": 8}, "not in order: 8, 8"),
        ({"fenced_from": -1}, "not in order: -1, 8"),
        ({"sequence": 1 << 63, "fenced_from": 1 << 63}, "9223372036854775808 is not an unsigned integer below 2**63"),
        ({"tree": small(0o10000, 0)}, "mode 0o10000"),
        ({"tree": small(0o755, TIME_MS_MAX + 1)}, "time 253402300800000 ms"),
        ({"tree": small(0o755, -1)}, "-1 is not an unsigned integer"),
    ],
)
def test_nothing_is_encoded_that_would_not_be_decoded(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        encode_snapshot(replace(EMPTY_SNAPSHOT, **changes))


PIECES = st.one_of(
    st.binary(max_size=4),
    st.builds(node, st.integers(0, 4), st.sampled_from([b"d", b"f"]), st.sampled_from(["", "a", "b", "é", ".."])),
    st.builds(node, st.integers(0, 4), st.just(b"f"), st.sampled_from(["a", "b", "c"]), st.binary(max_size=3)),
    st.sampled_from([END, uint(0), uint(1), uint(0) + uint(1) + inline(b"db"), SEALED, ONE, ROOT]),
)
ANY_TABLES = st.sampled_from(
    [NO_TABLES, ONE, tables((OLD_ENTRY, 3)), tables(fenced_from=2, fences=((3, 1), (7, 0))), b""]
)


@examples(600)
@given(ANY_TABLES, st.lists(PIECES, max_size=8).map(b"".join), st.booleans(), st.booleans())
def test_arbitrary_payloads_with_a_right_checksum(
    before: bytes, middle: bytes, starts_right: bool, ends_right: bool
) -> None:
    data = snapshot((ROOT if starts_right else b"") + middle + (END if ends_right else b""), before)
    with contextlib.suppress(Corrupt):
        found = decode(data)
        assert payload_of(found) == data[PAYLOAD_AT:], "what decodes has no other form"


@examples(200)
@given(trees(st.sampled_from(["a", "b", "é"])), st.data())
def test_damaged_payloads_with_a_right_checksum(tree: Tree, data: st.DataObject) -> None:
    payload = payload_of(replace(EMPTY_SNAPSHOT, tree=tree))
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 4)))
    damaged = payload[:start] + data.draw(st.binary(max_size=4)) + payload[end:]
    with contextlib.suppress(Corrupt):
        found = decode(frame(b"s", snapshot_header(), damaged))
        assert payload_of(found) == damaged, "what decodes has no other form"


@examples(200)
@given(st.binary(min_size=80, max_size=80))
def test_arbitrary_headers_with_a_right_checksum(header: bytes) -> None:
    data = frame(b"s", header, NO_TABLES + ROOT + END)
    with contextlib.suppress(Corrupt):
        assert encode_snapshot(decode(data, int.from_bytes(header[:8]))) == data
