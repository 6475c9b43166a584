"""What a session's SQL may not do, one case each, from the outside; and that the database is as good as before."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite import DatabaseFull, Limits, ScratchError, SqlError, Statement, guard
from sessionfs_s3.sqlite.guard import Guard
from tests.sqlite.conftest import Opener
from tests.sqlite.replica import Replica

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


@pytest.fixture
def table(database: Replica) -> Replica:
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
    return database


def unharmed(database: Replica) -> bool:
    """Tell whether a refused call left the contents as they were, and the database usable."""
    count = len(database.changes)
    kept = database.query("SELECT v FROM t").rows == ({"v": "kept"},)
    database.exec("INSERT INTO t VALUES ('more')")
    database.exec("DELETE FROM t WHERE v = 'more'")
    return kept and len(database.changes) == count + 2 and "'kept'" in "".join(database.dump())


REFUSED = [
    ("ATTACH '{host}' AS host", "ATTACH is refused"),
    ("ATTACH DATABASE 'file:{host}?mode=ro' AS host", "ATTACH is refused"),
    ("/* x */ attach ':memory:' AS m", "ATTACH is refused"),
    ("EXPLAIN ATTACH '{host}' AS host", "ATTACH .*is refused"),
    ("DETACH main", "DETACH is refused"),
    ("EXPLAIN DETACH main", "DETACH is refused"),
    ("VACUUM", "VACUUM is refused"),
    ("VACUUM main", "VACUUM is refused"),
    ("VACUUM INTO '{new}'", "VACUUM is refused"),
    ("\ufeffVACUUM INTO '{new}'", "cannot VACUUM from within a transaction"),
    ("SELECT load_extension('{host}')", "the function load_extension is refused"),
    ("SELECT readfile('{host}')", "readfile"),
    ("SELECT writefile('{new}', 'x')", "writefile"),
    ("SELECT edit('x', 'touch {new}')", "edit"),
    ("SELECT fts3_tokenizer('simple')", "the function fts3_tokenizer is refused"),
    ("SELECT fts3_tokenizer('simple', x'4141414141414141')", "the function fts3_tokenizer is refused"),
    ("CREATE VIRTUAL TABLE x USING fts4(v)", "virtual tables of fts4 are refused"),
    ("CREATE VIRTUAL TABLE x USING dbstat(main)", "virtual tables of dbstat are refused"),
    ("CREATE VIRTUAL TABLE x USING csv(filename = '{host}')", "virtual tables of csv are refused"),
    ("SELECT * FROM sqlite_dbpage", "sqlite_dbpage"),
    ("UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1", "sqlite_dbpage"),
    ("CREATE TEMP TABLE x(v)", "CREATE TEMP TABLE is refused"),
    ("CREATE TABLE temp.x(v)", "CREATE TEMP TABLE is refused"),
    ("CREATE VIEW temp.x AS SELECT 1", "CREATE TEMP VIEW is refused"),
    ("CREATE VIRTUAL TABLE temp.x USING fts5(v)", "CREATE TEMP TABLE is refused"),
    ("CREATE TEMPORARY VIEW x AS SELECT 1", "CREATE TEMP VIEW is refused"),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "CREATE TEMP TRIGGER is refused"),
    ("UPDATE sqlite_schema SET sql = 'x'", "table sqlite_master may not be modified"),
    ("DELETE FROM sqlite_master", "table sqlite_master may not be modified"),
    ("CREATE TABLE sqlite_mine(v)", "reserved for internal use"),
    ("EXPLAIN COMMIT", "COMMIT is refused"),
    ("PRAGMA database_list", "PRAGMA database_list is refused"),
    ("SELECT * FROM pragma_database_list", "PRAGMA database_list is refused"),
    (
        "CREATE VIEW x AS SELECT * FROM pragma_database_list; SELECT * FROM x",
        "(PRAGMA database_list is refused|unsafe use)",
    ),
    ("PRAGMA temp_store_directory = '/tmp'", "PRAGMA temp_store_directory = /tmp is refused"),
    ("PRAGMA data_store_directory = '/tmp'", "PRAGMA data_store_directory = /tmp is refused"),
    ("PRAGMA temp_store = FILE", "PRAGMA temp_store = FILE is refused"),
    ("PRAGMA writable_schema = ON", "PRAGMA writable_schema = ON is refused"),
    ("PRAGMA Main.Writable_Schema(1)", "PRAGMA writable_schema = 1 is refused"),
    ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode = DELETE is refused"),
    ("PRAGMA journal_mode(off)", "PRAGMA journal_mode = off is refused"),
    ("PRAGMA journal_size_limit = 0", "PRAGMA journal_size_limit = 0 is refused"),
    ("PRAGMA wal_checkpoint", "PRAGMA wal_checkpoint is refused"),
    ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint = TRUNCATE is refused"),
    ("SELECT * FROM pragma_wal_checkpoint", "(PRAGMA wal_checkpoint is refused|no such table)"),
    ("PRAGMA wal_autocheckpoint = 1", "PRAGMA wal_autocheckpoint = 1 is refused"),
    ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA locking_mode = EXCLUSIVE is refused"),
    ("PRAGMA mmap_size = 1000000", "PRAGMA mmap_size = 1000000 is refused"),
    ("PRAGMA page_size = 512", "PRAGMA page_size = 512 is refused"),
    ("PRAGMA max_page_count = 1000000000", "PRAGMA max_page_count = 1000000000 is refused"),
    ("PRAGMA cache_size = -1000000", "PRAGMA cache_size = -1000000 is refused"),
    ("PRAGMA synchronous = EXTRA", "PRAGMA synchronous = EXTRA is refused"),
    ("PRAGMA trusted_schema = ON", "PRAGMA trusted_schema = ON is refused"),
    ("PRAGMA schema_version = 1", "PRAGMA schema_version = 1 is refused"),
    ("PRAGMA encoding = 'UTF-16'", "PRAGMA encoding = UTF-16 is refused"),
    ("PRAGMA auto_vacuum = FULL", "PRAGMA auto_vacuum = FULL is refused"),
    ("PRAGMA hard_heap_limit = 1", "PRAGMA hard_heap_limit = 1 is refused"),
    ("PRAGMA threads = 8", "PRAGMA threads = 8 is refused"),
    ("PRAGMA query_only = ON", "PRAGMA query_only = ON is refused"),
    ("PRAGMA secure_delete = OFF", "PRAGMA secure_delete = OFF is refused"),
    ("PRAGMA no_such_pragma", "PRAGMA no_such_pragma is refused"),
]


@pytest.mark.parametrize(("sql", "message"), REFUSED)
def test_refused(table: Replica, tmp_path: Path, sql: str, message: str) -> None:
    host, new = tmp_path / "host.db", tmp_path / "new.db"
    host.write_bytes(bytes(table.image))
    sql = sql.format(host=host, new=new)
    with pytest.raises(SqlError, match=message):
        table.live.query("exec" if "; SELECT" in sql else "query", sql)
    with pytest.raises(SqlError, match=message):
        table.exec(sql)
    with pytest.raises(SqlError, match=message):
        table.transaction(Statement("exec", sql))
    assert not new.exists()
    assert unharmed(table)
    assert table.value("PRAGMA journal_mode") == "wal"
    assert sorted(path.name for path in table.scratch.iterdir()) == ["session.db", "session.db-shm", "session.db-wal"]


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA table_info(t)",
        "PRAGMA main.table_xinfo('t')",
        "PRAGMA table_list",
        "PRAGMA index_list(t)",
        "PRAGMA index_info(i)",
        "PRAGMA index_xinfo(i)",
        "PRAGMA foreign_key_list(t)",
        "PRAGMA foreign_key_check",
        "PRAGMA foreign_keys",
        "PRAGMA user_version",
        "PRAGMA application_id",
        "PRAGMA integrity_check",
        "PRAGMA quick_check(1)",
        "PRAGMA encoding",
        "PRAGMA page_count",
        "PRAGMA page_size",
        "PRAGMA freelist_count",
        "PRAGMA journal_mode",
        "PRAGMA journal_mode = WAL",
        "PRAGMA schema_version",
        "PRAGMA compile_options",
        "SELECT name FROM pragma_table_info('t')",
    ],
)
def test_allowed(table: Replica, sql: str) -> None:
    table.exec("CREATE INDEX i ON t(v)")
    alone = table.query(sql)
    (inside,) = table.transaction(Statement("query", sql))
    assert alone == inside
    assert alone.columns
    table.exec(f"SELECT 1; {sql}")
    assert len(table.changes) == 2


# The authorizer alone, without the look at the first word that precedes it


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(str(tmp_path / "guarded.db"), statementcachesize=0)) as connection:
        connection.execute("CREATE TABLE t(v)")
        Guard(tmp_path, Limits(), lambda: 0.0, lambda: False).install(connection)
        yield connection


@pytest.mark.parametrize(
    "sql", ["ATTACH ':memory:' AS m", "VACUUM", "VACUUM INTO '{new}'", "BEGIN", "SAVEPOINT s", "PRAGMA mmap_size = 1"]
)
def test_the_authorizer_needs_no_help(guarded: apsw.Connection, tmp_path: Path, sql: str) -> None:
    with pytest.raises(apsw.AuthError, match=r"(not authorized|authorization denied)"):
        guarded.execute(sql.format(new=tmp_path / "new.db")).fetchall()
    assert not (tmp_path / "new.db").exists()
    assert guarded.execute("SELECT count(*) FROM t").fetchall() == [(0,)]


def test_the_settings(guarded: apsw.Connection) -> None:
    assert guarded.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0
    assert guarded.limit(apsw.SQLITE_LIMIT_LENGTH) == Limits().value_bytes_max
    guarded.authorizer = None
    for pragma, value in (("temp_store", 2), ("trusted_schema", 0), ("synchronous", 0), ("wal_autocheckpoint", 0)):
        assert guarded.pragma(pragma) == value
    assert guarded.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1


def test_defensive_mode_guards_shadow_tables(table: Replica) -> None:
    table.exec("CREATE VIRTUAL TABLE f USING fts5(v)")
    with pytest.raises(SqlError, match="may not be modified"):
        table.run("UPDATE f_data SET block = x'00'")


# Limits


class StepClock:
    """Goes on by a second each time it is read, so that time runs out without waiting."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.at_second: dict[int, object] = {}

    def __call__(self) -> float:
        self.now_s += 1
        action = self.at_second.get(int(self.now_s))
        if callable(action):
            action()
        return self.now_s


