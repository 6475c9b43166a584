"""The store in a local directory: ``file:///dir``. Runs :mod:`~sessionfs_s3.store.directory` in threads of its own.

Never blocks the event loop. Survives kill -9 of the process at any moment, and loss of power once a put has returned
(as far as the disk keeps what it has synced).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from sessionfs_s3.errors import Closed, Denied, NoAnswer, StoreAnswer
from sessionfs_s3.store.arguments import check_key, check_keys, check_listing, check_span
from sessionfs_s3.store.directory import Directory
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Condition, Fetched, Page

THREADS_MAX: Final = 16
"""Calls under way at once; each waits for the disk, and a disk that syncs gains little from more."""

_REFUSALS: Final = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
    }
)
"""Errors that a retry meets again until somebody acts: permission, a full disk, the store's directory removed, a
directory where a file should be.

All others, a failing or unreachable disk (EIO, ESTALE) and want of descriptors or memory, may pass.
"""

_T = TypeVar("_T")


class LocalStore:
    """Objects as files in a directory; :meth:`open` makes one."""

    def __init__(self, directory: Directory, threads: ThreadPoolExecutor, url: str) -> None:
        """Take over *directory* and *threads*; use :meth:`open`."""
        self._directory = directory
        self._threads = threads
        self._url = url
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, root: Path) -> LocalStore:
        """Open the directory *root*, an absolute path, which is made (mode 0700) if it is missing.

        Raises:
            InvalidInput: the file system cannot hold a store: it takes upper and lower case for the same, or has no
                hard links.
            Denied: the directory cannot be made or opened.
            NoAnswer: the disk failed.
        """
        url = f"file://{quote(str(root))}"
        threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="sessionfs-store")
        try:
            directory = await _in_thread(threads, url, partial(Directory, root))
        except BaseException:
            threads.shutdown(wait=False)
            raise
        return cls(directory, threads, url)

    @property
    def url(self) -> str:
        """Where this store is, for messages."""
        return self._url

    @property
    def lists_sorted(self) -> bool:
        """Listings come in ascending key order."""
        return True

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """Fetch an object or a span of it (:meth:`sessionfs_s3.store.protocol.Store.get`)."""
        self._require_open()
        check_key(key)
        check_span(span)
        return await _in_thread(self._threads, key, partial(self._directory.get, key, span))

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """Store an object (:meth:`sessionfs_s3.store.protocol.Store.put`)."""
        self._require_open()
        check_key(key)
        return await _in_thread(self._threads, key, partial(self._directory.put, key, data, condition))

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """List one page (:meth:`sessionfs_s3.store.protocol.Store.list`); the cursor is the last key listed."""
        self._require_open()
        check_listing(prefix, limit)
        return await _in_thread(self._threads, prefix, partial(self._directory.list, prefix, cursor, limit))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects (:meth:`sessionfs_s3.store.protocol.Store.delete`)."""
        self._require_open()
        check_keys(keys)
        if keys:
            await _in_thread(self._threads, keys[0], partial(self._directory.delete, tuple(keys)))

    async def aclose(self) -> None:
        """Wait for the calls under way, then close the directory."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(asyncio.to_thread(self._shut_down))
        await asyncio.shield(self._closing)

    def _shut_down(self) -> None:
        self._threads.shutdown(wait=True)
        self._directory.close()

    def _require_open(self) -> None:
        if self._closing is not None:
            raise Closed(f"the store {self._url} is closed")


async def _in_thread(threads: ThreadPoolExecutor, key: str, work: Callable[[], _T]) -> _T:
    """Run *work* in a thread, and make what the operating system says of *key* an answer of the store."""
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
    except OSError as error:
        raise _answer(key, error) from error


def _answer(key: str, error: OSError) -> StoreAnswer:
    detail = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, type(error).__name__)})"
    return Denied(key, detail) if error.errno in _REFUSALS else NoAnswer(key, detail)
