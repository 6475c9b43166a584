"""SQL that asks for too much memory: values, texts, results, sorts, statements without number."""

from __future__ import annotations

import asyncio

import pytest

from tests.hostile_sql import processes
from tests.hostile_sql.sessions import World, statement
from tests.hostile_sql.watch import CUT, watched

SQL_BYTES_MAX = 4 << 20
"""How long the text of one call may be."""

GIGABYTE = 1_000_000_000
MEGABYTE = "hex(zeroblob(500000))"
ROWS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000) "
WIDE = "hex(randomblob(2000))"
NAMES = "ran for more than|too big|too large|too many|memory|larger|longer|more than|too deep|full"


VALUES = {
    "zeroblob": f"SELECT zeroblob({GIGABYTE})",
    "randomblob": f"SELECT randomblob({GIGABYTE})",
    "hex": f"SELECT hex(zeroblob({GIGABYTE // 2}))",
    "hex of hex": f"SELECT hex(hex(hex(hex({MEGABYTE}))))",
    "quote": "SELECT quote(zeroblob(3000000))",
    "replace": f"SELECT replace({MEGABYTE}, '0', {MEGABYTE})",
    "printf with a width": f"SELECT printf('%{GIGABYTE}d', 1)",
    "printf with a width given": "SELECT format('%*d', 2147483647, 1)",
    "printf of one character": f"SELECT printf('%.*c', {GIGABYTE}, 'x')",
    "printf with a precision": f"SELECT printf('%.{GIGABYTE}f', 1.5)",
    "strftime": f"SELECT strftime(replace({MEGABYTE}, '0', '%f'))",
    "concatenation": f"SELECT {' || '.join([MEGABYTE] * 500)}",
    "doubling": "WITH RECURSIVE d(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM d) SELECT max(length(s)) FROM d",
    "group_concat": f"{ROWS} SELECT group_concat({MEGABYTE}) FROM n",
    "string_agg in a window": f"SELECT string_agg({MEGABYTE}, '') OVER (ORDER BY a.id) FROM kept a, kept b",
    "json_array": f"SELECT json_array({', '.join([MEGABYTE] * 100)})",
    "json_group_array": f"{ROWS} SELECT json_group_array({MEGABYTE}) FROM n",
    "json_group_array of numbers": f"{ROWS} SELECT json_group_array(i) FROM n",
    "a row of large values": f"SELECT {', '.join([MEGABYTE] * 1000)}",
    "a stored row": f"INSERT INTO kept VALUES (200, zeroblob({GIGABYTE}))",
    "a stored row that grows": f"UPDATE kept SET v = replace({MEGABYTE}, '0', {MEGABYTE})",
    "a stored row of large values": f"CREATE TABLE x AS SELECT {', '.join(f'{MEGABYTE} AS c{n}' for n in range(100))}",
}


@pytest.mark.parametrize("sql", VALUES.values(), ids=VALUES.keys())
async def test_a_value_of_a_gigabyte(world: World, sql: str) -> None:
    async with watched(world) as watch:
        await watch.fails(world.attacker.call("query", sql), CUT, NAMES)


