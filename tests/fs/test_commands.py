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
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sessionfs_s3 import fs
from sessionfs_s3.fs import EMPTY_TREE, File, MakeDirectory, Operation, Path, Remove, Rename, Tree, WriteFile
from sessionfs_s3.fs.operations import payload_bytes
from tests.fs.disk import PERMISSIONS, Disk, Listing
from tests.fs.strategies import FEW_PATHS, check_content, dump, examples

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
        self.held: list[tuple[Tree, object]] = []

    modes = st.sampled_from([None, 0o600, 0o640, 0o644, 0o700, 0o755, 0o777])
    paths = FEW_PATHS.filter(bool)
    data = st.one_of(st.sampled_from([b"", b"x", b"same"]), st.binary(max_size=20))

    @rule(path=paths, data=data, mode=modes)
    def write(self, path: Path, data: bytes, mode: int | None) -> None:
        self.pair.write(path, data, mode)

    @rule(path=paths, data=data, mode=modes)
    def append(self, path: Path, data: bytes, mode: int | None) -> None:
        self.pair.append(path, data, mode)

    @rule(path=paths, recursive=st.booleans(), mode=st.sampled_from([None, 0o700, 0o755]))
    def mkdir(self, path: Path, recursive: bool, mode: int | None) -> None:
        self.pair.mkdir(path, recursive=recursive, mode=mode)

    @rule(path=paths, recursive=st.booleans(), force=st.booleans())
    def remove(self, path: Path, recursive: bool, force: bool) -> None:
        self.pair.remove(path, recursive=recursive, force=force)

    @rule(source=paths, to=paths)
    def rename(self, source: Path, to: Path) -> None:
        self.pair.rename(source, to)

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
    assert written == WriteFile(("f",), b"", 0o600, 1)
    assert fs.append_file(EMPTY_TREE, ("f",), b"", mode=None, time_ms=1) == [WriteFile(("f",), b"", 0o644, 1)]
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
