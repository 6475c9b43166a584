"""Contents behave like the bytes they stand for, in chunks of 64 KiB, and never change."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.fs import CHUNK_BYTES, EMPTY, Content
from tests.fs.strategies import check_content, examples

SIZES = st.one_of(
    st.integers(0, 20),
    st.builds(lambda count, more: max(0, count * CHUNK_BYTES + more), st.integers(0, 3), st.integers(-2, 2)),
    st.integers(0, 4 * CHUNK_BYTES),
)
BLOCKS = st.builds(lambda size, value: bytes([value]) * size, SIZES, st.integers(1, 255))
EXTENTS = st.lists(st.tuples(SIZES, BLOCKS), max_size=6)


@examples(150)
@given(st.lists(BLOCKS, max_size=6))
def test_appending_is_concatenation(blocks: list[bytes]) -> None:
    content, model = EMPTY, b""
    for block in blocks:
        before, held = content, content.to_bytes()
        content, model = content.appended(block), model + block
        check_content(content)
        assert content.to_bytes() == model
        assert content.size == len(model)
        assert before.to_bytes() == held, "what somebody holds stays what it was"
    assert Content.of(model) == content, "however it came about, equal contents are equal"


@examples(200)
@given(st.lists(st.tuples(SIZES, EXTENTS), min_size=1, max_size=4), BLOCKS)
def test_patching_is_writing_into_a_sized_file(steps: list[tuple[int, list[tuple[int, bytes]]]], start: bytes) -> None:
    content, model = Content.of(start), bytearray(start)
    for size, drawn in steps:
        extents = [(offset, data[: size - offset]) for offset, data in drawn if offset <= size]
        before, held = content, content.to_bytes()
        content = content.patched(size, extents)
        model = model[:size].ljust(size, b"\0")
        for offset, data in extents:
            model[offset : offset + len(data)] = data
        check_content(content)
        assert content.to_bytes() == model
        assert before.to_bytes() == held, "what somebody holds stays what it was"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("start", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_cutting_and_filling_at_every_boundary(start: int, size: int) -> None:
    data = b"x" * start
    content = Content.of(data).patched(size, ())
    check_content(content)
    assert content.to_bytes() == data[:size].ljust(size, b"\0")


def test_of_two_extents_that_overlap_the_later_one_stays() -> None:
    content = Content.of(b"........").patched(8, [(0, b"aaaa"), (2, b"bbbb"), (3, b"c")])
    assert content.to_bytes() == b"aabcbb.."


@examples(150)
@given(BLOCKS, BLOCKS)
def test_equals_compares_bytes(left: bytes, right: bytes) -> None:
    assert Content.of(left).equals(left)
    assert Content.of(left).equals(right) == (left == right)
    assert not Content.of(left).equals(left + b"x")


def test_appending_to_a_large_file_copies_one_chunk() -> None:
    content = Content.of(bytes(range(256)) * (64 * 1024))
    longer = content.appended(b"tail")
    assert longer.size == 16 * 1024 * 1024 + 4
    shared = sum(ours is theirs for ours, theirs in zip(longer.chunks, content.chunks, strict=False))
    assert shared == len(content.chunks), "every chunk but the new one is the same object"
    again = longer.appended(b"!")
    assert all(ours is theirs for ours, theirs in zip(again.chunks[:-1], longer.chunks[:-1], strict=True))


def test_zeros_take_no_memory() -> None:
    tracemalloc.start()
    try:
        content = Content.of(b"head").patched(1 << 32, [((1 << 32) - 4, b"tail")])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert content.size == 1 << 32
    first, between, last = content.chunks[0].body, content.chunks[1:-1], content.chunks[-1].body
    assert isinstance(first, bytes)
    assert isinstance(last, bytes)
    assert (first[:4], last[-4:]) == (b"head", b"tail")
    assert len({id(chunk.body) for chunk in between}) == 1, "all zeros are the same bytes"
    assert peak < 8 * 1024 * 1024, "4 GiB of zeros are 65,536 chunks of the same bytes"


def test_an_extent_for_every_byte() -> None:
    content = Content.of(bytes(CHUNK_BYTES + 5))
    extents = [(offset, bytes([offset % 251])) for offset in range(CHUNK_BYTES + 5)]
    patched = content.patched(CHUNK_BYTES + 5, extents)
    check_content(patched)
    assert patched.to_bytes() == bytes(offset % 251 for offset in range(CHUNK_BYTES + 5))
