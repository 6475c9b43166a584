"""What every part of an open volume works with: which session, in which store, on which machine, by which numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Page, Store
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.retry import until_answered

T = TypeVar("T")

_THREAD_BYTES_MIN: Final = 256 * 1024
"""From this size on bytes are encoded and decoded in a thread: below, the hop costs more than the work."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session as this process reaches it: the objects named by *keys* in *store*."""

    store: Store
    keys: SessionKeys
    environment: Environment
    options: VolumeOptions

    async def ask(self, what: str, request: Callable[[], Awaitable[T]]) -> T:
        """Return the store's answer to an idempotent *request*; raises as :func:`.retry.until_answered`."""
        return await until_answered(what, request, self.options.patience, self.environment)

    async def work(self, size: int, work: Callable[[], T]) -> T:
        """Return what *work* on *size* bytes returns; done in a thread when they are many."""
        return work() if size < _THREAD_BYTES_MIN else await self.environment.run_in_thread(work)

    async def list_page(self, prefix: str, cursor: str | None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """Return one page of a listing; raises as :meth:`ask`."""
        return await self.ask(f"listing {prefix}", lambda: self.store.list(prefix, cursor=cursor, limit=limit))
