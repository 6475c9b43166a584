"""A directory as an object store, blocking: each key is the file of that name. Touches its own directory only.

(And what directories somebody else has linked into it: it makes no symbolic links, and lists none.)

How its promises are kept:

* *Whole or not at all*: contents are written to a temporary file, synced, and then given their name in one system
  call; a name is never opened for writing.
* *Create once*: ``link`` refuses a name that is taken, atomically, whatever process asks.
* *Replace if it matches*, replace and delete hold one advisory lock (``flock``) for the moment in which they look and
  act. Creating needs no lock: it succeeds only where nothing stands that the others could be looking at.
* *Durable*: the directory that holds the name is synced before a call returns. So is the one above a directory that was
  made; a directory whose own name is durable bears the sticky bit, so that no process has to sync it again.
* *Entity tags* are inode, modification time in nanoseconds, and size: a file never changes under its name, so that
  these are those of one put, and a listing need not read what it lists.

Everything is reached from a descriptor of the root, so that a root that is moved, unmounted or replaced is never
mistaken for an empty one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

from sessionfs_s3.errors import Denied, InvalidInput, KeyNotFound, NoAnswer, PreconditionFailed
from sessionfs_s3.store.protocol import Condition, Entry, Fetched, IfAbsent, IfMatches, Page

PRIVATE_NAME: Final = "~sessionfs"
"""The directory of the lock and of temporary files; no key can name it, for ``~`` is not in a key's alphabet."""

LEFTOVER_AGE_S_MIN: Final = 3600
"""Temporary files older than this were left by a process that died, and are removed at the next open."""

_LOCK_NAME: Final = "lock"
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAME: Final = re.compile(r"[A-Za-z0-9._%-]{1,255}")
_PLACE_ATTEMPTS_MAX: Final = 100
"""How often a parent directory is made anew when deletions keep removing it, empty as it is, before a file is in it."""


