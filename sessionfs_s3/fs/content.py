"""The contents of a file as an immutable sequence of chunks, so that an append copies one chunk and not the file."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from sessionfs_s3.fs.chunk import CHUNK_BYTES, PAGES_CHUNK_BYTES, Chunk


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that never change, held here or stored in blobs.

    Attributes:
        chunks: the bytes in order; every chunk but the last has exactly :meth:`chunk_bytes`, none is empty.
        size: how many bytes there are in all.
    """

    chunks: tuple[Chunk, ...]
    size: int

    @classmethod
    def chunk_bytes(cls) -> int:
        """Return the size of every chunk but the last."""
        return CHUNK_BYTES

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return *data* as contents."""
        step = cls.chunk_bytes()
        return cls(tuple(Chunk.held(data[at : at + step]) for at in range(0, len(data), step)), len(data))

    @property
    def room(self) -> int:
        """How many bytes the last chunk has room for; 0 when it is full, or there is none."""
        return -self.size % self.chunk_bytes()

    def appended(self, data: bytes) -> Self:
        """Return these contents followed by *data*."""
        return self.joined(self.of(data[: self.room])).joined(self.of(data[self.room :]))

    def joined(self, other: Self) -> Self:
        """Return these contents followed by *other*, whose chunks are shared where they fit.

        Raises:
            ValueError: they do not fit, and their bytes are not held here.
        """
        room = self.room
        if not other.size:
            return self
        if not room:
            return type(self)(self.chunks + other.chunks, self.size + other.size)
        last, first = self.chunks[-1], other.chunks[0]
        if not isinstance(first.body, bytes) or (other.size > room and not other.is_held):
            raise ValueError(f"sealed chunks begin {room} bytes before the end of a chunk")
        if other.size > room:
            return self.appended(other.to_bytes())
        longer = last.changed(last.size + first.size, ((last.size, first.body),))
        return type(self)((*self.chunks[:-1], longer), self.size + other.size)

    def patched(self, size: int, extents: Iterable[tuple[int, bytes]]) -> Self:
        """Return these contents with each extent ``(offset, bytes)`` written over them, cut or zero-filled to *size*.

        Every extent lies within *size*; of two that overlap the later one stays. Costs the chunks that the extents
        touch, each once, and one tuple, not the file.
        """
        step = self.chunk_bytes()
        chunks = list(self._resized(size).chunks)
        touched: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in extents:
            at = 0
            while at < len(data):
                index, start = divmod(offset + at, step)
                part = data[at : at + step - start]
                touched.setdefault(index, []).append((start, part))
                at += len(part)
        for index, patches in touched.items():
            chunks[index] = chunks[index].changed(chunks[index].size, patches)
        return type(self)(tuple(chunks), size)

    @property
    def is_held(self) -> bool:
        """Whether all bytes are here, and nothing has to be read."""
        return all(isinstance(chunk.body, bytes) for chunk in self.chunks)

    def equals(self, data: bytes) -> bool:
        """Return whether these contents are exactly *data*, as far as that is known without reading."""
        return self.size == len(data) and all(
            chunk.holds(data[start : start + chunk.size]) for start, chunk in self.placed()
        )

    def placed(self) -> Iterator[tuple[int, Chunk]]:
        """Return each chunk with its offset in bytes."""
        step = self.chunk_bytes()
        return ((index * step, chunk) for index, chunk in enumerate(self.chunks))

    def to_bytes(self) -> bytes:
        """Return all bytes in one piece.

        Raises:
            ValueError: they are not all held here.
        """
        if not self.is_held:
            raise ValueError("sealed chunks have to be read")
        return b"".join(chunk.body for chunk in self.chunks if isinstance(chunk.body, bytes))

    def _resized(self, size: int) -> Self:
        if size >= self.size:
            return self._zero_filled(size)
        count, rest = divmod(size, self.chunk_bytes())
        last = (self.chunks[count].changed(rest, ()),) if rest else ()
        return type(self)(self.chunks[:count] + last, size)

    def _zero_filled(self, size: int) -> Self:
        """Return these contents with zeros up to *size*; all full chunks of them share one object."""
        padded = self.appended(bytes(min(self.room, size - self.size)))
        count, rest = divmod(size - padded.size, self.chunk_bytes())
        zeros = _zeros(self.chunk_bytes())
        more = tuple(Chunk.held(zeros) for _ in range(count))
        last = (Chunk.held(zeros[:rest]),) if rest else ()
        return type(self)(padded.chunks + more + last, size)


@dataclass(frozen=True, slots=True)
class Pages(Content):
    """The contents of a database, which is written a page here and a page there: its chunks are smaller."""

    @classmethod
    def chunk_bytes(cls) -> int:
        """Return the size of every chunk but the last."""
        return PAGES_CHUNK_BYTES


@functools.cache
def _zeros(size: int) -> bytes:
    return bytes(size)


EMPTY: Final = Content((), 0)
NO_PAGES: Final = Pages((), 0)
