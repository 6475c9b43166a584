"""SQL that would run for ever, or for minutes: it ends at the time limit, whatever SQLite is doing then."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Coroutine

import pytest

from sessionfs_s3.sqlite import SqlError
from tests.hostile_sql.sessions import CALL_S, Session, World, open_world, statement
from tests.hostile_sql.watch import CUT, GRACE_S, watched

COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
ENDLESS = f"{COUNTING} SELECT count(*) FROM n"

# 2 MB of the digit 0, and 1 MB of it with another digit at the end: looking for one in the other takes a million
# comparisons of a megabyte each, in one step of SQLite's virtual machine, which looks at no clock meanwhile.
_HAY, _NEEDLE = "hex(zeroblob(1000000))", "hex(zeroblob(500000)) || '1'"
QUADRATIC = f"SELECT instr({_HAY}, {_NEEDLE})"

LIMIT = "ran for more than|memory|too many|too deep|more than|full"


@pytest.mark.parametrize("kind", ["query", "exec", "transaction"])
async def test_a_recursion_that_never_ends(world: World, kind: str) -> None:
    attacker, insert = world.attacker, "INSERT INTO kept VALUES (100, 'hostile')"
    sql = ENDLESS if kind == "query" else f"INSERT INTO kept (v) {COUNTING} SELECT i FROM n"
    async with watched(world) as watch:
        if kind == "query":
            await watch.fails(attacker.call("query", sql), CUT, LIMIT)
        elif kind == "exec":
            await watch.fails(attacker.exec(f"{insert}; {sql}"), CUT, LIMIT)
        else:
            await watch.fails(attacker.transaction(insert, sql), CUT, LIMIT)


def _doubling(count: int, first: str, following: str) -> str:
    """Return *first* and then *count* times *following*, of which each twice refers to the one before it."""
    return first + "".join(following.format(n=number, after=number + 1) for number in range(count))


SCRIPTS = {
    "CREATE TABLE AS": f"CREATE TABLE x AS {COUNTING} SELECT i FROM n",
    "UPDATE": f"UPDATE kept SET v = ({COUNTING} SELECT max(i) FROM n)",
    "every row is remembered": "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "a queue that grows": "WITH RECURSIVE q(s) AS (SELECT 'x' UNION ALL SELECT s || 'x' FROM q, kept) SELECT 1 FROM q",
    "in a trigger": f"CREATE TRIGGER x AFTER INSERT ON kept BEGIN UPDATE kept SET v = (SELECT max(i) FROM ({COUNTING}"
    " SELECT i FROM n)); END; INSERT INTO kept VALUES (200, 'x')",
    "in a view": f"CREATE VIEW x AS {COUNTING} SELECT i FROM n; SELECT count(*) FROM x",
    "in ORDER BY": f"SELECT * FROM kept ORDER BY ({ENDLESS})",
    "a join of 64": "SELECT count(*) FROM " + ", ".join(f"kept k{number}" for number in range(64)),
    "a join that squares itself": "WITH a0 AS (SELECT 1 AS v UNION ALL SELECT 1), "
    + ", ".join(f"a{n + 1} AS (SELECT x.v FROM a{n} x, a{n} y)" for n in range(5))
    + " SELECT count(*) FROM a5",
    "triggers that double": _doubling(
        40,
        "CREATE TABLE t0 (v); CREATE TABLE t1 (v);",
        "CREATE TABLE IF NOT EXISTS t{after} (v); CREATE TRIGGER g{n} AFTER INSERT ON t{n}"
        " BEGIN INSERT INTO t{after} VALUES (1); INSERT INTO t{after} VALUES (1); END;",
    )
    + "INSERT INTO t0 VALUES (1)",
    "triggers that fire each other": "CREATE TABLE a (n); CREATE TABLE b (n);"
    "CREATE TRIGGER x AFTER INSERT ON a BEGIN INSERT INTO b VALUES (new.n + 1); INSERT INTO a VALUES (new.n); END;"
    "CREATE TRIGGER y AFTER INSERT ON b BEGIN INSERT INTO a VALUES (new.n + 1); INSERT INTO b VALUES (new.n); END;"
    f"INSERT INTO a {COUNTING} SELECT i FROM n",
    "many short statements": "SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
    " WHERE i < 400000) SELECT i FROM n);" * 100,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_a_script_that_never_ends(world: World, script: str) -> None:
    async with watched(world) as watch:
        await watch.fails(world.attacker.exec(script), CUT, LIMIT)


async def test_the_statements_of_a_transaction_share_one_time_limit(world: World) -> None:
    one = SCRIPTS["many short statements"].partition(";")[0]
    async with watched(world) as watch:
        await watch.fails(world.attacker.provider.sqlite_transaction([statement(one, "query")] * 100), CUT, LIMIT)


UNINTERRUPTED = {
    "instr": QUADRATIC,
    "replace": f"SELECT replace({_HAY}, {_NEEDLE}, 'x')",
    "LIKE": f"SELECT sum({_HAY} LIKE '%{'0' * 990}1') FROM kept a, kept b, kept c",
    "json_patch": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000), j(x) AS"
    " (SELECT json_group_object('k' || i, i) FROM n) SELECT length(json_patch(x, replace(x, 'k', 'm'))) FROM j",
    "names to compare": "WITH " + ", ".join(f"c{n} AS (SELECT 1)" for n in range(150_000)) + " SELECT 1",
}


@pytest.mark.parametrize("sql", UNINTERRUPTED.values(), ids=UNINTERRUPTED.keys())
async def test_a_step_that_takes_minutes(world: World, sql: str) -> None:
    """SQLite cannot be asked to stop in the middle of these; they end all the same."""
    async with watched(world) as watch:
        await watch.fails(world.attacker.call("query", sql), ("timeout",), LIMIT)


HARMLESS = {
    "LIKE with many wildcards": f"SELECT {_HAY} LIKE '{'%0' * 400}%1'",
    "GLOB with many wildcards": f"SELECT {_HAY} GLOB '{'*0' * 400}*1'",
    "LIKE with a pattern of megabytes": f"SELECT {_HAY} LIKE {_HAY}",
    "JSON a million levels deep": f"SELECT json_valid(replace({_HAY}, '0', '['))",
    "a number of two million digits": f"SELECT CAST(replace({_HAY}, '0', '9') AS REAL)",
    "a million formats": f"SELECT length(printf(replace({_HAY}, '00', '%d')))",
    "trim of megabytes": f"SELECT length(trim({_HAY}, replace({_NEEDLE}, '00', '12') || '0'))",
}


@pytest.mark.parametrize("sql", HARMLESS.values(), ids=HARMLESS.keys())
async def test_what_only_looks_endless_is_answered_or_refused(world: World, sql: str) -> None:
    async with watched(world) as watch:
        await watch.ends(world.attacker.call("query", sql))


async def test_a_trigger_that_fires_itself(world: World) -> None:
    """Triggers do not recurse; what one adds is bounded by what was there."""
    async with watched(world, changes=True) as watch:
        script = "CREATE TRIGGER x AFTER INSERT ON kept BEGIN INSERT INTO kept (v) VALUES (new.v || 'x'); END"
        await world.attacker.exec(script)
        assert await watch.ends(world.attacker.call("run", "INSERT INTO kept VALUES (100, 'y')")) is None
        assert await world.attacker.rows("SELECT id, v FROM kept WHERE id >= 100") == [
            {"id": 100, "v": "y"},
            {"id": 101, "v": "yx"},
        ]


# Callers who give up, and sessions that are closed, in mid-statement


@pytest.mark.parametrize("sql", [ENDLESS, QUADRATIC], ids=["a recursion", "one step"])
async def test_a_caller_who_gives_up(world: World, sql: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller is let go at once; the session is free again at its time limit, and nothing is logged."""
    async with watched(world):
        call = asyncio.create_task(world.attacker.call("query", sql))
        await asyncio.sleep(CALL_S / 5)
        begun_s = time.perf_counter()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.perf_counter() - begun_s < CALL_S / 2
        assert await asyncio.wait_for(world.attacker.rows("SELECT count(*) AS n FROM kept"), CALL_S + GRACE_S) == [
            {"n": 5}
        ]
    gc.collect()  # asyncio logs what a task raised and nobody asked for when the task is collected
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("closing", ["release", "volume"])
@pytest.mark.parametrize("sql", [ENDLESS, QUADRATIC], ids=["a recursion", "one step"])
async def test_a_session_that_is_closed_in_the_middle(url: str, sql: str, closing: str) -> None:
    """Closing does not wait for the time limit, and leaves nothing behind."""
    async with open_world(url, call_s=60) as world:
        fs = world.attacker.fs
        async with watched(world):
            if closing == "volume":
                async with fs.volume("another") as volume:
                    call = asyncio.create_task(_ends_with_an_error(volume.sqlite_query("query", sql)))
                    await asyncio.sleep(CALL_S / 5)
                    begun_s = time.perf_counter()
            else:
                another = await Session.begin(fs, "another")
                call = asyncio.create_task(_ends_with_an_error(another.call("query", sql)))
                await asyncio.sleep(CALL_S / 5)
                begun_s = time.perf_counter()
                await fs.release("another")
            assert time.perf_counter() - begun_s < GRACE_S
            await asyncio.wait_for(call, GRACE_S)


