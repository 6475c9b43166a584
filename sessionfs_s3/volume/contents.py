"""Reading file contents: from what is held, from the cache, and for the rest by parallel ranged GETs, each checked."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sessionfs_s3.format import unpack_chunk
from sessionfs_s3.fs import Blob, Body, Chunk, Content, Place, bytes_of, source_of
from sessionfs_s3.volume.cache import CacheKey
from sessionfs_s3.volume.environment import all_of
from sessionfs_s3.volume.gate import ByteGate
from sessionfs_s3.volume.session import Session

_SPAN_BYTES_MAX: Final = 1024 * 1024
"""Largest ranged GET. Several of 1 MiB side by side bring the first bytes sooner than one of the 8 to 16 MB that
Amazon's guidelines name for a single connection, and bound what is in memory."""

_SPAN_UNPACKED_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one ranged GET brings takes no more once it is decompressed, however small it is stored."""

_GAP_BYTES_MAX: Final = 64 * 1024
"""Unwanted bytes that are read along rather than paying for another request: about what a connection carries in the
time that a GET waits for its first byte."""

_IN_FLIGHT_BYTES_MAX: Final = 16 * 1024 * 1024
"""What the ranged GETs of one volume may bring side by side: a database of 10 MB comes in one round trip, also where it
lies in many blobs, and what a volume takes in memory meanwhile is bounded."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A chunk to be read: its *index* in the request, its *body* as it was then, and where that comes from."""

    index: int
    body: Body
    place: Place


@dataclass(slots=True)
class _Span:
    """One ranged GET: bytes *start* to *stop* of *blob*, what is *wanted* of them, and how many bytes that has."""

    blob: Blob
    start: int
    stop: int
    wanted: list[_Wanted]
    unpacked_bytes: int


class ContentReader:
    """Reads the contents of one session's files."""

    def __init__(self, session: Session) -> None:
        """Read the blobs of *session*, through the cache of its environment."""
        self._session = session
        self._cache = session.environment.cache
        self._name = f"{session.store.url} {session.keys.prefix}"
        self._gate = ByteGate(_IN_FLIGHT_BYTES_MAX)

    async def read(self, content: Content, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of *content* from *start* up to, not including, *stop*; clamped to its size.

        Takes the memory of what is returned, and some spans beside it.

        Raises:
            KeyNotFound: a blob is not there: collected, if this is an old state of the session.
            Corrupt: a chunk is not what was stored.
            Unavailable, Refused: the store does not answer, or refuses.
        """
        stop = content.size if stop is None else min(stop, content.size)
        start = min(start, stop)
        if start == stop:
            return b""
        step = content.chunk_bytes()
        first = start // step
        chunks = content.chunks[first : -(-stop // step)]
        # Of the final size from the start: its own buffer is then returned, without a copy of everything.
        out = io.BytesIO(bytes(stop - start))

        def deliver(index: int, data: bytes) -> None:
            at = (first + index) * step - start
            out.seek(max(at, 0))
            out.write(memoryview(data)[max(-at, 0) : stop - start - at])

        await self._each(chunks, deliver)
        return out.getvalue()

    async def held(self, chunks: Sequence[Chunk]) -> list[bytes]:
        """Return the bytes of each chunk. Raises as :meth:`read`."""
        found: dict[int, bytes] = {}
        await self._each(chunks, found.__setitem__)
        return [found[index] for index in range(len(chunks))]

    def is_worth_keeping(self, size: int) -> bool:
        """Return whether *size* bytes should go into the cache.

        What is large would push everything else out, and be pushed out itself before it is read again.
        """
        return size <= self._cache.budget_bytes // 4

    def keep(self, place: Place, data: bytes) -> None:
        """Put the chunk *data*, which is stored at *place*, into the cache."""
        self._cache.put(self._key(place), data)

    async def _each(self, chunks: Sequence[Chunk], deliver: Callable[[int, bytes], None]) -> None:
        """Hand the bytes of each chunk to *deliver*, in any order."""
        missing: list[_Wanted] = []
        for index, chunk in enumerate(chunks):
            # Taken once: while this reads, a snapshot may seal the chunk elsewhere.
            body = chunk.body
            place = source_of(body)
            source = b"" if place is None else self._cache.get(self._key(place))
            if place is not None and source is None:
                missing.append(_Wanted(index, body, place))
            else:
                deliver(index, bytes_of(body, source or b""))
        keep = self.is_worth_keeping(sum(each.place.size for each in missing))
        if missing:
            await all_of(self._span(span, deliver, keep=keep) for span in _spans(missing))

    async def _span(self, span: _Span, deliver: Callable[[int, bytes], None], *, keep: bool) -> None:
        session = self._session
        key = session.keys.blob(span.blob)
        async with self._gate.passing(span.stop - span.start):
            fetched = await session.ask(f"reading {key}", lambda: session.store.get(key, span=(span.start, span.stop)))
            unpack = functools.partial(_unpacked, key, span, fetched.data)
            size = sum(each.place.size for each in span.wanted)
            sources = await session.work(size, unpack)
        for each, source in zip(span.wanted, sources, strict=True):
            if keep:
                self.keep(each.place, source)
            deliver(each.index, bytes_of(each.body, source))

    def _key(self, place: Place) -> CacheKey:
        return CacheKey(self._name, place.blob.id, place.offset)


def _spans(missing: Iterable[_Wanted]) -> list[_Span]:
    """Return the ranged GETs that bring *missing*: neighbours together, none over the largest."""
    spans: list[_Span] = []
    for each in sorted(missing, key=lambda wanted: (wanted.place.blob, wanted.place.offset)):
        place = each.place
        end = place.offset + place.length
        last = spans[-1] if spans else None
        near = last is not None and last.blob == place.blob and place.offset - last.stop <= _GAP_BYTES_MAX
        fits = (
            last is not None
            and end - last.start <= _SPAN_BYTES_MAX
            and last.unpacked_bytes + place.size <= _SPAN_UNPACKED_BYTES_MAX
        )
        if last is not None and near and fits:
            last.stop = max(last.stop, end)
            last.wanted.append(each)
            last.unpacked_bytes += place.size
        else:
            spans.append(_Span(place.blob, place.offset, end, [each], place.size))
    return spans


def _unpacked(key: str, span: _Span, data: bytes) -> list[bytes]:
    """Return what was stored at each place of *span*, whose bytes are *data*."""
    return [
        unpack_chunk(key, each.place, data[each.place.offset - span.start :][: each.place.length])
        for each in span.wanted
    ]
