"""The synchronous SQLite engine of one session: SQL in, results and changed pages out. Imports only ``errors``.

* :mod:`.database`: :class:`ScratchDatabase`, one call = one transaction = at most one change.
* :mod:`.wal`: which pages a commit wrote.
* :mod:`.guard`: what the SQL may do, and for how long.
* :mod:`.prepared`: a call before it runs. :mod:`.script`: taking SQL text apart.
* :mod:`.values`: how values cross between JSON and SQLite. :mod:`.records`: what crosses the engine's boundary.
* :mod:`.scratch`: the files.
"""

from sessionfs_s3.volume.sqlite.database import ScratchDatabase
from sessionfs_s3.volume.sqlite.records import (
    PAGE_BYTES,
    DatabaseChange,
    JsonValue,
    Kind,
    Limits,
    Parameter,
    QueryResult,
    ScratchError,
    SqlError,
    Statement,
)

__all__ = [
    "PAGE_BYTES",
    "DatabaseChange",
    "JsonValue",
    "Kind",
    "Limits",
    "Parameter",
    "QueryResult",
    "ScratchDatabase",
    "ScratchError",
    "SqlError",
    "Statement",
]
