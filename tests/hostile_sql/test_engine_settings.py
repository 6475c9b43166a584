"""SQL that would change how the engine works: its settings, its schema table, the tables behind virtual tables."""

from __future__ import annotations

import pytest

from tests.hostile_sql.sessions import World
from tests.hostile_sql.watch import watched

PRAGMAS = {
    "writable_schema": ("= ON", "= RESET", "(1)", "= 'yes'"),
    "journal_mode": ("= DELETE", "= TRUNCATE", "= PERSIST", "= MEMORY", "(off)", "= 'DELETE'"),
    "wal_checkpoint": ("", "(TRUNCATE)", "= RESTART"),
    "wal_autocheckpoint": ("= 1", "= 0"),
    "locking_mode": ("= EXCLUSIVE", "= NORMAL"),
    "mmap_size": ("= 1000000000", "= -1"),
    "hard_heap_limit": ("= 0", "= 1", ""),
    "soft_heap_limit": ("= 0", "= 1", ""),
    "cache_size": ("= -1000000", "= 1000000"),
    "cache_spill": ("= OFF",),
    "threads": ("= 8",),
    "max_page_count": ("= 1073741823", "(1)"),
    "trusted_schema": ("= ON",),
    "recursive_triggers": ("= ON",),
}
OTHERS = [
    "journal_size_limit = 0",
    "default_cache_size = 1000000",
    "page_size = 512",
    "auto_vacuum = FULL",
    "incremental_vacuum",
    "encoding = 'UTF-16'",
    "synchronous = EXTRA",
    "fullfsync = ON",
    "cell_size_check = OFF",
    "secure_delete = OFF",
    "schema_version = 1",
    "query_only = ON",
    "read_uncommitted = ON",
    "busy_timeout = 1000000",
    "shrink_memory",
    "optimize = -1",
    "analysis_limit = 1000000000",
    "automatic_index = OFF",
    "legacy_alter_table = ON",
    "reverse_unordered_selects = ON",
    "full_column_names = ON",
    "empty_result_callbacks = ON",
    "case_sensitive_like = ON",
    "key = 'x'",
    "rekey = 'x'",
    "activate_extensions = 'see-x'",
    "vdbe_trace = ON",
    "vdbe_debug = ON",
    "parser_trace = ON",
    "no_such_pragma",
]


@pytest.mark.parametrize("name", PRAGMAS)
async def test_a_pragma(world: World, name: str) -> None:
    """It is refused by its name, however it is written; nothing is different afterwards."""
    async with watched(world) as watch:
        for value in PRAGMAS[name]:
            for written in (f"PRAGMA {name}{value}", f"/**/ pragma main . {name.upper()} {value} -- x"):
                await watch.refuses(written, name, ("refused",))
            await watch.refuses(
                f"INSERT INTO kept VALUES (100, 'x'); PRAGMA {name} {value}", name, ("refused",), ("exec",)
            )


async def test_other_pragmas(world: World) -> None:
    async with watched(world) as watch:
        for pragma in OTHERS:
            await watch.refuses(f"PRAGMA {pragma}", pragma.split()[0], ("refused",))


async def test_pragmas_as_tables(world: World) -> None:
    """Some pragmas can be read as tables, and some of these change what they read."""
    async with watched(world) as watch:
        for name in (*PRAGMAS, "optimize", "temp_store_directory"):
            for arguments in ("", "(1)", "('main')", "('exclusive', 'main')"):
                sql = f"SELECT * FROM kept, pragma_{name}{arguments}"
                allowed = name == "max_page_count" or (name == "journal_mode" and arguments in ("", "('main')"))
                if not allowed:
                    await watch.refuses(sql, f"{name}|unknown database|too many arguments")


SCHEMA = [
    "UPDATE sqlite_schema SET sql = 'CREATE TABLE kept (id)' WHERE name = 'kept'",
    "UPDATE sqlite_master SET rootpage = 1",
    "DELETE FROM sqlite_master",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 3, 'CREATE TABLE x (v)')",
    "INSERT INTO main.sqlite_schema SELECT * FROM sqlite_schema",
    "DROP TABLE sqlite_schema",
    "ALTER TABLE sqlite_schema RENAME TO x",
    "CREATE TRIGGER x AFTER INSERT ON sqlite_schema BEGIN SELECT 1; END",
    "CREATE INDEX x ON sqlite_schema (sql)",
    "CREATE TABLE sqlite_mine (v)",
    "ALTER TABLE kept RENAME TO sqlite_kept",
    "CREATE VIEW sqlite_stat1 AS SELECT 1",
]


