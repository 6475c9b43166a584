"""SQLite over the log: a commit of the database is a commit of the log, or it is nothing."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from sessionfs_s3.errors import Closed, CommitUnknown, Fenced
from sessionfs_s3.sqlite import ScratchError, SqlError, Statement, WorkerHost
from sessionfs_s3.sqlite.connection import _FORK_SERVER, WorkerDatabase
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore
from sessionfs_s3.volume import Environment, Volume, database
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import OpenVolume, eventually

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*), 1 FROM n"


async def _count(volume: Volume) -> object:
    result = await volume.sqlite_query("query", "SELECT count(*) AS n FROM t")
    assert result is not None
    return result.rows[0]["n"]


async def _table(open_volume: OpenVolume) -> Volume:
    volume = await open_volume()
    assert await volume.sqlite_exists() is False
    await volume.sqlite_query("exec", "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
    assert await volume.sqlite_exists() is True
    return volume


def _modes(directory: Path) -> dict[str, int]:
    return {each.suffix: stat.S_IMODE(each.stat().st_mode) for each in directory.rglob("*")}


async def test_an_acknowledged_row_is_there_on_another_replica(store: FaultyStore, open_volume: OpenVolume) -> None:
    first = await _table(open_volume)
    result = await first.sqlite_query("run", "INSERT INTO t (x) VALUES (:x)", {":x": "hello"})
    assert result is not None
    assert (result.rows_affected, result.last_insert_rowid) == (1, 1)
    second = await open_volume()
    found = await second.sqlite_query("query", "SELECT * FROM t")
    assert found is not None
    assert found.rows == ({"id": 1, "x": "hello"},)


async def test_each_statement_is_one_commit_and_a_query_none(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    store.requests.clear()
    await volume.sqlite_query("run", "INSERT INTO t (x) VALUES ('a')")
    await volume.sqlite_transaction(
        [Statement("run", "INSERT INTO t (x) VALUES (:x)", {"x": str(n)}) for n in range(10)]
    )
    assert await _count(volume) == 11
    await volume.sqlite_query("exec", "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x TEXT)")
    await volume.sqlite_query("run", "DELETE FROM t WHERE id = 1000")
    assert store.requests == [("PUT", key) for _, key in store.requests]
    assert len(store.requests) == 2


async def test_sql_that_fails_changes_nothing(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    store.requests.clear()
    with pytest.raises(SqlError):
        await volume.sqlite_query("run", "INSERT INTO nothing VALUES (1)")
    with pytest.raises(SqlError):
        await volume.sqlite_transaction(
            [
                Statement("run", "INSERT INTO t (x) VALUES ('a')", None),
                Statement("run", "INSERT INTO t (y) VALUES (1)", None),
            ]
        )
    assert await _count(volume) == 0
    assert store.requests == []


async def test_a_row_that_was_not_stored_is_not_served(store: FaultyStore, open_volume: OpenVolume) -> None:
    first = await _table(open_volume)
    second = await open_volume()
    with pytest.raises(Fenced):
        await first.sqlite_query("run", "INSERT INTO t (x) VALUES ('late')")
    with pytest.raises(Fenced):
        await _count(first)
    assert await _count(second) == 0


async def test_the_unknown_fate_of_a_row_is_reported_as_that(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    store.inject(Fault("PUT", Fate.LOST_ANSWER))
    store.inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
    with pytest.raises(CommitUnknown):
        await volume.sqlite_query("run", "INSERT INTO t (x) VALUES ('perhaps')")
    store.faults.clear()
    assert await _count(await open_volume()) == 1


async def test_files_and_rows_are_one_order(open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    await asyncio.gather(
        *(volume.append_file("/log", f"{n},") for n in range(20)),
        *(volume.sqlite_query("run", "INSERT INTO t (x) VALUES (:n)", {"n": str(n)}) for n in range(20)),
    )
    again = await open_volume()
    assert await _count(again) == 20
    assert len((await again.read_file("/log")).split(",")) == 21


async def test_scratch_files_go_with_the_volume(
    open_volume: OpenVolume, environment: Environment, tmp_path: Path
) -> None:
    volume = await open_volume(environment=replace(environment, databases=WorkerHost(directory=tmp_path)))
    await volume.sqlite_query("exec", "CREATE TABLE t (x)")
    assert _modes(tmp_path) == {"": 0o700, ".db": 0o600, ".db-shm": 0o600, ".db-wal": 0o600}
    await volume.aclose()
    assert _modes(tmp_path) == {}


async def test_a_reader_follows_the_database(open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    reader = await open_volume(read_only=True)
    assert await _count(reader) == 0
    await volume.sqlite_query("run", "INSERT INTO t (x) VALUES ('a')")
    assert await _count(reader) == 0
    await reader.refresh()
    assert await _count(reader) == 1


async def test_a_caller_who_gives_up_leaves_the_database_usable(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    gate = asyncio.Event()
    fault = store.inject(Fault("PUT", gate=gate))
    insert = asyncio.create_task(volume.sqlite_query("run", "INSERT INTO t (x) VALUES ('a')"))
    await fault.reached.wait()
    insert.cancel()
    second = asyncio.create_task(volume.sqlite_query("run", "INSERT INTO t (x) VALUES ('b')"))
    gate.set()
    await second
    assert await _count(volume) == 2


async def test_closing_ends_a_statement_that_would_run_for_ever(open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    query = asyncio.create_task(volume.sqlite_query("query", ENDLESS))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(volume.aclose(), 10)
    with pytest.raises(SqlError, match="cancel"):
        await query


async def test_a_local_copy_whose_process_died_is_made_anew(open_volume: OpenVolume) -> None:
    volume = await _table(open_volume)
    await volume.sqlite_query("run", "INSERT INTO t (x) VALUES ('a')")
    copy = volume._database._copy
    assert isinstance(copy, WorkerDatabase)
    query = asyncio.create_task(volume.sqlite_query("run", f"INSERT INTO t {ENDLESS}"))
    await asyncio.sleep(0.05)
    _FORK_SERVER.kill(copy._number)
    with pytest.raises(ScratchError, match="the process of the session's database has ended"):
        await query
    assert await _count(volume) == 1


async def test_a_copy_is_never_made_of_two_states(
    store: FaultyStore, open_volume: OpenVolume, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_WINDOW_BYTES", 64 * 1024)
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t(x)"
    volume = await open_volume(snapshot_commits=1, seal_bytes_min=1)
    await volume.sqlite_query("exec", f"CREATE TABLE t (x); {fill} SELECT 'old' || hex(randomblob(500)) FROM n")
    await volume.append_file("/log", "x")
    await eventually(lambda: any(key.endswith(".s") for _, key in store.requests))
    reader = await open_volume(read_only=True, environment=replace(environment, cache=ContentCache(0)))
    gate = asyncio.Event()
    store.inject(Fault("GET", key="/blob/"))
    fault = store.inject(Fault("GET", key="/blob/", gate=gate))
    rows = "SELECT substr(x, 1, 3) AS kind, count(*) AS n FROM t GROUP BY 1"
    looking = asyncio.create_task(reader.sqlite_query("query", rows))
    await fault.reached.wait()
    await volume.sqlite_query("run", "UPDATE t SET x = 'new' || substr(x, 4)")
    await reader.refresh()
    gate.set()
    result = await looking
    assert result is not None
    assert result.rows == ({"kind": "new", "n": 300},)
    checked = await reader.sqlite_query("query", "PRAGMA integrity_check")
    assert checked is not None
    assert checked.rows == ({"integrity_check": "ok"},)


async def test_foreign_keys_stay_as_they_were_set_when_the_copy_is_made_anew(open_volume: OpenVolume) -> None:
    volume = await open_volume()
    await volume.sqlite_query(
        "exec",
        "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);"
        "CREATE TABLE c(p REFERENCES p(id) ON DELETE CASCADE); INSERT INTO c VALUES (1)",
    )
    await volume.sqlite_query("run", "PRAGMA foreign_keys = OFF")
    copy = volume._database._copy
    assert isinstance(copy, WorkerDatabase)
    await copy.aclose()
    await volume.sqlite_query("exec", "DROP TABLE p")
    result = await volume.sqlite_query("query", "SELECT count(*) AS n FROM c")
    assert result is not None
    assert result.rows == ({"n": 1},), "nothing was deleted with its parent"


async def test_closing_does_not_wait_for_a_copy_that_is_being_made(store: FaultyStore, open_volume: OpenVolume) -> None:
    volume = await open_volume(snapshot_commits=1, seal_bytes_min=1)
    await volume.sqlite_query("exec", "CREATE TABLE t AS SELECT zeroblob(100000) AS v")
    await volume.append_file("/log", "x")
    await eventually(lambda: any(key.endswith(".s") for _, key in store.requests))
    reader = await open_volume(read_only=True, environment=replace(system_environment(), cache=ContentCache(0)))
    fault = store.inject(Fault("GET", key="/blob/", gate=asyncio.Event()))
    looking = asyncio.create_task(reader.sqlite_query("query", "SELECT 1"))
    await fault.reached.wait()
    await asyncio.wait_for(reader.aclose(), 0.9)  # the store would be waited for a second
    with pytest.raises(Closed):
        await looking
