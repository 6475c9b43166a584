"""A database that would outgrow its quota: EDQUOT, nothing lost, and room again after a DELETE."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.sqlite import DatabaseFull, SqlError
from tests.hostile_sql.sessions import EVENTS, Session, World, open_world
from tests.hostile_sql.watch import watched

QUOTA_BYTES = 2 << 20
_ROW = "INSERT INTO rows VALUES (:n, hex(zeroblob(50000)))"  # 100 KB
_MANY = "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "


@pytest.fixture
async def world(url: str) -> AsyncIterator[World]:
    async with open_world(url, sqlite_bytes_max=QUOTA_BYTES) as opened:
        yield opened


def is_full(error: SqlError | None) -> bool:
    """Return whether *error* is what the runtime and a program tell from any other: EDQUOT, in words too."""
    assert isinstance(error, DatabaseFull), repr(error)
    assert isinstance(error, OSError)
    assert error.errno == errno.EDQUOT
    return f"{QUOTA_BYTES:,}" in str(error)


async def _fill(session: Session) -> int:
    """Add rows of 100 KB until one is refused; return how many there are."""
    await session.exec("CREATE TABLE rows (n INTEGER PRIMARY KEY, v TEXT)")
    for number in range(100):
        try:
            await session.call("run", _ROW, {"n": number})
        except DatabaseFull:
            return number
    raise AssertionError("ten megabytes fit into two")


async def test_a_row_past_the_quota(world: World) -> None:
    attacker = world.attacker
    count = await _fill(attacker)
    assert 10 <= count <= 20
    async with watched(world) as watch:
        assert is_full(await watch.fails(attacker.call("run", _ROW, {"n": 1000}), ("limit", "full"), "bytes"))
    async with watched(world, changes=True) as watch:
        await attacker.call("run", "INSERT INTO kept VALUES (100, 'small')")
        assert await attacker.rows("SELECT count(*) AS n, min(length(v)) AS v FROM rows") == [
            {"n": count, "v": 100_000}
        ]
        for _ in range(3):
            await attacker.call("run", "DELETE FROM rows WHERE n < 5")
            for number in range(5):
                await attacker.call("run", _ROW, {"n": number})
            assert is_full(await watch.ends(attacker.call("run", _ROW, {"n": 1000})))
    assert await attacker.rows("SELECT count(*) AS n FROM rows") == [{"n": count}]


PAST = {
    "INSERT SELECT": f"INSERT INTO rows {_MANY} SELECT i, hex(zeroblob(5000)) FROM n",
    "CREATE TABLE AS": f"CREATE TABLE x AS {_MANY} SELECT i, hex(zeroblob(5000)) FROM n",
    "UPDATE": "UPDATE rows SET v = v || v",
    "CREATE INDEX": "CREATE INDEX x ON rows (v)",
    "a script": "INSERT INTO kept VALUES (100, 'x'); DELETE FROM rows WHERE n = 0;" + f"{_ROW};" * 20,
    "a full-text index": "CREATE VIRTUAL TABLE f USING fts5(v);"
    f"INSERT INTO f {_MANY} SELECT hex(randomblob(1000)) || ' ' || hex(randomblob(1000)) FROM n",
}


@pytest.mark.parametrize("sql", PAST.values(), ids=PAST.keys())
@pytest.mark.parametrize("kind", ["exec", "transaction"])
async def test_a_statement_past_the_quota(world: World, sql: str, kind: str) -> None:
    """All of the call is undone, in the session and in the store, and the session goes on."""
    attacker, sql = world.attacker, sql.replace(":n", "NULL")
    await _fill(attacker)
    insert = "INSERT INTO kept VALUES (200, 'x')"
    async with watched(world) as watch:
        call = attacker.exec(f"{insert}; {sql}") if kind == "exec" else attacker.transaction(insert, sql)
        assert is_full(await watch.fails(call, ("limit", "full"), "bytes"))


async def test_past_the_quota_again_and_again(world: World) -> None:
    """Refusals use nothing up: neither room in the database nor memory."""
    await _fill(world.attacker)
    async with watched(world) as watch:
        for _ in range(50):
            assert is_full(await watch.ends(world.attacker.exec(f"{PAST['INSERT SELECT']}")))
        assert watch.meter.total_growth_bytes < 100 << 20


async def test_a_quota_that_was_lowered(url: str) -> None:
    """A database that is past it by then can be read, and made smaller, and does not grow."""
    async with SessionFs.open(url, tenant="acme", probe=False) as fs:
        session = await Session.begin(fs, "attacker-before")
        await session.exec("CREATE TABLE rows (n INTEGER PRIMARY KEY, v TEXT)")
        for number in range(50):
            await session.call("run", _ROW, {"n": number})
    async with SessionFs.open(url, tenant="acme", probe=False, sqlite_bytes_max=QUOTA_BYTES) as fs:
        session = Session(fs, "attacker-before", fs.provider("attacker-before"))
        await session.provider.read_file(EVENTS)
        assert await session.rows("SELECT count(*) AS n FROM rows") == [{"n": 50}]
        with pytest.raises(DatabaseFull):
            await session.exec(f"{_ROW};".replace(":n", "NULL") * 5)
        assert await session.rows("SELECT count(*) AS n FROM rows") == [{"n": 50}]
        await session.call("run", "DELETE FROM rows WHERE n >= 10")
        await session.call("run", _ROW, {"n": 1000})
        assert await session.rows("SELECT count(*) AS n FROM rows") == [{"n": 11}]
        await session.usable()
