"""The provider that the Copilot SDK calls for one session: the SDK's names and types over a volume.

It also decides when an operation is acknowledged. A session is *born* with the first append to its conversation log:
before that no runtime can resume it, so the runtime is not made to wait. A bare directory and a temporary file that is
about to be renamed change no data of the user's: they travel with the next commit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from copilot import (
    SessionFsFileInfo,
    SessionFsProvider,
    SessionFsSqliteProvider,
    SessionFsSqliteQueryResult,
    SessionFsSqliteTransactionFailure,
)
from copilot.rpc import (
    SessionFSReaddirWithTypesEntry,
    SessionFsReaddirWithTypesEntryType,
    SessionFSSqliteQueryType,
    SessionFSSqliteTransactionErrorClass,
    SessionFSSqliteTransactionStatement,
)

from sessionfs_s3.copilot.ownership import OwnedSession
from sessionfs_s3.errors import CommitUnknown, InUse, SessionFsError, Unavailable
from sessionfs_s3.fs import joined, parse
from sessionfs_s3.settings import Settings
from sessionfs_s3.sqlite import QueryResult, ScratchError, Statement, check_count
from sessionfs_s3.volume import Durability, Volume

EVENTS_NAME: Final = "events.jsonl"
"""The runtime's conversation log inside its state directory; without it no session can be resumed."""

_TEMPORARY: Final = re.compile(r"\.tmp\.[0-9A-Fa-f-]{32,36}$")
"""How the runtime names what it renames at once: ``<name>.tmp.<uuid>``."""


