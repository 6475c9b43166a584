"""How values cross between JSON and SQLite, seen from the outside."""

from __future__ import annotations

import math

import pytest

from sessionfs_s3.sqlite import SqlError
from tests.sqlite.replica import Replica


@pytest.mark.parametrize(
    ("given", "kind", "returned"),
    [
        (None, "null", None),
        (1.0, "integer", 1),
        (-0.0, "integer", 0),
        (2.0**53, "integer", str(2**53)),
        (-(2.0**53), "integer", str(-(2**53))),
        (2.0**53 - 1, "integer", 2**53 - 1),
        (2.0**54, "real", 2.0**54),
        (1.5, "real", 1.5),
        (1e300, "real", 1e300),
        (math.inf, "real", "Infinity"),
        (-math.inf, "real", "-Infinity"),
        (7, "integer", 7),
        (2**63 - 1, "integer", str(2**63 - 1)),
        (-(2**63), "integer", str(-(2**63))),
        (True, "integer", 1),
        ("text", "text", "text"),
        ("", "text", ""),
        ("é😀\0 NUL", "text", "é😀\0 NUL"),
        ("lone \ud800 surrogate", "text", "lone \ufffd surrogate"),
        (b"\x00\xff", "blob", "base64:AP8="),
        (b"", "blob", "base64:"),
    ],
)
def test_round_trip(database: Replica, given: float | str | bytes | None, kind: str, returned: object) -> None:
    (row,) = database.query("SELECT typeof(:v) AS kind, :v AS value", {"v": given}).rows
    assert row == {"kind": kind, "value": returned}
    assert type(row["value"]) is type(returned)
    database.exec("CREATE TABLE t(v)")
    database.run("INSERT INTO t VALUES (:v)", {"v": given})
    database.reopen()
    assert database.value("SELECT v FROM t") == returned


@pytest.mark.parametrize("key", ["v", ":v", "@v", "$v"])
@pytest.mark.parametrize("prefix", [":", "@", "$"])
def test_parameter_names_with_and_without_prefix(database: Replica, key: str, prefix: str) -> None:
    assert database.value(f"SELECT {prefix}v AS x", {key: "here"}) == "here"


def test_parameters_that_a_statement_does_not_use_are_ignored(database: Replica) -> None:
    assert database.value("SELECT :a", {"a": 1.0, "b": 2.0}) == 1


def test_numbered_parameters_go_by_their_number(database: Replica) -> None:
    assert database.value("SELECT ?2 || ?1", {"1": "a", "2": "b"}) == "ba"


def test_a_script_shares_its_parameters(database: Replica) -> None:
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES (:a); INSERT INTO t VALUES (:b)", {"a": 1.0, "b": "2"})
    assert [row["v"] for row in database.query("SELECT v FROM t").rows] == [1, "2"]


@pytest.mark.parametrize(
    ("sql", "params", "message"),
    [
        ("SELECT :missing", {}, "no value was given for the parameter :missing"),
        ("SELECT :missing", None, "no value was given for the parameter :missing"),
        ("SELECT ?", {"a": 1.0}, "parameters without a name"),
        ("SELECT :a", {":a": 1.0, "@a": 2.0}, "'a' is given twice"),
        ("SELECT :a", {"a": math.nan}, "'a' is not a number"),
        ("SELECT :a", {"a": 2**63}, "integers have at most 64 bits"),
        ("SELECT :a", {"a": [1]}, "neither null, a number nor a string"),
        ("SELECT :a", {"a": {"b": 1}}, "neither null, a number nor a string"),
    ],
)
def test_bad_parameters(database: Replica, sql: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(SqlError, match=message):
        database.query(sql, params)
    assert database.value("SELECT 1") == 1


def test_duplicate_columns_are_all_named_and_the_last_value_stands(database: Replica) -> None:
    result = database.query("SELECT 1 AS a, 2 AS b, 3 AS a")
    assert result.columns == ("a", "b", "a")
    assert result.rows == ({"a": 3, "b": 2},)


def test_text_that_is_not_utf8_is_named_and_can_be_read_as_a_blob(database: Replica) -> None:
    database.exec("CREATE TABLE t(v); INSERT INTO t VALUES (CAST(x'61ff62' AS TEXT))")
    with pytest.raises(SqlError, match="TEXT that is not UTF-8: select CAST"):
        database.query("SELECT v FROM t")
    assert database.value("SELECT CAST(v AS BLOB) FROM t") == "base64:Yf9i"


def test_surrogates_in_the_sql_text(database: Replica) -> None:
    assert database.value("SELECT 'a\udc80b'") == "a\ufffdb"


def test_nul_in_the_sql_text(database: Replica) -> None:
    with pytest.raises(SqlError, match="NUL"):
        database.query("SELECT 1\0; DROP TABLE t")
