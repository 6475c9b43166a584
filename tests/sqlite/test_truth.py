"""The truth test: random work, after every call of which the image that the changes give is a sound database, and the
same as a plain SQLite database that was given the same work by simpler means.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from sessionfs_s3.sqlite import SqlError, Statement
from tests.sqlite.conftest import Opener
from tests.sqlite.replica import Replica

STEPS = 150
START = [f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, a, b)" for number in range(3)]


class Oracle:
    """A plain database in memory; each call is one transaction, and one that fails leaves nothing."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)

    def call(self, statements: list[str]) -> bool:
        try:
            self.connection.execute("BEGIN")
            for sql in statements:
                self.connection.execute(sql).fetchall()
            self.connection.execute("COMMIT")
        except sqlite3.Error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            return False
        return True

    def dump(self) -> list[str]:
        version = self.connection.execute("PRAGMA user_version").fetchone()
        return [f"user_version {version}", *self.connection.iterdump()]


class Work:
    """Random statements; many of them fail, since the names are few."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def _table(self) -> str:
        return f"t{self._rng.randrange(3)}"

    def _text(self) -> str:
        length = self._rng.choice([0, 3, 40, 700, 5000, 30000])  # the last two need overflow pages
        return "'" + "".join(self._rng.choices("abcdefgh", k=min(length, 50))) * (1 + length // 50) + "'"

    def statement(self) -> str:
        rng, table = self._rng, self._table()
        key = rng.randrange(60)
        kinds: list[Callable[[], str]] = [
            lambda: f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, a UNIQUE, b)",
            lambda: f"CREATE TABLE IF NOT EXISTS {table}(id INTEGER PRIMARY KEY AUTOINCREMENT, a, b)",
            lambda: f"CREATE TABLE {table}(id PRIMARY KEY, a, b) WITHOUT ROWID",
            lambda: f"DROP TABLE IF EXISTS {table}",
            lambda: f"ALTER TABLE {table} RENAME TO {self._table()}",
            lambda: f"ALTER TABLE {table} ADD COLUMN c{rng.randrange(3)} DEFAULT {self._text()}",
            lambda: f"CREATE INDEX IF NOT EXISTS {table}_i ON {table}(b, a)",
            lambda: f"DROP INDEX {table}_i",
            lambda: (
                f"CREATE TRIGGER IF NOT EXISTS {table}_tr AFTER DELETE ON {table} BEGIN"
                f" INSERT INTO {self._table()}(a, b) VALUES (old.a, 'x;'); END"
            ),
            lambda: f"CREATE VIRTUAL TABLE IF NOT EXISTS f{table} USING fts5(body)",
            lambda: f"INSERT INTO f{table} VALUES ({self._text()})",
            lambda: f"DELETE FROM f{table}",
            lambda: f"PRAGMA user_version = {rng.randrange(100)}",
            lambda: "REINDEX",
            lambda: f"SELECT * FROM {table}",
            lambda: f"DELETE FROM {table}",
        ]
        rows: list[Callable[[], str]] = [
            lambda: f"INSERT INTO {table}(id, a, b) VALUES ({key}, {self._text()}, {self._text()})",
            lambda: f"INSERT OR REPLACE INTO {table}(id, a, b) VALUES ({key}, {key % 9}, {self._text()})",
            lambda: f"INSERT OR IGNORE INTO {table}(id, a) VALUES ({key}, {key % 9})",
            lambda: f"INSERT INTO {table}(id, a) VALUES ({key}, 'x') ON CONFLICT DO UPDATE SET b = {self._text()}",
            lambda: f"INSERT INTO {table}(id, a, b) SELECT id + {key}, a || '{key}', b FROM {self._table()} LIMIT 9",
            lambda: f"UPDATE {table} SET b = {self._text()} WHERE id % 7 = {key % 7}",
            lambda: f"UPDATE {table} SET a = b WHERE id = {key}",
            lambda: f"UPDATE OR ROLLBACK {table} SET a = 1",
            lambda: f"DELETE FROM {table} WHERE id % 5 = {key % 5}",
            lambda: f"WITH x(n) AS (VALUES ({key}), ({key + 1})) INSERT INTO {table}(id, b) SELECT n, n FROM x",
        ]
        return rng.choice(kinds if rng.random() < 0.2 else rows)()


def step(database: Replica, oracle: Oracle, work: Work, rng: random.Random) -> None:
    """Do one call on both, in one of the ways in which a call can be made."""
    count = len(database.changes)
    statements = [work.statement() for _ in range(rng.choice([1, 1, 1, 2, 4]))]
    way = rng.choice(["run", "exec", "transaction", "undone", "broken"])
    script = "; ".join(statements)
    expected = statements
    made: Callable[[], object]
    if way == "run":
        expected = statements[:1]
        made = lambda: database.run(statements[0])  # noqa: E731 - one expression each, side by side
    elif way == "exec":
        begin, commit = rng.choice([("", ""), ("BEGIN; ", "; COMMIT;")])
        made = lambda: database.exec(f"{begin}{script}{commit}")  # noqa: E731
    elif way == "transaction":
        made = lambda: database.transaction(*(Statement("exec", sql) for sql in statements))  # noqa: E731
    elif way == "undone":
        last = work.statement()
        expected = ["SAVEPOINT s", *statements, "ROLLBACK TO s", "RELEASE s", last]
        made = lambda: database.exec(f"BEGIN; {script}; ROLLBACK; {last}")  # noqa: E731
    else:
        expected = [*statements, "SELECT nope"]
        made = lambda: database.exec(f"{script}; SELECT nope")  # noqa: E731
    failure: SqlError | None = None
    try:
        made()
    except SqlError as caught:
        failure = caught
    assert oracle.call(expected) == (failure is None), f"{way} {script[:2000]}: {failure}"
    assert len(database.changes) <= (count + 1 if failure is None else count)


def seeds() -> Iterator[int]:
    yield from (1, 2, 3)
    yield random.randrange(2**32)


@pytest.mark.parametrize("number", range(4))
def test_the_changes_give_the_database(opened: Opener, number: int) -> None:
    seed = list(seeds())[number]
    print(f"seed {seed}")
    rng = random.Random(seed)
    database = opened(cache_bytes=rng.choice([40_000, 2_000_000]), wal_bytes_max=rng.choice([1, 200_000, 4_000_000]))
    oracle, work = Oracle(), Work(rng)
    with closing(oracle.connection):
        assert oracle.call(START)
        database.exec(";".join(START))
        for _ in range(STEPS):
            step(database, oracle, work, rng)
            assert database.dump() == oracle.dump()
            if rng.random() < 0.05:
                database.reopen()
    assert len(database.changes) > STEPS / 15
    database.reopen()
    assert database.value("PRAGMA integrity_check") == "ok"
