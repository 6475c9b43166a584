"""SQL that tries to end, split or outlive the transaction that every call is."""

from __future__ import annotations

import pytest

from tests.hostile_sql.sessions import Kind, World, statement
from tests.hostile_sql.watch import watched

INSERT = "INSERT INTO kept VALUES (100, 'hostile')"
RULES = ("refused", "sql")

CONTROL = [
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "commit transaction",
    "/* x */ CoMmIt -- y",
    "-- x\nCOMMIT",
    ";; COMMIT",
    "\ufeffCOMMIT",
    "END",
    "eNd TRANSACTION",
    "ROLLBACK",
    "Rollback Transaction",
    "ROLLBACK TO sessionfs_script",
    "SAVEPOINT s",
    "/**/savepoint sessionfs_script",
    "RELEASE s",
    "RELEASE SAVEPOINT sessionfs_script",
]
_NAMES = r"begin|commit|end\b|rollback|savepoint|release|transaction"


async def test_control_words(world: World) -> None:
    """Alone they leave nothing open; inside a transaction they neither keep nor lose what came before."""
    async with watched(world) as watch:
        for sql in CONTROL:
            await watch.refuses(sql, _NAMES, kinds=("query", "run"))
            statements = [statement(INSERT), statement(sql, "exec"), statement(INSERT.replace("100", "101"))]
            await watch.fails(world.attacker.provider.sqlite_transaction(statements), RULES, _NAMES)
            await watch.fails(
                world.attacker.exec(f"{sql}; INSERT INTO kept VALUES (1, 'taken')"), RULES, f"{_NAMES}|unique"
            )


LEFT_OPEN = [
    f"BEGIN; {INSERT}",
    f"BEGIN; {INSERT};",
    f"begin immediate; {INSERT}; -- COMMIT",
    f"BEGIN; {INSERT}; COMMIT; BEGIN; {INSERT.replace('100', '101')}",
    f"BEGIN; {INSERT}; ROLLBACK; BEGIN",
    f"BEGIN; {INSERT}; SAVEPOINT s; COMMIT; BEGIN",
    f"SAVEPOINT s; {INSERT}",
    f"BEGIN; BEGIN; {INSERT}",
    f"{INSERT}; BEGIN",
    f"{INSERT}; COMMIT",
    f"{INSERT}; ROLLBACK; SELECT 1",
    f"BEGIN; {INSERT}; COMMIT; COMMIT",
]


async def test_a_script_that_leaves_begin_open_or_ends_what_it_did_not_begin(world: World) -> None:
    async with watched(world) as watch:
        for script in LEFT_OPEN:
            await watch.refuses(script, _NAMES, kinds=("exec",))
            # The next call is neither inside of that transaction nor can it end it.
            await watch.fails(world.attacker.call("run", "COMMIT"), RULES, _NAMES)
            assert await world.attacker.rows("SELECT count(*) AS n FROM kept") == [{"n": 5}], script


async def test_begin_left_open_in_a_transaction(world: World) -> None:
    async with watched(world) as watch:
        await watch.fails(world.attacker.transaction(f"BEGIN; {INSERT}", "SELECT 1"), RULES, _NAMES)
        await watch.fails(world.attacker.transaction(INSERT, "COMMIT; BEGIN"), RULES, _NAMES)


ROLLS_BACK = [
    "INSERT OR ROLLBACK INTO kept VALUES (1, 'twice')",
    "INSERT OR FAIL INTO kept SELECT 200, 'x' UNION ALL SELECT 1, 'twice'",
    "UPDATE OR ROLLBACK kept SET id = 1",
    "INSERT INTO aborts VALUES ('ROLLBACK')",
    "INSERT INTO aborts VALUES ('FAIL')",
    "INSERT INTO aborts VALUES ('ABORT')",
]


async def test_sql_that_rolls_back_in_the_middle(world: World) -> None:
    """ON CONFLICT ROLLBACK and RAISE(ROLLBACK) end SQLite's transaction under the call that goes on."""
    triggers = "".join(
        f"CREATE TRIGGER {action.lower()}s BEFORE INSERT ON aborts WHEN new.v = '{action}'"
        f" BEGIN INSERT INTO kept VALUES (300, 'x'); SELECT RAISE({action}, 'the trigger says so'); END;"
        for action in ("ROLLBACK", "FAIL", "ABORT")
    )
    await world.attacker.exec(f"CREATE TABLE aborts (v); {triggers}")
    async with watched(world) as watch:
        for sql in ROLLS_BACK:
            steps = [INSERT, sql, INSERT.replace("100", "101")]
            for call in (
                world.attacker.exec("; ".join(steps)),
                world.attacker.exec("; ".join(["BEGIN", *steps, "COMMIT"])),
                world.attacker.transaction(*steps),
            ):
                await watch.fails(call, ("sql",), "unique constraint|the trigger says so")
                assert await world.attacker.rows("SELECT count(*) AS n FROM kept") == [{"n": 5}], sql


@pytest.mark.parametrize("kind", ["query", "run"])
async def test_two_statements_where_one_is_due(world: World, kind: Kind) -> None:
    async with watched(world) as watch:
        await watch.fails(world.attacker.call(kind, f"{INSERT}; SELECT 1"), RULES, "one statement|exec")
        await watch.fails(world.attacker.call(kind, "SELECT 1; ATTACH '/etc/passwd' AS a"), RULES, "one statement|exec")
