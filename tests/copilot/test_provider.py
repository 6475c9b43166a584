"""The provider behind the SDK's own adapter: every method, its errors, and when the runtime is made to wait."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from copilot import (
    CopilotSession,
    SessionFsBinaryProvider,
    SessionFsProvider,
    SessionFsSqliteProvider,
    create_session_fs_adapter,
)
from copilot.rpc import (
    SessionFSErrorCode,
    SessionFSSqliteQueryType,
    SessionFSSqliteTransactionErrorClass,
    SessionFSSqliteTransactionStatement,
)

from sessionfs_s3 import Fenced, SessionFs, SessionProvider
from sessionfs_s3.store import RequestLog

EVENTS = "/session-state/events.jsonl"


def request(**fields: Any) -> Any:
    """Stand for one of the SDK's generated requests; the adapter reads attributes only."""
    return SimpleNamespace(session_id="task-7", **fields)


def counts(log: RequestLog) -> Mapping[str, int]:
    return {verb: count for verb, count in log.snapshot().by_verb().items() if count}


def test_it_implements_everything_that_the_sdk_knows() -> None:
    for interface in (SessionFsProvider, SessionFsSqliteProvider):
        for name in vars(interface):
            if not name.startswith("_"):
                assert vars(SessionProvider).get(name), f"{name} is not implemented"
    assert issubclass(SessionProvider, SessionFsBinaryProvider)


async def test_the_handler_makes_one_for_an_sdk_session(fs: SessionFs) -> None:
    provider = fs.handler(cast("CopilotSession", SimpleNamespace(session_id="task-7")))
    await provider.ready()
    assert await provider.exists("/workspace")
    assert fs.config == {
        "initial_working_directory": "/workspace",
        "session_state_path": "/session-state",
        "conventions": "posix",
        "capabilities": {"sqlite": True, "binary": True},
    }


async def test_files_through_the_adapter(fs: SessionFs) -> None:
    adapter = create_session_fs_adapter(fs.provider("task-7"))
    assert await adapter.write_file(request(path="/workspace/a/b.txt", content="hällo", mode=0o600)) is None
    assert await adapter.append_file(request(path="/workspace/a/b.txt", content=" wörld")) is None
    assert (await adapter.read_file(request(path="/workspace/a/b.txt"))).content == "hällo wörld"
    assert (await adapter.exists(request(path="/workspace/a/b.txt"))).exists is True
    assert (await adapter.exists(request(path="/workspace/a/c.txt"))).exists is False
    found = await adapter.stat(request(path="/workspace/a/b.txt"))
    assert (found.is_file, found.is_directory, found.size, found.error) == (True, False, 13, None)
    for time in (found.mtime, found.birthtime):
        assert time.tzinfo is not None
        assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert await adapter.mkdir(request(path="/workspace/x/y", recursive=True, mode=0o700)) is None
    assert (await adapter.readdir(request(path="/workspace"))).entries == ["a", "x"]
    entries = (await adapter.readdir_with_types(request(path="/"))).entries
    assert [(entry.name, entry.type.value) for entry in entries] == [
        ("session-state", "directory"),
        ("workspace", "directory"),
    ]
    assert await adapter.rename(request(src="/workspace/a", dest="/workspace/z")) is None
    assert (await adapter.read_file(request(path="/workspace/z/b.txt"))).content == "hällo wörld"
    assert await adapter.rm(request(path="/workspace/z", recursive=True, force=False)) is None
    assert (await adapter.readdir(request(path="/workspace"))).entries == ["x"]


async def test_exact_bytes_through_the_adapter(fs: SessionFs) -> None:
    adapter = create_session_fs_adapter(fs.provider("task-7"))
    data = bytes(range(256)) * 100
    content = base64.b64encode(data).decode()
    assert await adapter.write_file_bytes(request(path="/workspace/a.bin", content=content, mode=None)) is None
    assert (await adapter.read_file_bytes(request(path="/workspace/a.bin"))).content == content
    assert (await adapter.read_file(request(path="/workspace/a.bin"))).content == data.decode(errors="replace")


async def test_lone_surrogates_are_stored_as_replacement_characters(fs: SessionFs) -> None:
    provider = fs.provider("task-7")
    await provider.write_file("/workspace/a", "x\ud800y\U0001f600\udc00")
    assert await provider.read_file("/workspace/a") == "x\ufffdy\U0001f600\ufffd"


