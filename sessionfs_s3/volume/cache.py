"""The contents that this process keeps of what is stored: one cache, bounded in bytes, for all of its volumes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

CACHE_BYTES: Final = 128 * 1024 * 1024
"""Budget unless told otherwise: some hundred conversations that are being worked on."""

_ENTRY_BYTES: Final = 256
"""What an entry costs beside its data: key, object headers, its place in the order."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Which chunk: of which session (its store and prefix), in which blob, from which offset in bytes on.

    The session is part of it, so that what one tenant has read can never answer another, whatever its log claims.
    """

    session: str
    blob: bytes
    offset: int


class ContentCache:
    """Chunks that were read or written lately; the least recently used go first. Safe for several threads.

    Attributes:
        hits: how often a chunk was here when it was asked for.
        misses: how often it was not.
    """

    def __init__(self, budget_bytes: int = CACHE_BYTES) -> None:
        """Keep at most *budget_bytes* bytes, bookkeeping included; 0 keeps nothing."""
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[CacheKey, bytes] = OrderedDict()
        self._budget_bytes = budget_bytes
        self._size_bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """How much is kept now."""
        return self._size_bytes

    @property
    def budget_bytes(self) -> int:
        """How much may be kept."""
        return self._budget_bytes

    @budget_bytes.setter
    def budget_bytes(self, value: int) -> None:
        with self._lock:
            self._budget_bytes = value
            self._shrink()

    def get(self, key: CacheKey) -> bytes | None:
        """Return the chunk, if it is here."""
        with self._lock:
            data = self._entries.get(key)
            if data is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
            return data

    def put(self, key: CacheKey, data: bytes) -> None:
        """Keep the chunk *data*."""
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self._size_bytes -= len(old) + _ENTRY_BYTES
            self._entries[key] = data
            self._size_bytes += len(data) + _ENTRY_BYTES
            self._shrink()

    def _shrink(self) -> None:
        while self._size_bytes > self._budget_bytes and self._entries:
            _, data = self._entries.popitem(last=False)
            self._size_bytes -= len(data) + _ENTRY_BYTES
