"""Other ways to keep a SQLite database in an S3 bucket: the whole file with each commit, and sqlite-s3vfs.

sqlite-s3vfs (PyPI, of the United Kingdom's Department for International Trade) is used as its README shows: boto3 with
its own defaults, blocks of 4096 bytes, which are its default and SQLite's page size. Its connection stays open, so that
what it has read once is in SQLite's page cache. Needs the dependency group ``bench``.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

import apsw
import zstandard
from botocore.config import Config

from benchmarks.harness.lab import BUCKET
from benchmarks.harness.todos import PAGE_BYTES
from sessionfs_s3.store import IF_ABSENT, Store
from sessionfs_s3.store.protocol import IfMatches
from sessionfs_s3.testing.server_process import REGION

# Neither says anything of its types.
boto3: Any = importlib.import_module("boto3")
sqlite_s3vfs: Any = importlib.import_module("sqlite_s3vfs")

ZSTD_LEVEL: Final = 3
"""zstd's default, and the level of the session's own format."""

Journal = Literal["delete", "memory"]
"""SQLite's default, which lies in the bucket too; or none that would outlast the process."""

_KEY: Final = "database"


class CutOff(Exception):
    """The process that was to write has ended, as far as the bucket can see."""


class WholeImage:
    """A database in memory; each commit puts ``serialize()``'s whole file over the last one, if that is still there."""

    def __init__(self, store: Store, image: bytes, *, compressed: bool) -> None:
        """Keep *image* in *store*, compressed with zstd or as it is."""
        self._store = store
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL) if compressed else None
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.deserialize(image)
        self._etag = ""

    async def commit(self, sql: str) -> None:
        """Run one statement and store the file."""
        self._database.execute(sql).close()
        image = self._database.serialize()
        data = image if self._compressor is None else self._compressor.compress(image)
        self._etag = await self._store.put(_KEY, data, condition=IfMatches(self._etag) if self._etag else IF_ABSENT)

    async def counts(self, sql: str) -> dict[str, int]:
        """Return the row that *sql* answers from what the store has."""
        data = (await self._store.get(_KEY)).data
        stored = sqlite3.connect(":memory:")
        try:
            stored.deserialize(data if self._compressor is None else zstandard.ZstdDecompressor().decompress(data))
            cursor = stored.execute(sql)
            return dict(zip((name for name, *_ in cursor.description), cursor.fetchone(), strict=True))
        finally:
            stored.close()

    def close(self) -> None:
        """Give the database up; what is stored stays."""
        self._database.close()


class Bucket:
    """The run's bucket, as boto3 sees it at *endpoint_url*. Blocks."""

    def __init__(self, endpoint_url: str) -> None:
        """Reach the bucket with the credentials of the environment."""
        config = Config(s3={"addressing_style": "path"})
        resource = boto3.Session().resource("s3", endpoint_url=endpoint_url, region_name=REGION, config=config)
        self._bucket = resource.Bucket(BUCKET)
        self._vfs = sqlite_s3vfs.S3VFS(bucket=self._bucket, block_size=PAGE_BYTES)
        self._puts_left: int | None = None
        self._bucket.meta.client.meta.events.register("before-send.s3", self._send)

    def load(self, prefix: str, image: bytes) -> None:
        """Store the database file *image* under *prefix*: one PUT for each block."""
        self._vfs.deserialize_iter(key_prefix=prefix, bytes_iter=iter([image]))

    @contextmanager
    def database(self, prefix: str, journal: Journal) -> Generator[apsw.Connection]:
        """Open the database under *prefix* for as long as the block lasts."""
        connection = apsw.Connection(prefix, vfs=self._vfs.name)
        try:
            connection.execute(f"PRAGMA journal_mode = {journal}").fetchall()
            yield connection
        finally:
            connection.close()

    def cut_off_after(self, puts: int | None) -> None:
        """Let the next *puts* PUTs of objects through, and nothing at all after them; None: everything."""
        self._puts_left = puts

    def _send(self, event_name: str, **_: object) -> None:
        if self._puts_left is None:
            return
        is_put = event_name.endswith(".PutObject")
        if self._puts_left < is_put or self._puts_left < 0:
            self._puts_left = -1
            raise CutOff
        self._puts_left -= is_put


def counts_of(connection: apsw.Connection, sql: str) -> Mapping[str, object]:
    """Return the row that *sql* answers."""
    cursor = connection.execute(sql)
    names = [name for name, *_ in cursor.get_description()]
    return dict(zip(names, cursor.fetchone() or (), strict=True))