class Directory:
    """The directory *root*. Every method may block, may be called from any thread, and is correct across processes.

    Methods raise :class:`~sessionfs_s3.errors.StoreAnswer` errors, or an ``OSError``; a put, when nothing was stored.
    """

    def __init__(self, root: Path) -> None:
        """Open *root*, made if it is missing, and remove what dead processes left.

        Raises:
            InvalidInput: the directory cannot hold a store: names that differ in case are one file, or hard links fail.
            OSError: it cannot be made or opened.
        """
        _make_root(root)
        self._root = os.open(root, _OPEN_DIRECTORY)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(PRIVATE_NAME, _DIRECTORY_MODE, dir_fd=self._root)
            self._private = os.open(PRIVATE_NAME, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)
        except BaseException:
            os.close(self._root)
            raise
        try:
            os.fsync(self._root)
            self._sweep()
            _probe(self._private, root)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptors; the directory is not used any more."""
        os.close(self._private)
        os.close(self._root)

    def get(self, key: str, span: tuple[int, int] | None) -> Fetched:
        """Read the file of *key*, or the bytes in *span*."""
        try:
            descriptor = os.open(key, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            self._require_root(key)
            raise KeyNotFound(key) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyNotFound(key)
            start, end = span if span is not None else (0, status.st_size)
            return Fetched(
                _read(descriptor, start, min(end, status.st_size)),
                _etag(status) if span is None or start < status.st_size else "",
            )
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes, condition: Condition) -> str:
        """Store *data* as the file of *key* and return its entity tag, once it is durable."""
        temporary = f"put-{os.getpid():x}-{secrets.token_hex(8)}"
        try:
            status = self._write_temporary(temporary, data)
            parent = self._place(temporary, key, condition)
        finally:
            with contextlib.suppress(OSError):  # Renamed already; or else it is swept later.
                os.unlink(temporary, dir_fd=self._private)
        try:
            os.fsync(parent)
        except OSError as error:
            raise NoAnswer(key, f"stored, but perhaps not durably: {error}") from error
        finally:
            os.close(parent)
        return _etag(status)

    def list(self, prefix: str, cursor: str | None, limit: int) -> Page:
        """Return one page of keys in ascending order with what the file system says of them."""
        self._require_root(prefix)
        entries: list[Entry] = []
        last = ""
        for count, key in enumerate(self._keys(prefix, cursor or "")):
            if count == limit:
                return Page(tuple(entries), last)
            last = key
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(key, dir_fd=self._root, follow_symlinks=False)
                entries.append(Entry(key, status.st_size, _etag(status), status.st_mtime_ns // 1_000_000))
        return Page(tuple(entries), None)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the files of *keys*, and the directories that are empty then."""
        with self._locked():
            for key in keys:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._unlink(key)
        parents = {key.rpartition("/")[0] for key in keys}
        for parent in sorted(parents, key=lambda path: path.count("/"), reverse=True):
            self._sync_and_prune(parent)

    def _write_temporary(self, name: str, data: bytes) -> os.stat_result:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(name, flags, _FILE_MODE, dir_fd=self._private)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            # The kernel's own timestamps have steps of milliseconds; the entity tag wants one that is all this put's.
            now_ns = time.time_ns()
            os.utime(descriptor, ns=(now_ns, now_ns))
            _sync_file(descriptor)
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _place(self, temporary: str, key: str, condition: Condition) -> int:
        """Give the temporary file the name *key*; return a descriptor of the directory, which is not synced yet."""
        for _ in range(_PLACE_ATTEMPTS_MAX):
            parent = self._open_parent(key)
            try:
                self._name(temporary, key, parent, condition)
            except FileNotFoundError:
                os.close(parent)  # The directory was removed meanwhile, empty as it was.
            except BaseException:
                os.close(parent)
                raise
            else:
                return parent
        raise OSError(errno.EBUSY, f"the directory of {key} is removed again and again")

    def _name(self, temporary: str, key: str, parent: int, condition: Condition) -> None:
        name = key.rpartition("/")[2]
        if isinstance(condition, IfAbsent):
            try:
                os.link(temporary, name, src_dir_fd=self._private, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                raise PreconditionFailed(key, "an object stands there") from None
            return
        with self._locked():
            if isinstance(condition, IfMatches):
                try:
                    standing = _etag(os.stat(name, dir_fd=parent, follow_symlinks=False))
                except FileNotFoundError:
                    raise PreconditionFailed(key, "no object stands there") from None
                if standing != condition.etag:
                    raise PreconditionFailed(key, f"the object's entity tag is {standing}")
            os.rename(temporary, name, src_dir_fd=self._private, dst_dir_fd=parent)

    def _open_parent(self, key: str) -> int:
        """Return a descriptor of the directory that is to hold *key*, made if need be, its own name durable."""
        folder = key.rpartition("/")[0]
        for _ in range(_PLACE_ATTEMPTS_MAX):
            try:
                parent = os.open(folder or ".", _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)
            except FileNotFoundError:
                self._require_root(key)
                self._make(folder)
                continue
            try:
                if os.fstat(parent).st_mode & stat.S_ISVTX == 0:
                    self._settle(folder)
            except FileNotFoundError:
                os.close(parent)
            except BaseException:
                os.close(parent)
                raise
            else:
                return parent
        raise OSError(errno.EBUSY, f"the directory {folder} is removed again and again")

    def _make(self, folder: str) -> None:
        for path in _lineage(folder):
            # A directory above it may be removed, empty as it is, while this runs: the caller tries again.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(path, _DIRECTORY_MODE, dir_fd=self._root)

    def _settle(self, folder: str) -> None:
        """Make the names of *folder* and of the directories above it durable, from the top down, and mark them so."""
        for path in _lineage(folder):
            # One descriptor throughout: a directory of the same name that is made meanwhile must not get the mark.
            with self._opened(path) as descriptor:
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                if not mode & stat.S_ISVTX:
                    self._sync(path.rpartition("/")[0])
                    os.fchmod(descriptor, mode | stat.S_ISVTX)

    def _keys(self, prefix: str, after: str) -> Iterator[str]:
        """Yield the keys that start with *prefix* and come after *after*, in ascending order of the whole key."""
        folder, slash, _ = prefix.rpartition("/")
        ahead = [folder + slash]
        while ahead:
            path = ahead.pop()
            if path and not path.endswith("/"):
                yield path
                continue
            # A directory sorts as its name with the slash, for so do the keys in it; backwards, to be popped forwards.
            ahead.extend(sorted(self._children(path, prefix, after), reverse=True))

    def _children(self, folder: str, prefix: str, after: str) -> Iterator[str]:
        """Yield the paths in *folder* ("" or with a slash at its end), a directory's with a slash at its end."""
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._opened(folder) as descriptor,
            os.scandir(descriptor) as entries,
        ):
            for entry in entries:
                path = folder + entry.name
                if not path.startswith(prefix) or _NAME.fullmatch(entry.name) is None:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    path += "/"
                    if path > after or after.startswith(path):
                        yield path
                elif path > after and entry.is_file(follow_symlinks=False):
                    yield path

    def _unlink(self, key: str) -> None:
        try:
            os.unlink(key, dir_fd=self._root)
        except OSError:
            # What stands there is a directory (EISDIR, or EPERM on some systems): no object has this key.
            if not stat.S_ISDIR(os.stat(key, dir_fd=self._root, follow_symlinks=False).st_mode):
                raise

    def _sync_and_prune(self, folder: str) -> None:
        """Sync *folder*; while it is empty remove it, and go on with the one above."""
        while True:
            try:
                self._sync(folder)
                if not folder:
                    return
                os.rmdir(folder, dir_fd=self._root)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return
                raise
            folder = folder.rpartition("/")[0]

    def _sync(self, folder: str) -> None:
        with self._opened(folder) as descriptor:
            os.fsync(descriptor)

    @contextlib.contextmanager
    def _opened(self, folder: str) -> Generator[int]:
        # Without the slash, which would have a link followed.
        descriptor = os.open(folder.rstrip("/") or ".", _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        # A descriptor of its own for each holder: flock is between open files, so threads exclude each other too.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(_LOCK_NAME, flags, _FILE_MODE, dir_fd=self._private)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _require_root(self, key: str) -> None:
        if os.fstat(self._root).st_nlink == 0:
            raise Denied(key, "the store's directory was removed")

    def _sweep(self) -> None:
        oldest_s = time.time() - LEFTOVER_AGE_S_MIN
        with os.scandir(self._private) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.name != _LOCK_NAME and entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                        os.unlink(entry.name, dir_fd=self._private)


def _make_root(root: Path) -> None:
    """Make the directory *root* and those above it that are missing, and make their names durable."""
    missing = [path for path in (root, *root.parents) if not path.is_dir()]
    root.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    for path in missing:
        # One may be allowed to make a directory in one that one may not read, and so not sync.
        with contextlib.suppress(PermissionError):
            descriptor = os.open(path.parent, _OPEN_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _lineage(folder: str) -> list[str]:
    """Return the folders from the top down to *folder*: ``a/b`` gives ``a`` and ``a/b``."""
    names = folder.split("/") if folder else []
    return ["/".join(names[:count]) for count in range(1, len(names) + 1)]


def _read(descriptor: int, start: int, end: int) -> bytes:
    parts: list[bytes] = []
    while start < end:
        part = os.pread(descriptor, end - start, start)
        if not part:
            raise OSError(errno.EIO, "the file is shorter than its size")
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _sync_file(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # There, fsync leaves it in the drive's cache.
    else:
        os.fsync(descriptor)


def _probe(private: int, root: Path) -> None:
    """Raise InvalidInput unless names that differ in case are two files and hard links work in the directory."""
    name = f"probe-{secrets.token_hex(8)}"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE, dir_fd=private)
    os.close(descriptor)
    try:
        if _exists(name.upper(), private):
            raise InvalidInput(
                "store directory",
                str(root),
                "must be on a file system that tells upper case from lower: ids that differ in it would share files",
            )
        linked = f"{name}-linked"
        try:
            os.link(name, linked, src_dir_fd=private, dst_dir_fd=private, follow_symlinks=False)
        except OSError as error:
            rule = f"must be on a file system with hard links, which create files exclusively ({error.strerror})"
            raise InvalidInput("store directory", str(root), rule) from error
        os.unlink(linked, dir_fd=private)
    finally:
        os.unlink(name, dir_fd=private)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
