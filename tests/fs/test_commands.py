"""Commands answer like the Linux kernel (``disk.py`` lists the deliberate differences) and touch the same times."""

from __future__ import annotations

import errno
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path as HostPath
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sessionfs_s3 import fs
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    EMPTY_TREE,
    AppendFile,
    Content,
    File,
    MakeDirectory,
    Operation,
    Path,
    Remove,
    Rename,
    Tree,
    WriteFile,
)
from sessionfs_s3.fs.operations import payload_bytes
from sessionfs_s3.fs.paths import PATH_BYTES_MAX, length
from sessionfs_s3.fs.tree import longest_below
from tests.fs.disk import PERMISSIONS, Disk, Listing
from tests.fs.strategies import FEW_PATHS, NAMES, check_content, dump, examples

linux = pytest.mark.skipif(sys.platform != "linux", reason="the oracle is the Linux kernel")

WORLD: Final = [
    "/file",
    "/other",
    "/dir/file",
    "/dir/full/file",
    "/dir/full/sub/",
    "/dir/empty/",
    "/hollow/",
    "/deep/a/b/",
]
"""Files, and directories with a slash at their end."""

PLACES: Final = [
    *("/file", "/other", "/dir", "/dir/file", "/dir/full", "/dir/full/file", "/dir/full/sub", "/dir/empty", "/hollow"),
    *("/deep", "/deep/a", "/deep/a/b", "/new", "/dir/new", "/dir/full/sub/new", "/hollow/new", "/deep/a/b/new"),
    *("/new/new", "/new/new/new", "/file/new", "/file/new/new", "/dir/file/new"),
]
"""Everything in it, and places that do not exist: beside, below a directory, below nothing, below a file."""

Command = Callable[[Tree], Sequence[Operation]]


class Pair:
    """A volume's tree and a directory of the host that are given the same commands."""

    def __init__(self, base: HostPath) -> None:
        self.tree = EMPTY_TREE
        self.disk = Disk(base)
        self.log: list[Operation] = []
        self.time_ms = 0

    def run(self, command: Command, on_disk: Callable[[], None]) -> int | None:
        """Run one command on both; return its errno, or None when it succeeded, which are the same on both."""
        self.disk.forget_times()
        before = dump(self.tree)
        expected = _errno(on_disk)
        operations: list[Operation] = []
        found = _errno(lambda: operations.extend(command(self.tree)))
        assert _name(found) == _name(expected), f"{_name(found)}, Linux says {_name(expected)}"
        held = self.tree
        for operation in operations:
            assert payload_bytes(operation) > 0
            self.tree = fs.apply(self.tree, operation)
        self.log.extend(operations)
        assert dump(held) == before, "a tree that somebody holds has changed"
        assert bool(operations) == (dump(self.tree) != before), "operations that change nothing, or the other way round"
        self.compare()
        return found

    def compare(self) -> None:
        """Assert that both hold the same, and that the last command set the same modification times."""
        listing = _listing(self.tree)
        assert listing == self.disk.listing()
        times = {path: fs.stat(self.tree, path).mtime_ms for path in listing}
        assert {path for path, time_ms in times.items() if time_ms == self.time_ms} == self.disk.touched()

    def write(self, path: Path, data: bytes, mode: int | None = None) -> int | None:
        at = self._now()
        return self.run(
            lambda tree: fs.write_file(tree, path, data, mode=mode, time_ms=at),
            lambda: self.disk.write_file(path, data, mode=mode),
        )

    def append(self, path: Path, data: bytes, mode: int | None = None) -> int | None:
        at = self._now()
        return self.run(
            lambda tree: fs.append_file(tree, path, data, mode=mode, time_ms=at),
            lambda: self.disk.append_file(path, data, mode=mode),
        )

    def mkdir(self, path: Path, *, recursive: bool, mode: int | None = None) -> int | None:
        at = self._now()
        return self.run(
            lambda tree: fs.make_directory(tree, path, recursive=recursive, mode=mode, time_ms=at),
            lambda: self.disk.make_directory(path, recursive=recursive, mode=mode),
        )

    def remove(self, path: Path, *, recursive: bool, force: bool) -> int | None:
        at = self._now()
        return self.run(
            lambda tree: fs.remove(tree, path, recursive=recursive, force=force, time_ms=at),
            lambda: self.disk.remove(path, recursive=recursive, force=force),
        )

    def rename(self, source: Path, target: Path) -> int | None:
        at = self._now()
        return self.run(
            lambda tree: fs.rename(tree, source, target, time_ms=at), lambda: self.disk.rename(source, target)
        )

    def build(self) -> None:
        for place in WORLD:
            path = fs.parse(place)
            if place.endswith("/"):
                assert self.mkdir(path, recursive=True) is None
            else:
                assert self.write(path, place.encode()) is None

    def _now(self) -> int:
        self.time_ms += 1
        return self.time_ms