class SessionProvider(SessionFsProvider, SessionFsSqliteProvider):
    """One session's provider: files, exact bytes and SQLite.

    Calls are answered in the order in which they arrive. The session is loaded when the provider is made inside a
    running event loop, else with the first call. When that fails, every call fails with the same error, until a reason
    that may pass has passed: then the next call loads it.
    """

    def __init__(self, owned: OwnedSession, settings: Settings) -> None:
        """Serve the session *owned*; ``SessionFs.handler`` makes one for each create and resume."""
        self._owned = owned
        self._settings = settings
        self._limits = settings.volume_options().database
        self._events = parse(f"{settings.session_state_path}/{EVENTS_NAME}")
        self._born = settings.durability == "strict"
        owned.hand_to(self)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loading: asyncio.Future[Volume] | None = None
        else:
            # The runtime needs some time before its first call: the store is asked meanwhile.
            self._loading = loop.create_task(self._load())
            self._loading.add_done_callback(_retrieve)

    async def read_file(self, path: str) -> str:
        """Return a file as text. Raises OSError."""
        return await (await self._volume()).read_file(path)

    async def read_file_bytes(self, path: str) -> bytes:
        """Return a file's exact bytes. Raises OSError."""
        return await (await self._volume()).read_file_bytes(path)

    async def write_file(self, path: str, content: str, mode: int | None = None) -> None:
        """Replace a file. Raises OSError; a write that fails leaves the file as it was."""
        volume = await self._volume()
        await volume.write_file(path, content, mode, durability=self._for_write(path))

    async def write_file_bytes(self, path: str, content: bytes, mode: int | None = None) -> None:
        """Replace a file by exact bytes. Raises OSError."""
        volume = await self._volume()
        await volume.write_file_bytes(path, content, mode, durability=self._for_write(path))

    async def append_file(self, path: str, content: str, mode: int | None = None) -> None:
        """Append to a file. The first append to the conversation log is the session's birth. Raises OSError."""
        volume = await self._volume()
        if not self._born and parse(path) == self._events:
            self._born = True
        await volume.append_file(path, content, mode, durability=self._for_change())

    async def exists(self, path: str) -> bool:
        """Return whether *path* exists; yes where the session cannot be read.

        The SDK turns an exception into "no", and of a session whose files are not there the runtime says "Session not
        found": a store that is down would look like an empty session. After a "yes" it reads the file, and that raises
        what is really wrong.
        """
        try:
            return await (await self._volume()).exists(path)
        except SessionFsError:
            return True

    async def stat(self, path: str) -> SessionFsFileInfo:
        """Return what is known of *path*. Raises OSError."""
        found = await (await self._volume()).stat(path)
        return SessionFsFileInfo(
            is_file=found.is_file,
            is_directory=found.is_directory,
            size=found.size,
            mtime=_datetime(found.mtime_ms),
            birthtime=_datetime(found.birthtime_ms),
        )

    async def mkdir(self, path: str, recursive: bool, mode: int | None = None) -> None:
        """Create a directory. Raises OSError."""
        volume = await self._volume()
        strict = self._settings.durability == "strict"
        durability = Durability.STORED if strict else Durability.NEXT
        await volume.mkdir(path, recursive=recursive, mode=mode, durability=durability)

    async def readdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted. Raises OSError."""
        return await (await self._volume()).readdir(path)

    async def readdir_with_types(self, path: str) -> Sequence[SessionFSReaddirWithTypesEntry]:
        """Return the names in a directory, sorted, with what each is. Raises OSError."""
        entries = await (await self._volume()).readdir_with_types(path)
        return [
            SessionFSReaddirWithTypesEntry(name=name, type=SessionFsReaddirWithTypesEntryType(kind))
            for name, kind in entries
        ]

    async def rm(self, path: str, recursive: bool, force: bool) -> None:
        """Remove a file or directory. Raises OSError."""
        volume = await self._volume()
        await volume.rm(path, recursive=recursive, force=force, durability=self._for_change())

    async def rename(self, src: str, dest: str) -> None:
        """Move a file or directory in one step. Raises OSError."""
        volume = await self._volume()
        await volume.rename(src, dest, durability=self._for_change())

    async def sqlite_query(
        self,
        query_type: SessionFSSqliteQueryType,
        query: str,
        params: dict[str, float | str | None] | None = None,
    ) -> SessionFsSqliteQueryResult | None:
        """Run SQL on the session's database. Raises SqlError when SQLite refuses it, OSError when it was not stored."""
        volume = await self._volume()
        result = await volume.sqlite_query(query_type.value, query, params, durability=self._for_change())
        return None if result is None else _result(result)

    async def sqlite_transaction(
        self, statements: list[SessionFSSqliteTransactionStatement]
    ) -> list[SessionFsSqliteQueryResult]:
        """Run *statements* as one transaction.

        Raises:
            SessionFsSqliteTransactionFailure: ``post_commit_ambiguous`` when it may or may not be stored;
                ``busy_or_locked`` when nothing was stored for certain and a second try may succeed: the local copy
                failed, the store did not answer in time, or somebody else writes to the session;
                ``fatal`` for everything else: nothing was stored, and a second try would fail again.
        """
        try:
            volume = await self._volume()
            # Before anything is made of them: the event loop has others to serve.
            check_count(len(statements), self._limits)
            try:
                results = await volume.sqlite_transaction(
                    [Statement(each.query_type.value, each.query, each.params) for each in statements],
                    durability=self._for_change(),
                )
            except CommitUnknown as error:
                # Where it was another commit whose fate is unknown, this transaction has not even been tried.
                if error is not volume.failure:
                    raise
                ambiguous = SessionFSSqliteTransactionErrorClass.POST_COMMIT_AMBIGUOUS
                raise SessionFsSqliteTransactionFailure(str(error), ambiguous) from error
        except (ScratchError, Unavailable, InUse) as error:
            if self.failure is not None:
                raise
            again = SessionFSSqliteTransactionErrorClass.BUSY_OR_LOCKED
            raise SessionFsSqliteTransactionFailure(str(error), again) from error
        return [_result(result) for result in results]

    async def sqlite_exists(self) -> bool:
        """Return whether the session has a database; yes where the session cannot be read, see :meth:`exists`."""
        try:
            return await (await self._volume()).sqlite_exists()
        except SessionFsError:
            return True

    @property
    def failure(self) -> SessionFsError | None:
        """Why no call will succeed any more; None while the session is in order, or not loaded yet."""
        volume = self._loaded()
        return None if volume is None else volume.failure

    @property
    def epoch(self) -> int:
        """The epoch of the newest commit that is known to be stored; 0 where nothing is, or it is not loaded yet."""
        volume = self._loaded()
        return 0 if volume is None else volume.head.epoch

    async def still_owned(self) -> bool:
        """Return whether the session is loaded, in order, and nobody has committed to it since; one request."""
        volume = self._loaded()
        try:
            return volume is not None and await volume.still_owned()
        except SessionFsError:
            return False

    async def ready(self) -> None:
        """Wait until the session is loaded.

        Raises:
            SessionFsError: it cannot be loaded: the store is down, refuses, or holds something corrupt.
        """
        await self._volume()

    async def _volume(self) -> Volume:
        """Return the volume, loaded; raise what loading raised, or Fenced once a newer handler has the session."""
        if self._loading is None or _is_worth_another_try(self._loading):
            self._loading = asyncio.ensure_future(self._load())
            self._loading.add_done_callback(_retrieve)
        # Shielded: a call that the runtime cancels must not cancel the load for the others.
        volume = await asyncio.shield(self._loading)
        self._owned.check(self)
        return volume

    def _loaded(self) -> Volume | None:
        loading = self._loading
        if loading is None or not loading.done() or loading.cancelled() or loading.exception() is not None:
            return None
        return loading.result()

    async def _load(self) -> Volume:
        volume = await self._owned.enter(self)
        self._born = self._born or await volume.exists(joined(self._events))
        return volume

    def _for_change(self) -> Durability:
        return Durability.STORED if self._born else Durability.SOON

    def _for_write(self, path: str) -> Durability:
        if self._settings.durability != "strict" and _TEMPORARY.search(path):
            return Durability.NEXT
        return self._for_change()


def _is_worth_another_try(loading: asyncio.Future[Volume]) -> bool:
    """Return whether *loading* failed for a reason that may be gone by now."""
    if not loading.done() or loading.cancelled():
        return False
    return isinstance(loading.exception(), Unavailable | InUse)


def _retrieve(loading: asyncio.Future[Volume]) -> None:
    # A load that nobody waited for must not end as "exception was never retrieved".
    if not loading.cancelled():
        loading.exception()


def _datetime(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _result(result: QueryResult) -> SessionFsSqliteQueryResult:
    return SessionFsSqliteQueryResult(
        columns=list(result.columns),
        rows=list(result.rows),
        rows_affected=result.rows_affected,
        last_insert_rowid=result.last_insert_rowid,
    )