async def test_the_schema_table(world: World) -> None:
    names = "modified|dropped|altered|reserved|trigger|indexed|refused"
    async with watched(world) as watch:
        for sql in SCHEMA:
            await watch.refuses(sql, names)


SHADOWS = [
    "UPDATE f_data SET block = x'00'",
    "UPDATE f_data SET block = randomblob(length(block))",
    "DELETE FROM f_data",
    "INSERT INTO f_data VALUES (10, x'41')",
    "DELETE FROM f_idx",
    "UPDATE f_content SET c0 = 'x'",
    "DELETE FROM f_docsize",
    "UPDATE f_config SET v = 1000000000",
    "DROP TABLE f_data",
    "ALTER TABLE f_data RENAME TO x",
    "ALTER TABLE f_content ADD COLUMN x",
    "CREATE TABLE g_data (v); CREATE VIRTUAL TABLE g USING fts5(v); DELETE FROM g_data",
    "CREATE TABLE f_other (v); UPDATE f_data SET block = x'00'",
    "CREATE TRIGGER x AFTER INSERT ON kept BEGIN DELETE FROM f_data; END; INSERT INTO kept VALUES (200, 'x')",
    "CREATE TRIGGER x AFTER INSERT ON f_content BEGIN DELETE FROM kept; END; INSERT INTO f VALUES ('more words')",
    "CREATE VIEW x AS SELECT 1; CREATE TRIGGER y INSTEAD OF DELETE ON x BEGIN DELETE FROM f_data; END; DELETE FROM x",
    "UPDATE r_node SET data = x'00'",
    "UPDATE r_node SET data = randomblob(1000)",
    "DELETE FROM r_node",
    "UPDATE r_parent SET parentnode = 1",
    "DELETE FROM r_rowid",
    "DROP TABLE r_node",
]


async def test_the_tables_behind_virtual_tables(world: World) -> None:
    """They may be read and not written: what stands there is followed without distrust."""
    attacker = world.attacker
    await attacker.exec(
        "CREATE VIRTUAL TABLE f USING fts5(v); INSERT INTO f VALUES ('some words to find');"
        "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES (1, 0, 1), (2, 5, 6)"
    )
    async with watched(world) as watch:
        for sql in SHADOWS:
            await watch.refuses(sql, "modified|dropped|altered|shadow|exists|refused", kinds=("exec",))
        assert await attacker.rows("SELECT v FROM f WHERE f MATCH 'words'") == [{"v": "some words to find"}]
        assert await attacker.rows("SELECT id FROM r WHERE x0 > 2") == [{"id": 2}]
        assert await attacker.rows("SELECT count(*) AS n FROM f_data") != [{"n": 0}]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO f(f, rowid, v) VALUES ('delete', 1, 'words that were never there')",
        "INSERT INTO f(f, rank) VALUES ('pgsz', 2147483647)",
        "INSERT INTO f(f, rank) VALUES ('automerge', -1)",
        "INSERT INTO f(f, rank) VALUES ('crisismerge', 2147483647)",
        "INSERT INTO f(f, rank) VALUES ('rank', 'no_such_function(1)')",
        "INSERT INTO f(f) VALUES ('delete-all')",
        "INSERT INTO f(f) VALUES ('no such command')",
        "UPDATE kept SET v = 'other words'",
    ],
)
async def test_an_index_that_contradicts_its_table(world: World, sql: str) -> None:
    """An index over another table's rows can be made wrong with its own commands. It answers, or fails, and no more."""
    attacker = world.attacker
    await attacker.exec("CREATE VIRTUAL TABLE f USING fts5(v, content = 'kept', content_rowid = 'id')")
    await attacker.exec("INSERT INTO f(f) VALUES ('rebuild')")
    async with watched(world, changes=True) as watch:
        await watch.ends(attacker.call("run", sql))
        for query in (
            "SELECT v FROM f WHERE f MATCH 'kept' ORDER BY rank",
            "SELECT snippet(f, 0, '', '', '', 9) FROM f",
        ):
            await watch.ends(attacker.call("query", query))
        await watch.ends(attacker.exec("INSERT INTO f(f) VALUES ('integrity-check')"))
        await attacker.exec("DROP TABLE f")
        assert [row["id"] for row in await attacker.rows("SELECT id FROM kept ORDER BY id")] == [1, 2, 3, 4, 5]