def _errno(call: Callable[[], None]) -> int | None:
    try:
        call()
    except OSError as error:
        caught = error
    else:
        return None
    assert caught.errno is not None
    assert type(caught) is type(OSError(caught.errno, "")), "the class that Python has for this errno"
    return caught.errno


def _name(code: int | None) -> str:
    return "success" if code is None else errno.errorcode[code]


def _listing(tree: Tree) -> Listing:
    found: Listing = {}
    waiting: list[Path] = [()]
    while waiting:
        path = waiting.pop()
        node = fs.find(tree, path)
        found_stat = fs.stat(tree, path)
        assert (found_stat.is_file, found_stat.is_directory) == (isinstance(node, File), not isinstance(node, File))
        if isinstance(node, File):
            check_content(node.content)
            data = node.content.to_bytes()
            assert found_stat.size == len(data)
            found[path] = ("file", data, found_stat.mode & PERMISSIONS)
        else:
            found[path] = ("directory", b"", found_stat.mode & PERMISSIONS)
            names = [name for name, _ in fs.list_directory(tree, path)]
            assert names == sorted(names)
            waiting.extend((*path, name) for name in names)
    return found


@pytest.fixture
def pairs(tmp_path: HostPath) -> Callable[[], Pair]:
    """Return a function that builds the world, on a fresh tree and a fresh directory."""
    numbers = itertools.count()

    def build() -> Pair:
        base = tmp_path / str(next(numbers))
        base.mkdir()
        pair = Pair(base)
        pair.build()
        return pair

    return build


@linux
@pytest.mark.parametrize("source", PLACES)
def test_rename_of_everything_over_everything(source: str, pairs: Callable[[], Pair]) -> None:
    pair = pairs()
    for target in PLACES:
        if pair.rename(fs.parse(source), fs.parse(target)) is None:
            pair = pairs()


@linux
@pytest.mark.parametrize("flags", [(False, False), (False, True), (True, False), (True, True)])
def test_remove_of_everything(flags: tuple[bool, bool], pairs: Callable[[], Pair]) -> None:
    recursive, force = flags
    pair = pairs()
    for place in PLACES:
        if pair.remove(fs.parse(place), recursive=recursive, force=force) is None:
            pair = pairs()


@linux
@pytest.mark.parametrize("recursive", [False, True])
def test_mkdir_everywhere(recursive: bool, pairs: Callable[[], Pair]) -> None:
    pair = pairs()
    for place in [*PLACES, "/"]:
        if pair.mkdir(fs.parse(place), recursive=recursive, mode=0o700) is None:
            pair = pairs()


@linux
def test_write_and_append_everywhere(pairs: Callable[[], Pair]) -> None:
    pair = pairs()
    for place in [*PLACES, "/"]:
        path = fs.parse(place)
        outcomes = {
            call(path, data, 0o600) for data in (b"", place.encode(), b"n") for call in (pair.append, pair.write)
        }
        assert len(outcomes) == 1, "what stands at a place decides, not what is written there"
        if outcomes == {None}:
            pair = pairs()


