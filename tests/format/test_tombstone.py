"""Tombstones: what clears a session, and that a listing shows where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from sessionfs_s3.format import CHAIN_START, TOMBSTONE_BYTES, Commit, decode_commit, encode_commit
from sessionfs_s3.fs import Clear, Operation, Remove
from sessionfs_s3.fs.operations import payload_bytes
from tests.format.handmade import KEY, SEQUENCE, commit, commit_header, commit_of_version_1, corrupt, frame, text, uint
from tests.format.test_commit import BY_HAND, CLAIM, COMMIT, NONE, PAYLOAD_AT, commits, decode
from tests.fs.strategies import examples


def _claim_of(payload: bytes, count: int = 1, *, version: int = 2, seen: int = 0) -> bytes:
    header = commit_header(epoch=SEQUENCE, chain=bytes(32), flags=1, count=count, seen=seen)
    return frame(b"c", header, payload, version=version)


def test_a_tombstone_is_stored_as_the_specification_says() -> None:
    tombstone = replace(CLAIM, operations=(Clear(),))
    data, digest = encode_commit(tombstone)
    assert data == _claim_of(NONE + b"c")
    assert decode_commit(KEY, data, sequence=SEQUENCE) == (tombstone, digest)
    assert tombstone.is_tombstone
    assert payload_bytes(Clear()) >= 1


@pytest.mark.parametrize(
    ("data", "at", "reason"),
    [
        (_claim_of(NONE + b"cc", 2), 0, "only a claim that does nothing else"),
        (_claim_of(NONE + b"c" + b"r" + text("/a") + uint(1), 2), 0, "only a claim that does nothing else"),
        (_claim_of(NONE + b"r" + text("/a") + uint(1) + b"c", 2), 0, "only a claim that does nothing else"),
        (_claim_of(NONE + b"c", seen=1), 0, "and saw no snapshot"),
        (commit(b"c", 1), 0, "only a claim"),
        (_claim_of(NONE + b"c" + b"\0"), 2, "1 bytes too many"),
        (_claim_of(b"c", version=1), 0, "unknown operation b'c'"),
    ],
)
def test_each_rule_of_a_tombstone(data: bytes, at: int, reason: str) -> None:
    with corrupt(PAYLOAD_AT, f"payload byte {at}: {reason}" if "only" in reason else reason):
        decode(data)


@pytest.mark.parametrize(
    "changes",
    [{"operations": (Clear(),)}, *({"epoch": 7, "claim": True, "chain": CHAIN_START, **each} for each in (
        {"operations": (Clear(), Clear())},
        {"operations": (Clear(), Remove(("a",), 1))},
        {"operations": (Clear(),), "snapshot_seen": 1},
    ))],
)  # fmt: skip
def test_nothing_else_clears(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="only a claim that does nothing else, and saw no snapshot, clears"):
        encode_commit(replace(COMMIT, **changes))


@examples(300)
@given(commits())
def test_a_listing_tells_a_tombstone_by_its_size_and_a_claim_without_operations(value: Commit) -> None:
    size = len(encode_commit(value)[0])
    assert size != TOMBSTONE_BYTES
    assert (size < TOMBSTONE_BYTES) == (not value.operations)


@pytest.mark.parametrize("operation", [each for each, _ in BY_HAND])
def test_no_commit_that_does_something_is_as_small_as_a_tombstone(operation: Operation) -> None:
    assert len(encode_commit(replace(COMMIT, operations=(operation,)))[0]) > TOMBSTONE_BYTES
    assert len(encode_commit(replace(CLAIM, operations=(Clear(),)))[0]) == TOMBSTONE_BYTES
    assert len(encode_commit(CLAIM)[0]) == TOMBSTONE_BYTES - 1
    # The smallest that version 1 could write.
    assert len(commit_of_version_1(b"q" + uint(0) + uint(0), 1)) == TOMBSTONE_BYTES + 1