@pytest.mark.parametrize(
    "sql",
    [
        f"{ENDLESS} SELECT count(*) FROM n",
        f"{ENDLESS} SELECT i FROM n WHERE i < 0",
        f"INSERT INTO t {ENDLESS} SELECT i FROM n",
        f"UPDATE t SET v = ({ENDLESS} SELECT max(i) FROM n)",
        "SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j",
        f"CREATE TABLE u AS {ENDLESS} SELECT i FROM n",
    ],
)
@pytest.mark.parametrize("kind", ["query", "exec", "transaction"])
def test_time_runs_out(opened: Opener, kind: str, sql: str) -> None:
    database = opened(StepClock(), call_s=50)
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
    if "FROM t a" in sql:
        fill = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 20)"
        database.exec(f"{fill} INSERT INTO t SELECT i FROM n")
    before = len(database.changes)
    first = "INSERT INTO t VALUES (0)"
    calls: dict[str, Callable[[], object]] = {
        "query": lambda: database.query(sql),
        "exec": lambda: database.exec(f"{first}; {sql}"),
        "transaction": lambda: database.transaction(Statement("run", first), Statement("exec", sql)),
    }
    with pytest.raises(SqlError, match=r"ran for more than 50 s and was rolled back") as caught:
        calls[kind]()
    assert caught.value.reason == "timeout"
    assert len(database.changes) == before
    database.run("DELETE FROM t WHERE v <> 'kept'")
    assert database.query("SELECT v FROM t").rows == ({"v": "kept"},)


