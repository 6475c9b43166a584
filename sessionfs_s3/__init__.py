"""A session file system for the GitHub Copilot SDK whose every file operation lands in S3-compatible object storage."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sessionfs_s3.errors import (
    Closed,
    CommitUnknown,
    Corrupt,
    Fenced,
    InUse,
    InvalidInput,
    Refused,
    SessionFsError,
    Unavailable,
)

if TYPE_CHECKING:
    from sessionfs_s3.copilot import SessionFs, SessionProvider
    from sessionfs_s3.settings import Settings
    from sessionfs_s3.sqlite import DatabaseFull, QueryResult, ScratchError, SqlError, Statement
    from sessionfs_s3.volume import Durability, Head, Volume

__version__ = "0.1.0"

__all__ = [
    "Closed",
    "CommitUnknown",
    "Corrupt",
    "DatabaseFull",
    "Durability",
    "Fenced",
    "Head",
    "InUse",
    "InvalidInput",
    "QueryResult",
    "Refused",
    "ScratchError",
    "SessionFs",
    "SessionFsError",
    "SessionProvider",
    "Settings",
    "SqlError",
    "Statement",
    "Unavailable",
    "Volume",
    "__version__",
]

# Importing the Copilot SDK or an S3 client takes seconds: whoever needs an error's name does not pay for them.
_HOMES = {
    "DatabaseFull": "sessionfs_s3.sqlite",
    "Durability": "sessionfs_s3.volume",
    "Head": "sessionfs_s3.volume",
    "QueryResult": "sessionfs_s3.sqlite",
    "ScratchError": "sessionfs_s3.sqlite",
    "SessionFs": "sessionfs_s3.copilot",
    "SessionProvider": "sessionfs_s3.copilot",
    "Settings": "sessionfs_s3.settings",
    "SqlError": "sessionfs_s3.sqlite",
    "Statement": "sessionfs_s3.sqlite",
    "Volume": "sessionfs_s3.volume",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