async def test_errors_through_the_adapter(fs: SessionFs) -> None:
    adapter = create_session_fs_adapter(fs.provider("task-7"))
    missing = await adapter.read_file(request(path="/workspace/nothing"))
    assert missing.error is not None
    assert missing.error.code is SessionFSErrorCode.ENOENT
    assert (await adapter.stat(request(path="/workspace/nothing"))).error is not None
    assert (await adapter.readdir(request(path="/workspace/nothing"))).error is not None
    directory = await adapter.write_file(request(path="/workspace", content="x"))
    assert directory is not None
    assert directory.code is SessionFSErrorCode.UNKNOWN
    assert "Is a directory" in (directory.message or "")
    assert directory.write_changed is None, "a write that failed left its target as it was"
    assert await adapter.rm(request(path="/workspace/nothing", recursive=False, force=True)) is None
    for error in (
        await adapter.rm(request(path="/workspace/nothing", recursive=False, force=False)),
        await adapter.rename(request(src="/workspace/nothing", dest="/workspace/x")),
        await adapter.mkdir(request(path="/workspace/a/b/c", recursive=False)),
    ):
        assert error is not None
        assert error.code is SessionFSErrorCode.ENOENT


async def test_sql_through_the_adapter(fs: SessionFs) -> None:
    adapter = create_session_fs_adapter(fs.provider("task-7"))
    assert (await adapter.sqlite_exists(request())).exists is False
    ddl = "CREATE TABLE IF NOT EXISTS todos (id TEXT PRIMARY KEY, n INTEGER); CREATE TABLE IF NOT EXISTS deps (a, b);"
    kinds = SessionFSSqliteQueryType
    await adapter.sqlite_query(request(query_type=kinds.EXEC, query=ddl, params=None))
    added = await adapter.sqlite_query(
        request(query_type=kinds.RUN, query="INSERT INTO todos VALUES ($id, $n)", params={"id": "a", "n": 1.0})
    )
    assert (added.rows_affected, added.last_insert_rowid, added.error) == (1, 1, None)
    rows = await adapter.sqlite_query(request(query_type=kinds.QUERY, query="SELECT * FROM todos", params=None))
    assert (rows.columns, rows.rows) == (["id", "n"], [{"id": "a", "n": 1}])
    statements = [
        SessionFSSqliteTransactionStatement(query="CREATE TABLE x (a); CREATE TABLE y (a);", query_type=kinds.EXEC),
        SessionFSSqliteTransactionStatement(
            query="INSERT INTO todos VALUES (:id, :n)", query_type=kinds.RUN, params={"id": "b", "n": 2}
        ),
        SessionFSSqliteTransactionStatement(query="SELECT count(*) AS c FROM todos", query_type=kinds.QUERY),
    ]
    done = await adapter.sqlite_transaction(request(statements=statements))
    assert done.error is None
    assert done.results[2].rows == [{"c": 2}]
    failed = await adapter.sqlite_transaction(
        request(
            statements=[
                SessionFSSqliteTransactionStatement(query="INSERT INTO nothing VALUES (1)", query_type=kinds.RUN)
            ]
        )
    )
    assert failed.error is not None
    assert failed.error.error_class is SessionFSSqliteTransactionErrorClass.FATAL
    assert (await adapter.sqlite_exists(request())).exists is True


async def test_nothing_waits_before_birth_and_everything_after(fs: SessionFs, url: str) -> None:
    provider = fs.provider("task-7")
    await provider.ready()
    await provider.mkdir("/session-state/files", True, 0o700)
    await provider.write_file("/session-state/workspace.yaml.tmp.9c67dd84-9401-425c-a404-3d809305325d", "id: task-7")
    await provider.rename(
        "/session-state/workspace.yaml.tmp.9c67dd84-9401-425c-a404-3d809305325d", "/session-state/workspace.yaml"
    )
    assert counts(fs.requests) == {"LIST": 1}
    await provider.append_file(EVENTS, '{"type":"session.start"}\n')
    assert counts(fs.requests) == {"LIST": 1, "PUT": 1}
    async with SessionFs.open(url, tenant="acme") as other, other.volume("task-7", read_only=True) as volume:
        assert await volume.readdir("/session-state") == ["events.jsonl", "files", "workspace.yaml"]
    await provider.write_file("/workspace/a", "x")
    assert counts(fs.requests) == {"LIST": 1, "PUT": 2}
    await provider.mkdir("/workspace/d", False)
    await provider.write_file("/workspace/b.tmp.9c67dd84-9401-425c-a404-3d809305325d", "x")
    assert counts(fs.requests) == {"LIST": 1, "PUT": 2}
    await provider.rename("/workspace/b.tmp.9c67dd84-9401-425c-a404-3d809305325d", "/workspace/b")
    assert counts(fs.requests) == {"LIST": 1, "PUT": 3}