def test_a_script_of_many_statements_has_one_deadline(opened: Opener) -> None:
    database = opened(StepClock(), call_s=50)
    with pytest.raises(SqlError, match="ran for more than 50 s"):
        database.exec("CREATE TABLE t(v);" + "INSERT INTO t VALUES (1);" * 100)
    assert database.changes == []


def test_the_clock_starts_anew_with_each_call(opened: Opener) -> None:
    database = opened(StepClock(), call_s=50)
    for _ in range(100):
        assert database.value("SELECT 1") == 1


def test_cancel(opened: Opener) -> None:
    clock = StepClock()
    database = opened(clock, call_s=1000)
    database.exec("CREATE TABLE t(v)")
    running = threading.Event()
    clock.at_second[int(clock.now_s) + 20] = running.set
    failures: list[Exception] = []

    def endless() -> None:
        try:
            database.run(f"INSERT INTO t {ENDLESS} SELECT i FROM n WHERE i < 0")
        except SqlError as failure:
            failures.append(failure)

    thread = threading.Thread(target=endless)
    thread.start()
    assert running.wait(60)
    database.live.cancel()
    thread.join(60)
    assert not thread.is_alive()
    assert [str(failure) for failure in failures] == ["the call was cancelled and rolled back"]
    assert database.value("SELECT count(*) FROM t") == 0


