"""The runtime's own transactions: retried when it is told that nothing was kept, left alone when nobody knows.

They keep its workflows. No tool of a scripted model gets there, but the SDK's ``session.rpc.workflow.list_runs`` does:
the first one makes the tables in one transaction of 46 statements, and each one ends the runs whose owner has gone in
one of two statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from copilot import CopilotSession
from copilot.rpc import WorkflowListRunsRequest, WorkflowListRunsResult

from sessionfs_s3 import SessionFs, Volume
from sessionfs_s3.sqlite import QueryResult, Statement
from sessionfs_s3.sqlite.connection import _FORK_SERVER, WorkerDatabase
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.replica import Served, ask
from sessionfs_s3.volume import Durability

from .commits import FaultyCommits
from .conftest import Start
from .turns import tell

RUN = """\
INSERT INTO workflow_runs (run_id, root_run_id, workflow_name, args_json, status, updated_at_ms, lease_expires_at_ms)
    VALUES ('{0}', '{0}', 'count', '{{}}', 'running', 1500, 1);
INSERT INTO workflow_phases (run_id, phase_id, title, active_started_at_ms) VALUES ('{0}', 'p', 'Count', 500)"""
"""A run that nobody owns any more, in a phase that began 1000 ms before it was last heard of."""

ENDED = """\
SELECT run_id, status, accumulated_active_ms AS active_ms FROM workflow_runs JOIN workflow_phases USING (run_id)"""
DEADLINE_S = 1.0


async def test_the_runtime_retries_what_was_not_kept_and_nothing_else(
    start: Start, model: ScriptedModel, url: str, stores: list[FaultyCommits], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    _fail_before_each(failures, monkeypatch)
    async with SessionFs.open(url, tenant="acme", deadline_s=DEADLINE_S) as fs:
        replica = await start(fs=fs)
        store = stores[-1]
        session = await replica.create("s1")
        await ask(session, "Hello.")

        failures.append("once")
        assert (await _runs(session)).runs == []
        tables = [each for each in _transactions(replica.served) if "CREATE TABLE" in each.text]
        assert [each.error for each in tables] == ["SessionFsSqliteTransactionFailure", ""]
        await tell(session, model, "One.", RUN.format("one"))
        failures.append("again")
        assert [run.run_id for run in (await _runs(session)).runs] == ["one"]
        assert _endings(replica.served) == ["SessionFsSqliteTransactionFailure", ""]
        assert await tell(session, model, "Look.", ENDED) == _table("one | error | 1000")

        await tell(session, model, "Two.", RUN.format("two"))
        await replica.settle()
        store.inject(Fault("PUT", Fate.LOST_ANSWER))
        store.inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
        with pytest.raises(Exception, match=r"Workflow storage is unavailable: .*no answer in 1 s"):
            await _runs(session)
        assert _endings(replica.served)[2:] == ["SessionFsSqliteTransactionFailure"], "not a second time"

        store.faults.clear()
        session = await replica.resume("s1")
        twice = _table("one | error | 1000", "two | error | 1000")
        assert await tell(session, model, "And now?", ENDED) == twice
        assert len((await _runs(session)).runs) == 2
        assert len(_endings(replica.served)) == 3, "there is nothing to end any more"


async def test_the_runtime_gives_up_on_what_never_works(
    start: Start, model: ScriptedModel, fs: SessionFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    _fail_before_each(failures, monkeypatch)
    replica = await start()
    session = await replica.create("s1")
    await ask(session, "Hello.")
    failures += ["again and again"] * 20

    async with asyncio.timeout(30):
        with pytest.raises(Exception, match=r"Workflow storage is unavailable: the process of the .* has ended"):
            await _runs(session)

    assert len(failures) == 18, "it tries once more, and no more than that"
    failures.clear()
    assert (await _runs(session)).runs == []


async def test_a_statement_whose_fate_is_unknown_is_there_once_or_not_at_all(
    start: Start, model: ScriptedModel, url: str, stores: list[FaultyCommits]
) -> None:
    async with SessionFs.open(url, tenant="acme", deadline_s=DEADLINE_S) as fs:
        replica = await start(fs=fs)
        session = await replica.create("s1")
        await tell(session, model, "Begin.", "CREATE TABLE stock (name TEXT)")
        for name, fate in (("stored", Fate.LOST_ANSWER), ("lost", Fate.LOST_REQUEST)):
            stores[-1].inject(Fault("PUT", fate))
            stores[-1].inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
            insert = f"INSERT INTO stock VALUES ('{name}')"

            # What the volume holds may not be what is stored: the turn cannot be recorded, and the user is told so.
            with pytest.raises(Exception, match=r"Failed to persist session events.*no answer in 1 s"):
                await tell(session, model, f"Add {name}.", insert)

            stores[-1].faults.clear()
            errors = [each.error for each in replica.served if each.text == insert]
            assert errors == ["CommitUnknown"], "the runtime does not send it again by itself"
            session = await replica.resume("s1")
            (shown,) = await tell(session, model, f"Look for {name}.", "SELECT name FROM stock")
            assert shown.splitlines()[4:] == ["| stored |"]


async def test_a_statement_that_the_store_refuses_is_an_error_and_the_session_goes_on(
    start: Start, model: ScriptedModel, fs: SessionFs, stores: list[FaultyCommits]
) -> None:
    replica = await start()
    session = await replica.create("s1")
    await tell(session, model, "Begin.", "CREATE TABLE stock (name TEXT)")
    stores[-1].inject(Fault("PUT", Fate.DENIED))
    (shown,) = await tell(session, model, "Add one.", "INSERT INTO stock VALUES ('refused')")
    assert shown.startswith("SQL Error: Error: UNKNOWN: sqliteQuery: ")
    assert "the store refuses" in shown
    added, stock = await tell(
        session, model, "Add another.", "INSERT INTO stock VALUES ('stored')", "SELECT name FROM stock"
    )
    assert (added, stock.splitlines()[4:]) == ("1 row(s) inserted. Last inserted row ID: 1.", ["| stored |"])


def _fail_before_each(failures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the process of the session's database before the next transactions, once for each of *failures*."""
    whole = Volume.sqlite_transaction

    async def perhaps(
        volume: Volume, statements: Sequence[Statement], *, durability: Durability = Durability.STORED
    ) -> tuple[QueryResult, ...]:
        if failures:
            failures.pop()
            await volume.sqlite_query("query", "SELECT 1")
            copy = volume._database._copy
            assert isinstance(copy, WorkerDatabase)
            _FORK_SERVER.kill(copy._number)
            while not copy._reader.at_eof():  # noqa: ASYNC110  # nothing announces the end of another's child
                await asyncio.sleep(0.005)
        return await whole(volume, statements, durability=durability)

    monkeypatch.setattr(Volume, "sqlite_transaction", perhaps)


async def _runs(session: CopilotSession) -> WorkflowListRunsResult:
    return await session.rpc.workflow.list_runs(WorkflowListRunsRequest())


def _transactions(served: Sequence[Served]) -> list[Served]:
    return [each for each in served if each.operation == "sqlite_transaction"]


def _endings(served: Sequence[Served]) -> list[str]:
    """Return what came of the transactions that end runs."""
    return [each.error for each in _transactions(served) if each.text.startswith("UPDATE workflow_phases")]


def _table(*rows: str) -> list[str]:
    lines = [f"| {each} |" for each in ("run_id | status | active_ms", "--- | --- | ---", *rows)]
    return [f"{len(rows)} row(s) returned:\n\n" + "\n".join(lines)]