class AgainstLinux(RuleBasedStateMachine):
    """Random commands on a tree and on a directory of the host, compared after every step."""

    base: HostPath
    """An empty directory for all runs, set by the test."""

    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        base = self.base / str(next(self.numbers))
        base.mkdir()
        self.pair = Pair(base)
        self.names = {"a": "a", "b": "b", "é": "é"}
        self.held: list[tuple[Tree, object]] = []

    def named(self, path: Path) -> Path:
        """Return *path* by the names of this run."""
        return tuple(self.names[name] for name in path)

    modes = st.sampled_from([None, 0o600, 0o640, 0o644, 0o700, 0o755, 0o777])
    paths = FEW_PATHS.filter(bool)
    data = st.one_of(st.sampled_from([b"", b"x", b"same"]), st.binary(max_size=20))

    @rule(path=paths, data=data, mode=modes)
    def write(self, path: Path, data: bytes, mode: int | None) -> None:
        self.pair.write(self.named(path), data, mode)

    @rule(path=paths, data=data, mode=modes)
    def append(self, path: Path, data: bytes, mode: int | None) -> None:
        self.pair.append(self.named(path), data, mode)

    @rule(path=paths, recursive=st.booleans(), mode=st.sampled_from([None, 0o700, 0o755]))
    def mkdir(self, path: Path, recursive: bool, mode: int | None) -> None:
        self.pair.mkdir(self.named(path), recursive=recursive, mode=mode)

    @rule(path=paths, recursive=st.booleans(), force=st.booleans())
    def remove(self, path: Path, recursive: bool, force: bool) -> None:
        self.pair.remove(self.named(path), recursive=recursive, force=force)

    @rule(source=paths, to=paths)
    def rename(self, source: Path, to: Path) -> None:
        target = self.named(to)
        # The host's paths start with that of the temporary directory, so that theirs become too long earlier.
        if length(target) + longest_below(self.pair.tree.root) < PATH_BYTES_MAX // 2:
            self.pair.rename(self.named(source), target)

    @precondition(lambda self: len(self.held) < 5)
    @rule()
    def hold(self) -> None:
        self.held.append((self.pair.tree, dump(self.pair.tree)))

    @invariant()
    def held_trees_stay_what_they_were(self) -> None:
        for tree, held in self.held:
            assert dump(tree) == held

    def teardown(self) -> None:
        tree = EMPTY_TREE
        for operation in self.pair.log:
            tree = fs.apply(tree, operation)
        assert dump(tree) == dump(self.pair.tree), "the state is a function of the operations alone"


@linux
def test_random_commands_answer_like_linux(tmp_path: HostPath) -> None:
    machine = type("AgainstLinuxHere", (AgainstLinux,), {"base": tmp_path})
    run_state_machine_as_test(machine, settings=examples(60, steps=50))


