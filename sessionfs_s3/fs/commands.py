"""What a caller asks for, checked against the tree and turned into operations. An empty list: nothing would change.

The checks are POSIX's (and, for :func:`remove`, those of Node's ``fs.rm``, which the runtime expects). Nothing is
applied here: a command that raises leaves no trace, one that returns several operations is committed as a whole.
"""

from __future__ import annotations

import errno

from sessionfs_s3.errors import shown
from sessionfs_s3.fs.content import Content
from sessionfs_s3.fs.operations import (
    AppendFile,
    MakeDirectory,
    Operation,
    Remove,
    Rename,
    WriteFile,
)
from sessionfs_s3.fs.paths import PATH_BYTES_MAX, Path, joined, length
from sessionfs_s3.fs.tree import (
    DIRECTORY_MODE,
    FILE_MODE,
    Directory,
    File,
    Node,
    Tree,
    existing,
    find,
    longest_below,
)

MODE_MASK = 0o7777


def make_directory(tree: Tree, path: Path, *, recursive: bool, mode: int | None, time_ms: int) -> list[Operation]:
    """Create a directory; with *recursive* its missing parents too, and it may exist already.

    Raises:
        OSError: EEXIST, ENOENT (no parent), ENOTDIR.
    """
    depth = existing(tree, path)
    if depth == len(path):
        if recursive and isinstance(find(tree, path), Directory):
            return []
        raise FileExistsError(errno.EEXIST, "File exists", joined(path))
    if depth < len(path) - 1 and not recursive:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", joined(path[:-1]))
    return [MakeDirectory(path, _bits(mode, DIRECTORY_MODE), time_ms)]


def write_file(tree: Tree, path: Path, data: bytes, *, mode: int | None, time_ms: int) -> list[Operation]:
    """Replace a file's contents, or create it, with *mode*, and its missing parents. Identical bytes change nothing.

    Raises:
        OSError: EISDIR, ENOTDIR.
    """
    depth = existing(tree, path)
    if depth == len(path) and _file(tree, path).content.equals(data):
        return []
    return [*_parents(path, depth, time_ms), WriteFile(path, Content.of(data), _bits(mode, FILE_MODE), time_ms)]


def append_file(tree: Tree, path: Path, data: bytes, *, mode: int | None, time_ms: int) -> list[Operation]:
    """Add *data* at a file's end, or create it, with *mode*, and its missing parents.

    Raises:
        OSError: EISDIR, ENOTDIR.
    """
    depth = existing(tree, path)
    if depth < len(path):
        return [*_parents(path, depth, time_ms), WriteFile(path, Content.of(data), _bits(mode, FILE_MODE), time_ms)]
    room = _file(tree, path).content.room
    # In two where it fills the last chunk and goes on, so that what follows is whole chunks and can be sealed.
    parts = (data[:room], data[room:]) if len(data) > room else (data,)
    return [AppendFile(path, Content.of(part), time_ms) for part in parts if part]


def remove(tree: Tree, path: Path, *, recursive: bool, force: bool, time_ms: int) -> list[Operation]:
    """Remove a file, or with *recursive* a directory and everything below; with *force* it may be missing.

    Raises:
        OSError: ENOENT, ENOTDIR, EISDIR (a directory without *recursive*), EBUSY (the root).
    """
    try:
        node = find(tree, path)
    except FileNotFoundError:
        if force:
            return []
        raise
    if not path:
        raise OSError(errno.EBUSY, "The root cannot be removed", "/")
    if isinstance(node, Directory) and not recursive:
        raise IsADirectoryError(errno.EISDIR, "Is a directory", joined(path))
    return [Remove(path, time_ms)]


def rename(tree: Tree, source: Path, target: Path, *, time_ms: int) -> list[Operation]:
    """Move *source* to *target* in one step, over a file or an empty directory that stands there.

    Checked in the order of Linux: both parents, the source, then where each is within the other, then what is replaced.

    Raises:
        OSError: ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL (into itself), EBUSY (the root), ENAMETOOLONG (something
            below would get a path over 4096 bytes).
    """
    if not source or not target:
        raise OSError(errno.EBUSY, "The root cannot be renamed or replaced", "/")
    _check_parent(tree, source)
    _check_parent(tree, target)
    node = find(tree, source)
    if source == target:
        return []
    if target[: len(source)] == source:
        raise OSError(errno.EINVAL, "A directory cannot move into itself", joined(source), None, joined(target))
    if source[: len(target)] == target:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", joined(target))
    if existing(tree, target) == len(target):
        _check_replaceable(node, find(tree, target), target)
    if length(target) + longest_below(node) > PATH_BYTES_MAX:
        rule = f"A path below would be over {PATH_BYTES_MAX} bytes"
        raise OSError(errno.ENAMETOOLONG, rule, shown(joined(target)))
    return [Rename(source, target, time_ms)]


def _check_replaceable(node: Node, replaced: Node, target: Path) -> None:
    if isinstance(replaced, File):
        if isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", joined(target))
    elif isinstance(node, File):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", joined(target))
    elif replaced.entries:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", joined(target))


def _check_parent(tree: Tree, path: Path) -> None:
    """Check that *path* lies in a directory. Raises ENOENT, ENOTDIR."""
    if isinstance(find(tree, path[:-1]), File):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", joined(path))


def _parents(path: Path, depth: int, time_ms: int) -> list[Operation]:
    """Return what makes the parents of *path*, of which the first *depth* names exist."""
    return [MakeDirectory(path[:-1], DIRECTORY_MODE, time_ms)] if depth < len(path) - 1 else []


def _file(tree: Tree, path: Path) -> File:
    node = find(tree, path)
    if isinstance(node, Directory):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", joined(path))
    return node


def _bits(mode: int | None, default: int) -> int:
    return default if mode is None else mode & MODE_MASK
