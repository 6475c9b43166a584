"""The agent's ``sql`` tool over several turns: what the model is shown, what is stored, how an error looks."""

from __future__ import annotations

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.replica import Replica

from .conftest import Start
from .turns import tell
from .wire import open_wire

VALUES = """\
INSERT INTO kept (value) VALUES (NULL), (42), (9007199254740991), (9007199254740993), (-9223372036854775808), (1.5),
    (2.0), (1e300), (9e999), (-9e999), ('naïve café, ☕, 𝄞'), (''), ('two
lines | "quoted"'), (x'00ff41'), (zeroblob(3))"""

SHOWN = """\
15 row(s) returned:

| id | type | value |
| --- | --- | --- |
| 1 | null | NULL |
| 2 | integer | 42 |
| 3 | integer | 9007199254740991 |
| 4 | integer | 9007199254740993 |
| 5 | integer | -9223372036854775808 |
| 6 | real | 1.5 |
| 7 | real | 2 |
| 8 | real | 1e+300 |
| 9 | real | Infinity |
| 10 | real | -Infinity |
| 11 | text | naïve café, ☕, 𝄞 |
| 12 | text |  |
| 13 | text | two
lines | "quoted" |
| 14 | blob | base64:AP9B |
| 15 | blob | base64:AAAA |"""
"""How the runtime writes our rows down: a number as JavaScript does, NULL as that, everything else as its text."""

KEPT = "SELECT id, typeof(value) AS type, value FROM kept ORDER BY id"
TODOS = "SELECT id, title, status FROM todos ORDER BY id"
BLOCKED = "SELECT todo_id, depends_on FROM todo_deps"

TODO_TABLES = """
    CREATE TABLE IF NOT EXISTS todos (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS todo_deps (
        todo_id TEXT NOT NULL,
        depends_on TEXT NOT NULL,
        PRIMARY KEY (todo_id, depends_on),
        FOREIGN KEY (todo_id) REFERENCES todos(id),
        FOREIGN KEY (depends_on) REFERENCES todos(id)
    );
"""
"""The runtime's own tables, without the columns that do not matter here."""


async def test_the_agent_is_shown_what_it_stored_on_another_replica_too(
    start: Start, model: ScriptedModel, fs: SessionFs
) -> None:
    a = await start()
    session = await a.create("s1")
    assert await tell(session, model, "Keep.", "CREATE TABLE kept (id INTEGER PRIMARY KEY, value)", VALUES, KEPT) == [
        "Schema operation completed successfully.",
        "15 row(s) inserted. Last inserted row ID: 15.",
        SHOWN,
    ]
    todos = "INSERT INTO todos (id, title) VALUES ('plan', 'Plan it'), ('build', 'Build it')"
    assert await tell(session, model, "Plan.", todos, "INSERT INTO todo_deps VALUES ('build', 'plan')", TODOS) == [
        "2 row(s) inserted. Last inserted row ID: 2.",
        "1 row(s) inserted. Last inserted row ID: 1.",
        _table("id | title | status", "build | Build it | pending", "plan | Plan it | pending"),
    ]
    script = (
        "UPDATE todos SET status = 'done' WHERE id = 'plan'; SELECT count(*) AS n FROM todos; DELETE FROM todo_deps"
    )
    (shown,) = await tell(session, model, "Done.", script)
    assert shown == (
        "Executed 3 statement(s):\n\n1. UPDATE\n   1 row(s) updated.\n\n2. SELECT\n   1 row(s) returned:\n   \n"
        "   | n |\n   | --- |\n   | 2 |\n\n3. DELETE\n   1 row(s) deleted."
    )
    sent = [each.text for each in a.served if each.operation == "sqlite_query"]
    assert all(part in sent for part in script.split("; ")), "each statement is a call, and a commit, of its own"
    assert {each.error for each in a.served if each.operation.startswith("sqlite")} == {""}

    await a.runtime.kill()
    b = await start()
    session = await b.resume("s1")

    done = _table("id | title | status", "build | Build it | pending", "plan | Plan it | done")
    assert await tell(session, model, "Look.", KEPT, TODOS, BLOCKED) == [SHOWN, done, "Query returned 0 rows."]
    async with fs.volume("s1", read_only=True) as volume:
        result = await volume.sqlite_query("query", KEPT)
    assert result is not None
    exact = [None, 42, 2**53 - 1, str(2**53 + 1), str(-(2**63)), 1.5, 2.0, 1e300, "Infinity", "-Infinity"]
    rest = ["naïve café, ☕, 𝄞", "", 'two\nlines | "quoted"', "base64:AP9B", "base64:AAAA"]
    assert [row["value"] for row in result.rows] == exact + rest