class AnyNames(AgainstLinux):
    """The same with names of all kinds, and with directories far below others."""

    @initialize(names=st.lists(NAMES, min_size=3, max_size=3, unique=True))
    def choose(self, names: list[str]) -> None:
        self.names = dict(zip("abé", names, strict=True))

    @rule(path=FEW_PATHS, name=st.sampled_from("abé"), depth=st.sampled_from([5, 6, 9, 30, 100]), is_file=st.booleans())
    def go_deep(self, path: Path, name: str, depth: int, is_file: bool) -> None:
        above = self.named(path)
        room = PATH_BYTES_MAX // 3 - length(above)
        deep = (*above, *(self.names[name],) * min(depth, max(1, room // (1 + len(self.names[name].encode())))))
        if is_file:
            self.pair.append(deep, b"bottom")
        else:
            self.pair.mkdir(deep, recursive=True)


@linux
def test_random_commands_on_any_names_answer_like_linux(tmp_path: HostPath) -> None:
    machine = type("AnyNamesHere", (AnyNames,), {"base": tmp_path})
    run_state_machine_as_test(machine, settings=examples(15, steps=20))


BLOCK: Final = bytes(range(251)) * 84_000
"""21 MB that repeat with no power of two, so that a chunk at another's place shows."""

LARGE_SIZES: Final = st.one_of(
    st.builds(lambda count, more: count * CHUNK_BYTES + more, st.integers(1, 4), st.integers(-2, 2)),
    st.sampled_from([0, 1, 1_000_000, 4 << 20, 20_000_000]),
)


class LargeFiles(AgainstLinux):
    """The same with files of up to 20 MB and more, whose ends lie around the ends of chunks."""

    @rule(path=st.sampled_from([("a",), ("b",), ("a", "b")]), size=LARGE_SIZES, start=st.integers(0, 250))
    def write_much(self, path: Path, size: int, start: int) -> None:
        self.pair.write(path, BLOCK[start : start + size])

    @rule(path=st.sampled_from([("a",), ("b",), ("a", "b")]), size=LARGE_SIZES, start=st.integers(0, 250))
    def append_much(self, path: Path, size: int, start: int) -> None:
        self.pair.append(path, BLOCK[start : start + size])

    @precondition(lambda self: any(self.size(path) for path in (("a",), ("b",))))
    @rule(path=st.sampled_from([("a",), ("b",)]), more=st.integers(0, 2), start=st.integers(0, 250))
    def fill_the_last_chunk(self, path: Path, more: int, start: int) -> None:
        room = -self.size(path) % CHUNK_BYTES
        self.pair.append(path, BLOCK[start : start + room + more])

    def size(self, path: Path) -> int:
        found = self.pair.tree.root.entries.get(path[0])
        return found.content.size if isinstance(found, File) else 0


@linux
def test_random_commands_on_large_files_answer_like_linux(tmp_path: HostPath) -> None:
    machine = type("LargeFilesHere", (LargeFiles,), {"base": tmp_path})
    run_state_machine_as_test(machine, settings=examples(25, steps=12))


@linux
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20_000_000])
def test_sizes_of_all_kinds_answer_like_linux(size: int, tmp_path: HostPath) -> None:
    pair, path = Pair(tmp_path), ("file",)
    for start, more in ((0, size), (1, 1), (2, CHUNK_BYTES - 2), (3, CHUNK_BYTES), (4, 2 * CHUNK_BYTES + 1)):
        assert pair.append(path, BLOCK[start : start + more]) is None
    assert fs.stat(pair.tree, path).size == size + 4 * CHUNK_BYTES
    assert pair.write(path, BLOCK[5 : size + 5]) is None
    assert fs.stat(pair.tree, path).size == size


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("more", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_an_append_is_cut_where_it_fills_the_last_chunk(size: int, more: int) -> None:
    tree = fs.apply(EMPTY_TREE, WriteFile(("f",), Content.of(BLOCK[:size]), 0o644, 1))
    data = BLOCK[7 : 7 + more]
    operations = fs.append_file(tree, ("f",), data, mode=0o600, time_ms=2)
    room = -size % CHUNK_BYTES
    expected = [data[:room], data[room:]] if more > room else [data]
    assert operations == [AppendFile(("f",), Content.of(part), 2) for part in expected if part]
    for index, operation in enumerate(operations):
        assert isinstance(operation, AppendFile)
        # What begins with a chunk of its own can be sealed before it is committed, and fits as well.
        if index or not room:
            for chunk in operation.content.chunks:
                data_here = chunk.body
                assert isinstance(data_here, bytes)
                place = fs.Place(
                    fs.Blob(1, bytes(16), 1 << 20), 96, chunk.size, False, fs.digest_of(data_here), chunk.size
                )
                chunk.seal(place)
        tree = fs.apply(tree, operation)
    content = next(fs.contents(tree))
    check_content(content)
    assert content.equals(BLOCK[:size] + data)


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("path", ["/", "..", ".", "//", "/a/.."])
def test_the_root_cannot_be_removed(path: str, recursive: bool, force: bool) -> None:
    with pytest.raises(OSError, match="root cannot be removed") as caught:
        fs.remove(EMPTY_TREE, fs.parse(path), recursive=recursive, force=force, time_ms=1)
    assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize(("source", "target"), [("/", "/x"), ("/d", "/"), ("/", "/"), ("/missing", "/"), ("/", "/d/x")])
def test_the_root_cannot_be_renamed_or_replaced(source: str, target: str) -> None:
    tree = fs.apply(EMPTY_TREE, MakeDirectory(("d",), 0o755, 1))
    with pytest.raises(OSError, match="root cannot be renamed or replaced") as caught:
        fs.rename(tree, fs.parse(source), fs.parse(target), time_ms=1)
    assert caught.value.errno == errno.EBUSY


def test_a_rename_may_not_make_a_path_too_long() -> None:
    tree = EMPTY_TREE
    long = fs.parse("/d/" + "é" * 127 + ("/" + "x" * 255) * 14 + "/" + "y" * 254)
    for path in (long, fs.parse("/e/short")):
        for operation in fs.write_file(tree, path, b"x", mode=None, time_ms=1):
            tree = fs.apply(tree, operation)
    assert len(fs.joined(long).encode()) == 4096
    assert fs.rename(tree, ("d",), ("f",), time_ms=2) == [Rename(("d",), ("f",), 2)], "4096 bytes before and after"
    for target in ("/dd", "/é", "/e/d"):
        with pytest.raises(OSError, match="over 4096 bytes") as caught:
            fs.rename(tree, ("d",), fs.parse(target), time_ms=2)
        assert caught.value.errno == errno.ENAMETOOLONG
        with pytest.raises(fs.Inapplicable, match="over 4096 bytes"):
            fs.apply(tree, Rename(("d",), fs.parse(target), 2))
    with pytest.raises(OSError, match="into itself") as caught:
        fs.rename(tree, ("d",), ("d", "long" * 60), time_ms=2)
    assert caught.value.errno == errno.EINVAL, "what is impossible comes before what is too long"


def test_modes_are_masked_and_default() -> None:
    (made,) = fs.make_directory(EMPTY_TREE, ("d",), recursive=False, mode=0o40700, time_ms=1)
    assert made == MakeDirectory(("d",), 0o700, 1)
    (written,) = fs.write_file(EMPTY_TREE, ("f",), b"", mode=0o100600, time_ms=1)
    assert written == WriteFile(("f",), Content.of(b""), 0o600, 1)
    assert fs.append_file(EMPTY_TREE, ("f",), b"", mode=None, time_ms=1) == [
        WriteFile(("f",), Content.of(b""), 0o644, 1)
    ]
    assert fs.make_directory(EMPTY_TREE, ("d",), recursive=True, mode=None, time_ms=1) == [
        MakeDirectory(("d",), 0o755, 1)
    ]
    tree = fs.apply(EMPTY_TREE, written)
    for operation in fs.write_file(tree, ("f",), b"new", mode=0o777, time_ms=2):
        tree = fs.apply(tree, operation)
    assert fs.stat(tree, ("f",)) == fs.Stat(True, False, 3, 0o600, 2, 1), (
        "an existing file keeps its mode and birth time"
    )


def test_a_recursive_remove_is_one_operation() -> None:
    tree = EMPTY_TREE
    for operation in fs.write_file(tree, ("d", "e", "f"), b"x", mode=None, time_ms=1):
        tree = fs.apply(tree, operation)
    assert fs.remove(tree, ("d",), recursive=True, force=False, time_ms=2) == [Remove(("d",), 2)]
    assert dump(fs.apply(tree, Remove(("d",), 2)))[1:] == []
