"""What the three kinds of call and a transaction answer, and that each is all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite import QueryResult, SqlError, Statement
from tests.sqlite.replica import Replica

# What the runtime sends before nearly every statement, in shape.
SCHEMA = """
    CREATE TABLE IF NOT EXISTS items (
        id TEXT PRIMARY KEY,
        status TEXT DEFAULT 'open' CHECK(status IN ('open', 'done')),
        created_at TEXT DEFAULT (datetime('now'))
    );
    CREATE TABLE IF NOT EXISTS item_deps (
        item_id TEXT NOT NULL, depends_on TEXT NOT NULL,
        PRIMARY KEY (item_id, depends_on), FOREIGN KEY (item_id) REFERENCES items(id)
    );
"""


@pytest.fixture
def table(database: Replica) -> Replica:
    database.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT UNIQUE)")
    return database


def rows(database: Replica) -> list[object]:
    return [row["v"] for row in database.query("SELECT v FROM t ORDER BY id").rows]


def test_select(database: Replica) -> None:
    assert database.query("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL") == QueryResult(
        ("a", "b"), ({"a": 1, "b": "x"}, {"a": 2, "b": None}), 0, None
    )
    assert database.query("SELECT 1 AS a WHERE 0") == QueryResult(("a",), (), 0, None)
    assert database.changes == []


@pytest.mark.parametrize(
    ("sql", "affected", "rowid"),
    [
        ("INSERT INTO t(v) VALUES ('b'), ('c')", 2, 3),
        ("  -- said first\n insert into t(v) values ('b')", 1, 2),
        ("REPLACE INTO t(v) VALUES ('a')", 1, 2),
        ("INSERT OR IGNORE INTO t(v) VALUES ('a')", 0, None),
        ("INSERT INTO t(id, v) VALUES (1, 'z') ON CONFLICT(id) DO UPDATE SET v = excluded.v", 1, None),
        ("INSERT INTO t(id, v) VALUES (9, 'z') ON CONFLICT(id) DO UPDATE SET v = excluded.v", 1, 9),
        ("WITH x(v) AS (VALUES ('p'), ('q')) INSERT INTO t(v) SELECT v FROM x", 2, 3),
        ("UPDATE t SET v = 'b'", 1, None),
        ("UPDATE t SET v = 'b' WHERE 0", 0, None),
        ("DELETE FROM t", 1, None),
        ("CREATE TABLE u AS SELECT * FROM t", 0, None),
        ("ALTER TABLE t RENAME COLUMN v TO w", 0, None),
        ("ALTER TABLE t ADD COLUMN w", 0, None),
        ("CREATE INDEX i ON t(v)", 0, None),
        ("CREATE VIRTUAL TABLE f USING fts5(v)", 0, None),
        ("DROP TABLE t", 0, None),
        ("ANALYZE", 0, None),
        ("REINDEX", 0, None),
        ("PRAGMA user_version = 3", 0, None),
        ("EXPLAIN QUERY PLAN INSERT INTO t(v) VALUES ('b')", 0, None),
    ],
)
@pytest.mark.parametrize("kind", ["run", "query"])
def test_counts(table: Replica, kind: str, sql: str, affected: int, rowid: int | None) -> None:
    table.run("INSERT INTO t(v) VALUES ('a')")
    result = table.run(sql) if kind == "run" else table.query(sql)
    assert (result.rows_affected, result.last_insert_rowid) == (affected, rowid)


def test_returning_gives_rows_and_commits(table: Replica) -> None:
    result = table.query("INSERT INTO t(v) VALUES ('a'), ('b') RETURNING id, upper(v) AS up")
    assert result == QueryResult(("id", "up"), ({"id": 1, "up": "A"}, {"id": 2, "up": "B"}), 2, 2)
    assert len(table.changes) == 2
    table.reopen()
    assert rows(table) == ["a", "b"]


def test_the_same_rowid_in_another_table_is_an_insert(table: Replica) -> None:
    table.exec("CREATE TABLE u(v)")
    assert table.run("INSERT INTO t(v) VALUES ('a')").last_insert_rowid == 1
    assert table.run("INSERT INTO u(v) VALUES ('a')").last_insert_rowid == 1


def test_a_table_without_rowids_gives_none(table: Replica) -> None:
    table.exec("CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID")
    table.run("INSERT INTO t(v) VALUES ('a')")
    result = table.run("INSERT INTO w VALUES ('k', 1)")
    assert (result.rows_affected, result.last_insert_rowid) == (1, None)


def test_an_upsert_that_only_updates_gives_none_each_time(table: Replica) -> None:
    table.run("INSERT INTO t(v) VALUES ('a')")
    for number in range(3):
        upsert = "INSERT INTO t(id, v) VALUES (1, :v) ON CONFLICT(id) DO UPDATE SET v = excluded.v"
        result = table.run(upsert, {"v": float(number)})
        assert (result.rows_affected, result.last_insert_rowid) == (1, None)


def test_triggers_are_not_counted(table: Replica) -> None:
    table.exec("CREATE TABLE u(v); CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO u VALUES (1), (2), (3); END")
    result = table.run("INSERT INTO t(v) VALUES ('a')")
    assert (result.rows_affected, result.last_insert_rowid) == (1, 1)
    assert table.value("SELECT count(*) FROM u") == 3


@pytest.mark.parametrize("sql", ["", "  ", ";", "-- nothing", "/* nothing */;"])
def test_nothing_is_no_error(database: Replica, sql: str) -> None:
    nothing = QueryResult((), (), 0, None)
    assert database.run(sql) == nothing
    assert database.query(sql) == nothing
    database.exec(sql)
    assert database.transaction(Statement("run", sql), Statement("exec", sql)) == (nothing, nothing)
    assert database.changes == []


@pytest.mark.parametrize("kind", ["query", "run"])
def test_one_statement_only(table: Replica, kind: str) -> None:
    with pytest.raises(SqlError, match=f"{kind} takes one statement, and this is 2"):
        table.live.query(cast("Any", kind), "INSERT INTO t(v) VALUES ('a'); SELECT 1")
    assert rows(table) == []


def test_an_unknown_kind(database: Replica) -> None:
    with pytest.raises(InvalidInput, match="SQL query type 'all': must be one of exec, query, run"):
        database.live.query(cast("Any", "all"), "SELECT 1")


def test_the_message_is_sqlites_own(table: Replica) -> None:
    table.run("INSERT INTO t(v) VALUES ('a')")
    for sql, message in (
        ("SELECT * FROM nope", "^no such table: nope$"),
        ("INSERT INTO t(v) VALUES ('a')", r"^UNIQUE constraint failed: t\.v$"),
        ("ALTER TABLE t ADD COLUMN v", "^duplicate column name: v$"),
        ("SELEC 1", '^near "SELEC": syntax error$'),
        ("CREATE TRIGGER x; SELECT 1", "^near"),
        ("SELECT 'never closed", "^unrecognized token"),
    ):
        with pytest.raises(SqlError, match=message) as caught:
            table.run(sql)
        assert caught.value.reason == "sql"


# Scripts


def test_the_runtimes_schema_is_one_change_and_then_none(database: Replica) -> None:
    database.exec(SCHEMA)
    assert len(database.changes) == 1
    database.exec(SCHEMA)
    database.exec("INSERT INTO items(id) VALUES ('a'); INSERT OR IGNORE INTO items(id) VALUES ('a')")
    assert len(database.changes) == 2
    database.exec("INSERT OR IGNORE INTO items(id) VALUES ('a')")
    assert len(database.changes) == 2


def test_a_script_is_all_or_nothing(table: Replica) -> None:
    before = list(table.changes)
    with pytest.raises(SqlError, match="no such table: nope"):
        table.exec("INSERT INTO t(v) VALUES ('a'); CREATE TABLE u(a); INSERT INTO nope VALUES (1)")
    assert table.changes == before
    assert rows(table) == []
    assert table.value("SELECT count(*) FROM sqlite_schema WHERE name = 'u'") == 0


def test_a_script_may_manage_transactions(table: Replica) -> None:
    table.exec(
        "begin transaction; INSERT INTO t(v) VALUES ('a'); COMMIT;"
        "BEGIN IMMEDIATE; INSERT INTO t(v) VALUES ('b'); ROLLBACK /* not this one */ TRANSACTION;"
        "BEGIN EXCLUSIVE TRANSACTION; INSERT INTO t(v) VALUES ('c'); END"
    )
    assert rows(table) == ["a", "c"]
    assert len(table.changes) == 2


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("BEGIN; INSERT INTO t(v) VALUES ('a')", "leaves a transaction open"),
        ("INSERT INTO t(v) VALUES ('a'); BEGIN", "leaves a transaction open"),
        ("BEGIN; INSERT INTO t(v) VALUES ('a'); BEGIN", "cannot start a transaction within a transaction"),
        ("INSERT INTO t(v) VALUES ('a'); COMMIT", "cannot commit - no transaction is active"),
        ("INSERT INTO t(v) VALUES ('a'); ROLLBACK", "cannot rollback - no transaction is active"),
        ("BEGIN; INSERT INTO t(v) VALUES ('a'); COMMIT; SELECT nope", "no such column: nope"),
        ("BEGIN; INSERT INTO t(v) VALUES ('a'); INSERT OR ROLLBACK INTO t(v) VALUES ('a'); COMMIT", "UNIQUE"),
        ("INSERT INTO t(v) VALUES ('a'); SAVEPOINT s", "SAVEPOINT is refused"),
        ("INSERT INTO t(v) VALUES ('a'); RELEASE sessionfs_script", "RELEASE is refused"),
        ("BEGIN; INSERT INTO t(v) VALUES ('a'); ROLLBACK TO sessionfs_script; COMMIT", "ROLLBACK is refused"),
        ("INSERT INTO t(v) VALUES ('a'); BEGIN 'now'; COMMIT", "BEGIN is refused"),
        ("INSERT INTO t(v) VALUES ('a'); PRAGMA foreign_keys = OFF", "foreign_keys has no effect inside a script"),
    ],
)
def test_a_script_that_fails_leaves_nothing(table: Replica, script: str, message: str) -> None:
    with pytest.raises(SqlError, match=message):
        table.exec(script)
    assert rows(table) == []
    table.run("INSERT INTO t(v) VALUES ('after')")
    assert rows(table) == ["after"]
    assert len(table.changes) == 2
    table.reopen()
    assert rows(table) == ["after"]


@pytest.mark.parametrize("sql", ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s"])
@pytest.mark.parametrize("kind", ["query", "run", "transaction", "transaction script"])
def test_transaction_control_is_refused_outside_of_scripts(table: Replica, kind: str, sql: str) -> None:
    first = "INSERT INTO t(v) VALUES ('a')"
    calls: dict[str, Callable[[], object]] = {
        "query": lambda: table.query(sql),
        "run": lambda: table.run(sql),
        "transaction": lambda: table.transaction(Statement("run", first), Statement("run", sql)),
        "transaction script": lambda: table.transaction(Statement("exec", f"{first}; {sql}")),
    }
    with pytest.raises(SqlError, match=f"{sql.split(maxsplit=1)[0]} is refused") as caught:
        calls[kind]()
    assert caught.value.reason == "refused"
    assert rows(table) == []


# Transactions


def test_a_transaction_is_one_change(table: Replica) -> None:
    results = table.transaction(
        Statement("exec", SCHEMA),
        Statement("run", "INSERT INTO t(v) VALUES (:v)", {":v": "a"}),
        Statement("query", "SELECT v FROM t"),
        Statement("exec", "CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM items; SELECT 1; END; SELECT 1"),
    )
    assert results == (
        QueryResult((), (), 0, None),
        QueryResult((), (), 1, 1),
        QueryResult(("v",), ({"v": "a"},), 0, None),
        QueryResult((), (), 0, None),
    )
    assert len(table.changes) == 2


def test_an_empty_transaction(database: Replica) -> None:
    assert database.transaction() == ()
    assert database.changes == []


def test_a_transaction_that_fails_leaves_nothing_and_says_where(table: Replica) -> None:
    insert = Statement("run", "INSERT INTO t(v) VALUES ('a')")
    with pytest.raises(SqlError, match=r"^UNIQUE constraint failed: t\.v \(statement 2 of 3\)$"):
        table.transaction(insert, insert, Statement("query", "SELECT 1"))
    with pytest.raises(SqlError, match=r"^no value was given for the parameter :v \(statement 2 of 2\)$"):
        table.transaction(insert, Statement("query", "SELECT :v"))
    assert rows(table) == []
    assert len(table.changes) == 1


# Constraints and settings


def test_foreign_keys_are_a_setting_of_the_open_database(database: Replica) -> None:
    database.exec(SCHEMA)
    assert database.value("PRAGMA foreign_keys") == 1
    with pytest.raises(SqlError, match="FOREIGN KEY constraint failed"):
        database.run("INSERT INTO item_deps VALUES ('no', 'no')")
    database.exec("PRAGMA foreign_keys = ON; CREATE TABLE IF NOT EXISTS more(v)")
    database.run("PRAGMA foreign_keys = OFF")
    assert database.value("PRAGMA foreign_keys") == 0
    database.run("INSERT INTO item_deps VALUES ('no', 'no')")
    database.reopen()
    assert database.value("PRAGMA foreign_keys") == 1


def test_a_deferred_constraint_fails_at_the_end_and_leaves_nothing(database: Replica) -> None:
    database.exec(
        "CREATE TABLE p(id INTEGER PRIMARY KEY);"
        "CREATE TABLE c(p INTEGER REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)"
    )
    database.run("PRAGMA foreign_keys = ON")
    with pytest.raises(SqlError, match="FOREIGN KEY constraint failed"):
        database.exec("BEGIN; INSERT INTO c VALUES (1); COMMIT")
    with pytest.raises(SqlError, match="FOREIGN KEY constraint failed"):
        database.transaction(Statement("run", "INSERT INTO c VALUES (1)"))
    assert database.value("SELECT count(*) FROM c") == 0
    database.transaction(Statement("run", "INSERT INTO c VALUES (1)"), Statement("run", "INSERT INTO p VALUES (1)"))
    assert database.value("SELECT count(*) FROM c") == 1


def test_full_text_search(database: Replica) -> None:
    database.exec("CREATE VIRTUAL TABLE notes USING fts5(body, tokenize = 'porter')")
    result = database.run("INSERT INTO notes(body) VALUES ('hello world'), ('running far')")
    assert (result.rows_affected, result.last_insert_rowid) == (2, 2)
    result = database.run("UPDATE notes SET body = 'goodbye world' WHERE rowid = 1")
    assert (result.rows_affected, result.last_insert_rowid) == (1, None)
    database.reopen()
    assert database.query("SELECT rowid FROM notes('run')").rows == ({"rowid": 2},)
    assert database.query("SELECT rowid FROM notes('hello')").rows == ()
