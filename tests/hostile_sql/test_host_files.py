"""SQL that reaches for files: the host's, another session's, the store's. None is read, made or changed."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.hostile_sql import processes
from tests.hostile_sql.sessions import World, open_world
from tests.hostile_sql.watch import watched

SECRET = "a secret of the host's"
RELATIVE = "hostile-sql-was-here"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of the host's with a database in it."""
    folder = tmp_path / "host"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "host.db")) as database:
        database.execute("CREATE TABLE secrets (v)")
        database.execute("INSERT INTO secrets VALUES (?)", (SECRET,))
        database.commit()
    return folder


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The store is a directory, so that its files can be attacked as well."""
    async with open_world(f"file://{tmp_path / 'store'}") as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_is_written(host: Path, tmp_path: Path) -> Iterator[None]:
    """The host's folder is as it was; nothing new stands beside it, nor where any process of this test works."""
    before = _digests(host)
    yield
    assert _digests(host) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"host", "store"}
    assert not Path(RELATIVE).exists()


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _working_directories() -> set[Path]:
    pids = [os.getpid(), *(process.pid for process in processes.descendants())]
    return {Path(f"/proc/{pid}/cwd") for pid in pids}


REFUSED = {
    "ATTACH": (
        "attach",
        "ATTACH '{host}' AS host",
        "ATTACH DATABASE 'file:{host}?mode=ro&immutable=1' AS host",
        "/* x */ aTTacH '{new}' AS new",
        "-- x\nATTACH '{relative}' AS new",
        "\ufeffATTACH '{new}' AS new",
        "ATTACH ':memory:' AS memory",
        "ATTACH '' AS temporary",
        "ATTACH 'file::memory:?cache=shared' AS shared",
        "ATTACH (SELECT '{host}') AS host",
        "ATTACH '/etc/passwd' AS passwd",
        "ATTACH '/dev/stdin' AS terminal",
        "EXPLAIN ATTACH '{host}' AS host",
        "EXPLAIN QUERY PLAN ATTACH '{host}' AS host",
    ),
    "DETACH": ("detach", "DETACH main", "DETACH DATABASE temp"),
    "VACUUM INTO": (
        "vacuum",
        "VACUUM",
        "VACUUM INTO '{new}'",
        "VACUUM main INTO '{new}'",
        "vacuum/**/into '{relative}'",
        "\ufeffVACUUM INTO '{new}'",
        "VACUUM INTO 'file:{new}?mode=rwc'",
    ),
    "load_extension": (
        "load_extension",
        "SELECT load_extension('{host}')",
        "SELECT load_extension('{host}', 'entry')",
        "SELECT \"load_extension\"('{host}')",
        "SELECT * FROM kept WHERE load_extension(v)",
        "INSERT INTO kept VALUES (200, load_extension('{host}'))",
    ),
    "readfile, writefile, edit": (
        "readfile|writefile|edit|fsdir|lsmode|zipfile|sqlar_compress",
        "SELECT readfile('{host}')",
        "SELECT writefile('{new}', 'x')",
        "SELECT edit('x', 'touch {new}; true')",
        "SELECT * FROM fsdir('/')",
        "SELECT lsmode(1)",
        "SELECT * FROM zipfile('{host}')",
        "SELECT sqlar_compress('x')",
    ),
    "fts3_tokenizer": (
        "fts3_tokenizer",
        "SELECT fts3_tokenizer('simple')",
        "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    ),
    "temp_store_directory": (
        "temp_store_directory|data_store_directory|temp_store|lock_proxy_file",
        "PRAGMA temp_store_directory",
        "PRAGMA temp_store_directory = '/var'",
        "PRAGMA data_store_directory = '/var'",
        "SELECT * FROM pragma_temp_store_directory",
        "PRAGMA temp_store = FILE",
        "PRAGMA lock_proxy_file = '{new}'",
    ),
    "temporary tables": (
        "temp",
        "CREATE TEMP TABLE x (v)",
        "CREATE TABLE temp.x (v)",
        "CREATE TEMPORARY VIEW x AS SELECT 1",
        "CREATE TEMP TRIGGER x AFTER INSERT ON kept BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE temp.x USING fts5(v)",
    ),
    "virtual tables of other modules": (
        "csv|dbstat|sqlite_dbpage|fts3|fts4|no_such_module|zipfile|temp",
        "CREATE VIRTUAL TABLE x USING csv(filename = '{host}')",
        "CREATE VIRTUAL TABLE x USING dbstat(main)",
        "CREATE VIRTUAL TABLE x USING sqlite_dbpage",
        "CREATE VIRTUAL TABLE x USING fts3(v)",
        "CREATE VIRTUAL TABLE x USING fts4(v, tokenize = simple)",
        "CREATE VIRTUAL TABLE x USING no_such_module(v)",
        "CREATE VIRTUAL TABLE x USING zipfile('{host}')",
    ),
    "sqlite_dbpage": (
        "sqlite_dbpage",
        "SELECT * FROM sqlite_dbpage",
        "SELECT data FROM sqlite_dbpage('main') WHERE pgno = 1",
        "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1",
    ),
    "dbstat": ("dbstat", "SELECT * FROM dbstat", "SELECT pgoffset FROM dbstat('main')"),
    "other tables of the engine's": (
        "sqlite_stmt|bytecode|tables_used|sqlite_memstat",
        "SELECT * FROM sqlite_stmt",
        "SELECT * FROM bytecode('SELECT 1')",
        "SELECT * FROM tables_used('SELECT 1')",
        "SELECT * FROM sqlite_memstat",
    ),
    "database_list": (
        "database_list",
        "PRAGMA database_list",
        "PRAGMA main.database_list",
        "SELECT * FROM pragma_database_list",
        "SELECT file FROM pragma_database_list() AS l, kept",
        "INSERT INTO kept (v) SELECT file FROM pragma_database_list",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_refused(world: World, host: Path, what: str) -> None:
    """In each form that the door has; no answer holds anything of the host's, and no process has made a file."""
    names, *statements = REFUSED[what]
    async with watched(world) as watch:
        for sql in statements:
            await watch.refuses(sql.format(host=host / "host.db", new=host / "new.db", relative=RELATIVE), names)
        assert not any(SECRET in answer for answer in watch.answers)
        assert not any((cwd / RELATIVE).exists() for cwd in _working_directories())


@pytest.mark.parametrize("sql", ["EXPLAIN VACUUM INTO '{new}'", "SELECT fts5(x'4141414141414141')"])
async def test_what_may_be_answered_does_nothing(world: World, host: Path, sql: str) -> None:
    """A plan is not carried out, and bytes that pretend to be a pointer are not followed."""
    async with watched(world) as watch:
        await watch.ends(world.attacker.call("query", sql.format(new=host / "new.db")))
    assert [each.name for each in host.iterdir()] == ["host.db"]  # noqa: ASYNC240  # one look at a folder of one file


HIDDEN = [
    "SELECT load_extension('{host}') AS v",
    "SELECT file AS v FROM pragma_database_list",
    "SELECT data AS v FROM sqlite_dbpage",
    "SELECT name AS v FROM dbstat",
    "SELECT fts3_tokenizer('simple') AS v",
]


@pytest.mark.parametrize("sql", HIDDEN)
async def test_refused_inside_the_schema(world: World, host: Path, sql: str) -> None:
    """What the schema says is refused like what the statement says, when it is made or when it is used."""
    expression = sql.removeprefix("SELECT ").partition(" AS v")[0] if "FROM" not in sql else f"({sql})"
    scripts = [
        f"CREATE VIEW x AS {sql}; SELECT * FROM x",
        f"CREATE TRIGGER x AFTER DELETE ON kept BEGIN UPDATE kept SET v = ({sql}); END; DELETE FROM kept",
        f"WITH x AS ({sql}) INSERT INTO kept (v) SELECT v FROM x",
        f"CREATE TABLE x (n, v DEFAULT ({expression})); INSERT INTO x (n) VALUES (1)",
        f"CREATE INDEX x ON kept ({expression})",
        f"CREATE TABLE x (v CHECK ({expression})); INSERT INTO x VALUES (1)",
    ]
    # SQLite's own words for some: subqueries prohibited in CHECK constraints, unsafe use of a table.
    names = r"load_extension|fts3_tokenizer|database_list|sqlite_dbpage|dbstat|prohibited|not constant|unsafe"
    async with watched(world) as watch:
        for script in scripts:
            await watch.refuses(script.format(host=host / "host.db"), names, kinds=("exec",))


async def test_another_sessions_files_are_out_of_reach(world: World, tmp_path: Path) -> None:
    """The attacker has learnt every path: those of the scratch files, through descriptors too, and of the store."""
    for victim in world.victims:
        await victim.work()
    opened = processes.open_files()
    targets = {path.removesuffix(" (deleted)") for path in opened.values() if path.endswith((".db", "-wal", "-shm"))}
    targets |= {str(link) for link in opened}
    targets |= {str(path) for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert any("/stranger/" in target for target in targets), "the store's own files are among the targets"
    assert any(target.endswith(".db") for target in targets), "the scratch files are among the targets"
    marks = [victim.name for victim in world.victims]
    async with watched(world) as watch:
        for target in sorted(targets):
            for form in ("ATTACH '{}' AS victim", "ATTACH 'file:{}?mode=ro&vfs=unix-none&immutable=1' AS victim"):
                sql = form.format(target)
                await watch.fails(world.attacker.call("query", sql), ("refused",), "attach")
            await watch.fails(world.attacker.exec(f"VACUUM INTO '{target}'"), ("refused",), "vacuum")
        assert not any(mark in answer for mark in marks for answer in watch.answers)


async def test_no_answer_tells_where_the_database_is(world: World) -> None:
    """Neither introspection nor an error message shows a path of the host's; what may be asked is answered."""
    asked = [
        "PRAGMA compile_options",
        "SELECT * FROM pragma_compile_options",
        "PRAGMA module_list",
        "PRAGMA vfs_list",
        "PRAGMA function_list",
        "PRAGMA stats",
        "PRAGMA filename",
        "SELECT * FROM pragma_table_list",
        "SELECT * FROM main.sqlite_schema",
        "SELECT * FROM sqlite_temp_schema",
        "SELECT * FROM no_such_table",
        "SELECT * FROM no_such_database.x",
        "INSERT INTO no_such_database.x VALUES (1)",
        "syntax error",
        "SELECT sqlite_filename()",
        "SELECT sqlite_offset(v) FROM kept",
        "SELECT sqlite_log(1, 'x')",
        "CREATE INDEX nowhere.x ON kept (v)",
        "REINDEX nowhere.x",
        "ANALYZE nowhere",
        "PRAGMA nowhere.table_info(kept)",
    ]
    async with watched(world) as watch:
        for sql in asked:
            await watch.ends(world.attacker.call("query", sql))
        assert len(watch.answers) == len(asked)
        assert world.secrets, "the scratch folders are known: their names are looked for"
