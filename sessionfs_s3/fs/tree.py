"""The state of a session as an immutable tree, and the one function that moves it on.

``apply(tree, operation)`` returns a new tree that shares everything which did not change. A tree that somebody holds
(a snapshot being written, the state after the last commit) therefore stays what it was, without a copy or a lock.
Every walk is iterative: a tree can be as deep as the longest path allows.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, assert_never

from sessionfs_s3.fs.content import NO_PAGES, Content, Pages
from sessionfs_s3.fs.operations import (
    DATABASE_BYTES_MAX,
    AppendFile,
    Clear,
    MakeDirectory,
    Operation,
    Remove,
    Rename,
    WriteDatabase,
    WriteFile,
)
from sessionfs_s3.fs.paths import PATH_BYTES_MAX, Path, joined, length


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. Times are in milliseconds since the Unix epoch, *mode* holds the permission bits."""

    content: Content
    mode: int
    mtime_ms: int
    birthtime_ms: int


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory and what it holds, by name."""

    entries: Mapping[str, Node]
    mode: int
    mtime_ms: int
    birthtime_ms: int


Node = File | Directory


@dataclass(frozen=True, slots=True)
class Tree:
    """Everything a session stores: its files below *root* and its SQLite *database*, or None while it has none."""

    root: Directory
    database: Pages | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a file or directory; *size* in bytes, 0 for a directory."""

    is_file: bool
    is_directory: bool
    size: int
    mode: int
    mtime_ms: int
    birthtime_ms: int


DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644

EMPTY_TREE: Final = Tree(Directory(MappingProxyType({}), DIRECTORY_MODE, 0, 0))


class Inapplicable(ValueError):
    """An operation does not fit the tree: a log that says so is corrupt."""


