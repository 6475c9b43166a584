"""The oracle: a directory of the host, through CPython's own ``os`` and ``open``, behind the commands of a volume.

It differs from plain system calls only where a volume does so on purpose:

* ``write`` and ``append`` create missing parents;
* ``write`` of identical bytes, like ``append`` of none, changes nothing, not even a time;
* ``remove`` is Node's ``fs.rm`` (as Node 20 behaves): a directory needs *recursive*, *force* forgives only ENOENT;
* ``..`` and trailing slashes are resolved before the file system sees a path;
* the root can be neither removed, renamed nor replaced (EBUSY), where the kernel may answer otherwise first;
* no path may become longer than 4096 bytes, the root included, so a rename of a directory can be ENAMETOOLONG.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path as HostPath
from typing import Final

from sessionfs_s3.fs import Path
from sessionfs_s3.fs.tree import DIRECTORY_MODE, FILE_MODE

PERMISSIONS: Final = 0o777

Listing = dict[Path, tuple[str, bytes, int]]


class Disk:
    """A directory of the host that is used like a volume. Errors are the kernel's own."""

    def __init__(self, base: HostPath) -> None:
        """Use the empty directory *base* as the root."""
        self.base = base
        base.chmod(DIRECTORY_MODE)

    def at(self, path: Path) -> HostPath:
        """Return where *path* is on the host."""
        return self.base.joinpath(*path)

    def make_directory(self, path: Path, *, recursive: bool, mode: int | None) -> None:
        """Create a directory, with *recursive* as Node's ``fs.mkdir``: *mode* is that of all it creates."""
        bits = DIRECTORY_MODE if mode is None else mode
        if not recursive:
            self.at(path).mkdir()
            self.at(path).chmod(bits)
            return
        for end in range(len(path) + 1):
            part = self.at(path[:end])
            if part.is_dir():
                continue
            try:
                part.mkdir()
            except FileExistsError as error:
                if end == len(path):
                    raise
                raise NotADirectoryError(errno.ENOTDIR, "a file stands in the way", str(part)) from error
            part.chmod(bits)

    def write_file(self, path: Path, data: bytes, *, mode: int | None) -> None:
        """Replace a file's contents, or create it."""
        self._write(path, data, os.O_TRUNC, mode)

    def append_file(self, path: Path, data: bytes, *, mode: int | None) -> None:
        """Add to a file's end, or create it."""
        self._write(path, data, os.O_APPEND, mode)

    def remove(self, path: Path, *, recursive: bool, force: bool) -> None:
        """Remove as ``fs.rm`` does."""
        try:
            found = self.at(path).lstat()
        except FileNotFoundError:
            if force:
                return
            raise
        if not stat.S_ISDIR(found.st_mode):
            self.at(path).unlink()
        elif recursive:
            shutil.rmtree(self.at(path))
        else:
            raise IsADirectoryError(errno.EISDIR, "Path is a directory", str(path))

    def rename(self, source: Path, target: Path) -> None:
        """Call rename(2)."""
        self.at(source).rename(self.at(target))

    def listing(self) -> Listing:
        """Return every path with its type, contents and permissions."""
        found: Listing = {}
        waiting: list[Path] = [()]
        while waiting:
            path = waiting.pop()
            permissions = self.at(path).stat().st_mode & PERMISSIONS
            if self.at(path).is_dir():
                found[path] = ("directory", b"", permissions)
                waiting.extend((*path, child.name) for child in self.at(path).iterdir())
            else:
                found[path] = ("file", self.at(path).read_bytes(), permissions)
        return found

    def forget_times(self) -> None:
        """Set every modification time to the epoch, so that :meth:`touched` tells what changes from here on."""
        for path in self.listing():
            os.utime(self.at(path), ns=(0, 0))

    def touched(self) -> set[Path]:
        """Return the paths whose modification time was set since :meth:`forget_times`."""
        return {path for path in self.listing() if self.at(path).stat().st_mtime_ns}

    def _write(self, path: Path, data: bytes, flag: int, mode: int | None) -> None:
        at = self.at(path)
        if at.is_file() and (not data if flag == os.O_APPEND else at.read_bytes() == data):
            return
        existed = at.exists()
        try:
            descriptor = os.open(at, os.O_WRONLY | os.O_CREAT | flag)
        except FileNotFoundError:
            self.make_directory(path[:-1], recursive=True, mode=None)
            descriptor = os.open(at, os.O_WRONLY | os.O_CREAT | flag)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if not existed:
            at.chmod(FILE_MODE if mode is None else mode)