async def test_an_error_is_told_to_the_agent_and_the_session_goes_on(
    start: Start, model: ScriptedModel, url: str
) -> None:
    async with SessionFs.open(url, tenant="acme", sqlite_bytes_max=256 * 1024) as fs:
        await _tries(await start(fs=fs), model, fs)


async def _tries(replica: Replica, model: ScriptedModel, fs: SessionFs) -> None:
    session = await replica.create("s1")
    await tell(session, model, "Begin.", "CREATE TABLE parts (name TEXT)", "INSERT INTO parts VALUES ('bolts')")
    before = len(replica.served)

    attach, detach, pragma, temporary, begin, unknown, full = await tell(
        session,
        model,
        "Try.",
        "ATTACH DATABASE '/etc/passwd' AS other",
        "DETACH DATABASE main",
        "PRAGMA journal_mode = DELETE",
        "CREATE TEMP TABLE t (x)",
        "BEGIN; INSERT INTO parts VALUES ('in a transaction')",
        "INSERT INTO parts VALUES ('nuts'); INSERT INTO nowhere VALUES (1); INSERT INTO parts VALUES ('never')",
        "INSERT INTO parts SELECT hex(zeroblob(100000)) FROM (VALUES (1), (2), (3))",
    )

    ours = "SQL Error: Error: UNKNOWN: sqliteQuery: "
    assert attach == 'Error: Blocked SQL statement: "ATTACH" is not allowed for security reasons.'
    asked = [each.text for each in replica.served[before:] if each.operation == "sqlite_query"]
    assert not any("ATTACH" in sql for sql in asked), "the runtime refuses that by itself"
    assert detach.startswith(f"{ours}DETACH is refused")
    assert pragma.startswith(f"{ours}PRAGMA journal_mode = DELETE is refused")
    assert temporary.startswith(f"{ours}CREATE TEMP TABLE is refused")
    assert begin.startswith("SQL Error after statement 1 (BEGIN): Error: UNKNOWN: sqliteQuery: BEGIN is refused")
    assert unknown == (
        "SQL Error after statement 2 (INSERT): Error: UNKNOWN: sqliteQuery: no such table: nowhere\n\n"
        "Completed 1 statement(s) before failure:\n\n1. INSERT\n   1 row(s) inserted. Last inserted row ID: 2."
    )
    assert full.startswith(ours)
    assert "full" in full
    assert "262,144 bytes" in full
    assert "nothing was changed" in full
    names = _table("name", "bolts", "nuts", "screws")
    went_on = await tell(
        session, model, "Go on.", "INSERT INTO parts VALUES ('screws')", "SELECT name FROM parts ORDER BY rowid"
    )
    assert went_on == ["1 row(s) inserted. Last inserted row ID: 3.", names]
    async with fs.volume("s1", read_only=True) as volume:
        result = await volume.sqlite_query("query", "SELECT name FROM parts ORDER BY rowid")
    assert result is not None
    assert [row["name"] for row in result.rows] == ["bolts", "nuts", "screws"]


async def test_a_dependency_on_no_todo_is_refused_as_in_the_runtimes_own_database(fs: SessionFs) -> None:
    """Without a provider the runtime says ``FOREIGN KEY constraint failed``: Node's SQLite enforces them by default."""
    async with open_wire(fs) as wire:
        await wire.call("sqliteQuery", queryType="exec", query=TODO_TABLES)
        todo = "INSERT INTO todos (id, title) VALUES ('build', 'Build it')"
        assert (await wire.call("sqliteQuery", queryType="run", query=todo))["rowsAffected"] == 1
        with pytest.raises(RuntimeError, match="FOREIGN KEY constraint failed"):
            await wire.call("sqliteQuery", queryType="run", query="INSERT INTO todo_deps VALUES ('build', 'nothing')")


def _table(names: str, *rows: str) -> str:
    """Return how the runtime shows *rows* to the model."""
    rule = " | ".join("---" for _ in names.split(" | "))
    return f"{len(rows)} row(s) returned:\n\n" + "\n".join(f"| {each} |" for each in (names, rule, *rows))
