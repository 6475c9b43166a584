"""The SQL of simulated lives: calls that each leave one record, and effects that depend on all that came before. Pure.

A call that is lost, done twice, done by half or done out of order gives another database in the end. Nothing is random
to SQLite: another SQLite that runs the same statements in the same order has the same contents.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sessionfs_s3.sqlite import QueryResult, Statement
from sessionfs_s3.volume import Durability, Volume

Shown: TypeAlias = "tuple[tuple[tuple[object, ...], ...], ...]"
"""What the queries of :data:`LOOK` show: for each its rows."""

Values: TypeAlias = "Mapping[str, float | str | None]"
"""Parameters, by name."""

LOOK: Final = (
    "SELECT record FROM log ORDER BY id",
    "SELECT n, (SELECT max(seq) FROM sqlite_sequence) AS seq, (SELECT count(*) FROM sqlite_schema) AS m FROM counter",
    "SELECT rowid AS id, value, length(body) AS size, substr(body, 1, 9) AS head FROM items ORDER BY rowid",
    "PRAGMA integrity_check",
)

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS counter(n INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS items(value INTEGER NOT NULL, body TEXT)",
    "CREATE INDEX IF NOT EXISTS by_value ON items(value)",
    "CREATE TRIGGER IF NOT EXISTS each AFTER INSERT ON log BEGIN UPDATE counter SET n = n * 31 % 1009; SELECT 1; END",
    "INSERT INTO counter SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM counter)",
)

_MARK: Final = "INSERT INTO log(record) VALUES (:record)"

_NOTHING: Final = (
    "UPDATE counter SET n = n + 1 WHERE n < 0",
    "DELETE FROM log WHERE id < 0",
    "CREATE TABLE IF NOT EXISTS log(x)",
    "DROP TABLE IF EXISTS missing",
    "INSERT INTO log(record) SELECT record FROM log WHERE id < 0",
    "SELECT count(*) AS n FROM items",
)

_FAILURES: Final = (
    "INSERT INTO missing VALUES (1)",
    "INSERT INTO counter VALUES (NULL)",
    "INSERT INTO log(id, record) SELECT id, record FROM log",
    "SELEC 1",
    "ATTACH DATABASE ':memory:' AS other",
    "SAVEPOINT here",
    "BEGIN",
)

_EFFECTS: Final = (
    ("UPDATE counter SET n = (n * 7 + :number) % 1009",),
    ("INSERT INTO items(value, body) SELECT coalesce(max(value), 0) + 1, :letter || :record || count(*) FROM items",),
    ("INSERT INTO items(value, body) SELECT coalesce(max(value), 0) + 1, printf('%.*c', :size, :letter) FROM items",),
    ("DELETE FROM items WHERE value % 3 = (SELECT n % 3 FROM counter)",),
    ("UPDATE items SET body = :letter || body WHERE value % 4 = :number % 4",),
    (
        "CREATE TABLE IF NOT EXISTS some(record TEXT, n INTEGER)",
        "INSERT INTO some SELECT record, id FROM log WHERE id % 5 = :number % 5 ORDER BY id",
    ),
    ("CREATE TABLE IF NOT EXISTS other(record TEXT UNIQUE)", "INSERT OR IGNORE INTO other SELECT record FROM log"),
    ("DROP TABLE IF EXISTS some",),
    ("DROP TABLE IF EXISTS other",),
)
"""Each succeeds whatever came before, and comes out otherwise after anything else."""

_BIG_CHARS: Final = (5_000, 9_000, 20_000)


@dataclass(frozen=True, slots=True)
class Part:
    """One statement and its parameters, by bare name."""

    sql: str
    params: Values


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a volume's SQL.

    Attributes:
        statements: what is given to the volume.
        is_transaction: as a transaction; otherwise there is one statement.
        parts: what it comes to when it succeeds, for another SQLite.
        fails: whether it has to fail.
    """

    statements: tuple[Statement, ...]
    is_transaction: bool
    parts: tuple[Part, ...]
    fails: bool = False

    async def on(self, volume: Volume, durability: Durability) -> None:
        """Make the call on *volume*."""
        if self.is_transaction:
            await volume.sqlite_transaction(self.statements, durability=durability)
        else:
            (only,) = self.statements
            await volume.sqlite_query(only.kind, only.sql, only.params, durability=durability)

    def replay(self, connection: sqlite3.Connection) -> None:
        """Do what the call does on *connection*, which commits by itself."""
        for part in self.parts:
            connection.execute(part.sql, part.params).fetchall()


