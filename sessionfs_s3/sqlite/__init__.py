"""One session's SQLite database: SQL in, results and changed pages out. Knows nothing of the log.

An event loop has a :class:`WorkerHost` (:mod:`.host`), which opens each database in a process of its own:

* :mod:`.connection`: the host's end of the connection. :mod:`.wire`: what is said over it.
* :mod:`.forkserver`: where the processes come from. :mod:`.worker`: what runs in one.

What runs there is synchronous, and can be used without all that:

* :mod:`.database`: :class:`ScratchDatabase`, one call = one transaction = at most one change.
* :mod:`.wal`: which pages a commit wrote.
* :mod:`.guard`: what the SQL may do, and for how long.
* :mod:`.prepared`: a call before it runs. :mod:`.script`: taking SQL text apart.
* :mod:`.values`: how values cross between JSON and SQLite. :mod:`.records`: what crosses the engine's boundary.
* :mod:`.scratch`: the files.
"""

from sessionfs_s3.sqlite.database import ScratchDatabase
from sessionfs_s3.sqlite.host import WORKERS_MAX, Database, DatabaseHost, WorkerHost
from sessionfs_s3.sqlite.prepared import check_count
from sessionfs_s3.sqlite.records import (
    PAGE_BYTES,
    DatabaseChange,
    DatabaseFull,
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
    "WORKERS_MAX",
    "Database",
    "DatabaseChange",
    "DatabaseFull",
    "DatabaseHost",
    "JsonValue",
    "Kind",
    "Limits",
    "Parameter",
    "QueryResult",
    "ScratchDatabase",
    "ScratchError",
    "SqlError",
    "Statement",
    "WorkerHost",
    "check_count",
]
