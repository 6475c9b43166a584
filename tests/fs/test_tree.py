"""Trees are values: applying an operation makes another one, shares what did not change, or raises ``Inapplicable``."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessionfs_s3 import fs
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    EMPTY_TREE,
    AppendFile,
    Blob,
    Change,
    Chunk,
    Content,
    Directory,
    File,
    Inapplicable,
    MakeDirectory,
    Operation,
    Pages,
    Path,
    Place,
    Remove,
    Rename,
    Tree,
    WriteDatabase,
    WriteFile,
)
from sessionfs_s3.fs.operations import DATABASE_BYTES_MAX, payload_bytes
from sessionfs_s3.fs.tree import existing, longest_below
from tests.fs.strategies import FEW_PATHS, check_content, dump, examples, operations, trees

DEEP = ("d",) * 2047
"""With one more name of one letter as long as a path can be: 4,096 bytes."""

FEW_NAMES = st.sampled_from(["a", "b", "é"])
ANY_SIZES = st.one_of(st.integers(-3, 10), st.integers(-(1 << 70), 1 << 70), st.just(DATABASE_BYTES_MAX))
ANY_DATABASE_WRITES = st.builds(
    WriteDatabase, ANY_SIZES, st.lists(st.tuples(ANY_SIZES, st.binary(max_size=10)), max_size=3).map(tuple)
)


def after(*steps: Operation) -> Tree:
    tree = EMPTY_TREE
    for operation in steps:
        tree = fs.apply(tree, operation)
    return tree


@examples(250)
@given(trees(FEW_NAMES), st.lists(st.one_of(operations(FEW_PATHS), ANY_DATABASE_WRITES), min_size=1, max_size=6))
def test_any_operation_on_any_tree_applies_or_is_inapplicable(tree: Tree, steps: list[Operation]) -> None:
    seen = [(tree, dump(tree))]
    for operation in steps:
        try:
            tree = fs.apply(tree, operation)
        except Inapplicable:
            continue
        seen.append((tree, dump(tree) if tree.database is None or tree.database.size < 1 << 20 else []))
        for _, node in walk(tree):
            if isinstance(node, File):
                check_content(node.content)
        if tree.database is not None:
            check_content(tree.database)
    for held, was in seen:
        assert not was or dump(held) == was, "a tree that somebody holds has changed"


WORLD = after(
    MakeDirectory(("d", "e"), 0o755, 1),
    WriteFile(("f",), Content.of(b"x"), 0o644, 2),
    WriteFile(("d", "g"), Content.of(b"y"), 0o644, 3),
)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (MakeDirectory((), 0o755, 4), "exists"),
        (MakeDirectory(("d",), 0o755, 4), "exists"),
        (MakeDirectory(("f",), 0o755, 4), "exists"),
        (MakeDirectory(("f", "x"), 0o755, 4), "Not a directory"),
        (MakeDirectory(("f", "x", "y"), 0o755, 4), "Not a directory"),
        (WriteFile((), Content.of(b""), 0o644, 4), "is a directory"),
        (WriteFile(("d",), Content.of(b""), 0o644, 4), "is a directory"),
        (WriteFile(("n", "x"), Content.of(b""), 0o644, 4), "No such file"),
        (WriteFile(("f", "x"), Content.of(b""), 0o644, 4), "Not a directory"),
        (AppendFile((), Content.of(b""), 4), "is a directory"),
        (AppendFile(("d",), Content.of(b""), 4), "is a directory"),
        (AppendFile(("n",), Content.of(b""), 4), "No such file"),
        (AppendFile(("f", "x"), Content.of(b""), 4), "Not a directory"),
        (Remove((), 4), "root"),
        (Remove(("n",), 4), "No such file"),
        (Remove(("f", "x"), 4), "Not a directory"),
        (Rename((), ("n",), 4), "cannot move"),
        (Rename(("d",), (), 4), "is a directory"),
        (Rename(("d",), ("d",), 4), "cannot move"),
        (Rename(("d",), ("d", "e", "n"), 4), "cannot move"),
        (Rename(("n",), ("m",), 4), "No such file"),
        (Rename(("f",), ("n", "x"), 4), "No such file"),
        (Rename(("d",), ("f", "x"), 4), "Not a directory"),
        (Rename(("f",), ("d",), 4), "is a directory"),
        (Rename(("f",), ("d", "e"), 4), "is a directory"),
        (Rename(("d", "e"), ("f",), 4), "is a file"),
        (Rename(("d", "g"), ("d",), 4), "is a directory"),
        (Rename(("d", "e"), ("d",), 4), "is a directory"),
        (WriteDatabase(-1, ()), "database of -1 bytes"),
        (WriteDatabase(DATABASE_BYTES_MAX + 1, ()), "are allowed"),
        (WriteDatabase(1 << 60, ()), "are allowed"),
        (WriteDatabase(4, ((1, b"long"),)), "ends beyond 4 bytes"),
        (WriteDatabase(4, ((-1, b"x"),)), "ends beyond 4 bytes"),
        (WriteDatabase(4, ((5, b""),)), "ends beyond 4 bytes"),
    ],
)
def test_what_does_not_fit_says_why(operation: Operation, reason: str) -> None:
    before = dump(WORLD)
    with pytest.raises(Inapplicable, match=reason):
        fs.apply(WORLD, operation)
    assert dump(WORLD) == before


BLOB = Blob(1, bytes(16), 1 << 20)


def sealed(size: int) -> Content:
    return Content((Chunk(size, Place(BLOB, 96, size, False, bytes(16), size)),), size)


@pytest.mark.parametrize(
    ("held", "more", "reason"),
    [
        (1, sealed(1), "/f: sealed chunks begin 65535 bytes before the end of a chunk"),
        (CHUNK_BYTES - 1, sealed(1), "/f: sealed chunks begin 1 bytes before"),
        (CHUNK_BYTES + 1, sealed(CHUNK_BYTES), "/f: sealed chunks begin 65535 bytes before"),
        (5, Content.of(bytes(CHUNK_BYTES)).joined(sealed(3)), "/f: sealed chunks begin 65531 bytes before"),
    ],
)
def test_sealed_contents_that_do_not_fit_say_why(held: int, more: Content, reason: str) -> None:
    tree = after(WriteFile(("f",), Content.of(b"x" * held), 0o644, 1))
    before = dump(tree)
    with pytest.raises(Inapplicable, match=reason):
        fs.apply(tree, AppendFile(("f",), more, 2))
    assert dump(tree) == before


@pytest.mark.parametrize("held", [0, CHUNK_BYTES, 3 * CHUNK_BYTES])
def test_sealed_contents_fit_behind_whole_chunks(held: int) -> None:
    tree = after(WriteFile(("f",), Content.of(b"x" * held), 0o644, 1), AppendFile(("f",), sealed(9), 2))
    assert fs.stat(tree, ("f",)).size == held + 9
    tree = fs.apply(tree, AppendFile(("f",), Content.of(b"!"), 3))
    last = next(fs.contents(tree)).chunks[-1].body
    assert isinstance(last, Change)
    assert last.over(b"123456789") == b"123456789!", "what is appended to a sealed chunk needs no reading"


def test_contents_are_those_of_every_file_and_the_database() -> None:
    tree = after(
        MakeDirectory(("a", "b"), 0o755, 1),
        WriteFile(("a", "b", "f"), Content.of(b"f"), 0o644, 1),
        WriteFile(("g",), sealed(9), 0o644, 1),
        WriteDatabase(2, ((0, b"db"),)),
    )
    assert sorted(map(repr, fs.contents(tree))) == sorted(map(repr, [Content.of(b"f"), sealed(9), Pages.of(b"db")]))
    assert list(fs.contents(EMPTY_TREE)) == []


def test_operations_move_the_tree_on() -> None:
    tree = after(
        MakeDirectory(("a", "b", "c"), 0o700, 1),
        WriteFile(("a", "b", "f"), Content.of(b"one"), 0o600, 2),
        AppendFile(("a", "b", "f"), Content.of(b" two"), 3),
        WriteFile(("a", "b", "f"), Content.of(b"three"), 0o777, 4),
        Rename(("a", "b", "f"), ("a", "g"), 5),
        Remove(("a", "b", "c"), 6),
        WriteDatabase(6, ((0, b"header"),)),
        WriteDatabase(8, ((4, b"ers!"),)),
    )
    assert dump(tree) == [
        ("/", "directory", b"", 0o755, 1, 0),
        ("/a", "directory", b"", 0o700, 5, 1),
        ("/a/b", "directory", b"", 0o700, 6, 1),
        ("/a/g", "file", b"three", 0o600, 4, 2),
        ("", "database", b"headers!", 0, 0, 0),
    ]


def test_what_does_not_change_is_shared() -> None:
    tree = after(MakeDirectory(("a", "b"), 0o755, 1), WriteFile(("c",), Content.of(b"x" * 200_000), 0o644, 1))
    later = fs.apply(tree, WriteFile(("a", "b", "f"), Content.of(b"y"), 0o644, 2))
    assert later.root.entries["c"] is tree.root.entries["c"]
    moved = fs.apply(later, Rename(("a",), ("z",), 3))
    assert moved.root.entries["z"] is later.root.entries["a"], "renaming a directory costs nothing below it"


def test_entries_cannot_be_assigned() -> None:
    tree = after(MakeDirectory(("a",), 0o755, 1))
    with pytest.raises(TypeError):
        tree.root.entries["b"] = tree.root  # type: ignore[index]


def test_the_deepest_tree() -> None:
    tree = after(MakeDirectory(DEEP, 0o755, 1))
    assert existing(tree, (*DEEP, "f")) == 2047
    for path in (DEEP[:1], DEEP[:1000], DEEP):
        assert fs.stat(tree, path).is_directory
    tree = fs.apply(tree, WriteFile((*DEEP, "f"), Content.of(b"bottom"), 0o644, 2))
    tree = fs.apply(tree, AppendFile((*DEEP, "f"), Content.of(b"!"), 3))
    assert fs.find(tree, (*DEEP, "f")) == File(Content.of(b"bottom!"), 0o644, 3, 2)
    assert longest_below(tree.root) == 4096
    assert fs.list_directory(tree, DEEP)[0][0] == "f"
    assert len(dump(tree)) == 2049

    moved = fs.apply(tree, *fs.rename(tree, ("d",), ("e",), time_ms=4))
    assert fs.stat(moved, ("e", *DEEP[1:], "f")).size == 7
    with pytest.raises(OSError, match="over 4096 bytes"):
        fs.rename(tree, ("d",), ("dd",), time_ms=4)
    with pytest.raises(OSError, match="into itself"):
        fs.rename(tree, ("d",), (*DEEP, "x"), time_ms=4)
    half = fs.apply(tree, *fs.rename(tree, DEEP[:1024], ("x",), time_ms=4))
    assert fs.stat(half, ("x", *DEEP[1024:], "f")).size == 7

    assert dump(fs.apply(tree, *fs.remove(tree, ("d",), recursive=True, force=False, time_ms=5)))[1:] == []
    del tree, moved, half
    gc.collect()  # Freeing thousands of nested nodes must not exhaust the stack either.


def test_many_trees_of_the_deepest_kind_take_little() -> None:
    tree = after(MakeDirectory(DEEP, 0o755, 1))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        other = fs.apply(tree, WriteFile(("f",), Content.of(b"x"), 0o644, 2))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 4096, "a change at the top copies one directory"
    assert other.root.entries["d"] is tree.root.entries["d"]


def test_a_path_of_missing_directories_is_one_operation() -> None:
    # One for each level would be 2,047 operations with 4 MiB of paths, and as many rebuilt parents for each of them.
    (made,) = fs.make_directory(EMPTY_TREE, DEEP, recursive=True, mode=0o700, time_ms=1)
    assert made == MakeDirectory(DEEP, 0o700, 1)
    assert payload_bytes(made) < 4200 + 8 * len(DEEP)
    written = fs.write_file(EMPTY_TREE, (*DEEP, "f"), b"x", mode=0o600, time_ms=1)
    assert written == [MakeDirectory(DEEP, 0o755, 1), WriteFile((*DEEP, "f"), Content.of(b"x"), 0o600, 1)]


@pytest.mark.parametrize("path", [("n",), ("f", "x"), ("d", "n", "x")])
def test_reading_what_is_not_there(path: Path) -> None:
    code = NotADirectoryError if path[0] == "f" else FileNotFoundError
    for read in (fs.find, fs.stat, fs.list_directory):
        with pytest.raises(code):
            read(WORLD, path)


def test_listing_a_file_is_enotdir() -> None:
    with pytest.raises(NotADirectoryError):
        fs.list_directory(WORLD, ("f",))


@examples(100)
@given(trees())
@example(Tree(EMPTY_TREE.root, Pages.of(b"x")))
def test_listings_are_sorted_by_code_point(tree: Tree) -> None:
    for path, node in walk(tree):
        if isinstance(node, Directory):
            names = [name for name, _ in fs.list_directory(tree, path)]
            assert names == sorted(names, key=lambda name: name.encode()), "which is also the order of the UTF-8 forms"
            assert set(names) == set(node.entries)


def walk(tree: Tree) -> list[tuple[Path, fs.Node]]:
    """Return every node with its path."""
    found: list[tuple[Path, fs.Node]] = []
    waiting: list[tuple[Path, fs.Node]] = [((), tree.root)]
    while waiting:
        path, node = waiting.pop()
        found.append((path, node))
        if isinstance(node, Directory):
            waiting.extend(((*path, name), each) for name, each in node.entries.items())
    return found
