"""What the tests of the tree and of the stored format draw their cases from, and how two trees are compared.

Cases are derived from each test itself, so that a run repeats (Hypothesis's ``derandomize``); a failure prints the
case. ``SESSIONFS_EXPLORE=20 pytest --timeout 0 tests/fs tests/format`` draws other cases, twenty times as many.
"""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sessionfs_s3.format import CHUNKS_START
from sessionfs_s3.format.limits import MODE_MAX, SEQUENCE_MAX, TIME_MS_MAX
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    AppendFile,
    Blob,
    Body,
    Change,
    Chunk,
    Content,
    Directory,
    File,
    MakeDirectory,
    Node,
    Operation,
    Pages,
    Path,
    Place,
    Remove,
    Rename,
    Tree,
    WriteDatabase,
    WriteFile,
    joined,
)
from sessionfs_s3.fs.paths import is_name

EXPLORE: Final = int(os.environ.get("SESSIONFS_EXPLORE", "0"))

Dump = list[tuple[str, str, bytes | tuple[Body, ...], int, int, int]]


def examples(count: int, *, steps: int = 50) -> settings:
    """Return settings for *count* repeatable examples (state machines: of at most *steps* steps each)."""
    return settings(
        max_examples=count * max(1, EXPLORE),
        stateful_step_count=steps,
        derandomize=not EXPLORE,
        database=None,
        deadline=None,
        print_blob=True,
        # How fast a machine draws says nothing about the code under test.
        suppress_health_check=[HealthCheck.too_slow],
    )


def dump(tree: Tree) -> Dump:
    """Return everything that *tree* holds as plain values, from the root down: equal for equal trees, however deep.

    Contents of which something is sealed are the bodies of their chunks.
    """
    rows: Dump = []
    waiting: list[tuple[Path, Node]] = [((), tree.root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, File):
            rows.append((joined(path), "file", plain(node.content), node.mode, node.mtime_ms, node.birthtime_ms))
        else:
            rows.append((joined(path), "directory", b"", node.mode, node.mtime_ms, node.birthtime_ms))
            waiting.extend(((*path, name), each) for name, each in sorted(node.entries.items(), reverse=True))
    if tree.database is not None:
        rows.append(("", "database", plain(tree.database), 0, 0, 0))
    return rows


def plain(content: Content) -> bytes | tuple[Body, ...]:
    """Return the bytes of *content*, or what stands for them."""
    return content.to_bytes() if content.is_held else tuple(chunk.body for chunk in content.chunks)


def check_content(content: Content) -> None:
    """Assert what every :class:`Content` promises about its chunks."""
    assert content.size == sum(chunk.size for chunk in content.chunks)
    full = content.chunk_bytes()
    assert all(chunk.size == full for chunk in content.chunks[:-1]), "only the last chunk may be short"
    assert all(0 < chunk.size <= full for chunk in content.chunks), "no chunk is empty"
    for chunk in content.chunks:
        check_chunk(chunk)


def check_chunk(chunk: Chunk) -> None:
    """Assert what every :class:`Chunk` promises about its body."""
    match chunk.body:
        case Place(size=size):
            assert size == chunk.size
        case Change(origin, visible, data, known):
            assert len(data) == chunk.size
            assert 0 < visible <= min(chunk.size, origin.size), "else nothing of it would have to be read"
            edges = [edge for span in known for edge in span]
            assert edges == sorted(set(edges)), "ascending, apart from each other, none empty"
            assert not edges or (edges[0] >= 0 and edges[-1] <= chunk.size)
            assert known != ((0, chunk.size),), "what is known as a whole is held"
            assert visible == chunk.size or known[-1][1] == chunk.size, "all behind what counts of the origin is known"
            assert visible == chunk.size or known[-1][0] <= visible
        case held:
            assert type(held) is bytes, "a chunk that can change is none"
            assert len(held) == chunk.size


FEW_PATHS: Final[SearchStrategy[Path]] = st.lists(st.sampled_from(["a", "b", "é"]), max_size=4).map(tuple)
"""So few that operations often meet."""

NAMES: Final[SearchStrategy[str]] = st.one_of(
    st.sampled_from(["a", "b", "é", "...", "a\u2215b", "\uff0e\uff0e", "%2e%2e", "\x01", "\U0010ffff", "n" * 255]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(is_name),
)
PATHS: Final[SearchStrategy[Path]] = st.lists(NAMES, max_size=5).map(tuple)
MODES: Final = st.integers(0, MODE_MAX)
TIMES: Final = st.one_of(st.integers(0, 5), st.integers(0, TIME_MS_MAX))
DATA: Final = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda size, value: bytes([value]) * size,
        st.sampled_from([127, 128, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES]),
        st.integers(0, 255),
    ),
)
EXTENTS: Final = st.lists(st.tuples(st.integers(0, 3 * CHUNK_BYTES), DATA), max_size=4).map(tuple)
DATABASE_WRITES: Final = st.builds(
    lambda extents, room: WriteDatabase(max((at + len(data) for at, data in extents), default=0) + room, extents),
    EXTENTS,
    st.integers(0, 2 * CHUNK_BYTES),
)


