"""The contents of a file as an immutable sequence of chunks, so that an append copies one chunk and not the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sessionfs_s3.fs.chunk import CHUNK_BYTES, Chunk

_ZEROS: Final = bytes(CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that never change, held here or stored in blobs.

    Attributes:
        chunks: the bytes in order; every chunk but the last has exactly :data:`CHUNK_BYTES`, none is empty.
        size: how many bytes there are in all.
    """

    chunks: tuple[Chunk, ...]
    size: int

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Return *data* as contents."""
        chunks = tuple(Chunk.held(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
        return cls(chunks, len(data))

    @property
    def room(self) -> int:
        """How many bytes the last chunk has room for; 0 when it is full, or there is none."""
        return -self.size % CHUNK_BYTES

    def appended(self, data: bytes) -> Content:
        """Return these contents followed by *data*."""
        return self.joined(Content.of(data[: self.room])).joined(Content.of(data[self.room :]))

    def joined(self, other: Content) -> Content:
        """Return these contents followed by *other*, whose chunks are shared where they fit.

        Raises:
            ValueError: they do not fit, and their bytes are not held here.
        """
        room = self.room
        if not other.size:
            return self
        if not room:
            return Content(self.chunks + other.chunks, self.size + other.size)
        last, first = self.chunks[-1], other.chunks[0]
        if not isinstance(first.body, bytes) or (other.size > room and not other.is_held):
            raise ValueError(f"sealed chunks begin {room} bytes before the end of a chunk")
        if other.size > room:
            return self.appended(other.to_bytes())
        longer = last.changed(last.size + first.size, ((last.size, first.body),))
        return Content((*self.chunks[:-1], longer), self.size + other.size)

    def patched(self, size: int, extents: Iterable[tuple[int, bytes]]) -> Content:
        """Return these contents with each extent ``(offset, bytes)`` written over them, cut or zero-filled to *size*.

        Every extent lies within *size*; of two that overlap the later one stays. Costs the chunks that the extents
        touch, each once, and one tuple, not the file.
        """
        chunks = list(self._resized(size).chunks)
        touched: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in extents:
            at = 0
            while at < len(data):
                index, start = divmod(offset + at, CHUNK_BYTES)
                part = data[at : at + CHUNK_BYTES - start]
                touched.setdefault(index, []).append((start, part))
                at += len(part)
        for index, patches in touched.items():
            chunks[index] = chunks[index].changed(chunks[index].size, patches)
        return Content(tuple(chunks), size)

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
        return ((index * CHUNK_BYTES, chunk) for index, chunk in enumerate(self.chunks))

    def to_bytes(self) -> bytes:
        """Return all bytes in one piece.

        Raises:
            ValueError: they are not all held here.
        """
        if not self.is_held:
            raise ValueError("sealed chunks have to be read")
        return b"".join(chunk.body for chunk in self.chunks if isinstance(chunk.body, bytes))

    def _resized(self, size: int) -> Content:
        if size >= self.size:
            return self._zero_filled(size)
        count, rest = divmod(size, CHUNK_BYTES)
        last = (self.chunks[count].changed(rest, ()),) if rest else ()
        return Content(self.chunks[:count] + last, size)

    def _zero_filled(self, size: int) -> Content:
        """Return these contents with zeros up to *size*; all zeros share one object, whatever the size."""
        padded = self.appended(bytes(min(self.room, size - self.size)))
        count, rest = divmod(size - padded.size, CHUNK_BYTES)
        zeros = tuple(Chunk.held(_ZEROS) for _ in range(count))
        last = (Chunk.held(_ZEROS[:rest]),) if rest else ()
        return Content(padded.chunks + zeros + last, size)


EMPTY: Final = Content((), 0)
