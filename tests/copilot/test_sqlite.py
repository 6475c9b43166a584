"""The database behind the SDK's own adapter: what crosses as JSON, and whether failures are what they are called."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from copilot import create_session_fs_adapter
from copilot.rpc import (
    SessionFSSqliteQueryRequest,
    SessionFSSqliteQueryType,
    SessionFSSqliteTransactionErrorClass,
    SessionFSSqliteTransactionRequest,
)

from sessionfs_s3 import Fenced, SessionFs, Unavailable
from sessionfs_s3.sqlite import SqlError
from sessionfs_s3.sqlite.connection import _FORK_SERVER, WorkerDatabase
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore

EVENTS = "/session-state/events.jsonl"
BUSY, FATAL, AMBIGUOUS = (
    SessionFSSqliteTransactionErrorClass.BUSY_OR_LOCKED,
    SessionFSSqliteTransactionErrorClass.FATAL,
    SessionFSSqliteTransactionErrorClass.POST_COMMIT_AMBIGUOUS,
)
INSERT = "INSERT INTO t VALUES ('new')"


class Wire:
    """The adapter as the runtime reaches it: requests and answers are JSON."""

    def __init__(self, fs: SessionFs) -> None:
        self.provider = fs.provider("task-7")
        self._adapter = create_session_fs_adapter(self.provider)

    async def query(self, kind: str, query: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        sent = json.dumps({"sessionId": "task-7", "queryType": kind, "query": query, "params": params})
        answer = await self._adapter.sqlite_query(SessionFSSqliteQueryRequest.from_dict(json.loads(sent)))
        return cast("dict[str, Any]", json.loads(json.dumps(answer.to_dict(), allow_nan=False)))

    async def transaction(self, *statements: str) -> dict[str, Any]:
        sent = json.dumps(
            {"sessionId": "task-7", "statements": [{"queryType": "run", "query": each} for each in statements]}
        )
        answer = await self._adapter.sqlite_transaction(SessionFSSqliteTransactionRequest.from_dict(json.loads(sent)))
        return cast("dict[str, Any]", json.loads(json.dumps(answer.to_dict(), allow_nan=False)))

    async def failure(self, *statements: str) -> tuple[SessionFSSqliteTransactionErrorClass, str]:
        error = (await self.transaction(*statements))["error"]
        return SessionFSSqliteTransactionErrorClass(error["errorClass"]), error["message"]


@pytest.fixture
async def wire(fs: SessionFs) -> Wire:
    """A session that is born, with a table of one row."""
    wire = Wire(fs)
    await wire.provider.append_file(EVENTS, "{}\n")
    await wire.query("exec", "CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
    return wire


async def rows(fs: SessionFs) -> list[object]:
    """Return what is stored, as another replica finds it."""
    async with fs.volume("task-7", read_only=True) as volume:
        found = await volume.sqlite_query("query", "SELECT v FROM t")
        assert found is not None
        return [row["v"] for row in found.rows]


# What crosses as JSON


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (None, "null", None),
        (1.0, "integer", 1),
        (-0.0, "integer", 0),
        (1.5, "real", 1.5),
        (2.0**53, "integer", "9007199254740992"),
        (2.0**53 - 1, "integer", 9007199254740991),
        (2.0**60, "real", 2.0**60),
        (1e300, "real", 1e300),
        ("text ü 🙂", "text", "text ü 🙂"),
        ("12", "text", "12"),
        ("", "text", ""),
    ],
)
async def test_a_parameter_there_and_back(wire: Wire, value: float | str | None, kind: str, shown: object) -> None:
    answer = await wire.query("query", "SELECT typeof(:v) AS kind, :v AS value", {"v": value})
    assert answer["rows"] == [{"kind": kind, "value": shown}]
    assert type(answer["rows"][0]["value"]) is type(shown)


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("9223372036854775807", "9223372036854775807"),
        ("-9007199254740992", "-9007199254740992"),
        ("3.0", 3.0),
        ("9e999", "Infinity"),
        ("-9e999", "-Infinity"),
        ("x'00ff'", "base64:AP8="),
        ("x''", "base64:"),
        ("NULL", None),
    ],
)
async def test_a_value_that_json_has_not(wire: Wire, sql: str, shown: object) -> None:
    assert (await wire.query("query", f"SELECT {sql} AS v"))["rows"] == [{"v": shown}]


@pytest.mark.parametrize("prefix", ["", ":", "@", "$"])
async def test_names_of_parameters(wire: Wire, prefix: str) -> None:
    found = await wire.query("query", f"SELECT {prefix or ':'}name AS v", {f"{prefix}name": "x"})
    assert found["rows"] == [{"v": "x"}]


async def test_the_answers_have_the_generated_shape(wire: Wire) -> None:
    assert await wire.query("run", INSERT) == {"columns": [], "rows": [], "rowsAffected": 1, "lastInsertRowid": 2}
    assert await wire.query("run", "UPDATE t SET v = v") == {"columns": [], "rows": [], "rowsAffected": 2}
    assert await wire.query("exec", INSERT) == {"columns": [], "rows": [], "rowsAffected": 0}
    assert await wire.query("query", "SELECT v AS a, v AS b FROM t WHERE 0") == {
        "columns": ["a", "b"],
        "rows": [],
        "rowsAffected": 0,
    }
    assert await wire.transaction(INSERT, "DELETE FROM t") == {
        "results": [
            {"columns": [], "rows": [], "rowsAffected": 1, "lastInsertRowid": 4},
            {"columns": [], "rows": [], "rowsAffected": 4},
        ]
    }


# Failures


async def test_sql_that_is_wrong_is_fatal(wire: Wire, fs: SessionFs) -> None:
    assert await wire.failure(INSERT, "INSERT INTO nope VALUES (1)") == (
        FATAL,
        "no such table: nope (statement 2 of 2)",
    )
    assert await rows(fs) == ["kept"]


async def test_a_store_that_does_not_take_it_is_busy_and_a_second_try_succeeds() -> None:
    async with SessionFs.open("memory://busy", tenant="acme", probe=False, deadline_s=0.3) as fs:
        store = fs._store = FaultyStore(fs._opened())
        wire = Wire(fs)
        await wire.provider.append_file(EVENTS, "{}\n")
        await wire.query("exec", "CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
        store.inject(Fault("PUT", Fate.CONFLICT, times=10_000))
        assert (await wire.failure(INSERT))[0] is BUSY
        store.faults.clear()
        assert await rows(fs) == ["kept"]
        assert (await wire.query("query", "SELECT count(*) AS n FROM t"))["rows"] == [{"n": 1}]
        assert "error" not in await wire.transaction(INSERT)
        assert await rows(fs) == ["kept", "new"]


async def test_a_store_that_is_back_serves_the_handler_that_found_it_down() -> None:
    url = "memory://back"
    async with SessionFs.open(url, tenant="acme", probe=False, deadline_s=0.3) as fs:
        store = fs._store = FaultyStore(fs._opened())
        store.inject(Fault("LIST", Fate.LOST_REQUEST, times=10_000))
        wire = Wire(fs)
        assert (await wire.failure("SELECT 1"))[0] is BUSY
        store.faults.clear()
        await wire.provider.append_file(EVENTS, "{}\n")
        assert "error" not in await wire.transaction("CREATE TABLE t(v)", INSERT)
        store.inject(Fault("PUT", Fate.CONFLICT, times=10_000))
        await wire.provider.mkdir("/workspace/d", False)
        with pytest.raises(Unavailable):
            await wire.provider.append_file(EVENTS, "{}\n")
        store.faults.clear()
        await wire.provider.append_file(EVENTS, "{}\n")
        assert await wire.provider.exists("/workspace/d"), "the directory that nobody waited for is still to come"
        assert await rows(fs) == ["new"]


async def test_a_process_that_died_is_busy_and_a_second_try_succeeds(wire: Wire, fs: SessionFs) -> None:
    volume = await wire.provider._volume()
    copy = volume._database._copy
    assert isinstance(copy, WorkerDatabase)
    _FORK_SERVER.kill(copy._number)
    # The server kills it when it comes to that.
    async with asyncio.timeout(30):
        while not copy._reader.at_eof():  # noqa: ASYNC110  # it ends when it does
            await asyncio.sleep(0.01)
    kind, message = await wire.failure(INSERT)
    assert (kind, "has ended" in message) == (BUSY, True)
    assert "error" not in await wire.transaction(INSERT)
    assert await rows(fs) == ["kept", "new"]


@pytest.mark.parametrize("fate", [Fate.LOST_ANSWER, Fate.LOST_REQUEST])
async def test_an_unknown_fate_is_ambiguous_and_nothing_is_served_before_it_is_known(fate: Fate) -> None:
    async with SessionFs.open(f"memory://{fate.name}", tenant="acme", probe=False, deadline_s=0.3) as fs:
        store = fs._store = FaultyStore(fs._opened())
        wire = Wire(fs)
        await wire.provider.append_file(EVENTS, "{}\n")
        await wire.query("exec", "CREATE TABLE t(v); INSERT INTO t VALUES ('kept')")
        store.inject(Fault("PUT", fate))
        store.inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
        store.inject(Fault("GET", Fate.LOST_REQUEST, times=10_000))
        assert (await wire.failure(INSERT))[0] is AMBIGUOUS
        store.faults.clear()
        assert (await wire.failure("SELECT v FROM t"))[0] is FATAL, "that one has not been tried"
        stored = ["kept", "new"] if fate is Fate.LOST_ANSWER else ["kept"]
        assert await rows(fs) == stored
        again = Wire(fs)
        assert [row["v"] for row in (await again.query("query", "SELECT v FROM t"))["rows"]] == stored


async def test_a_takeover_in_mid_transaction_is_fatal_and_stores_nothing(wire: Wire, fs: SessionFs) -> None:
    volume = await wire.provider._volume()
    inner = volume._database._change

    async def overtaken(*arguments: Any) -> None:
        async with fs.volume("task-7") as other:
            await other.append_file("/other", "x")
        await inner(*arguments)

    volume._database._change = overtaken
    kind, message = await wire.failure(INSERT)
    assert (kind, "taken over" in message) == (FATAL, True)
    assert await rows(fs) == ["kept"]
    with pytest.raises(Fenced):
        await wire.provider.sqlite_query(SessionFSSqliteQueryType.QUERY, "SELECT 1")


async def test_a_caller_that_is_cancelled_leaves_a_whole_transaction(wire: Wire, fs: SessionFs) -> None:
    task = asyncio.create_task(wire.transaction(INSERT))
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    assert await wire.query("query", "SELECT count(*) AS n FROM t") == await wire.query("query", "SELECT 2 AS n")
    assert await rows(fs) == ["kept", "new"]


async def test_a_query_that_fails_says_why(wire: Wire) -> None:
    with pytest.raises(SqlError, match="ATTACH is refused"):
        await wire.query("run", "ATTACH 'x' AS x")
