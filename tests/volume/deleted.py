"""What the tests of deletion share: a clock for store and machine, a session to delete, a look at what is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sessionfs_s3.errors import SessionFsError
from sessionfs_s3.format import Kind, SessionKeys, parse_log_name
from sessionfs_s3.fs import EMPTY, WriteDatabase
from sessionfs_s3.store.protocol import Store
from sessionfs_s3.volume import Durability, Environment, Volume, VolumeOptions
from sessionfs_s3.volume.deletion import Deleted, delete_session
from sessionfs_s3.volume.session import Session
from tests.volume.conftest import KEYS, QUICK
from tests.volume.stored import RecordingStore, entries, snapshot_after

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
SECRET = "words of the user"
PAGES = SECRET.encode() * 1000
OPTIONS: dict[str, Any] = {"patience": QUICK, "snapshot_commits": 3, "inline_bytes_max": 1, "seal_bytes_min": 1}


@dataclass
class Clock:
    """The time of day, the same for the store and for this machine but for *ahead_s*; and this machine's uptime."""

    now_s: float = 1_000_000.0
    ahead_s: float = 0.0

    def store_ms(self) -> int:
        return round(self.now_s * 1000)

    def wall_ms(self) -> int:
        return round((self.now_s + self.ahead_s) * 1000)

    def uptime_s(self) -> float:
        return self.now_s

    def of(self, environment: Environment) -> Environment:
        """Return *environment* with this clock."""
        return replace(environment, wall_ms=self.wall_ms, uptime_s=self.uptime_s)


@dataclass
class Place:
    """A session in a store, and what can be done to it."""

    store: RecordingStore
    environment: Environment
    clock: Clock
    keys: SessionKeys = KEYS
    opened: list[Volume] = field(default_factory=list[Volume])

    def session(self, store: Store | None = None, **options: Any) -> Session:
        return Session(store or self.store, self.keys, self.environment, VolumeOptions(**{**OPTIONS, **options}))

    async def open(self, store: Store | None = None, *, read_only: bool = False, **options: Any) -> Volume:
        volume = await Volume.open(
            store or self.store,
            self.keys,
            read_only=read_only,
            environment=self.environment,
            options=VolumeOptions(**{**OPTIONS, **options}),
        )
        self.opened.append(volume)
        return volume

    async def aclose(self) -> None:
        """Close every volume, failed or not."""
        self.store.faults.clear()
        for volume in self.opened:
            with suppress(SessionFsError):
                await volume.aclose()

    async def fill(self) -> Volume:
        """Store a session with snapshots, commits after them, blobs, pages and a second claim; return its owner."""
        first = await self.open()
        await first.write_file("/secret", SECRET * 6000)  # more than a chunk: its contents go into blobs
        pages = WriteDatabase(len(PAGES), ((0, PAGES),))
        await first._change(lambda _: [pages], Durability.STORED)  # SQLite would take a process for each test
        await snapshot_after(first, self.store)
        owner = await self.open()
        await snapshot_after(owner, self.store)
        await owner.append_file("/log", SECRET)
        assert owner._committer is not None
        await owner._committer._snapshots.finish()
        return owner

    async def delete(self, store: Store | None = None, **options: Any) -> Deleted:
        return await delete_session(self.session(store, **options))

    async def sizes(self) -> dict[str, int]:
        """Return what is left: ``c7``, ``s6`` or ``blob`` names, and how large each is."""
        found: dict[str, int] = {}
        for entry in await entries(self.store.inner, self.keys.prefix):
            log = parse_log_name(entry.key.removeprefix(self.keys.log))
            name = entry.key.removeprefix(self.keys.prefix)
            if log is not None:
                name = f"{'c' if log.kind is Kind.COMMIT else 's'}{log.sequence}"
            found[name] = entry.size
        return found

    async def show(self, store: Store | None = None) -> str:
        """Return what a reader finds: "whole", "empty", or what else."""
        reader = await self.open(store, read_only=True)
        return await shown_by(reader)


async def shown_by(volume: Volume) -> str:
    """Return what *volume* shows, as :meth:`Place.show` does; it is asserted that it shows all of it."""
    if not await volume.readdir("/") and not await volume.sqlite_exists():
        return "empty"
    try:
        assert await volume.read_file("/secret") == SECRET * 6000
        pages = await volume._view.read(lambda tree: tree.database or EMPTY)
    except FileNotFoundError:
        return await shown_by(volume)  # it has found out while it read
    assert pages in (PAGES, b"")
    return "whole" if pages else await shown_by(volume)


class Counting(RecordingStore):
    """A store that does something before a given request, counted from 0.

    Attributes:
        at: before which request; -1: none.
        act: what is done then, once.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.at = -1
        self.act: Callable[[], Awaitable[object]] | None = None

    async def _through(self, verb: Any, key: str, request: Any) -> Any:
        if len(self.requests) == self.at and self.act is not None:
            act, self.act = self.act, None
            await act()
        return await super()._through(verb, key, request)
