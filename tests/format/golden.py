"""The golden files: stored objects of each kind and version, and the value that every release has to read in them.

They never change: a codec that reads them otherwise breaks the sessions that are stored. Those of an older version
are only read; those of the newest (``tests/golden/v2``) are also what is written. For a new kind of object add a value
here and run ``python -m tests.format.golden``, which writes the files that are missing and refuses to touch one that is
there.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sessionfs_s3.format import (
    CHAIN_START,
    FORMAT_VERSION,
    Commit,
    Snapshot,
    encode_blob,
    encode_commit,
    encode_snapshot,
    pack_chunk,
)
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    EMPTY,
    PAGES_CHUNK_BYTES,
    AppendFile,
    Blob,
    Chunk,
    Clear,
    Content,
    Directory,
    File,
    MakeDirectory,
    Node,
    Pages,
    Place,
    Remove,
    Rename,
    Tree,
    WriteDatabase,
    WriteFile,
    digest_of,
)

FOLDER: Final = Path(__file__).parent.parent / "golden"

WRITER: Final = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
NONCE: Final = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
CHAIN: Final = hashlib.sha256(b"the chain before it").digest()
TIME_MS: Final = 1_795_262_400_123
"""2026-11-21T12:00:00.123Z."""

EVENT: Final = b'{"type":"user.message","text":"the same words again and again"}\n'


@dataclass(frozen=True, slots=True)
class Chunks:
    """What a blob says: its name and size, where its chunks are, and these."""

    blob: Blob
    places: tuple[Place, ...]
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """A stored object and what it says; *compressed* tells whether something of it is."""

    value: Commit | Snapshot | Chunks
    compressed: bool
    version: int = 1


def _directory(mode: int, mtime_ms: int, birthtime_ms: int, entries: dict[str, Node]) -> Directory:
    return Directory(MappingProxyType(entries), mode, mtime_ms, birthtime_ms)


def _snapshot(tree: Tree) -> Snapshot:
    # Version 1 does not tell which commits are claims, nor what a claim's writer saw.
    return Snapshot(sequence=300, epoch=42, writer=WRITER, chain=CHAIN, time_ms=TIME_MS, tree=tree, fenced_from=300)


def _as_written_now(golden: Golden) -> Golden:
    """Return a value of version 1 as version 2 has it."""
    value = golden.value
    if isinstance(value, Snapshot):
        value = replace(value, fenced_from=0)
    elif isinstance(value, Commit) and value.snapshot_seen:
        value = replace(value, snapshot_seen=33)
    return Golden(value, compressed=golden.compressed, version=2)


BLOB: Final = Blob(42, NONCE, 122)
PLACES: Final = (
    Place(BLOB, 96, 6, False, digest_of(b"hello\n"), 6),
    Place(BLOB, 102, 20, True, digest_of(b"x" * CHUNK_BYTES), CHUNK_BYTES),
)
"""Where the chunks of the golden blob are."""

OLD_BLOB: Final = Blob(41, WRITER, 1_000_000)
OLD_PLACES: Final = (
    Place(OLD_BLOB, 5000, CHUNK_BYTES, False, digest_of(b"any"), CHUNK_BYTES),
    Place(OLD_BLOB, 5000 + CHUNK_BYTES, 700, True, digest_of(b"other"), CHUNK_BYTES),
)


PAGES_PLACES: Final = tuple(
    replace(place, size=PAGES_CHUNK_BYTES, length=min(place.length, PAGES_CHUNK_BYTES)) for place in OLD_PLACES
)


def _sealed(*places: Place) -> Content:
    return Content(tuple(Chunk(place.size, place) for place in places), sum(place.size for place in places))


def _pages(*places: Place) -> Pages:
    return Pages(tuple(Chunk(place.size, place) for place in places), sum(place.size for place in places))


_VERSION_1: Final[dict[str, Golden]] = {
    "claim": Golden(
        Commit(
            sequence=42,
            epoch=42,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN_START,
            time_ms=TIME_MS,
            claim=True,
            operations=(),
            snapshot_seen=41,
        ),
        compressed=False,
    ),
    "first-commit": Golden(
        Commit(
            sequence=1,
            epoch=1,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN_START,
            time_ms=TIME_MS,
            claim=True,
            operations=(
                MakeDirectory(("session-state",), 0o755, TIME_MS),
                WriteFile(("session-state", "events.jsonl"), Content.of(b"{}\n"), 0o600, TIME_MS),
            ),
        ),
        compressed=False,
    ),
    "commit": Golden(
        Commit(
            sequence=300,
            epoch=42,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN,
            time_ms=TIME_MS,
            claim=False,
            operations=(
                MakeDirectory(("é", "d"), 0o700, TIME_MS),
                WriteFile(("é", "f"), Content.of(b"one\x00"), 0o600, TIME_MS),
                AppendFile(("é", "f"), Content.of(b"two"), TIME_MS + 1),
                Rename(("é", "f"), ("é", "d", "g"), TIME_MS + 2),
                WriteDatabase(16, ((0, b"SQLite"), (14, b"\x01\x02"))),
                Remove(("é",), TIME_MS + 3),
            ),
        ),
        compressed=False,
    ),
    "commit-compressed": Golden(
        Commit(
            sequence=(1 << 64) - 2,
            epoch=42,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN,
            time_ms=TIME_MS,
            claim=False,
            operations=(
                WriteFile(("workspace", "a"), Content.of(EVENT * 50), 0o644, TIME_MS),
                AppendFile(("workspace", "a"), Content.of(EVENT * 20), TIME_MS),
                WriteDatabase(8192, ((4096, bytes(4096)),)),
            ),
        ),
        compressed=True,
    ),
    "snapshot": Golden(
        _snapshot(
            Tree(
                _directory(
                    0o755,
                    TIME_MS,
                    0,
                    {
                        "d": _directory(0o700, 2000, 1000, {"e": _directory(0o755, 9, 8, {})}),
                        "é": File(Content.of(b"text\n"), 0o600, TIME_MS, TIME_MS - 1),
                        "\U0001f600": File(EMPTY, 0o7777, 1, 1),
                    },
                ),
                Pages.of(b"SQLite format 3\x00"),
            )
        ),
        compressed=False,
    ),
    "snapshot-compressed": Golden(
        _snapshot(
            Tree(
                _directory(
                    0o755,
                    TIME_MS,
                    0,
                    {
                        "session-state": _directory(
                            0o755,
                            TIME_MS,
                            TIME_MS,
                            {"events.jsonl": File(Content.of(EVENT * 1200), 0o600, TIME_MS, TIME_MS)},
                        ),
                        "workspace": _directory(0o755, TIME_MS, TIME_MS, {}),
                    },
                ),
            )
        ),
        compressed=True,
    ),
    "snapshot-empty": Golden(_snapshot(Tree(_directory(0o755, 0, 0, {}))), compressed=False),
}

_VERSION_2: Final[dict[str, Golden]] = {
    **{name: _as_written_now(golden) for name, golden in _VERSION_1.items()},
    "tombstone": Golden(
        Commit(
            sequence=43,
            epoch=43,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN_START,
            time_ms=TIME_MS,
            claim=True,
            operations=(Clear(),),
        ),
        compressed=False,
        version=2,
    ),
    "commit-blobs": Golden(
        Commit(
            sequence=301,
            epoch=42,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN,
            time_ms=TIME_MS,
            claim=False,
            operations=(
                WriteFile(("f",), _sealed(PLACES[1], PLACES[0]), 0o644, TIME_MS),
                AppendFile(("f",), Content.of(b"!"), TIME_MS),
            ),
        ),
        compressed=False,
        version=2,
    ),
    "commit-runs": Golden(
        Commit(
            sequence=302,
            epoch=42,
            writer=WRITER,
            nonce=NONCE,
            chain=CHAIN,
            time_ms=TIME_MS,
            claim=False,
            operations=(
                WriteFile(("a",), _sealed(*OLD_PLACES, PLACES[1]), 0o644, TIME_MS),
                AppendFile(("a",), _sealed(*OLD_PLACES).joined(Content.of(EVENT * 1100)), TIME_MS),
                AppendFile(("b",), _sealed(PLACES[0]), TIME_MS),
            ),
        ),
        compressed=True,
        version=2,
    ),
    "snapshot-blobs": Golden(
        Snapshot(
            sequence=300,
            epoch=42,
            writer=WRITER,
            chain=CHAIN,
            time_ms=TIME_MS,
            tree=Tree(
                _directory(0o755, 0, 0, {"f": File(_sealed(PLACES[1]).joined(Content.of(b"!")), 0o644, 2, 1)}),
            ),
            died=MappingProxyType({OLD_BLOB: 290}),
            fences=MappingProxyType({17: 0, 42: 33}),
            fenced_from=5,
        ),
        compressed=False,
        version=2,
    ),
    "snapshot-runs": Golden(
        Snapshot(
            sequence=300,
            epoch=42,
            writer=WRITER,
            chain=CHAIN,
            time_ms=TIME_MS,
            tree=Tree(
                _directory(
                    0o755,
                    0,
                    0,
                    {
                        "a": File(_sealed(*OLD_PLACES, PLACES[1]), 0o644, 2, 1),
                        "b": File(Content.of(EVENT * 1100), 0o644, 2, 1),
                    },
                ),
                _pages(*PAGES_PLACES, PLACES[0]),
            ),
            fences=MappingProxyType({42: 33}),
        ),
        compressed=True,
        version=2,
    ),
    "blob": Golden(Chunks(BLOB, PLACES, (b"hello\n", b"x" * CHUNK_BYTES)), compressed=True, version=2),
    "blob-plain": Golden(
        Chunks(
            Blob(42, WRITER, 105),
            (
                Place(Blob(42, WRITER, 105), 96, 6, False, digest_of(b"hello\n"), 6),
                Place(Blob(42, WRITER, 105), 102, 3, False, digest_of(b"\x00\x01\x02"), 3),
            ),
            (b"hello\n", b"\x00\x01\x02"),
        ),
        compressed=False,
        version=2,
    ),
}

GOLDEN: Final[dict[str, Golden]] = {
    **_VERSION_1,
    **{f"v2/{name}": golden for name, golden in _VERSION_2.items()},
}
"""By the name of the file, without its ending."""


def path(name: str) -> Path:
    """Return where the golden file *name* is."""
    return FOLDER / f"{name}.bin"


def encode(value: Commit | Snapshot | Chunks) -> bytes:
    """Return what the current encoder makes of *value*."""
    match value:
        case Commit():
            return encode_commit(value)[0]
        case Snapshot():
            return encode_snapshot(value)
        case Chunks(blob, _, chunks):
            return encode_blob(blob.epoch, blob.id, [pack_chunk(chunk) for chunk in chunks])[0]


def main() -> None:
    """Write the golden files that are missing; end with an error when one that is there would change."""
    changed = []
    for name, golden in GOLDEN.items():
        if golden.version != FORMAT_VERSION:
            continue
        data = encode(golden.value)
        if path(name).exists():
            if not golden.compressed and path(name).read_bytes() != data:
                changed.append(name)
            continue
        path(name).write_bytes(data)
        sys.stdout.write(f"wrote {name}: {len(data)} bytes\n")
    if changed:
        sys.exit(
            f"{', '.join(changed)}: the encoder changed; stored sessions are not to be broken, so mend the encoder"
        )


if __name__ == "__main__":
    main()