def find(tree: Tree, path: Path) -> Node:
    """Return what is at *path*.

    Raises:
        OSError: ENOENT when there is nothing, ENOTDIR when a file stands in the way.
    """
    node: Node = tree.root
    for name in path:
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", joined(path))
        found = node.entries.get(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", joined(path))
        node = found
    return node


def existing(tree: Tree, path: Path) -> int:
    """Return how many names of *path*, from the root down, lead to something that exists.

    Raises:
        OSError: ENOTDIR when a file stands in the way.
    """
    node: Node = tree.root
    for depth, name in enumerate(path):
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", joined(path))
        found = node.entries.get(name)
        if found is None:
            return depth
        node = found
    return len(path)


def longest_below(node: Node) -> int:
    """Return the length of the longest path below *node*, relative to it with a leading slash, in UTF-8 bytes."""
    longest = 0
    waiting: list[tuple[Node, int]] = [(node, 0)]
    while waiting:
        each, above = waiting.pop()
        longest = max(longest, above)
        if isinstance(each, Directory):
            waiting.extend((child, above + 1 + len(name.encode())) for name, child in each.entries.items())
    return longest


def stat(tree: Tree, path: Path) -> Stat:
    """Return what is known of *path*. Raises as :func:`find`."""
    node = find(tree, path)
    if isinstance(node, File):
        return Stat(True, False, node.content.size, node.mode, node.mtime_ms, node.birthtime_ms)
    return Stat(False, True, 0, node.mode, node.mtime_ms, node.birthtime_ms)


def list_directory(tree: Tree, path: Path) -> list[tuple[str, Node]]:
    """Return the entries of a directory, sorted by name. Raises as :func:`find`, and ENOTDIR for a file."""
    node = find(tree, path)
    if isinstance(node, File):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", joined(path))
    return sorted(node.entries.items())


def contents(tree: Tree) -> Iterator[Content]:
    """Return the contents of every file, and the database."""
    waiting: list[Node] = [tree.root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, File):
            yield node.content
        else:
            waiting.extend(node.entries.values())
    if tree.database is not None:
        yield tree.database


def apply(tree: Tree, operation: Operation) -> Tree:
    """Return *tree* after *operation*.

    Raises:
        Inapplicable: the operation does not fit: a parent is missing, a directory is to be created twice and the like.
            Operations that :mod:`~sessionfs_s3.fs.commands` made for this very tree always fit.
    """
    try:
        match operation:
            case MakeDirectory(path, mode, time_ms):
                return _make_directory(tree, path, mode, time_ms)
            case WriteFile(path, content, mode, time_ms):
                return _write(tree, path, content, mode, time_ms)
            case AppendFile(path, content, time_ms):
                return _append(tree, path, content, time_ms)
            case Remove(path, time_ms):
                find(tree, path)
                return _with(tree, path, None, time_ms)
            case Rename(source, target, time_ms):
                return _rename(tree, source, target, time_ms)
            case WriteDatabase(size, extents):
                return _write_database(tree, size, extents)
            case Clear():
                return EMPTY_TREE
            case _:
                assert_never(operation)
    except OSError as error:
        raise Inapplicable(str(error)) from error


def _make_directory(tree: Tree, path: Path, mode: int, time_ms: int) -> Tree:
    depth = existing(tree, path)
    if depth == len(path):
        raise Inapplicable(f"{joined(path)} exists")
    node = Directory(MappingProxyType({}), mode, time_ms, time_ms)
    for name in reversed(path[depth + 1 :]):
        node = Directory(MappingProxyType({name: node}), mode, time_ms, time_ms)
    return _with(tree, path[: depth + 1], node, time_ms)


def _append(tree: Tree, path: Path, content: Content, time_ms: int) -> Tree:
    file = find(tree, path)
    if isinstance(file, Directory):
        raise Inapplicable(f"{joined(path)} is a directory")
    try:
        longer = file.content.joined(content)
    except ValueError as error:
        raise Inapplicable(f"{joined(path)}: {error}") from error
    return _with(tree, path, replace(file, content=longer, mtime_ms=time_ms), None)


def _write(tree: Tree, path: Path, content: Content, mode: int, time_ms: int) -> Tree:
    old = _lookup(tree, path)
    if isinstance(old, Directory):
        raise Inapplicable(f"{joined(path)} is a directory")
    if old is None:
        return _with(tree, path, File(content, mode, time_ms, time_ms), time_ms)
    return _with(tree, path, replace(old, content=content, mtime_ms=time_ms), None)


def _write_database(tree: Tree, size: int, extents: tuple[tuple[int, bytes], ...]) -> Tree:
    if not 0 <= size <= DATABASE_BYTES_MAX:
        raise Inapplicable(f"a database of {size} bytes, {DATABASE_BYTES_MAX} are allowed")
    if any(offset < 0 or offset + len(data) > size for offset, data in extents):
        raise Inapplicable(f"a database extent ends beyond {size} bytes")
    return replace(tree, database=(tree.database or NO_PAGES).patched(size, extents))


def _rename(tree: Tree, source: Path, target: Path, time_ms: int) -> Tree:
    node = find(tree, source)
    if not source or target[: len(source)] == source:
        raise Inapplicable(f"{joined(source)} cannot move to {joined(target)}")
    replaced = _lookup(tree, target)
    if isinstance(replaced, Directory) and (isinstance(node, File) or replaced.entries):
        raise Inapplicable(f"{joined(target)} is a directory")
    if isinstance(replaced, File) and isinstance(node, Directory):
        raise Inapplicable(f"{joined(target)} is a file")
    if length(target) + longest_below(node) > PATH_BYTES_MAX:
        raise Inapplicable(f"a path below {joined(target)} would be over {PATH_BYTES_MAX} bytes")
    return _with(_with(tree, source, None, time_ms), target, node, time_ms)


def _lookup(tree: Tree, path: Path) -> Node | None:
    """Return what is at *path*, or None where its parent directory has no such entry."""
    if not path:
        return tree.root
    parent = find(tree, path[:-1])
    if isinstance(parent, File):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", joined(path))
    return parent.entries.get(path[-1])


def _with(tree: Tree, path: Path, node: Node | None, parent_time_ms: int | None) -> Tree:
    """Return *tree* with *node* at *path*, None: without it; *parent_time_ms* is the parent's new mtime, if any."""
    if not path:
        raise Inapplicable("the root cannot be replaced")
    parents: list[Directory] = [tree.root]
    for name in path[:-1]:
        child = parents[-1].entries.get(name)
        if not isinstance(child, Directory):
            raise Inapplicable(f"{joined(path)} has no parent directory")
        parents.append(child)
    for depth in range(len(path) - 1, -1, -1):
        parent = parents[depth]
        entries = dict(parent.entries)
        if node is None:
            del entries[path[depth]]
        else:
            entries[path[depth]] = node
        time_ms = parent_time_ms if depth == len(path) - 1 and parent_time_ms is not None else parent.mtime_ms
        node = Directory(MappingProxyType(entries), parent.mode, time_ms, parent.birthtime_ms)
    assert isinstance(node, Directory)
    return replace(tree, root=node)
