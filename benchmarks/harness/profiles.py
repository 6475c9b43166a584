"""What a profile says: whose own time it was, by package and by function. Pure."""

from __future__ import annotations

import pstats
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

_OTHERS: Final = "Python's own and others"
_ROOT: Final = str(Path(__file__).parent.parent.parent)
_FAMILIES: Final = (
    ("/sessionfs_s3/store/", "our adapter"),
    ("/sessionfs_s3/", "our engine"),
    ("/aiobotocore/", "aiobotocore"),
    ("/botocore/", "botocore"),
    ("/obstore/", "obstore"),
    ("/aiohttp/", "aiohttp"),
    ("/yarl/", "aiohttp"),
    ("/multidict/", "aiohttp"),
    ("/asyncio/", "asyncio"),
    ("zstd", "zstandard"),
    ("_hashlib", "hashlib"),
    ("sha256", "hashlib"),
    ("hmac", "hashlib"),
    ("_socket", "socket, ssl"),
    ("_ssl", "socket, ssl"),
    ("epoll", "socket, ssl"),
)
Function = tuple[str, int, str]
"""A file, a line and a name, as ``pstats`` has them."""


def own_times(stats: pstats.Stats) -> dict[Function, float]:
    """Return each function's own seconds.

    What is written in C and belongs to nobody (``str.join``, ``isinstance``) counts for whoever called it. Waiting for
    events is no work and is left out.
    """
    entries = cast("dict[Function, Sequence[Any]]", vars(stats)["stats"])
    own: defaultdict[Function, float] = defaultdict(float)
    for function, (_, _, own_s, _, callers) in entries.items():
        if "poll' of 'select.epoll'" in function[2]:
            continue
        if function[0] == "~" and callers and family_of(function) == _OTHERS:
            for caller, figures in callers.items():
                own[caller] += figures[2]
        else:
            own[function] += own_s
    return own


def family_of(function: Function) -> str:
    """Return the package that *function* belongs to."""
    path, _, name = function
    text = f"{path.removeprefix(_ROOT)} {name}" if path != "~" else name
    return next((family for needle, family in _FAMILIES if needle in text), _OTHERS)


def name_of(function: Function) -> str:
    """Return *function* as a reader finds it."""
    path, line, name = function
    if path == "~":
        return f"`{name}`"
    parts = Path(path).parts
    roots = [at for at, part in enumerate(parts) if part in ("site-packages", "sessionfs_s3")]
    start = roots[0] if roots else max(0, len(parts) - 3)
    shown = "/".join(parts[start + (parts[start] == "site-packages") :])
    return f"`{shown}:{line} {name}`"