CONTENTS: Final = DATA.map(Content.of)

BLOBS: Final[SearchStrategy[Blob]] = st.sampled_from(
    [
        Blob(1, bytes(16), 1 << 20),
        Blob(1, b"\1" * 16, 1 << 28),
        Blob(2, bytes(16), CHUNKS_START + 2 * CHUNK_BYTES),
        Blob(1 << 40, b"\xff" * 16, 1 << 40),
        Blob(SEQUENCE_MAX, b"\xff" * 16, (1 << 63) - 1),
    ]
)
"""No two of one name: a name has one size."""


@st.composite
def places(draw: st.DrawFn, size: int, after: Place | None = None) -> Place:
    """Return a place where a chunk of *size* bytes can be, maybe the one that follows *after*."""
    length = draw(st.one_of(st.just(size), st.integers(1, size), st.just(size)))
    digest = draw(st.binary(min_size=16, max_size=16))
    if after is not None:
        end = after.offset + after.length
        if end + length <= after.blob.size and draw(st.booleans()):
            return Place(after.blob, end, length, length < size, digest, size)
    blob = draw(BLOBS)
    offset = draw(st.one_of(st.just(CHUNKS_START), st.integers(CHUNKS_START, blob.size - length)))
    return Place(blob, offset, length, length < size, digest, size)


@st.composite
def sealed_contents(draw: st.DrawFn, kind: type[Content] = Content) -> Content:
    """Return contents of *kind* of some chunks, each held or in a blob, in runs and alone."""
    full = kind.chunk_bytes()
    chunks: list[Chunk] = []
    last: Place | None = None
    count = draw(st.integers(1, 6))
    for index in range(count):
        size = full if index < count - 1 else draw(st.one_of(st.just(full), st.integers(1, full)))
        if draw(st.integers(0, 3)):
            last = draw(places(size, last))
            chunks.append(Chunk(size, last))
        else:
            last = None
            chunks.append(Chunk.held(bytes([draw(st.integers(0, 255))]) * size))
    return kind(tuple(chunks), sum(chunk.size for chunk in chunks))


ANY_CONTENTS: Final = st.one_of(CONTENTS, sealed_contents())


ANY_PAGES: Final = st.one_of(CONTENTS.map(lambda held: Pages.of(held.to_bytes())), sealed_contents(Pages))


def operations(paths: SearchStrategy[Path] = PATHS) -> SearchStrategy[Operation]:
    """Return operations of every kind on *paths*; each can be stored, and may or may not fit a tree."""
    return st.one_of(
        st.builds(MakeDirectory, paths, MODES, TIMES),
        st.builds(WriteFile, paths, ANY_CONTENTS, MODES, TIMES),
        st.builds(AppendFile, paths, ANY_CONTENTS, TIMES),
        st.builds(Remove, paths, TIMES),
        st.builds(Rename, paths, paths, TIMES),
        DATABASE_WRITES,
    )


FILES: Final = st.builds(File, ANY_CONTENTS, MODES, TIMES, TIMES)


def _directories(children: SearchStrategy[Node], names: SearchStrategy[str]) -> SearchStrategy[Directory]:
    entries = st.dictionaries(names, children, max_size=4).map(MappingProxyType)
    return st.builds(Directory, entries, MODES, TIMES, TIMES)


def trees(names: SearchStrategy[str] = NAMES) -> SearchStrategy[Tree]:
    """Return trees of any shape, with and without a database; their contents are held, or in blobs."""
    nodes: SearchStrategy[Node] = st.recursive(FILES, lambda below: _directories(below, names), max_leaves=8)
    return st.builds(Tree, _directories(nodes, names), st.one_of(st.none(), ANY_PAGES))
