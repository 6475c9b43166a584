"""Taking SQL text apart; SQLite's own sqlite3_complete is the oracle."""

from __future__ import annotations

import random
import re
import sqlite3

import pytest

from sessionfs_s3.sqlite.script import main_verb, significant, split

TRIGGER = (
    "CREATE TRIGGER IF NOT EXISTS tr AFTER INSERT ON t BEGIN"
    " UPDATE t SET a = CASE WHEN a THEN 1 ELSE 2 END; SELECT 'x;y'; END"
)
TEMP_TRIGGER = TRIGGER.replace("CREATE", "create /*;*/ temp")
QUOTED = "SELECT 'a;b', \"c;d\", `e;f`, [g;h]"


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("", []),
        (" ;; /* nothing; */ -- at all;\n;", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;", ["SELECT 1"]),
        ("\n  SELECT 1 ;\nSELECT 2\n", ["SELECT 1", "SELECT 2"]),
        (f"{QUOTED}; SELECT 'it''s;'", [QUOTED, "SELECT 'it''s;'"]),
        ("SELECT 1 -- one;\n; /* two; */ SELECT 2", ["SELECT 1 -- one;", "/* two; */ SELECT 2"]),
        (f"{TRIGGER}; SELECT 1", [TRIGGER, "SELECT 1"]),
        (f"{TEMP_TRIGGER}; SELECT 1", [TEMP_TRIGGER, "SELECT 1"]),
        ("EXPLAIN SELECT 1; SELECT 2", ["EXPLAIN SELECT 1", "SELECT 2"]),
        ("CREATE TABLE trigger_end(a); END", ["CREATE TABLE trigger_end(a)", "END"]),
        ("SELECT 'never closed; SELECT 2", ["SELECT 'never closed; SELECT 2"]),
        ("SELECT 1 /* never closed; SELECT 2", ["SELECT 1 /* never closed; SELECT 2"]),
        ("CREATE TRIGGER x; SELECT 1", ["CREATE TRIGGER x; SELECT 1"]),
    ],
)
def test_split(sql: str, statements: list[str]) -> None:
    assert split(sql) == statements


PIECES = [
    *(";", ";", ";", " ", "\n", "CREATE", "create", "TEMP", "TEMPORARY", "TRIGGER", "END", "end", "EXPLAIN", "BEGIN"),
    *(
        "SELECT",
        "x",
        "é",
        "1",
        "$a",
        "'a;b'",
        '"q;"',
        "`;`",
        "[;]",
        "--;\n",
        "/*;*/",
        "(",
        ")",
        "*",
        "-",
        "/",
        "=",
        "''",
    ),
]


def complete(sql: str) -> list[str]:
    """Split *sql* by asking SQLite at every semicolon whether what precedes it is complete."""
    found, begin = [], 0
    for end, character in enumerate(sql):
        if character == ";" and sqlite3.complete_statement(sql[begin : end + 1]):
            found.append(sql[begin:end])
            begin = end + 1
    found.append(sql[begin:])
    # None of the pieces quotes the beginning of a comment.
    return [part.strip() for part in found if re.sub(r"--[^\n]*|/\*.*?(\*/|$)", "", part, flags=re.DOTALL).strip()]


def test_split_ends_statements_where_sqlite_does() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    several = 0
    for _ in range(5000):
        sql = "".join(rng.choice(PIECES) + rng.choice(["", " "]) for _ in range(rng.randrange(1, 25)))
        statements = split(sql)
        assert statements == complete(sql), sql
        several += len(statements) > 1
    assert several > 1000


def test_split_takes_linear_time() -> None:
    # A quadratic one would need hours for this: sqlite3_complete, asked again at each semicolon, does.
    text = "CREATE TRIGGER x AFTER INSERT ON t BEGIN " + "SELECT 1;" * 200_000
    assert split(text + "END; SELECT 2") == [text + "END", "SELECT 2"]


@pytest.mark.parametrize(
    ("sql", "verb"),
    [
        ("", ""),
        ("-- only a comment", ""),
        ("select 1", "SELECT"),
        ("/* x */ Insert INTO t VALUES (1)", "INSERT"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "SELECT"),
        ("WITH a AS (SELECT ')'), b(x) AS NOT MATERIALIZED (VALUES (1)) INSERT INTO t SELECT x FROM b", "INSERT"),
        ('WITH RECURSIVE replace AS (SELECT 1), "update" AS (SELECT 2) DELETE FROM t', "DELETE"),
        ("with a as (select (select (1))) REPLACE INTO t SELECT * FROM a", "REPLACE"),
        ("EXPLAIN INSERT INTO t VALUES (1)", "EXPLAIN"),
        ("(SELECT 1)", "("),
    ],
)
def test_main_verb(sql: str, verb: str) -> None:
    assert main_verb(sql) == verb


def test_significant_tokens_leave_out_space_and_comments() -> None:
    assert list(significant("  begin /* x */ transaction -- y\n 'Q'")) == ["BEGIN", "TRANSACTION", "'Q'"]
