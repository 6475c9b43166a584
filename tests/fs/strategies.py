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

from sessionfs_s3.format.limits import MODE_MAX, TIME_MS_MAX
from sessionfs_s3.fs import (
    AppendFile,
    Content,
    Directory,
    File,
    MakeDirectory,
    Node,
    Operation,
    Path,
    Remove,
    Rename,
    Tree,
    WriteDatabase,
    WriteFile,
    joined,
)
from sessionfs_s3.fs.content import CHUNK_BYTES
from sessionfs_s3.fs.paths import is_name

EXPLORE: Final = int(os.environ.get("SESSIONFS_EXPLORE", "0"))

Dump = list[tuple[str, str, bytes, int, int, int]]


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
    """Return everything that *tree* holds as plain values, from the root down: equal for equal trees, however deep."""
    rows: Dump = []
    waiting: list[tuple[Path, Node]] = [((), tree.root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, File):
            rows.append((joined(path), "file", node.content.to_bytes(), node.mode, node.mtime_ms, node.birthtime_ms))
        else:
            rows.append((joined(path), "directory", b"", node.mode, node.mtime_ms, node.birthtime_ms))
            waiting.extend(((*path, name), each) for name, each in sorted(node.entries.items(), reverse=True))
    if tree.database is not None:
        rows.append(("", "database", tree.database.to_bytes(), 0, 0, 0))
    return rows


def check_content(content: Content) -> None:
    """Assert what every :class:`Content` promises about its chunks."""
    assert content.size == sum(map(len, content.chunks))
    assert all(len(chunk) == CHUNK_BYTES for chunk in content.chunks[:-1]), "only the last chunk may be short"
    assert all(content.chunks), "no chunk is empty"
    assert all(isinstance(chunk, bytes) for chunk in content.chunks), "a chunk that can change is none"


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


def operations(paths: SearchStrategy[Path] = PATHS) -> SearchStrategy[Operation]:
    """Return operations of every kind on *paths*; each can be stored, and may or may not fit a tree."""
    return st.one_of(
        st.builds(MakeDirectory, paths, MODES, TIMES),
        st.builds(WriteFile, paths, DATA, MODES, TIMES),
        st.builds(AppendFile, paths, DATA, TIMES),
        st.builds(Remove, paths, TIMES),
        st.builds(Rename, paths, paths, TIMES),
        DATABASE_WRITES,
    )


CONTENTS: Final = DATA.map(Content.of)
FILES: Final = st.builds(File, CONTENTS, MODES, TIMES, TIMES)


def _directories(children: SearchStrategy[Node], names: SearchStrategy[str]) -> SearchStrategy[Directory]:
    entries = st.dictionaries(names, children, max_size=4).map(MappingProxyType)
    return st.builds(Directory, entries, MODES, TIMES, TIMES)


def trees(names: SearchStrategy[str] = NAMES) -> SearchStrategy[Tree]:
    """Return trees of any shape, with and without a database."""
    nodes: SearchStrategy[Node] = st.recursive(FILES, lambda below: _directories(below, names), max_leaves=8)
    return st.builds(Tree, _directories(nodes, names), st.one_of(st.none(), CONTENTS))
