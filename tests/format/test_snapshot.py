"""Snapshots: every tree reads back as it was, in one form only; every rule of the payload has its error."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3 import fs
from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import Snapshot, decode_snapshot, encode_snapshot, wire
from sessionfs_s3.format.limits import TIME_MS_MAX
from sessionfs_s3.fs import EMPTY, EMPTY_TREE, Content, Directory, File, MakeDirectory, Node, Tree, WriteFile
from sessionfs_s3.fs.content import CHUNK_BYTES
from tests.format.handmade import (
    CHAIN,
    KEY,
    SEQUENCE,
    TIME_MS,
    WRITER,
    blob,
    corrupt,
    frame,
    node,
    snapshot,
    snapshot_header,
    text,
    uint,
)
from tests.fs.strategies import TIMES, dump, examples, trees

PAYLOAD_AT = 144
EMPTY_SNAPSHOT = Snapshot(SEQUENCE, 3, WRITER, CHAIN, TIME_MS, EMPTY_TREE)
ROOT = node(0, b"d", "", mode=0o755)
END = uint(0) + uint(0)


def decode(data: bytes, sequence: int = SEQUENCE) -> Snapshot:
    return decode_snapshot(KEY, data, sequence=sequence)


def directory(entries: dict[str, Node]) -> Directory:
    return Directory(MappingProxyType(entries), 0o755, 1000, 1000)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    sequence = draw(st.integers(1, (1 << 64) - 1))
    writer, chain = draw(st.binary(min_size=16, max_size=16)), draw(st.binary(min_size=32, max_size=32))
    return Snapshot(sequence, draw(st.integers(1, sequence)), writer, chain, draw(TIMES), draw(trees()))


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
        Content.of(b"SQLite"),
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
            uint(1) + blob(b"SQLite"),
        ]
    )
    assert len(payload) < 128, "so that it is not compressed"
    assert encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree)) == snapshot(payload)
    assert decode(snapshot(payload)).tree == tree
    assert decode(snapshot(ROOT + END)).tree == Tree(directory({}))
    assert decode(snapshot(ROOT + uint(0) + uint(1) + blob(b""))).tree == Tree(directory({}), EMPTY)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_contents_of_every_size(size: int) -> None:
    content = Content.of(bytes(index % 251 for index in range(size)))
    tree = Tree(directory({"f": File(content, 0o600, 1, 1)}), content)
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
    with corrupt(offset, reason):
        decode(frame(b"s", snapshot_header(**fields), ROOT + END))


def test_there_is_no_snapshot_before_the_first_commit() -> None:
    with corrupt(64, "no snapshot has sequence number 0"):
        decode(frame(b"s", snapshot_header(sequence=0, epoch=0), ROOT + END), sequence=0)


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
        (ROOT + uint(0) + uint(1) + uint(1 << 60), AT + 11, "1152921504606846976 bytes announced, 0 left"),
        (ROOT + END + b"\0", AT + 2, "1 bytes too many"),
        (ROOT + uint(0) + uint(1) + blob(b"db") + b"db", AT + 5, "2 bytes too many"),
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
        (ROOT + node(1, b"f", "b") + uint(1 << 62), AT + 19, "4611686018427387904 bytes announced, 0 left"),
        (ROOT + uint(1) + b"d" + text("b") + uint(0) + uint(TIME_MS_MAX + 1), AT + 5, "time 253402300800000 is over"),
        (
            b"".join(LEVELS) + END,
            len(b"".join(LEVELS[:2049])),
            "name 'd' is invalid, repeated, out of order or too deep",
        ),
    ],
)
def test_each_rule_of_the_payload(payload: bytes, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}"):
        decode(snapshot(payload))


def test_the_deepest_tree_reads_back() -> None:
    deepest = ("d",) * 2047
    tree = fs.apply(EMPTY_TREE, MakeDirectory(deepest, 0o755, 1))
    tree = fs.apply(tree, WriteFile((*deepest, "f"), b"bottom", 0o644, 2))
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


def test_a_state_that_is_too_large_is_refused_before_it_takes_memory() -> None:
    tree = replace(EMPTY_TREE, database=EMPTY.patched(1 << 32, ()))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="over 268435456 bytes"):
            encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024, "4 GiB are never put together"


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
    st.sampled_from([END, uint(0), uint(1), uint(0) + uint(1) + blob(b"db")]),
)


@examples(600)
@given(st.lists(PIECES, max_size=8).map(b"".join), st.booleans(), st.booleans())
def test_arbitrary_payloads_with_a_right_checksum(middle: bytes, starts_right: bool, ends_right: bool) -> None:
    data = snapshot((ROOT if starts_right else b"") + middle + (END if ends_right else b""))
    with contextlib.suppress(Corrupt):
        found = decode(data)
        again = decode(encode_snapshot(found))
        assert dump(again.tree) == dump(found.tree)
        if len(data) < PAYLOAD_AT + 128:
            assert encode_snapshot(found) == data, "what decodes has no other form"


@examples(200)
@given(trees(st.sampled_from(["a", "b", "é"])), st.data())
def test_damaged_payloads_with_a_right_checksum(tree: Tree, data: st.DataObject) -> None:
    good = encode_snapshot(replace(EMPTY_SNAPSHOT, tree=tree))
    payload = zstandard.ZstdDecompressor().decompress(good[PAYLOAD_AT:]) if good[7] & 1 else good[PAYLOAD_AT:]
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 4)))
    damaged = payload[:start] + data.draw(st.binary(max_size=4)) + payload[end:]
    with contextlib.suppress(Corrupt):
        found = decode(snapshot(damaged))
        assert dump(decode(encode_snapshot(found)).tree) == dump(found.tree)


@examples(200)
@given(st.binary(min_size=80, max_size=80))
def test_arbitrary_headers_with_a_right_checksum(header: bytes) -> None:
    data = frame(b"s", header, ROOT + END)
    with contextlib.suppress(Corrupt):
        assert encode_snapshot(decode(data, int.from_bytes(header[:8]))) == data