TEN_MILLION_ROWS = {
    "a result": f"{ROWS} SELECT i FROM n",
    "INSERT": f"INSERT INTO kept (v) {ROWS} SELECT i FROM n",
    "a wide INSERT": f"INSERT INTO kept (v) {ROWS} SELECT {WIDE} FROM n",
    "INSERT RETURNING": f"INSERT INTO kept (v) {ROWS} SELECT i FROM n RETURNING id",
    "CREATE TABLE AS": f"CREATE TABLE x AS {ROWS} SELECT {WIDE} FROM n",
    "ORDER BY": f"{ROWS} SELECT i FROM n ORDER BY i DESC LIMIT 1 OFFSET 9999999",
    "a wide ORDER BY": f"{ROWS} SELECT {WIDE} AS h FROM n ORDER BY h LIMIT 1 OFFSET 9999999",
    "GROUP BY": f"{ROWS} SELECT count(*) FROM (SELECT {WIDE} AS h FROM n GROUP BY h)",
    "DISTINCT": f"{ROWS} SELECT count(*) FROM (SELECT DISTINCT {WIDE} FROM n)",
    "UNION": f"{ROWS} SELECT count(*) FROM (SELECT {WIDE} FROM n UNION SELECT {WIDE} FROM n)",
    "a window": f"{ROWS} SELECT sum(c) FROM (SELECT count(*) OVER (ORDER BY {WIDE}) AS c FROM n)",
    "a window that looks back": f"{ROWS} SELECT lag(h, 1000000) OVER () FROM (SELECT {WIDE} AS h FROM n)",
    "IN": f"{ROWS} SELECT 1 FROM kept WHERE v IN (SELECT {WIDE} FROM n)",
    "MATERIALIZED": f"{ROWS}, m AS MATERIALIZED (SELECT {WIDE} AS h FROM n) SELECT 1 FROM m a, m b WHERE a.h = b.h",
    "a queue": f"WITH RECURSIVE q(s) AS (SELECT {WIDE} UNION ALL SELECT {WIDE} FROM q, kept) SELECT count(*) FROM q",
}


@pytest.mark.parametrize("sql", TEN_MILLION_ROWS.values(), ids=TEN_MILLION_ROWS.keys())
async def test_ten_million_rows(world: World, sql: str) -> None:
    async with watched(world) as watch:
        await watch.fails(world.attacker.call("query", sql), CUT, NAMES)


