"""The golden files: one stored object of each kind, and the value that every release has to read in it.

They were written by the first release of format version 1 and never change: a codec that reads them otherwise breaks
the sessions that are stored. For a new kind of object add a value here and run ``python -m tests.format.golden``, which
writes the files that are missing and refuses to touch one that is there.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sessionfs_s3.format import CHAIN_START, Commit, Snapshot, encode_commit, encode_snapshot
from sessionfs_s3.fs import (
    EMPTY,
    AppendFile,
    Content,
    Directory,
    File,
    MakeDirectory,
    Node,
    Remove,
    Rename,
    Tree,
    WriteDatabase,
    WriteFile,
)

FOLDER: Final = Path(__file__).parent.parent / "golden"

WRITER: Final = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
NONCE: Final = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
CHAIN: Final = hashlib.sha256(b"the chain before it").digest()
TIME_MS: Final = 1_795_262_400_123
"""2026-11-21T12:00:00.123Z."""

EVENT: Final = b'{"type":"user.message","text":"the same words again and again"}\n'


@dataclass(frozen=True, slots=True)
class Golden:
    """A stored object and what it says; *compressed* tells whether its payload is."""

    value: Commit | Snapshot
    compressed: bool


def _directory(mode: int, mtime_ms: int, birthtime_ms: int, entries: dict[str, Node]) -> Directory:
    return Directory(MappingProxyType(entries), mode, mtime_ms, birthtime_ms)


def _snapshot(tree: Tree) -> Snapshot:
    return Snapshot(sequence=300, epoch=42, writer=WRITER, chain=CHAIN, time_ms=TIME_MS, tree=tree)


GOLDEN: Final[dict[str, Golden]] = {
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
                WriteFile(("session-state", "events.jsonl"), b"{}\n", 0o600, TIME_MS),
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
                WriteFile(("é", "f"), b"one\x00", 0o600, TIME_MS),
                AppendFile(("é", "f"), b"two", TIME_MS + 1),
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
                WriteFile(("workspace", "a"), EVENT * 50, 0o644, TIME_MS),
                AppendFile(("workspace", "a"), EVENT * 20, TIME_MS),
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
                Content.of(b"SQLite format 3\x00"),
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


def path(name: str) -> Path:
    """Return where the golden file *name* is."""
    return FOLDER / f"{name}.bin"


def encode(value: Commit | Snapshot) -> bytes:
    """Return what the current encoder makes of *value*."""
    return encode_commit(value)[0] if isinstance(value, Commit) else encode_snapshot(value)


def main() -> None:
    """Write the golden files that are missing; end with an error when one that is there would change."""
    changed = []
    for name, golden in GOLDEN.items():
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
