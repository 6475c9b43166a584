"""Opening from an image, and what stands on the disk meanwhile and afterwards."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite import PAGE_BYTES, DatabaseChange, ScratchDatabase, ScratchError
from tests.sqlite.replica import Replica


def made(path: Path, *statements: str) -> bytes:
    """Return a database that another program made."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for sql in statements:
            connection.execute(sql)
    return path.read_bytes()


def test_files_are_the_owners_only_and_gone_after_close(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        database = ScratchDatabase.open(None, directory=tmp_path)
        database.query("exec", "CREATE TABLE t(v)")
        files = sorted(tmp_path.iterdir())
        assert [path.name for path in files] == ["session.db", "session.db-shm", "session.db-wal"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    finally:
        os.umask(previous)
    database.close()
    assert list(tmp_path.iterdir()) == []
    database.close()
    with pytest.raises(ScratchError, match="closed"):
        database.query("query", "SELECT 1")
    with pytest.raises(ScratchError, match="closed"):
        database.transaction([])


def test_close_within_a_change_of_files_by_others(tmp_path: Path) -> None:
    database = ScratchDatabase.open(None, directory=tmp_path)
    database.query("exec", "CREATE TABLE t(v)")
    for path in tmp_path.iterdir():
        path.unlink()
    database.close()
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_process_left_is_replaced(tmp_path: Path) -> None:
    for name in ("session.db", "session.db-wal", "session.db-shm", "session.db-journal"):
        (tmp_path / name).write_bytes(b"left over")
    with closing(ScratchDatabase.open(None, directory=tmp_path)) as database:
        result, _ = database.query("query", "SELECT count(*) AS n FROM sqlite_schema")
        assert result is not None
        assert result.rows == ({"n": 0},)


def test_a_process_that_died_at_any_point_lost_nothing_but_scratch(database: Replica) -> None:
    database.exec("CREATE TABLE t(v)")
    database.run("INSERT INTO t VALUES (1)")
    left = {path.name: path.read_bytes() for path in database.scratch.iterdir()}
    image = bytes(database.image)
    database.run("INSERT INTO t VALUES (2)")
    database.live.close()
    for name, contents in left.items():
        (database.scratch / name).write_bytes(contents)
    database.image[:] = image
    database.reopen()
    assert database.value("SELECT count(*) FROM t") == 1


@pytest.mark.parametrize("chunk_bytes", [1, 15, 99, 100, 4096, 1 << 20])
def test_an_image_in_chunks_of_any_size(database: Replica, chunk_bytes: int) -> None:
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES (1)")
    image = bytes(database.image)
    database.live.close()
    chunks = (image[at : at + chunk_bytes] for at in range(0, len(image), chunk_bytes))
    with closing(ScratchDatabase.open(chunks, directory=database.scratch)) as opened:
        result, change = opened.query("query", "SELECT v FROM t")
        assert result is not None
        assert result.rows == ({"v": 1},)
        assert change is None


def test_an_image_of_no_bytes_is_a_new_database(tmp_path: Path) -> None:
    with closing(ScratchDatabase.open([b"", b""], directory=tmp_path)) as database:
        _, change = database.query("exec", "CREATE TABLE t(v)")
        assert isinstance(change, DatabaseChange)
        assert sum(len(contents) for _, contents in change.extents) == change.size


def test_an_image_in_rollback_mode_reports_its_first_page_with_the_first_change(tmp_path: Path) -> None:
    image = made(tmp_path / "other.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    assert image[18:20] == b"\x01\x01"
    directory = tmp_path / "scratch"
    directory.mkdir()
    with closing(ScratchDatabase.open([image], directory=directory)) as database:
        _, first = database.query("run", "INSERT INTO t(v) VALUES (1)")
        _, second = database.query("run", "INSERT INTO t(v) VALUES (2)")
    assert first is not None
    assert second is not None
    assert [(offset, len(contents)) for offset, contents in first.extents] == [(0, 2 * PAGE_BYTES)]
    assert first.extents[0][1][18:20] == b"\x02\x02"
    assert [(offset, len(contents)) for offset, contents in second.extents] == [(PAGE_BYTES, PAGE_BYTES)]


def _other_page_size(path: Path) -> bytes:
    return made(path, "PRAGMA page_size = 8192", "CREATE TABLE t(v)")


def _cut(path: Path) -> bytes:
    return made(path, "CREATE TABLE t(v)")[:-1]


def _scrambled_schema(path: Path) -> bytes:
    image = bytearray(made(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t(v)"))
    image[44:48] = b"\xff\xff\xff\xff"  # the schema format number
    return bytes(image)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda _: b"not a database", "does not begin as a database does"),
        (lambda _: b"SQLite format 3\0", "with page size 0: must be 4096 bytes"),
        (_other_page_size, "with page size 8192: must be 4096 bytes"),
        (_cut, "must be a whole number of 4096-byte pages"),
        (_scrambled_schema, "SQLite image"),
    ],
)
def test_an_image_that_is_no_database(tmp_path: Path, make: Callable[[Path], bytes], rule: str) -> None:
    image = make(tmp_path / "other.db")
    directory = tmp_path / "scratch"
    directory.mkdir()
    with pytest.raises(InvalidInput, match=rule):
        ScratchDatabase.open([image], directory=directory)
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScratchDatabase.open(None, directory=tmp_path / "nowhere")


def test_image_chunks_that_fail_leave_nothing(tmp_path: Path) -> None:
    def chunks() -> object:
        yield b"SQLite format 3\0"
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        ScratchDatabase.open(chunks(), directory=tmp_path)  # type: ignore[arg-type] # a generator of one chunk
    assert list(tmp_path.iterdir()) == []


def test_restoring_ten_megabytes_reads_them_back(database: Replica) -> None:
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    database.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        " INSERT INTO t(v) SELECT randomblob(10000) FROM n"
    )
    assert len(database.image) > 10_000_000
    database.reopen()
    assert database.value("SELECT sum(length(v)) FROM t") == 10_000_000
    assert database.run("DELETE FROM t WHERE id = 1").rows_affected == 1
    assert sum(len(contents) for _, contents in database.changes[-1].extents) < 20 * PAGE_BYTES
