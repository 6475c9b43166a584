"""File contents on the wire: bytes where they stand, or runs of chunks in blobs, and the table of these blobs.

Contents: their size, then parts until all of it is covered. A part begins with a number: ``2n`` and *n* bytes follow;
``2n + 1`` and *n* chunks follow, which lie one after the other in one blob: the blob's place in the table, the offset
of the first chunk in the object, then for each chunk twice its stored length, plus one if it is compressed, and its
digest. There is one encoding of a value: parts of bytes never meet, runs that could be one are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from sessionfs_s3.format.blob import CHUNKS_START
from sessionfs_s3.format.limits import ID_BYTES, SEQUENCE_MAX
from sessionfs_s3.format.wire import Malformed, Reader, Writer
from sessionfs_s3.fs.chunk import DIGEST_BYTES, Blob, Body, Change, Chunk, Place, source_of
from sessionfs_s3.fs.content import Content

ContentT = TypeVar("ContentT", bound=Content)

_EPOCH_BYTES: Final = 8


def blobs_of(contents: Iterable[Content]) -> set[Blob]:
    """Return the blobs that *contents* refer to."""
    sources = (source_of(chunk.body) for content in contents for chunk in content.chunks)
    return {source.blob for source in sources if source is not None}


def table_of(blobs: Iterable[Blob]) -> dict[Blob, int]:
    """Return *blobs* in the order of the table, each with its place there.

    Raises:
        ValueError: one that is none, or two of the same name.
    """
    ordered = sorted(blobs)
    for index, blob in enumerate(ordered):
        if not 1 <= blob.epoch <= SEQUENCE_MAX or len(blob.id) != ID_BYTES:
            raise ValueError(f"no blob has epoch {blob.epoch} and an id of {len(blob.id)} bytes")
        if index and (blob.epoch, blob.id) == (ordered[index - 1].epoch, ordered[index - 1].id):
            raise ValueError(f"blob {blob.id.hex()} of two sizes")
    return {blob: index for index, blob in enumerate(ordered)}


def write_blob(out: Writer, blob: Blob) -> None:
    """Write an entry of the table of blobs, one of :func:`table_of`."""
    out.records(1)
    out.raw(blob.epoch.to_bytes(_EPOCH_BYTES, "big"))
    out.raw(blob.id)
    out.uint(blob.size)


def read_blob(reader: Reader, after: Blob | None) -> Blob:
    """Take an entry of the table of blobs, which comes after *after*."""
    start = reader.offset
    reader.records(1)
    epoch = int.from_bytes(reader.raw(_EPOCH_BYTES), "big")
    blob = Blob(epoch, reader.raw(ID_BYTES), reader.uint())
    if not epoch:
        raise Malformed(start, "no blob has epoch 0")
    if after is not None and (blob.epoch, blob.id) <= (after.epoch, after.id):
        raise Malformed(start, "the blobs are not in order")
    return blob


def write_content(out: Writer, content: Content, blobs: Mapping[Blob, int]) -> None:
    """Write *content*; *blobs* tells each blob's place in the table.

    Raises:
        ValueError: a chunk is neither here nor sealed: it has to be read first; or it is where none can be.
    """
    out.uint(content.size)
    held: list[bytes] = []
    run: list[Place] = []
    for chunk in content.chunks:
        match chunk.body:
            case Place() as place:
                _write_bytes(out, held)
                if run and not _goes_on(run[-1], place):
                    _write_run(out, run, blobs)
                run.append(place)
            case Change():
                raise ValueError("a chunk has to be read before it is stored")
            case data:
                _write_run(out, run, blobs)
                held.append(data)
    _write_bytes(out, held)
    _write_run(out, run, blobs)


def _write_bytes(out: Writer, held: list[bytes]) -> None:
    """Write *held* as one part, and empty it."""
    if held:
        out.uint(2 * sum(map(len, held)))
        for data in held:
            out.raw(data)
        held.clear()


def _write_run(out: Writer, run: list[Place], blobs: Mapping[Blob, int]) -> None:
    """Write *run*, places that follow each other in one blob, as one part, and empty it."""
    if run:
        out.uint(2 * len(run) + 1)
        out.records(len(run))
        out.uint(blobs[run[0].blob])
        out.uint(run[0].offset)
        for place in run:
            broken = _broken_rule(place)
            if broken is not None:
                raise ValueError(broken)
            out.uint(2 * place.length + place.compressed)
            out.raw(place.digest)
        run.clear()


def _broken_rule(place: Place) -> str | None:
    """Return which rule *place* breaks, or None."""
    length, size, end = place.length, place.size, place.offset + place.length
    if not 0 < length <= size or (length < size) != place.compressed:
        return f"a chunk of {size} bytes stored in {length}"
    if place.offset < CHUNKS_START or end > place.blob.size:
        return f"a chunk from {place.offset} to {end} in a blob of {place.blob.size} bytes"
    return None


def _goes_on(last: Body, body: Body) -> bool:
    """Return whether *body* belongs to the part that *last* ends."""
    if isinstance(last, Place) and isinstance(body, Place):
        return last.blob == body.blob and last.offset + last.length == body.offset
    return isinstance(last, bytes) and isinstance(body, bytes)


def read_content(reader: Reader, blobs: Sequence[Blob], used: set[Blob], kind: type[ContentT]) -> ContentT:
    """Take contents of *kind*; *blobs* is the table, *used* gets those that are referred to."""
    step = kind.chunk_bytes()
    size = reader.uint()
    chunks: list[Chunk] = []
    left = size
    while left:
        start = reader.offset
        count, sealed = divmod(reader.uint(), 2)
        if not count:
            raise Malformed(start, "an empty part")
        part = _read_run(reader, blobs, count, left, step) if sealed else _read_bytes(reader, count, left, step)
        if chunks and _goes_on(chunks[-1].body, part[0].body):
            raise Malformed(start, "two parts that could be one")
        used.update(place.blob for place in (part[0].place,) if place is not None)
        chunks.extend(part)
        left -= sum(chunk.size for chunk in part)
    return kind(tuple(chunks), size)


def _read_bytes(reader: Reader, count: int, left: int, step: int) -> list[Chunk]:
    start = reader.offset
    if count > left:
        raise Malformed(start, f"a part of {count} bytes where {left} are left")
    if count < left and count % step:
        raise Malformed(start, f"a part of {count} bytes ends inside a chunk")
    data = reader.raw(count)
    return [Chunk.held(data[at : at + step]) for at in range(0, count, step)]


def _read_run(reader: Reader, blobs: Sequence[Blob], count: int, left: int, step: int) -> list[Chunk]:
    start = reader.offset
    reader.records(count)
    if count > -(-left // step):
        raise Malformed(start, f"{count} chunks where {left} bytes are left")
    index, offset = reader.uint(), reader.uint()
    if index >= len(blobs):
        raise Malformed(start, f"blob {index} of {len(blobs)}")
    blob = blobs[index]
    chunks: list[Chunk] = []
    for _ in range(count):
        size = min(step, left)
        here = reader.offset
        length, compressed = divmod(reader.uint(), 2)
        digest = reader.raw(DIGEST_BYTES)
        place = Place(blob, offset, length, bool(compressed), digest, size)
        broken = _broken_rule(place)
        if broken is not None:
            raise Malformed(here, broken)
        chunks.append(Chunk(size, place))
        offset += length
        left -= size
    return chunks