def test_rows(opened: Opener) -> None:
    database = opened(rows_max=10)
    database.exec("CREATE TABLE t(v)")
    count = ENDLESS.replace("FROM n)", "FROM n WHERE i < :n)")
    assert len(database.query(f"{count} SELECT i FROM n", {"n": 10.0}).rows) == 10
    with pytest.raises(SqlError, match="more than 10 rows") as caught:
        database.query(f"{count} SELECT i FROM n", {"n": 11.0})
    assert caught.value.reason == "limit"
    with pytest.raises(SqlError, match="more than 10 rows"):
        database.query(f"{ENDLESS} SELECT i FROM n")
    with pytest.raises(SqlError, match="more than 10 rows"):
        database.query(f"INSERT INTO t SELECT i FROM ({count} SELECT i FROM n) RETURNING v", {"n": 11.0})
    assert database.value("SELECT count(*) FROM t") == 0
    ten = Statement("query", f"{count} SELECT i FROM n", {"n": 6.0})
    with pytest.raises(SqlError, match="more than 10 rows"):
        database.transaction(ten, ten)
    database.exec(f"{count} SELECT i FROM n", {"n": 1000.0})


@pytest.mark.parametrize("value", ["printf('%1000d', 1)", "zeroblob(800)", "printf('%500d', 1) || char(233)"])
def test_result_size(opened: Opener, value: str) -> None:
    database = opened(result_bytes_max=5_000)
    sql = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :n) SELECT {value} AS v FROM n"
    assert len(database.query(sql, {"n": 4.0}).rows) == 4
    with pytest.raises(SqlError, match="the result is larger than 5,000 bytes"):
        database.query(sql, {"n": 12.0})


def test_a_value_of_a_gigabyte(database: Replica) -> None:
    for sql in (
        "SELECT zeroblob(1000000000)",
        "SELECT randomblob(1000000000)",
        "SELECT hex(zeroblob(30000000))",
        "SELECT replace(hex(zeroblob(1000000)), '0', hex(zeroblob(100)))",
        f"{ENDLESS.replace('FROM n)', 'FROM n WHERE i < 40)')} SELECT group_concat(hex(zeroblob(1000000))) FROM n",
    ):
        with pytest.raises(SqlError, match="string or blob too big") as caught:
            database.query(sql)
        assert caught.value.reason == "limit"
    with pytest.raises(SqlError):
        database.query("SELECT length(:v)", {"v": "x" * (Limits().value_bytes_max + 1)})
    assert database.value("SELECT 1") == 1


