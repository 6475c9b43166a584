"""A volume: one session's file system, open. The asynchronous face of everything below it."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from sessionfs_s3 import fs
from sessionfs_s3.errors import SessionFsError
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.fs import Content, Stat, Tree
from sessionfs_s3.sqlite import Parameter, QueryResult, Statement
from sessionfs_s3.store.protocol import Store
from sessionfs_s3.volume.blobs import BlobWriter
from sessionfs_s3.volume.committer import Committer, Durability, Plan
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.database import SessionDatabase
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.idle import IdleTimer
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.log import SessionLog
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.snapshots import SnapshotWriter
from sessionfs_s3.volume.state import Head
from sessionfs_s3.volume.view import View


class Volume:
    """One session's files and database. Paths are POSIX paths inside the session; they never reach the host's disk.

    Opened with :meth:`open` (or ``SessionFs.volume``), used as an asynchronous context manager. Reads are answered
    from memory and see every change accepted so far. A change is applied in the order of the calls and acknowledged,
    unless *durability* says otherwise, when it is stored. After :class:`~sessionfs_s3.errors.Fenced` or
    :class:`~sessionfs_s3.errors.CommitUnknown` every call fails with that error: open the session again.

    Every method raises ``OSError`` with a true ``errno``; beside those it names, EROFS for a change to a volume that is
    open for reading only. The SQL methods also raise :class:`~sessionfs_s3.sqlite.SqlError` and
    :class:`~sessionfs_s3.sqlite.ScratchError`.
    """

    def __init__(self, session: Session, committer: Committer | None, view: View) -> None:
        """Use :meth:`open`."""
        self._committer = committer
        self._view = view
        self._environment = session.environment
        self._options = session.options
        self._database = SessionDatabase(view, self._change, session.environment.databases, session.options.database)
        self._closed = False
        self._idle = IdleTimer(session.options.idle_s, lambda: self._database.rest() and view.rest())
        self._idle.touch()

    @classmethod
    async def open(
        cls,
        store: Store,
        keys: SessionKeys,
        *,
        read_only: bool,
        environment: Environment,
        options: VolumeOptions,
    ) -> Self:
        """Open the session of *keys*; for writing, this fences whoever had it open before.

        A session that does not exist opens empty; it comes into being with its first commit.

        Raises:
            InUse, Unavailable, Refused, Corrupt, CommitUnknown: see :meth:`SessionLog.open`.
        """
        session = Session(store, keys, environment, options)
        contents = ContentReader(session)
        if read_only:
            reader = LogReader(session)
            return cls(session, None, View(None, await reader.load(), reader, contents))
        log = SessionLog(session)
        state = await log.open()
        blobs = BlobWriter(session, contents)
        committer = Committer(log, state, blobs, SnapshotWriter(session, contents, blobs), options)
        volume = cls(session, committer, View(committer, state, log.reader, contents))
        for path in options.directories:
            await volume.mkdir(path, recursive=True, durability=Durability.NEXT)
        return volume

    @property
    def read_only(self) -> bool:
        """Whether the volume is open for reading only."""
        return self._committer is None

    @property
    def writer(self) -> bytes:
        """Who this volume is in the log, 16 random bytes; empty for one that is open for reading only."""
        return b"" if self._committer is None else self._committer.writer

    @property
    def head(self) -> Head:
        """The last commit that this volume knows to be stored."""
        return self._view.head

    @property
    def failure(self) -> SessionFsError | None:
        """Why every call fails from now on; None while the volume is in order."""
        return None if self._committer is None else self._committer.error

    async def read_file(self, path: str) -> str:
        """Return a file's contents as text; bytes that are not UTF-8 read as U+FFFD.

        Raises:
            OSError: ENOENT, EISDIR, ENOTDIR.
        """
        return (await self.read_file_bytes(path)).decode(errors="replace")

    async def read_file_bytes(self, path: str) -> bytes:
        """Return a file's exact contents. Raises as :meth:`read_file`."""
        return await self.read_range(path, 0, None)

    async def read_range(self, path: str, start: int, stop: int | None) -> bytes:
        """Return the bytes of a file from *start* up to, not including, *stop* (None: its end), clamped to its size.

        Raises:
            OSError: as :meth:`read_file`; EINVAL for a negative offset.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise OSError(errno.EINVAL, f"Offsets {start} and {stop}: none may be negative", path)
        at = fs.parse(path)

        def content(tree: Tree) -> Content:
            node = fs.find(tree, at)
            if isinstance(node, fs.Directory):
                raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
            return node.content

        self._idle.touch()
        return await self._view.read(content, start, stop)

    async def write_file(
        self,
        path: str,
        content: str,
        mode: int | None = None,
        *,
        durability: Durability = Durability.STORED,
    ) -> None:
        """Replace a file's contents with *content* in UTF-8, or create it, with *mode*, and its missing parents.

        Lone surrogates are stored as U+FFFD. Identical contents change nothing.

        Raises:
            OSError: EISDIR, ENOTDIR, EFBIG (over ``VolumeOptions.file_bytes_max``).
        """
        await self.write_file_bytes(path, _encoded(content), mode, durability=durability)

    async def write_file_bytes(
        self,
        path: str,
        content: bytes,
        mode: int | None = None,
        *,
        durability: Durability = Durability.STORED,
    ) -> None:
        """Replace a file's contents with exactly *content*. Otherwise as :meth:`write_file`."""
        at = fs.parse(path)
        data = self._sized(path, content)
        time_ms = self._environment.wall_ms()
        await self._change(
            lambda tree: fs.write_file(tree, at, data, mode=mode, time_ms=time_ms),
            durability,
        )

    async def append_file(
        self,
        path: str,
        content: str,
        mode: int | None = None,
        *,
        durability: Durability = Durability.STORED,
    ) -> None:
        """Add *content* in UTF-8 at a file's end. Otherwise as :meth:`write_file`."""
        at = fs.parse(path)
        data = self._sized(path, _encoded(content))
        time_ms = self._environment.wall_ms()
        await self._change(
            lambda tree: fs.append_file(tree, at, data, mode=mode, time_ms=time_ms),
            durability,
        )

    async def exists(self, path: str) -> bool:
        """Return whether there is a file or directory at *path*."""
        tree = await self._tree()
        try:
            fs.find(tree, fs.parse(path))
        except SessionFsError:
            raise
        except OSError:
            return False
        return True

    async def stat(self, path: str) -> Stat:
        """Return size in bytes, mode and times of a file or directory.

        Raises:
            OSError: ENOENT, ENOTDIR.
        """
        return fs.stat(await self._tree(), fs.parse(path))

    async def mkdir(
        self,
        path: str,
        *,
        recursive: bool = False,
        mode: int | None = None,
        durability: Durability = Durability.STORED,
    ) -> None:
        """Create a directory; with *recursive* its missing parents too, and it may exist already.

        Raises:
            OSError: EEXIST, ENOENT (no parent), ENOTDIR.
        """
        at = fs.parse(path)
        time_ms = self._environment.wall_ms()
        await self._change(
            lambda tree: fs.make_directory(tree, at, recursive=recursive, mode=mode, time_ms=time_ms),
            durability,
        )

    async def readdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted.

        Raises:
            OSError: ENOENT, ENOTDIR.
        """
        return [name for name, _ in fs.list_directory(await self._tree(), fs.parse(path))]

    async def readdir_with_types(self, path: str) -> list[tuple[str, Literal["file", "directory"]]]:
        """Return the names in a directory, sorted, and what each is. Raises as :meth:`readdir`."""
        entries = fs.list_directory(await self._tree(), fs.parse(path))
        return [(name, "file" if isinstance(node, fs.File) else "directory") for name, node in entries]

    async def rm(
        self,
        path: str,
        *,
        recursive: bool = False,
        force: bool = False,
        durability: Durability = Durability.STORED,
    ) -> None:
        """Remove a file, or with *recursive* a directory and everything below; with *force* it may be missing.

        Raises:
            OSError: ENOENT, ENOTDIR, EISDIR (a directory without *recursive*), EBUSY (the root).
        """
        at = fs.parse(path)
        time_ms = self._environment.wall_ms()
        await self._change(
            lambda tree: fs.remove(tree, at, recursive=recursive, force=force, time_ms=time_ms),
            durability,
        )

    async def rename(self, src: str, dest: str, *, durability: Durability = Durability.STORED) -> None:
        """Move *src* to *dest* in one step, over a file or an empty directory that stands there.

        Raises:
            OSError: ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL (into itself), EBUSY (the root), ENAMETOOLONG.
        """
        source, target = fs.parse(src), fs.parse(dest)
        time_ms = self._environment.wall_ms()
        await self._change(lambda tree: fs.rename(tree, source, target, time_ms=time_ms), durability)

    async def sqlite_query(
        self,
        kind: Literal["exec", "query", "run"],
        sql: str,
        params: Mapping[str, Parameter] | None = None,
        *,
        durability: Durability = Durability.STORED,
    ) -> QueryResult | None:
        """Run SQL on the session's database; at most one commit, none when nothing changed.

        Args:
            kind: ``"exec"`` for a script (returns None), ``"query"`` and ``"run"`` for one statement.
            sql: the SQL.
            params: named parameters.
            durability: when it is acknowledged.

        Raises:
            SqlError: SQLite refuses it, or a limit; nothing changed. A :class:`DatabaseFull` is an OSError too, EDQUOT.
            ScratchError: the local copy failed; nothing changed, and a second try makes it anew.
        """
        self._idle.touch()
        return await self._database.query(kind, sql, params, durability)

    async def sqlite_transaction(
        self,
        statements: Sequence[Statement],
        *,
        durability: Durability = Durability.STORED,
    ) -> tuple[QueryResult, ...]:
        """Run *statements* as one transaction, which is one commit. Raises as :meth:`sqlite_query`."""
        self._idle.touch()
        return await self._database.transaction(statements, durability)

    async def sqlite_exists(self) -> bool:
        """Return whether the session has a database."""
        return (await self._tree()).database is not None

    async def flush(self) -> None:
        """Store every change accepted so far, whatever its durability."""
        if self._committer is not None:
            await self._committer.flush()

    async def refresh(self) -> None:
        """Read what was committed since the volume was opened for reading; one request when there is nothing new."""
        self._idle.touch()
        await self._view.refresh()

    async def still_owned(self) -> bool:
        """Return whether nobody has committed to the session since this volume did; one request.

        Raises:
            SessionFsError: why the volume failed, or why the store could not be asked.
        """
        return await self._view.still_owned()

    async def aclose(self) -> None:
        """Store what is not stored yet and give everything back. May be called twice.

        Raises:
            SessionFsError: what was not stored could not be; a volume that had failed before closes in silence.
        """
        if self._closed:
            return
        self._closed = True
        self._idle.cancel()
        await self._database.aclose()
        self._view.close()
        if self._committer is not None:
            await self._committer.aclose()

    async def __aenter__(self) -> Self:
        """Return the volume, which is open already."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the volume."""
        await self.aclose()

    async def _tree(self) -> Tree:
        self._idle.touch()
        return await self._view.tree()

    async def _change(self, plan: Plan, durability: Durability) -> None:
        if self._committer is None:
            raise OSError(errno.EROFS, "The volume is open for reading only")
        await self._tree()
        await self._committer.submit(plan, durability)

    def _sized(self, path: str, data: bytes) -> bytes:
        limit = self._options.file_bytes_max
        if len(data) > limit:
            raise OSError(
                errno.EFBIG,
                f"{len(data)} bytes in one write, {limit} are allowed",
                path,
            )
        return data


def _encoded(text: str) -> bytes:
    """Return *text* in UTF-8, lone surrogates as U+FFFD (WHATWG's "USVString" conversion, as Node.js does)."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
