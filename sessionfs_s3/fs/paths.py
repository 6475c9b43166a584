"""POSIX paths inside a volume: parsed lexically, always absolute, never above the root.

A path names a place in the volume's tree and nothing else: it is never joined to a path of the host.
"""

from __future__ import annotations

import errno
from typing import Final

from sessionfs_s3.errors import shown

Path = tuple[str, ...]
"""The names from the root down; ``()`` is the root itself."""

NAME_BYTES_MAX: Final = 255
"""Longest name in UTF-8 bytes: NAME_MAX of Linux."""

PATH_BYTES_MAX: Final = 4096
"""Longest path in UTF-8 bytes: PATH_MAX of Linux."""


def parse(path: str) -> Path:
    """Return the names of *path*, with ``.``, ``..`` and repeated slashes resolved; a relative path starts at ``/``.

    ``..`` at the root stays at the root. Nothing is decoded or folded: ``%2e%2e`` and Unicode look-alikes are names
    like any other. The path is bounded as given and as it comes out, with the slash that a relative one lacks.

    Raises:
        OSError: ENOENT for the empty path, EINVAL for a NUL or a lone surrogate, ENAMETOOLONG for a name over 255 or a
            path over 4096 bytes in UTF-8.
    """
    if not path:
        raise FileNotFoundError(errno.ENOENT, "The path is empty", path)
    # The length first, so that a path of any size costs no more than this comparison.
    if len(path) > PATH_BYTES_MAX:
        raise _too_long(path, f"The path is over {PATH_BYTES_MAX} bytes")
    if "\0" in path:
        raise OSError(errno.EINVAL, "The path holds a NUL", shown(path))
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise OSError(errno.EINVAL, "The path holds a lone surrogate", shown(path)) from None
    if len(encoded) > PATH_BYTES_MAX:
        raise _too_long(path, f"The path is over {PATH_BYTES_MAX} bytes")
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            if names:
                names.pop()
        elif name not in {"", "."}:
            names.append(name)
            if len(name.encode()) > NAME_BYTES_MAX:
                raise _too_long(path, f"A name of the path is over {NAME_BYTES_MAX} bytes")
    if length(tuple(names)) > PATH_BYTES_MAX:
        raise _too_long(path, f"The absolute path is over {PATH_BYTES_MAX} bytes")
    return tuple(names)


def is_name(name: str) -> bool:
    """Return whether *name*, which is UTF-8, could have come out of :func:`parse`: the check on names from a store."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name and len(name.encode()) <= NAME_BYTES_MAX


def joined(path: Path) -> str:
    """Return *path* as an absolute POSIX path."""
    return "/" + "/".join(path)


def length(path: Path) -> int:
    """Return the length of *path* as an absolute POSIX path, in UTF-8 bytes."""
    return sum(len(name.encode()) + 1 for name in path) or 1


def _too_long(path: str, rule: str) -> OSError:
    return OSError(errno.ENAMETOOLONG, rule, shown(path))