async def test_strict_durability_waits_for_everything(url: str) -> None:
    async with SessionFs.open(url, tenant="acme", durability="strict", probe=False) as fs:
        provider = fs.provider("task-7")
        await provider.mkdir("/session-state/files", True, 0o700)
        await provider.write_file("/a.tmp.9c67dd84-9401-425c-a404-3d809305325d", "x")
        await provider.rename("/a.tmp.9c67dd84-9401-425c-a404-3d809305325d", "/a")
        assert counts(fs.requests) == {"LIST": 1, "PUT": 3}


async def test_a_session_that_was_resumed_is_born(fs: SessionFs, url: str) -> None:
    first = fs.provider("task-7")
    await first.append_file(EVENTS, "1\n")
    async with SessionFs.open(url, tenant="acme", linger_s=60, probe=False) as other:
        second = other.provider("task-7")
        await second.write_file("/workspace/a", "x")
        assert counts(other.requests) == {"LIST": 1, "GET": 1, "PUT": 2}


async def test_the_newest_handler_in_a_process_owns_the_session(fs: SessionFs) -> None:
    first = fs.provider("task-7")
    await first.append_file(EVENTS, "1\n")
    second = fs.provider("task-7")
    assert await second.read_file(EVENTS) == "1\n"
    assert counts(fs.requests) == {"LIST": 2, "PUT": 1}, "a volume that this process holds costs one LIST to reopen"
    for call in (first.append_file(EVENTS, "late\n"), first.read_file(EVENTS), first.stat(EVENTS)):
        with pytest.raises(Fenced, match="superseded"):
            await call
    await second.append_file(EVENTS, "2\n")
    assert await second.read_file(EVENTS) == "1\n2\n"


async def test_a_to_b_and_back_to_a_sees_everything(fs: SessionFs, url: str) -> None:
    first = fs.provider("task-7")
    await first.append_file(EVENTS, "1\n")
    async with SessionFs.open(url, tenant="acme") as other:
        second = other.provider("task-7")
        await second.append_file(EVENTS, "2\n")
        with pytest.raises(Fenced):
            await first.append_file(EVENTS, "late\n")
        third = fs.provider("task-7")
        assert await third.read_file(EVENTS) == "1\n2\n"
        await third.append_file(EVENTS, "3\n")
        with pytest.raises(Fenced):
            await second.append_file(EVENTS, "late\n")
    async with fs.volume("task-7", read_only=True) as volume:
        assert await volume.read_file(EVENTS) == "1\n2\n3\n"


async def test_resuming_finds_out_that_another_replica_was_here(fs: SessionFs, url: str) -> None:
    """The first replica never wrote again, so nothing has told it yet."""
    await fs.provider("task-7").append_file(EVENTS, "1\n")
    async with SessionFs.open(url, tenant="acme") as other:
        await other.provider("task-7").append_file(EVENTS, "2\n")
    assert await fs.provider("task-7").read_file(EVENTS) == "1\n2\n"


async def test_warm_reads_cost_nothing(fs: SessionFs) -> None:
    provider = fs.provider("task-7")
    await provider.append_file(EVENTS, "1\n")
    before = counts(fs.requests)
    for _ in range(10):
        await provider.read_file(EVENTS)
        await provider.exists("/nothing")
        await provider.stat(EVENTS)
        await provider.readdir("/session-state")
        await provider.sqlite_exists()
    assert counts(fs.requests) == before


async def test_a_released_session_is_stored_and_can_be_resumed(fs: SessionFs, url: str) -> None:
    provider = fs.provider("task-7")
    await provider.write_file("/workspace/a", "before birth")
    await fs.release("task-7")
    await fs.release("task-7")
    with pytest.raises(Fenced):
        await provider.read_file("/workspace/a")
    async with SessionFs.open(url, tenant="acme") as other, other.volume("task-7", read_only=True) as volume:
        assert await volume.read_file("/workspace/a") == "before birth"
    assert await fs.provider("task-7").read_file("/workspace/a") == "before birth"


async def test_closing_after_a_takeover_is_no_failure(url: str) -> None:
    async with SessionFs.open(url, tenant="acme") as fs:
        first = fs.provider("task-7")
        await first.append_file(EVENTS, "1\n")
        await first.mkdir("/workspace/d", False)
        async with SessionFs.open(url, tenant="acme") as other:
            await other.provider("task-7").append_file(EVENTS, "2\n")
        # Leaving the block has a directory left to store, and meets the other's claim.
    async with SessionFs.open(url, tenant="acme") as fs, fs.volume("task-7", read_only=True) as volume:
        assert await volume.read_file(EVENTS) == "1\n2\n"
        assert not await volume.exists("/workspace/d")
