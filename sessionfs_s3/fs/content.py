"""The contents of a file as an immutable sequence of chunks, so that an append copies one chunk and not the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
"""Size of every chunk but the last. An append copies at most this much; a tuple of 200 MB holds 3,200 of them."""

_ZEROS: Final = bytes(CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that never change.

    Attributes:
        chunks: the bytes in order; every chunk but the last has exactly :data:`CHUNK_BYTES`, none is empty.
        size: how many bytes there are in all.
    """

    chunks: tuple[bytes, ...]
    size: int

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Return *data* as contents."""
        return EMPTY.appended(data)

    def appended(self, data: bytes) -> Content:
        """Return these contents followed by *data*."""
        if not data:
            return self
        room = -self.size % CHUNK_BYTES
        whole = self.chunks[:-1] if room else self.chunks
        first = (self.chunks[-1] + data[:room],) if room else ()
        rest = tuple(data[at : at + CHUNK_BYTES] for at in range(room, len(data), CHUNK_BYTES))
        return Content(whole + first + rest, self.size + len(data))

    def patched(self, size: int, extents: Iterable[tuple[int, bytes]]) -> Content:
        """Return these contents with each extent ``(offset, bytes)`` written over them, cut or zero-filled to *size*.

        Every extent lies within *size*; of two that overlap the later one stays. Costs the chunks that the extents
        touch, each once, and one tuple, not the file.
        """
        chunks = list(self._resized(size).chunks)
        touched: dict[int, bytearray] = {}
        for offset, data in extents:
            at = 0
            while at < len(data):
                index, start = divmod(offset + at, CHUNK_BYTES)
                if index not in touched:
                    touched[index] = bytearray(chunks[index])
                part = data[at : at + CHUNK_BYTES - start]
                touched[index][start : start + len(part)] = part
                at += len(part)
        for index, chunk in touched.items():
            chunks[index] = bytes(chunk)
        return Content(tuple(chunks), size)

    def equals(self, data: bytes) -> bool:
        """Return whether these contents are exactly *data*."""
        return self.size == len(data) and self.to_bytes() == data

    def to_bytes(self) -> bytes:
        """Return all bytes in one piece."""
        return b"".join(self.chunks)

    def _resized(self, size: int) -> Content:
        if size > self.size:
            return self._zero_filled(size)
        count, rest = divmod(size, CHUNK_BYTES)
        last = (self.chunks[count][:rest],) if rest else ()
        return Content(self.chunks[:count] + last, size)

    def _zero_filled(self, size: int) -> Content:
        """Return these contents with zeros up to *size*; the zero chunks are one object, whatever the size."""
        padded = self.appended(bytes(min(-self.size % CHUNK_BYTES, size - self.size)))
        count, rest = divmod(size - padded.size, CHUNK_BYTES)
        last = (_ZEROS[:rest],) if rest else ()
        return Content(padded.chunks + (_ZEROS,) * count + last, size)


EMPTY: Final = Content((), 0)
