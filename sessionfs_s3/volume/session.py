"""What every part of an open volume works with: which session, in which store, on which machine, by which numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Page, Store
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.retry import until_answered

T = TypeVar("T")


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

    async def list_page(self, prefix: str, cursor: str | None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """Return one page of a listing; raises as :meth:`ask`."""
        return await self.ask(f"listing {prefix}", lambda: self.store.list(prefix, cursor=cursor, limit=limit))