TEXTS = {
    "a gigabyte": ("SELECT 1 --", GIGABYTE, "x"),
    "300 MB that are more in UTF-8": ("SELECT 1 --", GIGABYTE // 4, "é"),
    "100 MB of what UTF-8 cannot carry": ("SELECT 1 --", GIGABYTE // 20, "\ud800"),
    "one byte too many": ("SELECT 1 --", SQL_BYTES_MAX + 1, "x"),
    "one byte too many in UTF-8": ("SELECT 1 -- ", SQL_BYTES_MAX // 2 + 7, "é"),
}


@pytest.mark.parametrize(("begin", "length", "fill"), TEXTS.values(), ids=TEXTS.keys())
async def test_a_statement_that_is_too_long(world: World, begin: str, length: int, fill: str) -> None:
    text = begin.ljust(length, fill)
    async with watched(world) as watch:
        for kind in ("query", "exec"):
            await watch.fails(world.attacker.call(kind, text), ("limit",), "longer|too (long|big|large)")
        call = world.attacker.provider.sqlite_transaction([statement("SELECT 1"), statement(text)])
        await watch.fails(call, ("limit",), "longer|too (long|big|large)")


async def test_a_statement_that_is_just_not_too_long(world: World) -> None:
    text = "SELECT 1 AS one --".ljust(SQL_BYTES_MAX, "x")
    async with watched(world) as watch:
        assert await watch.ends(world.attacker.call("query", text)) is None
        assert await world.attacker.rows(text) == [{"one": 1}]


async def test_statements_that_are_too_long_together(world: World) -> None:
    text = "SELECT 1 --".ljust(SQL_BYTES_MAX, "x")
    async with watched(world) as watch:
        await watch.fails(world.attacker.provider.sqlite_transaction([statement(text)] * 1000), CUT, NAMES)


@pytest.mark.parametrize("length", [GIGABYTE, SQL_BYTES_MAX + 1])
@pytest.mark.parametrize("fill", ["x", "é"])
async def test_a_parameter_that_is_too_large(world: World, length: int, fill: str) -> None:
    value = fill * (length if fill == "x" else length // 2 + 1)
    async with watched(world) as watch:
        insert = "INSERT INTO kept VALUES (200, :v)"
        for sql in ("SELECT length(:v)", insert):
            await watch.fails(world.attacker.call("query", sql, {"v": value}), ("limit",), NAMES)
        call = world.attacker.provider.sqlite_transaction([statement(insert, params={"v": value})])
        await watch.fails(call, ("limit",), NAMES)


async def test_parameters_that_are_too_large_together(world: World) -> None:
    value = "x" * (SQL_BYTES_MAX - 1000)
    names = [f"p{number}" for number in range(1000)]
    sql = "SELECT length(:v)"
    one = statement(sql, "query", {"v": value})
    async with watched(world) as watch:
        await watch.fails(world.attacker.provider.sqlite_transaction([one] * 1000), CUT, NAMES)
        sql = f"SELECT {' + '.join(f'length(:{name})' for name in names[:500])}"
        await watch.fails(world.attacker.call("query", sql, dict.fromkeys(names, value)), CUT, NAMES)


async def test_a_million_parameters(world: World) -> None:
    params: dict[str, float | str | None] = {f"p{number}": float(number) for number in range(1_000_000)}
    async with watched(world) as watch:
        await watch.ends(world.attacker.call("query", "SELECT :p0 AS v", params))


async def test_results_that_are_too_large_together(world: World) -> None:
    one = statement(f"SELECT {MEGABYTE} AS v", "query")
    async with watched(world) as watch:
        await watch.fails(world.attacker.provider.sqlite_transaction([one] * 1000), CUT, NAMES)


WIDEST = {
    "large values": f"{ROWS} SELECT {MEGABYTE} FROM n LIMIT 30",
    "large values of which Python makes more": f"{ROWS} SELECT {MEGABYTE} || char(128512) FROM n LIMIT 30",
    "large blobs": f"{ROWS} SELECT zeroblob(1000000) FROM n LIMIT 22",
    "small values": f"{ROWS} SELECT i FROM n LIMIT 100000",
    "many columns": f"{ROWS} SELECT {', '.join(f'i AS c{n}' for n in range(1000))} FROM n LIMIT 1000",
    "long names": f'{ROWS} SELECT i AS "{"x" * 100_000}" FROM n LIMIT 300',
    "many long names": f"{ROWS} SELECT {', '.join(f'i AS c{n}_' + 'x' * 2000 for n in range(1900))} FROM n LIMIT 7",
}


@pytest.mark.parametrize("sql", WIDEST.values(), ids=WIDEST.keys())
async def test_the_largest_result_is_answered_or_refused(world: World, sql: str) -> None:
    async with watched(world) as watch:
        await watch.ends(world.attacker.call("query", sql))


# Statements without number


async def test_a_million_statements_in_a_transaction(world: World) -> None:
    insert = statement("INSERT INTO kept (v) VALUES ('hostile')")
    for statements in ([statement("SELECT 1", "query")] * 1_000_000, [insert] * 1_000_000):
        async with watched(world) as watch:
            await watch.fails(world.attacker.provider.sqlite_transaction(statements), CUT, f"{NAMES}|statements")


@pytest.mark.parametrize("one", ["SELECT 1;", ";", "BEGIN; INSERT INTO x VALUES (1); DELETE FROM x; COMMIT;"])
async def test_a_script_of_as_many_statements_as_it_may_hold(world: World, one: str) -> None:
    await world.attacker.exec("CREATE TABLE x (v)")
    script = one * (SQL_BYTES_MAX // len(one))
    async with watched(world) as watch:
        await watch.ends(world.attacker.exec(script))


async def test_thousands_of_statements_one_after_the_other(world: World) -> None:
    """Nothing is kept of a statement that is done: memory does not grow with their number."""
    attacker = world.attacker
    async with watched(world) as watch:
        for number in range(200):
            assert await attacker.rows(f"SELECT {number} AS n -- {'x' * 10_000}") == [{"n": number}]
        settled = processes.memory(processes.descendants())
        for number in range(200, 600):
            assert await attacker.rows(f"SELECT {number} AS n -- {'x' * 10_000}") == [{"n": number}]
        grown = processes.memory(processes.descendants()).total_bytes - settled.total_bytes
        assert grown < 16 << 20, f"{grown:,} bytes larger"
        answers = await asyncio.gather(*(attacker.rows(f"SELECT {number} AS n") for number in range(200)))
        assert answers == [[{"n": number}] for number in range(200)]
        assert watch.answers == []


# Statements that are large to compile


def _list(count: int, item: str) -> str:
    return ", ".join(item.format(n=number) for number in range(count))


DEEP = {
    "parentheses": "SELECT " + "(" * 200_000 + "1" + ")" * 200_000,
    "ten thousand parentheses": "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
    "signs": "SELECT " + "- " * 200_000 + "1",
    "NOT": "SELECT " + "NOT " * 100_000 + "1",
    "sums": "SELECT " + "+".join(["1"] * 200_000),
    "functions": "SELECT " + "abs(" * 50_000 + "1" + ")" * 50_000,
    "subqueries": "SELECT " + "(SELECT " * 50_000 + "1" + ")" * 50_000,
    "subqueries in FROM": "SELECT * FROM " + "(SELECT * FROM " * 50_000 + "kept" + ")" * 50_000,
    "CASE": "SELECT " + "CASE WHEN 1 THEN " * 20_000 + "1" + " END" * 20_000,
    "OR": "SELECT 1 WHERE " + " OR ".join(["1 = 2"] * 100_000),
    "compound SELECT": " UNION ALL ".join(["SELECT 1"] * 5_000),
    "compound SELECT of 100,000": " UNION ".join(["SELECT 1"] * 100_000),
    "columns of a result": f"SELECT {_list(100_000, '{n}')}",
    "columns of a table": f"CREATE TABLE x ({_list(100_000, 'c{n}')})",
    "tables of a join": f"SELECT 1 FROM {_list(65, 'kept k{n}')}",
    "arguments": f"SELECT max({_list(100_000, '{n}')})",
    "views": "CREATE VIEW v0 AS SELECT 1 AS v;"
    + "".join(f"CREATE VIEW v{n + 1} AS SELECT a.v FROM v{n} a, v{n} b;" for n in range(30))
    + "SELECT * FROM v30",
    "views of compound SELECT": "CREATE VIEW v0 AS SELECT 1 AS v;"
    + "".join(f"CREATE VIEW v{n + 1} AS SELECT v FROM v{n} UNION ALL SELECT v FROM v{n};" for n in range(30))
    + "SELECT count(*) FROM v30",
    "expressions that double": "WITH a0 AS (SELECT 1 AS v), "
    + ", ".join(f"a{n + 1} AS (SELECT v + v + v + v AS v FROM a{n})" for n in range(30))
    + " SELECT v FROM a30",
    "a view of itself": "CREATE VIEW x AS SELECT * FROM x; SELECT * FROM x",
    "views of each other": "CREATE VIEW x AS SELECT * FROM y; CREATE VIEW y AS SELECT * FROM x; SELECT * FROM x",
    "a name of a megabyte": f"SELECT [{'x' * 1_000_000}]",
    "a name of four megabytes": f"SELECT {'x' * 4_000_000}",
    "a message of a megabyte": "CREATE TRIGGER x AFTER INSERT ON kept BEGIN SELECT RAISE(ABORT, '"
    + "x" * 1_000_000
    + "'); END; INSERT INTO kept VALUES (200, 'x')",
}
_DEEP_NAMES = f"{NAMES}|limit|overflow|at most|too (much|complex)|nested|max|circular|no such column|xxx"


@pytest.mark.parametrize("sql", DEEP.values(), ids=DEEP.keys())
async def test_what_is_too_deep_or_too_wide_to_compile(world: World, sql: str) -> None:
    async with watched(world) as watch:
        await watch.fails(world.attacker.exec(sql), (*CUT, "sql"), _DEEP_NAMES)


LISTS = {
    "a list of numbers": f"SELECT 1 WHERE 1 IN ({_list(400_000, '{n}')})",
    "AND": "SELECT 1 WHERE " + " AND ".join(["id"] * 500),
    "text": f"SELECT '{'x' * (SQL_BYTES_MAX - 100)}'",
    "a join of 64": f"SELECT count(*) FROM {' NATURAL JOIN '.join(f'kept k{n}' for n in range(64))}",
    "terms": "SELECT * FROM kept WHERE " + " OR ".join(f"(id = {n} AND v = '{n}')" for n in range(900)),
}


@pytest.mark.parametrize("sql", LISTS.values(), ids=LISTS.keys())
async def test_what_is_large_to_compile_is_answered_or_refused(world: World, sql: str) -> None:
    async with watched(world) as watch:
        await watch.ends(world.attacker.call("query", sql))