class Writing:
    """Writes the calls of one life."""

    def __init__(self, rng: random.Random) -> None:
        """Choose with *rng*."""
        self._rng = rng

    def first(self, record: str) -> Call:
        """Return the call that makes what the others need, where it is not there yet; it leaves *record*."""
        return self._called([_bound(sql, {"record": record}) for sql in (*_TABLES, _MARK)])

    def change(self, record: str) -> Call:
        """Return a call that leaves *record*."""
        rng = self._rng
        values = self._values(record)
        if rng.random() < 0.3:
            return self._single(_bound(_MARK, values))
        effects = [rng.choice(_EFFECTS) for _ in range(rng.randint(1, 4))]
        effects.insert(rng.randint(0, len(effects)), (_MARK,))
        return self._called([_bound(sql, values) for effect in effects for sql in effect])

    def failure(self, record: str) -> Call:
        """Return a call that would leave *record*, and fails, somewhere after its beginning."""
        rng = self._rng
        texts = [_MARK, *(sql for _ in range(rng.randint(0, 2)) for sql in rng.choice(_EFFECTS))]
        texts.insert(rng.randint(1, len(texts)), rng.choice(_FAILURES))
        values = self._values(record)
        return self._called([_bound(sql, values) for sql in texts], fails=True)

    def nothing(self) -> Call:
        """Return a call that succeeds and changes nothing."""
        return Call((Statement("exec", self._rng.choice(_NOTHING)),), False, ())

    def _called(self, parts: Sequence[Part], *, fails: bool = False) -> Call:
        """Return a script or a transaction of *parts*."""
        rng = self._rng
        if rng.random() < 0.4:
            return Call((self._script(parts, ends=not fails),), False, tuple(parts), fails)
        cut = rng.randint(0, len(parts)) if rng.random() < 0.3 else 0
        statements = [self._statement(part) for part in parts[cut:]]
        if cut:
            statements.insert(0, Statement("exec", _joined(parts[:cut]), _merged(parts[:cut])))
        return Call(tuple(statements), True, tuple(parts), fails)

    def _single(self, part: Part) -> Call:
        rng = self._rng
        if rng.random() < 0.3:
            part = Part(f"{part.sql} RETURNING id", part.params)
        return Call((self._statement(part),), False, (part,))

    def _statement(self, part: Part) -> Statement:
        prefix = self._rng.choice([":", "@", "$", ""])
        params = {prefix + name: value for name, value in part.params.items()}
        return Statement(self._rng.choice(["run", "query", "exec"]), part.sql, params)

    def _script(self, parts: Sequence[Part], *, ends: bool) -> Statement:
        """Return *parts* as one text, perhaps with transactions of its own; one that *ends* leaves none open."""
        text = _joined(parts)
        if ends:
            around = self._rng.choice(
                [
                    "{}",
                    "BEGIN; {}; COMMIT",
                    "BEGIN IMMEDIATE; INSERT INTO items(value) VALUES (7); ROLLBACK; {} -- that is all",
                ]
            )
            # What is rolled back must be possible: the tables may be yet to come.
            if "ROLLBACK" not in around or "CREATE TABLE IF NOT EXISTS log" not in text:
                text = around.replace("{}", text)
        return Statement("exec", text, _merged(parts))

    def _values(self, record: str) -> Values:
        """Return the parameters of one call; its statements share them, as those of a script do."""
        rng = self._rng
        return {
            "record": record,
            "letter": rng.choice("abcdef"),
            "number": rng.randint(1, 1000),
            "size": rng.choice(_BIG_CHARS),
        }


def shown_by(results: Sequence[QueryResult]) -> Shown:
    """Return what a volume answered to :data:`LOOK`."""
    return tuple(tuple(tuple(row.values()) for row in result.rows) for result in results)


def shown_to(connection: sqlite3.Connection) -> Shown:
    """Return what *connection* answers to :data:`LOOK`."""
    return tuple(tuple(connection.execute(sql).fetchall()) for sql in LOOK)


def _bound(sql: str, values: Values) -> Part:
    """Return *sql* with those of *values* that it names."""
    return Part(sql, {name: value for name, value in values.items() if f":{name}" in sql})


def _joined(parts: Sequence[Part]) -> str:
    return ";\n".join(part.sql for part in parts)


def _merged(parts: Sequence[Part]) -> Values:
    return {name: value for part in parts for name, value in part.params.items()}
