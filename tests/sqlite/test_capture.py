"""Which pages a call gives to the log: all of what it committed, and never anything else."""

from __future__ import annotations

import random
import sqlite3
import struct

import pytest

from sessionfs_s3.sqlite import PAGE_BYTES, ScratchDatabase, ScratchError, SqlError, Statement
from sessionfs_s3.sqlite.wal import WalReader, merge
from tests.sqlite.conftest import Opener
from tests.sqlite.replica import Replica

SPILLING = {"cache_bytes": 40 * 1024}  # ten pages: anything larger is written to the log before its commit
FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)"
    " INSERT INTO t(v) SELECT :word || hex(zeroblob(2000)) FROM n"
)


@pytest.fixture(params=["tidy", "untidy"])
def spilling(request: pytest.FixtureRequest, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> Replica:
    """A database that spills early; "untidy" never empties its log, so that all leftovers stay in it."""
    if request.param == "untidy":
        monkeypatch.setattr(ScratchDatabase, "_tidy", lambda self: None)
    database = opened(**SPILLING)
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    return database


def words(database: Replica) -> list[object]:
    return [row["w"] for row in database.query("SELECT DISTINCT substr(v, 1, 4) AS w FROM t ORDER BY w").rows]


def committed(log: bytes) -> dict[int, bytes]:
    """Return the pages that crash recovery takes from *log*, by page: salts, cumulative checksums, commit flags.

    Written from the file format alone (https://www.sqlite.org/fileformat2.html#walformat), as a second opinion.
    """
    if not log:
        return {}
    magic, _, page_bytes, _, salt, _ = struct.unpack(">IIII8s8s", log[:32])
    assert page_bytes == PAGE_BYTES
    order = ">" if magic & 1 else "<"

    def add(data: bytes, first: int, second: int) -> tuple[int, int]:
        for even, odd in struct.iter_unpack(f"{order}II", data):
            first = (first + even + second) & 0xFFFFFFFF
            second = (second + odd + first) & 0xFFFFFFFF
        return first, second

    checksum = add(log[:24], 0, 0)
    sure: dict[int, bytes] = {}
    pending: dict[int, bytes] = {}
    for at in range(32, len(log) - PAGE_BYTES - 23, PAGE_BYTES + 24):
        page, size, frame_salt, *stored = struct.unpack(">II8sII", log[at : at + 24])
        checksum = add(log[at + 24 : at + 24 + PAGE_BYTES], *add(log[at : at + 8], *checksum))
        if frame_salt != salt or list(checksum) != stored:
            break
        pending[page] = log[at + 24 : at + 24 + PAGE_BYTES]
        if size:
            sure = {number: data for number, data in (sure | pending).items() if number <= size}
            pending = {}
    return sure


def test_the_first_change_is_a_complete_image(database: Replica) -> None:
    assert database.query("SELECT 1 AS a").rows == ({"a": 1},)
    assert database.changes == []
    database.run("CREATE TABLE t(v)")
    (change,) = database.changes
    ((offset, contents),) = change.extents
    assert (offset, len(contents), change.size) == (0, 2 * PAGE_BYTES, 2 * PAGE_BYTES)
    assert contents.startswith(b"SQLite format 3\0")
    assert any("CREATE TABLE t(v)" in line for line in database.dump())


@pytest.mark.parametrize("first", ["PRAGMA user_version = 7", "PRAGMA application_id = 7"])
def test_the_first_change_may_be_of_the_header_alone(database: Replica, first: str) -> None:
    database.run(first)
    assert len(database.changes) == 1
    database.reopen()
    assert database.value(first.partition("=")[0]) == 7


def test_a_failed_first_call_leaves_the_first_change_complete(database: Replica) -> None:
    with pytest.raises(SqlError):
        database.exec("CREATE TABLE t(v); SELECT nope")
    assert database.changes == []
    database.run("CREATE TABLE u(v)")
    assert database.changes[0].size == len(database.changes[0].extents[0][1])
    database.dump()


def test_what_changes_nothing_gives_nothing(database: Replica) -> None:
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')")
    assert len(database.changes) == 1
    for sql in (
        "SELECT * FROM t",
        "INSERT OR IGNORE INTO t VALUES (1, 'b')",
        "UPDATE t SET v = 'b' WHERE id = 2",
        "DELETE FROM t WHERE id = 2",
        "CREATE TABLE IF NOT EXISTS t(x)",
        "DROP TABLE IF EXISTS u",
        "PRAGMA integrity_check",
        "PRAGMA foreign_keys = ON",
        "EXPLAIN INSERT INTO t VALUES (2, 'b')",
    ):
        database.run(sql)
        database.exec(sql)
        database.transaction(Statement("query", "SELECT 1 AS one"))
        assert len(database.changes) == 1, sql
    for sql in (
        "BEGIN; INSERT INTO t VALUES (2, 'b'); ROLLBACK",
        "SELECT 1; BEGIN; CREATE TABLE u(v); INSERT INTO u VALUES (1); ROLLBACK; SELECT 2",
        "UPDATE t SET v = v",
        "UPDATE t SET v = 'b'; UPDATE t SET v = 'a'",
        "REPLACE INTO t VALUES (1, 'a')",
    ):
        database.exec(sql)
        assert words(database) == ["a"]
        assert len(database.changes) == 1, sql
    database.run("INSERT INTO t VALUES (2, 'b')")
    assert len(database.changes) == 2
    database.dump()


def test_a_small_insert_is_one_page(database: Replica) -> None:
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    for number in range(20):
        database.run("INSERT INTO t(v) VALUES (:v)", {"v": float(number)})
    for change in database.changes[1:]:
        assert [(offset, len(contents)) for offset, contents in change.extents] == [(PAGE_BYTES, PAGE_BYTES)]


def test_dropped_pages_are_not_written(opened: Opener) -> None:
    database = opened()
    database.exec("CREATE TABLE t(v)")
    database.run(FILL, {"word": "gone"})
    database.run("DROP TABLE t")
    written = sum(len(contents) for _, contents in database.changes[-1].extents)
    assert written < len(database.image) / 100
    database.dump()


def test_spilled_pages_of_work_that_is_rolled_back_never_get_out(spilling: Replica) -> None:
    database = spilling
    fail = Statement("run", "SELECT nope")
    for word in ("bad1", "bad2", "bad3"):
        with pytest.raises(SqlError):
            database.transaction(Statement("run", FILL, {"word": word}), fail)
        database.run("INSERT INTO t(v) VALUES ('good')")
        assert len(database.changes[-1].extents) == 1
        assert words(database) == ["good"]
        assert b"bad" not in database.image
    assert "bad" not in "\n".join(database.dump())


def test_leftovers_do_not_stay(opened: Opener) -> None:
    database = opened(**SPILLING)
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    with pytest.raises(SqlError):
        database.exec(f"{FILL}; SELECT nope", {"word": "bad1"})
    assert database.log_bytes() == 0
    database.exec(f"BEGIN; {FILL}; ROLLBACK; INSERT INTO t(v) VALUES ('good')", {"word": "bad2"})
    assert database.log_bytes() == 0


def test_spilled_pages_before_a_commit_of_the_same_call_never_get_out(spilling: Replica) -> None:
    database = spilling
    for word in ("bad1", "bad2"):
        # Its first half fills the log with frames that the second half's few do not overwrite.
        database.exec(f"BEGIN; {FILL}; ROLLBACK; INSERT INTO t(v) VALUES ('good')", {"word": word})
        assert sum(len(contents) for _, contents in database.changes[-1].extents) <= 3 * PAGE_BYTES
        database.query("SELECT * FROM t")
        assert words(database) == ["good"]
        assert b"bad" not in database.image
    database.dump()


def test_frames_that_sqlite_forgot_to_salt_are_taken(spilling: Replica) -> None:
    # Overwriting a spilled page puts salts and checksums off until the commit. When a savepoint is rolled back in
    # between, SQLite 3.40 forgets some of them: crash recovery would not find the commit, and its readers do.
    spilling.run(FILL, {"word": "kept"})
    spilling.exec(
        "BEGIN; UPDATE t SET v = replace(v, '0', '1') WHERE id < 200;"
        "UPDATE t SET v = replace(v, '1', '2') WHERE id BETWEEN 150 AND 190; ROLLBACK;"
        "INSERT INTO t(v) VALUES ('good')"
    )
    assert words(spilling) == ["good", "kept"]
    assert spilling.value("SELECT count(*) FROM t WHERE v GLOB '*[12]*'") == 0
    dump = spilling.dump()
    assert sum("'good'" in line for line in dump) == 1
    spilling.reopen()
    assert words(spilling) == ["good", "kept"]
    assert spilling.dump() == dump


def test_a_commit_larger_than_the_cache_is_whole(spilling: Replica) -> None:
    database = spilling
    database.exec("CREATE INDEX i ON t(v)")
    # Rewriting spilled pages makes SQLite overwrite frames in place, and renew the checksums after them at the end.
    database.exec(f"{FILL}; UPDATE t SET v = 'x' || v; UPDATE t SET v = 'y' || v WHERE id % 3 = 0", {"word": "word"})
    assert len(database.changes) == 3
    assert words(database) == ["xwor", "yxwo"]
    dump = database.dump()
    database.reopen()
    assert words(database) == ["xwor", "yxwo"]
    assert database.dump() == dump


def test_a_whole_commit_that_sqlite_does_not_acknowledge_is_not_taken(opened: Opener) -> None:
    # A commit whose very last step fails leaves this behind: crash recovery would take it, and SQLite did not.
    database = opened()
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    database.run("INSERT INTO t(v) VALUES ('good')")
    path = database.scratch / "session.db-wal"
    before = path.read_bytes()
    database.run("INSERT INTO t(v) VALUES ('late')")
    late = path.read_bytes()[len(before) :]
    assert late

    image = bytes(database.image)
    other = opened()
    other.image[:] = image
    other.reopen()
    other.run("UPDATE t SET v = 'more' WHERE id = 1")
    with (other.scratch / "session.db-wal").open("ab") as log:
        log.write(log_with_commit(other))
    assert committed((other.scratch / "session.db-wal").read_bytes())[2] == b"\xff" * PAGE_BYTES
    count = len(other.changes)
    other.query("SELECT * FROM t")
    assert len(other.changes) == count
    other.run("UPDATE t SET v = 'last' WHERE id = 2")
    assert words(other) == ["last", "more"]
    other.dump()


def log_with_commit(database: Replica) -> bytes:
    """Return a frame that continues the log with a commit of page 2, full of 0xff."""
    log = (database.scratch / "session.db-wal").read_bytes()
    order = ">" if log[3] & 1 else "<"
    last = log[-PAGE_BYTES - 24 :]
    first, second = struct.unpack(">II", last[16:24])
    head = struct.pack(">II", 2, len(database.image) // PAGE_BYTES)
    data = b"\xff" * PAGE_BYTES
    for even, odd in struct.iter_unpack(f"{order}II", head + data):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return head + last[8:16] + struct.pack(">II", first, second) + data


def test_the_log_as_crash_recovery_reads_it_says_the_same(spilling: Replica) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    small = FILL.replace("400", "30")
    compared = 0
    for _ in range(12):
        match rng.randrange(3):
            case 0:
                spilling.run(small, {"word": f"{rng.random()}"})
            case 1:
                with pytest.raises(SqlError):
                    spilling.exec(f"{small}; SELECT nope", {"word": "no"})
            case _:
                spilling.run("UPDATE t SET v = 'z' || v WHERE id % 7 = :r", {"r": float(rng.randrange(7))})
        pages = committed((spilling.scratch / "session.db-wal").read_bytes())
        for page, contents in pages.items():
            assert spilling.image[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] == contents
        compared += len(pages)
        spilling.run(small, {"word": "kept"})
    assert compared
    spilling.dump()


def test_the_log_does_not_grow_for_ever(opened: Opener) -> None:
    database = opened(wal_bytes_max=50_000)
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    lengths = []
    for number in range(60):
        database.run("INSERT INTO t(v) VALUES (:v)", {"v": f"{number:04}" + "x" * 3000})
        lengths.append(database.log_bytes())
    assert max(lengths) < 50_000 + 5 * PAGE_BYTES
    assert 1 < lengths.count(0) < 20
    assert len(words(database)) == 60
    database.dump()
    database.reopen()
    assert len(words(database)) == 60


def test_an_image_that_shrinks(opened: Opener) -> None:
    # auto_vacuum can only come from elsewhere: it is chosen before the first table.
    database = opened(**SPILLING)
    database.image[:] = auto_vacuum_image(database)
    database.reopen()
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    database.run(FILL, {"word": "word"})
    large = len(database.image)
    database.exec("UPDATE t SET v = 'x' || v; DELETE FROM t WHERE id > 10")
    assert len(database.image) < large / 10
    assert database.value("SELECT count(*) FROM t") == 10
    database.dump()
    database.reopen()
    assert database.value("SELECT count(*) FROM t") == 10


def auto_vacuum_image(database: Replica) -> bytes:
    path = database.scratch.parent / "vacuum.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum = FULL")
    connection.execute("CREATE TABLE other(v)")
    connection.close()
    return path.read_bytes()


def test_merge() -> None:
    pages = {number: bytes([number]) * PAGE_BYTES for number in (7, 2, 1, 3, 9)}
    extents = merge(pages)
    assert [(offset // PAGE_BYTES, len(contents) // PAGE_BYTES) for offset, contents in extents] == [
        (0, 3),
        (6, 1),
        (8, 1),
    ]
    assert extents[0][1][::PAGE_BYTES] == b"\x01\x02\x03"
    assert merge({}) == ()


# When the local copy fails


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), MemoryError(), KeyboardInterrupt()])
def test_a_commit_that_cannot_be_read_gives_the_copy_up(
    database: Replica, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    database.exec("CREATE TABLE t(v)")

    def unreadable(*_: object) -> dict[int, bytes]:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(WalReader, "pages", unreadable)
        with pytest.raises((ScratchError, KeyboardInterrupt)):
            database.run("INSERT INTO t VALUES ('lost')")
    for _ in range(2):
        with pytest.raises(ScratchError, match=r"reading what the session's .* .*(Input/output|MemoryE|KeyboardI)"):
            database.run("INSERT INTO t VALUES ('late')")
    assert len(database.changes) == 1
    database.reopen()
    assert database.value("SELECT count(*) FROM t") == 0


def test_a_disk_that_fails_gives_the_copy_up(opened: Opener) -> None:
    resource = pytest.importorskip("resource")
    database = opened(**SPILLING)
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (database.log_bytes() + 100_000, hard))
    try:
        with pytest.raises(ScratchError, match="the session's local database failed"):
            database.run(FILL, {"word": "much"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(ScratchError):
        database.query("SELECT 1")
    database.reopen()
    assert database.value("SELECT count(*) FROM t") == 0
