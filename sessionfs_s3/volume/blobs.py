"""Writing blobs: chunks go into objects of their own, before anything refers to them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from sessionfs_s3.errors import PreconditionFailed
from sessionfs_s3.format import CHUNKS_START, StoredChunk, encode_blob, pack_chunk
from sessionfs_s3.fs import Blob, Chunk
from sessionfs_s3.store.protocol import IF_ABSENT
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.environment import all_of
from sessionfs_s3.volume.session import Session

_ID_BYTES: Final = 16

_BLOBS_AT_ONCE: Final = 4
"""Uploads side by side: what makes a large write fast is that there are several, not how many."""


class BlobWriter:
    """Writes the blobs of one writer of a session.

    Attributes:
        attempted: the blobs that it has begun to write, until a snapshot knows of them: a commit may be under way that
            refers to one.
    """

    def __init__(self, session: Session, reader: ContentReader) -> None:
        """Write blobs of *session*; what was written is kept in the cache of *reader*."""
        self.attempted: set[Blob] = set()
        self._session = session
        self._reader = reader
        self._gate = asyncio.Semaphore(_BLOBS_AT_ONCE)

    async def seal(self, chunks: Sequence[tuple[Chunk, bytes]], epoch: int) -> None:
        """Store each chunk, whose bytes stand beside it, in a blob of *epoch*; from then on it is a place, not bytes.

        Raises:
            Unavailable: the store does not answer. Nothing refers to what may have been stored.
            Refused: the store refuses.
        """
        pack = functools.partial(_packed, [data for _, data in chunks])
        size = sum(len(data) for _, data in chunks)
        packed = await self._session.work(size, pack)
        await all_of(
            self._write(epoch, chunks[start:stop], packed[start:stop], keep=self._reader.is_worth_keeping(size))
            for start, stop in _groups(packed, self._session.options.blob_bytes_max)
        )

    async def _write(
        self, epoch: int, chunks: Sequence[tuple[Chunk, bytes]], packed: Sequence[StoredChunk], *, keep: bool
    ) -> None:
        async with self._gate:
            blob_id = self._session.environment.random_bytes(_ID_BYTES)
            encode = functools.partial(encode_blob, epoch, blob_id, packed)
            size = sum(len(chunk.data) for chunk in packed)
            data, blob, places = await self._session.work(size, encode)
            self.attempted.add(blob)
            await self._put(self._session.keys.blob(blob), data)
        for (chunk, held), place in zip(chunks, places, strict=True):
            chunk.seal(place)
            if keep:
                self._reader.keep(place, held)

    async def _put(self, key: str, data: bytes) -> None:
        session = self._session
        # The id is random: what stands there is an earlier try of this very blob.
        with suppress(PreconditionFailed):
            await session.ask(f"writing {key}", lambda: session.store.put(key, data, condition=IF_ABSENT))


def _packed(chunks: Sequence[bytes]) -> list[StoredChunk]:
    return [pack_chunk(data) for data in chunks]


def _groups(packed: Sequence[StoredChunk], bytes_max: int) -> Iterator[tuple[int, int]]:
    """Return from where to where each blob goes, so that none is over *bytes_max* but for a single chunk."""
    start, size = 0, CHUNKS_START
    for index, chunk in enumerate(packed):
        if index > start and size + len(chunk.data) > bytes_max:
            yield start, index
            start, size = index, CHUNKS_START
        size += len(chunk.data)
    if start < len(packed):
        yield start, len(packed)
