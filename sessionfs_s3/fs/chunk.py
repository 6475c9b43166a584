"""One piece of a file's contents: bytes held here, or a place in a blob from which they can be read again.

The bytes that a chunk stands for never change. Where they are may: :meth:`Chunk.seal` exchanges bytes that are held for
a place, so that every tree that shares the chunk gives its memory back at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
"""Size of every chunk of a file but the last. An append copies at most this much; 200 MB are 3,200 of them."""

PAGES_CHUNK_BYTES: Final = 8 * 1024
"""Size of every chunk of a database but the last, two of its pages.

A chunk in which a page was written is stored anew with the next snapshot, and each chunk costs a snapshot 20 bytes. At
10 MB, with one small statement a commit, a commit costs 38 kB with chunks of 64 KiB, 11 kB with 16 KiB and 8 kB with
these (``make bench ARGS=sql``); with 4 KiB the largest database would have too many of them.
"""

DIGEST_BYTES: Final = 16
"""A chunk's digest: the first half of its SHA-256. 128 bits find any damage, and 200 MB cost 51 KB of a snapshot."""


@dataclass(frozen=True, slots=True, order=True)
class Blob:
    """An object of sealed chunks: the *epoch* it was written in, its random *id* (16 bytes), its *size* in bytes."""

    epoch: int
    id: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed chunk is stored.

    Attributes:
        blob: in which object.
        offset: where in it, in bytes from its start.
        length: how many bytes it takes there.
        compressed: whether these are compressed.
        digest: :func:`digest_of` the chunk.
        size: how many bytes the chunk has.
    """

    blob: Blob
    offset: int
    length: int
    compressed: bool
    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """A sealed chunk that was written over without being read.

    Attributes:
        origin: what it was.
        visible: how many bytes of that still count; zeros follow.
        data: the chunk as far as it is known.
        known: the spans (start, end) of *data* that are, ascending, apart from each other.
    """

    origin: Place
    visible: int
    data: bytes
    known: tuple[tuple[int, int], ...]

    def over(self, origin: bytes) -> bytes:
        """Return the chunk's bytes, given those of its origin."""
        out = bytearray(origin[: self.visible].ljust(len(self.data), b"\0"))
        for start, end in self.known:
            out[start:end] = self.data[start:end]
        return bytes(out)


Body = bytes | Place | Change
"""Where the bytes of a chunk are: here, in a blob, or in a blob with something written over them."""


def source_of(body: Body) -> Place | None:
    """Return what has to be read before the bytes are known; None for bytes that are here."""
    match body:
        case Place():
            return body
        case Change(origin=origin):
            return origin
        case _:
            return None


def bytes_of(body: Body, source: bytes) -> bytes:
    """Return the bytes, given those at :func:`source_of` (which bytes that are here do not look at)."""
    match body:
        case Place():
            return source
        case Change():
            return body.over(source)
        case _:
            return body


def digest_of(data: bytes) -> bytes:
    """Return the digest by which a chunk is known again: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]


class Chunk:
    """Some bytes of a file or a database, wherever they are.

    Attributes:
        size: how many.
        settled: a snapshot holds them inline already, so that they have outlived one; the next seals them.
    """

    __slots__ = ("_body", "settled", "size")

    def __init__(self, size: int, body: Body) -> None:
        """Stand for the *size* bytes that *body* holds or names."""
        self.size = size
        self.settled = False
        # One attribute, exchanged as a whole: whoever reads it in another thread sees bytes or a place.
        self._body = body

    @classmethod
    def held(cls, data: bytes) -> Chunk:
        """Return a chunk that holds *data*."""
        return cls(len(data), data)

    @property
    def body(self) -> Body:
        """The bytes, the place of a sealed chunk, or the change to one."""
        return self._body

    @property
    def place(self) -> Place | None:
        """Where the chunk is stored, if it is sealed."""
        return self._body if isinstance(self._body, Place) else None

    def seal(self, place: Place) -> None:
        """Give up the bytes: they are stored at *place*."""
        self._body = place

    def hold(self, data: bytes) -> None:
        """Hold the bytes *data*, which were read and are those that the chunk stands for."""
        self._body = data

    def holds(self, data: bytes) -> bool:
        """Return whether these are exactly the bytes *data*, as far as that is known without reading."""
        match self._body:
            case Place(digest=digest):
                return self.size == len(data) and digest == digest_of(data)
            case Change():
                return False
            case held:
                return held == data

    def changed(self, size: int, patches: Sequence[tuple[int, bytes]]) -> Chunk:
        """Return these bytes, cut or zero-filled to *size*, with each patch (offset, bytes) over them."""
        match self._body:
            case Place() as origin:
                change = Change(origin, min(size, self.size), bytes(size), ())
            case Change(origin, visible, data, known):
                kept = tuple((start, min(end, size)) for start, end in known if start < size)
                change = Change(origin, min(visible, size), data[:size].ljust(size, b"\0"), kept)
            case held:
                return Chunk(size, _written(held[:size].ljust(size, b"\0"), patches))
        if size > self.size:
            change = Change(change.origin, change.visible, change.data, _with_span(change.known, self.size, size))
        known = change.known
        for offset, data in patches:
            known = _with_span(known, offset, offset + len(data))
        written = _written(change.data, patches)
        if known == ((0, size),):
            return Chunk(size, written)
        return Chunk(size, Change(change.origin, change.visible, written, known))

    def __eq__(self, other: object) -> bool:
        """Compare what both stand for; a sealed chunk equals only one that is sealed in the same place."""
        return isinstance(other, Chunk) and self.size == other.size and self._body == other._body

    __hash__ = None  # type: ignore[assignment]  # where the bytes are may change

    def __repr__(self) -> str:
        """Say where the bytes are."""
        return f"Chunk({self.size}, {type(self._body).__name__})"


def _written(data: bytes, patches: Iterable[tuple[int, bytes]]) -> bytes:
    out = bytearray(data)
    for offset, patch in patches:
        out[offset : offset + len(patch)] = patch
    return bytes(out)


def _with_span(spans: tuple[tuple[int, int], ...], start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Return *spans* with (start, end) among them: ascending, none touching another."""
    if start == end:
        return spans
    before = [span for span in spans if span[1] < start]
    after = [span for span in spans if span[0] > end]
    met = [span for span in spans if span[1] >= start and span[0] <= end]
    return (
        *before,
        (min([start, *(span[0] for span in met)]), max([end, *(span[1] for span in met)])),
        *after,
    )