def test_sql_text(opened: Opener) -> None:
    database = opened(sql_bytes_max=1000)
    assert database.value(f"SELECT 1 AS a /* {'x' * 900} */") == 1
    for text in ("x" * 1000, "é" * 500):
        with pytest.raises(SqlError, match="the SQL text is longer than 1,000 bytes") as caught:
            database.query(f"SELECT 1 AS a /* {text} */")
        assert caught.value.reason == "limit"


def test_database_size(opened: Opener) -> None:
    database = opened(database_bytes_max=400_000, cache_bytes=40_000)
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t"
    with pytest.raises(DatabaseFull, match=r"^the database is full: it may have 400,000 bytes; nothing was ch") as full:
        database.run(f"{fill} SELECT hex(zeroblob(1000)) FROM n")
    assert (full.value.reason, full.value.errno) == ("full", errno.EDQUOT)
    assert unharmed(database)
    # What is deleted makes room again.
    for _ in range(5):
        database.run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)"
                     " INSERT INTO t SELECT hex(zeroblob(1000)) FROM n")  # fmt: skip
        database.run("DELETE FROM t WHERE v <> 'kept'")
    assert unharmed(database)


def test_a_full_disk_is_not_a_full_database(database: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    database.exec("CREATE TABLE t(v)")
    fill = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT zeroblob(4000000) FROM n"
    )
    monkeypatch.setattr(guard, "_free_bytes", lambda _: 4096)
    with pytest.raises(ScratchError, match="database or disk is full"):
        database.run(fill)


def test_change_size(opened: Opener) -> None:
    database = opened(change_bytes_max=200_000, cache_bytes=40_000)
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :n)"
    sql = f"{fill} INSERT INTO t SELECT hex(zeroblob(2000)) FROM n"
    for _ in range(3):
        with pytest.raises(SqlError, match="the call changes more than 200,000 bytes") as caught:
            database.run(sql, {"n": 100.0})
        assert caught.value.reason == "limit"
        database.run(sql, {"n": 30.0})
        database.run("DELETE FROM t WHERE v <> 'kept'")
    assert unharmed(database)


def test_triggers_and_views_that_recurse(table: Replica) -> None:
    table.exec("CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO t VALUES (new.v || 'x'); END")
    assert table.run("INSERT INTO t VALUES ('y')").rows_affected == 1
    assert table.value("SELECT count(*) FROM t") == 3
    table.exec("CREATE VIEW p AS SELECT * FROM t")
    table.exec("DROP VIEW p; CREATE VIEW p AS SELECT * FROM q; CREATE VIEW q AS SELECT * FROM p")
    with pytest.raises(SqlError, match="circularly defined"):
        table.query("SELECT * FROM p")


def test_a_trigger_may_not_do_what_its_author_may_not(table: Replica) -> None:
    table.exec("CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT load_extension('x'); END")
    with pytest.raises(SqlError, match="load_extension"):
        table.run("INSERT INTO t VALUES ('y')")
    table.run("DROP TRIGGER a")
    assert unharmed(table)


def test_an_image_cannot_smuggle_in_what_is_refused(table: Replica, tmp_path: Path) -> None:
    path = tmp_path / "hostile.db"
    path.write_bytes(table.image)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE VIEW files AS SELECT load_extension('x') AS x")
        connection.execute("CREATE VIEW list AS SELECT * FROM pragma_database_list")
    table.image[:] = path.read_bytes()
    table.reopen()
    for view in ("files", "list"):
        with pytest.raises(SqlError):
            table.query(f"SELECT * FROM {view}")


def test_large_sorts_stay_out_of_the_disk(opened: Opener) -> None:
    database = opened(cache_bytes=40_000)
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    before = {path.name for path in database.scratch.iterdir()}
    database.query(f"{sql} SELECT count(*) AS c FROM (SELECT DISTINCT hex(i) AS h FROM n ORDER BY h DESC)")
    assert {path.name for path in database.scratch.iterdir()} == before


@pytest.mark.parametrize("name", ["call_s", "rows_max", "database_bytes_max"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_positive(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"SQLite limit {name} .*must be greater than zero"):
        Limits(**{name: value})  # type: ignore[arg-type] # each names its own limit
