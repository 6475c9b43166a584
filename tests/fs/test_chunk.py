"""Chunks behave like the bytes they stand for, whether these are here, in a blob, or written over unread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessionfs_s3.fs import CHUNK_BYTES, Blob, Body, Change, Chunk, Content, Place, bytes_of, digest_of, source_of
from tests.fs.strategies import check_chunk, check_content, examples

BLOB = Blob(3, b"\1" * 16, 1 << 20)
PATTERN = bytes(range(1, 252)) * 300
"""No byte is zero, so that what is filled with zeros shows."""

SMALL = st.integers(1, 12)
ANY_SIZE = st.one_of(SMALL, st.integers(1, CHUNK_BYTES), st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES]))

Patch = tuple[int, bytes]
Step = tuple[int, list[Patch]]


def place_of(data: bytes, offset: int = 96) -> Place:
    return Place(BLOB, offset, len(data), False, digest_of(data), len(data))


def sealed(data: bytes) -> Chunk:
    return Chunk(len(data), place_of(data))


def read(chunk: Chunk, stored: dict[Place, bytes]) -> bytes:
    """Return the bytes of *chunk* when each place holds what *stored* says."""
    source = source_of(chunk.body)
    return bytes_of(chunk.body, b"" if source is None else stored[source])


def written(data: bytes, size: int, patches: Sequence[Patch]) -> bytes:
    """Return what a file of *data* holds after ``truncate(size)`` and a write of each patch."""
    out = bytearray(data[:size].ljust(size, b"\0"))
    for offset, patch in patches:
        out[offset : offset + len(patch)] = patch
    return bytes(out)


@st.composite
def steps(draw: st.DrawFn, sizes: st.SearchStrategy[int]) -> list[Step]:
    """Return sizes to cut or fill to, each with patches inside it."""
    drawn: list[Step] = []
    for size in draw(st.lists(sizes, min_size=1, max_size=6)):
        patches: list[Patch] = []
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, size))
            patches.append((start, bytes([draw(st.integers(0, 255))]) * draw(st.integers(0, size - start))))
        drawn.append((size, patches))
    return drawn


@examples(400)
@given(ANY_SIZE, st.one_of(steps(SMALL), steps(ANY_SIZE)), st.booleans())
@example(10, [(4, []), (10, [])], True)
@example(10, [(4, []), (10, [(0, b"abcd")])], True)
@example(10, [(10, [(0, b"abc"), (7, b"xyz"), (3, b"1234")])], True)
@example(10, [(12, []), (5, []), (3, [(0, b"x")]), (12, [(1, b"yz")])], True)
def test_a_changed_chunk_is_its_bytes_with_the_changes(size: int, drawn: list[Step], unread: bool) -> None:
    data = PATTERN[:size]
    stored = {place_of(data): data}
    chunk, model = sealed(data) if unread else Chunk.held(data), data
    for new_size, patches in drawn:
        before, was = chunk, model
        chunk, model = chunk.changed(new_size, patches), written(model, new_size, patches)
        check_chunk(chunk)
        assert chunk.size == len(model)
        assert read(chunk, stored) == model
        assert read(before, stored) == was, "what somebody holds stays what it was"
        if not unread:
            assert source_of(chunk.body) is None


@examples(200)
@given(st.integers(1, 12), st.lists(st.integers(0, 11), max_size=12))
def test_a_chunk_that_is_written_over_completely_needs_no_reading(size: int, order: list[int]) -> None:
    chunk = sealed(PATTERN[:size])
    written_over: set[int] = set()
    for at in (each for each in order if each < size):
        chunk = chunk.changed(size, [(at, b"!")])
        written_over.add(at)
        assert (source_of(chunk.body) is None) == (len(written_over) == size)
        if isinstance(chunk.body, Change):
            spans = {at for start, end in chunk.body.known for at in range(start, end)}
            assert spans == written_over


def test_what_was_cut_off_does_not_come_back() -> None:
    data = b"abcdefgh"
    chunk = sealed(data).changed(8, [(6, b"XY")]).changed(3, ()).changed(8, ())
    assert isinstance(chunk.body, Change)
    assert (chunk.body.visible, chunk.body.known) == (3, ((3, 8),))
    assert chunk.body.over(data) == b"abc\0\0\0\0\0"
    assert chunk.body.over(b"abc") == b"abc\0\0\0\0\0", "of the origin nothing else is looked at"


@pytest.mark.parametrize("data", [b"x", b"some bytes", bytes(CHUNK_BYTES)])
def test_holds_knows_a_sealed_chunk_by_its_digest(data: bytes) -> None:
    other = data[:-1] + bytes([data[-1] ^ 1])
    for chunk in (Chunk.held(data), sealed(data)):
        assert chunk.holds(data)
        assert not chunk.holds(other)
        assert not chunk.holds(data[:-1])
        assert not chunk.holds(data + b"\0")
        assert not chunk.holds(b"")
    # Whether it is the same cannot be known, so that it counts as different: a write too many, never one too few.
    assert not sealed(data).changed(len(data) + 1, ()).holds(data + b"\0")


def test_a_digest_is_half_a_sha256() -> None:
    assert digest_of(b"abc") == hashlib.sha256(b"abc").digest()[:16]


def test_sealing_and_holding_exchange_the_body_and_nothing_else() -> None:
    chunk = Chunk.held(b"data")
    shared = Content((chunk,), 4)
    places = [chunk.place]
    chunk.seal(place_of(b"data"))
    places.append(chunk.place)
    assert (chunk.size, chunk.holds(b"data"), shared.is_held) == (4, True, False)
    with pytest.raises(ValueError, match="have to be read"):
        shared.to_bytes()
    chunk.hold(b"data")
    assert [*places, chunk.place] == [None, place_of(b"data"), None]
    assert shared.to_bytes() == b"data"


def test_two_chunks_are_equal_when_they_stand_for_the_same_in_the_same_way() -> None:
    assert Chunk.held(b"x") == Chunk.held(b"x") != Chunk.held(b"y")
    assert sealed(b"x") == sealed(b"x") != Chunk.held(b"x")
    assert sealed(b"x") != Chunk(1, place_of(b"x", 97))
    assert sealed(b"xy").changed(2, [(0, b"a")]) == sealed(b"xy").changed(2, [(0, b"a")])
    assert sealed(b"xy").changed(2, [(0, b"a")]) != sealed(b"xy").changed(2, [(1, b"a")])
    assert Chunk.held(b"x") != b"x"
    with pytest.raises(TypeError):
        hash(Chunk.held(b"x"))
    assert "1, Place" in repr(sealed(b"x"))


def test_a_body_that_is_here_needs_no_source() -> None:
    bodies: list[tuple[Body, Place | None]] = [
        (b"here", None),
        (place_of(b"away"), place_of(b"away")),
        (Change(place_of(b"away"), 4, b"\0\0c\0", ((2, 3),)), place_of(b"away")),
    ]
    for body, source in bodies:
        assert source_of(body) == source
    assert [bytes_of(body, b"away") for body, _ in bodies] == [b"here", b"away", b"awcy"]


def all_sealed(data: bytes) -> tuple[Content, dict[Place, bytes]]:
    """Return *data* as contents of which every chunk is sealed, and what is stored where."""
    content = Content.of(data)
    stored: dict[Place, bytes] = {}
    for start, chunk in content.placed():
        part = data[start : start + chunk.size]
        place = place_of(part, 96 + start)
        stored[place] = part
        chunk.seal(place)
    return content, stored


CONTENT_SIZES = st.one_of(
    st.integers(0, 20),
    st.builds(lambda count, more: max(0, count * CHUNK_BYTES + more), st.integers(0, 3), st.integers(-2, 2)),
)


@examples(200)
@given(CONTENT_SIZES, st.lists(st.tuples(CONTENT_SIZES, st.lists(st.tuples(CONTENT_SIZES, CONTENT_SIZES), max_size=4))))
def test_patching_unread_contents_is_patching_their_bytes(
    size: int, drawn: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    data = (PATTERN * 4)[:size]
    content, stored = all_sealed(data)
    model = Content.of(data)
    for new_size, spans in drawn:
        extents = [
            (at, (b"\xff\xfe" * CHUNK_BYTES * 2)[: min(count, new_size - at)]) for at, count in spans if at <= new_size
        ]
        before, was = content, [read(chunk, stored) for chunk in content.chunks]
        content, model = content.patched(new_size, extents), model.patched(new_size, extents)
        check_content(content)
        assert b"".join(read(chunk, stored) for chunk in content.chunks) == model.to_bytes()
        assert [read(chunk, stored) for chunk in before.chunks] == was, "what somebody holds stays what it was"


@examples(200)
@given(CONTENT_SIZES, CONTENT_SIZES, st.booleans(), st.booleans())
@example(CHUNK_BYTES, 1, True, True)
@example(CHUNK_BYTES - 1, 1, True, False)
@example(1, CHUNK_BYTES, True, True)
@example(1, CHUNK_BYTES, True, False)
def test_contents_join_where_a_chunk_ends_or_bytes_are_here(
    left: int, right: int, seal_left: bool, seal_right: bool
) -> None:
    one, other = (PATTERN * 4)[:left], (PATTERN * 4)[1 : right + 1]
    first, stored = all_sealed(one) if seal_left else (Content.of(one), {})
    second, more = all_sealed(other) if seal_right else (Content.of(other), {})
    if right and first.room and seal_right:
        with pytest.raises(ValueError, match=f"sealed chunks begin {first.room} bytes before the end"):
            first.joined(second)
        return
    joined = first.joined(second)
    check_content(joined)
    assert joined.size == left + right
    assert b"".join(read(chunk, {**stored, **more}) for chunk in joined.chunks) == one + other
    if not first.room:
        assert all(ours is theirs for ours, theirs in zip(joined.chunks, first.chunks + second.chunks, strict=True))
    assert Content.of(one).joined(Content.of(other)) == Content.of(one + other)


def test_a_join_that_is_partly_sealed_is_refused_before_the_end_of_a_chunk() -> None:
    mixed = Content.of(bytes(CHUNK_BYTES + 5))
    mixed.chunks[1].seal(place_of(bytes(5)))
    with pytest.raises(ValueError, match="sealed chunks begin 65535 bytes before"):
        Content.of(b"x").joined(mixed)
    assert Content.of(b"").joined(mixed).size == CHUNK_BYTES + 5


@examples(100)
@given(CONTENT_SIZES, CONTENT_SIZES)
def test_sealed_contents_are_compared_by_their_digests(size: int, other: int) -> None:
    content, _ = all_sealed((PATTERN * 4)[:size])
    assert content.equals((PATTERN * 4)[:size])
    assert content.equals((PATTERN * 4)[:other]) == (size == other)
    if size:
        assert not content.equals((PATTERN * 4)[: size - 1] + b"\0")