async def _ends_with_an_error(call: Coroutine[object, object, object]) -> None:

    with pytest.raises((SqlError, OSError)):
        await call


async def test_everything_is_closed_in_the_middle(url: str) -> None:
    """Each of the three sessions is in the middle of something when their session file systems are closed."""
    async with open_world(url, call_s=60) as world:
        begun_s = time.perf_counter()
        calls = [
            asyncio.create_task(_ends_with_an_error(session.call("query", sql)))
            for session, sql in zip([world.attacker, *world.victims], [ENDLESS, QUADRATIC, ENDLESS], strict=True)
        ]
        await asyncio.sleep(CALL_S / 5)
    assert time.perf_counter() - begun_s < 2 * GRACE_S
    await asyncio.wait_for(asyncio.gather(*calls), GRACE_S)


async def test_three_attackers_at_once(world: World) -> None:
    """Each in its own way: time, memory, and a step that cannot be interrupted."""
    fs = world.attacker.fs
    others = [await Session.begin(fs, f"attacker-{number}") for number in (2, 3)]
    large = f"{COUNTING} SELECT count(*) FROM (SELECT DISTINCT hex(randomblob(2000)) FROM n)"
    async with watched(world) as watch:
        await asyncio.gather(
            watch.fails(world.attacker.exec(f"INSERT INTO kept (v) {COUNTING} SELECT i FROM n"), CUT, LIMIT),
            watch.fails(others[0].call("query", large), CUT, LIMIT),
            watch.fails(others[1].call("query", QUADRATIC), CUT, LIMIT),
        )
    for other in others:
        await other.usable()
