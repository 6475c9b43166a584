"""The reader of the log, given logs that contradict themselves: it never returns a page of one."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sessionfs_s3.sqlite import PAGE_BYTES
from sessionfs_s3.sqlite.wal import Mark, UnexpectedLog, WalReader

NOTHING = Mark(b"", 0, 0)
FRAME_BYTES = PAGE_BYTES + 24
Edit = Callable[[bytearray], object]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The log and the index of a database after two commits, of two pages and of one."""
    path = tmp_path / "original.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        (tmp_path / "copy.db").write_bytes(path.read_bytes())
        connection.execute("CREATE TABLE t(v)")
        connection.execute("INSERT INTO t VALUES (1)")
        yield path.with_name("original.db-wal").read_bytes(), path.with_name("original.db-shm").read_bytes()


@pytest.fixture
def reader(files: tuple[bytes, bytes], tmp_path: Path) -> Iterator[Callable[..., WalReader]]:
    """Return a function that opens a reader of edited files."""
    readers: list[WalReader] = []

    def opener(log: Edit = lambda _: None, index: Edit = lambda _: None) -> WalReader:
        for name, contents, edit in (("copy.db-wal", files[0], log), ("copy.db-shm", files[1], index)):
            edited = bytearray(contents)
            edit(edited)
            (tmp_path / name).write_bytes(edited)
        readers.append(WalReader(tmp_path / "copy.db"))
        return readers[-1]

    yield opener
    for opened in readers:
        opened.close()


def test_every_page_since_a_mark(reader: Callable[..., WalReader]) -> None:
    log = reader()
    mark = log.mark()
    assert (mark.frames, mark.pages, mark.log_bytes) == (3, 2, 32 + 3 * FRAME_BYTES)
    assert log.written_bytes() == mark.log_bytes
    assert sorted(log.pages(NOTHING, Mark(mark.salt, 2, 2))) == [1, 2]
    assert sorted(log.pages(Mark(mark.salt, 2, 2), mark)) == [2]
    assert log.pages(mark, mark) == {}
    assert log.pages(Mark(mark.salt, 2, 2), mark) == {}, "what is as it was does not count"
    # Another salt: the log was started over since, so that all of it is new.
    assert sorted(log.pages(Mark(b"earlier!", 2, 2), mark)) == [1, 2]


def test_what_stands_behind_the_last_commit_is_left_alone(reader: Callable[..., WalReader]) -> None:
    log = reader(log=lambda log: log.extend(log[-FRAME_BYTES:]))
    assert log.written_bytes() == log.mark().log_bytes + FRAME_BYTES
    assert sorted(log.pages(Mark(log.mark().salt, 2, 2), log.mark())) == [2]


def _put(at: int, value: bytes) -> Edit:
    def edit(contents: bytearray) -> None:
        contents[at : at + len(value)] = value

    return edit


def _cut(contents: bytearray) -> None:
    del contents[-1]


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (_put(0, struct.pack("=I", 4000000) + b"\0" * 44 + struct.pack("=I", 4000000)), "not usable"),
        (_put(16, b"\x01"), "not usable"),  # the two copies differ
        (_put(0, bytes(96)), "not usable"),
    ],
)
def test_an_index_that_is_not_usable(reader: Callable[..., WalReader], index: Edit, reason: str) -> None:
    with pytest.raises(UnexpectedLog, match=reason):
        reader(index=index).mark()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (_cut, "the log ends at byte"),
        (_put(32 + 8, b"foreign!"), "frame 1 belongs to another log"),
        (_put(32 + 2 * FRAME_BYTES, bytes(4)), "frame 3 belongs to another log"),
        (_put(32 + 2 * FRAME_BYTES + 4, bytes(4)), "frame 3 is not the last commit"),
        (_put(32 + 2 * FRAME_BYTES + 4, b"\0\0\0\x09"), "frame 3 is not the last commit"),
    ],
)
def test_a_log_that_the_index_contradicts(reader: Callable[..., WalReader], log: Edit, reason: str) -> None:
    opened = reader(log=log)
    with pytest.raises(UnexpectedLog, match=reason):
        opened.pages(NOTHING, opened.mark())


@pytest.mark.parametrize("missing", ["copy.db-wal", "copy.db-shm"])
def test_a_missing_file_leaves_none_open(reader: Callable[..., WalReader], tmp_path: Path, missing: str) -> None:
    reader()
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError):
        WalReader(tmp_path / "copy.db")
