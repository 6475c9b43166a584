"""kill -9 in the middle of a ``sql`` call: on another runtime each row that was acknowledged is there once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.testing.model import Say, ScriptedModel, Stall
from sessionfs_s3.testing.replica import TURN_DEADLINE_S, Replica, ask
from sessionfs_s3.testing.runtime import start_runtime

from .backend import Order
from .commits import FaultyCommits
from .conftest import EVENTS, Start, conversation, give_up, settled, stored
from .turns import sql, tell

T = TypeVar("T")

STOCK = "SELECT name, amount FROM stock ORDER BY rowid"
TODOS = "SELECT id, title, status FROM todos ORDER BY rowid"
CALLS_BEFORE = 3
INSERT_NUTS = "INSERT INTO stock VALUES ('nuts', 34)"


async def _begin(replica: Replica, model: ScriptedModel) -> None:
    """Hold two turns of the agent in a new session, and wait until nothing is under way any more."""
    session = await replica.create("s1")
    await tell(session, model, "Plan.", "INSERT INTO todos (id, title) VALUES ('count', 'Count'), ('order', 'Order')")
    fill = "CREATE TABLE stock (name TEXT, amount INTEGER); INSERT INTO stock VALUES ('bolts', 12)"
    await tell(session, model, "Count.", fill, "UPDATE todos SET status = 'done' WHERE id = 'count'")
    await replica.until(settled)
    await replica.settle()


@pytest.mark.parametrize("moment", ["before its PUT", "after its PUT", "after its acknowledgement"])
async def test_a_runtime_killed_in_a_sql_call(
    start: Start,
    model: ScriptedModel,
    fs: SessionFs,
    stores: list[FaultyCommits],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    monkeypatch.setenv("SESSIONFS_DEADLINE_S", "300")  # what is held is not given up meanwhile
    a = await start()
    store = stores[-1]
    await _begin(a, model)
    told = Stall(Say("never said"))
    model.add("Add.", sql(INSERT_NUTS), told)
    if moment == "after its acknowledgement":
        turn = asyncio.create_task(ask(a.sessions[-1], "Add."))
        await a.until(lambda served: any(each.text == INSERT_NUTS for each in served))
        store.rows = False
        held = store.hold("before its PUT")  # so that the conversation does not record the answer
        await _within(told.reached.wait())
        assert model.requests_in("Add.")[-1].results()[-1].startswith("1 row(s) inserted.")
    else:
        held = store.hold(moment)
        turn = asyncio.create_task(ask(a.sessions[-1], "Add."))
        await _within(held.reached.wait())
        assert len(model.requests_in("Add.")) == 1, "the agent has been shown nothing"

    await a.runtime.kill()

    assert a.runtime.status == -9
    await give_up(turn)
    assert (await stored(fs, EVENTS)).count(b'"type":"tool.execution_complete"') == CALLS_BEFORE
    there = moment != "before its PUT"
    expected = [("bolts", 12), ("nuts", 34)] if there else [("bolts", 12)]
    assert await _stock(fs) == expected

    b = await start()
    session = await b.resume("s1")
    shown, todos = await tell(session, model, "Look.", STOCK, TODOS)
    assert shown.splitlines()[4:] == [f"| {name} | {amount} |" for name, amount in expected]
    assert todos.splitlines()[4:] == ["| count | Count | done |", "| order | Order | pending |"]

    assert held.gate is not None
    held.gate.set()  # what was on its way from A arrives after all
    await a.settle()
    assert [each.error for each in a.served if each.text == INSERT_NUTS] == ["" if there else "Fenced"]
    (shown,) = await tell(session, model, "Go on.", "INSERT INTO stock VALUES ('screws', 56)")
    assert shown.startswith("1 row(s) inserted.")
    await _leave(b)
    assert await _stock(fs) == [*expected, ("screws", 56)]
    log = (await stored(fs, EVENTS)).decode()
    assert log == conversation(a.served) + conversation(b.served)
    assert _once(log)


async def test_one_backend_after_another_killed_in_mid_commit(
    start: Start, model: ScriptedModel, fs: SessionFs, executable: Path, url: str, tmp_path: Path
) -> None:
    """The provider's process dies with its runtime, which leaves nobody who knows what was under way."""
    seed = random.randrange(2**32)
    print("seed", seed)
    randomness = random.Random(seed)
    a = await start()
    await _begin(a, model)
    await a.runtime.kill()
    expected = [("bolts", 12)]

    for moment in ("before its PUT", "after its PUT"):
        commits = randomness.randrange(4)
        names = [f"{moment}, {n}" for n in range(6)]
        model.add(moment, *(sql(f"INSERT INTO stock VALUES ('{name}', {n})") for n, name in enumerate(names)))
        await _kill_a_backend(executable, model, url, tmp_path, prompt=moment, commits=commits)
        requests = model.requests_in(moment)
        shown = requests[-1].results()[len(requests[0].results()) :]
        assert sum(each.startswith("1 row(s) inserted.") for each in shown) == commits
        there = commits + (moment == "after its PUT")
        expected += [(name, n) for n, name in enumerate(names[:there])]
        assert await _stock(fs) == expected

    b = await start()
    session = await b.resume("s1")
    _, shown_rows = await tell(session, model, "Look.", "INSERT INTO stock VALUES ('screws', 56)", STOCK)
    expected += [("screws", 56)]
    assert shown_rows.splitlines()[4:] == [f"| {name} | {amount} |" for name, amount in expected]
    await _leave(b)
    assert await _stock(fs) == expected
    log = (await stored(fs, EVENTS)).decode()  # in the middle, what the backends have appended
    assert log.startswith(conversation(a.served))
    assert log.endswith(conversation(b.served))
    assert _once(log)


async def _kill_a_backend(
    executable: Path, model: ScriptedModel, url: str, temporary: Path, *, prompt: str, commits: int
) -> None:
    """Have a backend resume the session and begin the turn *prompt*; kill it and its runtime once a commit is held."""
    async with start_runtime(executable) as runtime:
        order = Order.model_validate(
            {
                "url": url,
                "runtime": f"127.0.0.1:{runtime.port}",
                "token": runtime.token,
                "model": model.url,
                "prompt": prompt,
                "commits": commits,
                "moment": prompt,
            }
        )
        backend = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.runtime.backend", order.model_dump_json()),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(temporary)},
            cwd=Path(__file__).parents[2],
        )
        assert backend.stdout is not None
        try:
            assert await _within(backend.stdout.readline()) == b"held\n"
        finally:
            backend.kill()
            await backend.wait()
        await runtime.kill()
        assert (backend.returncode, runtime.status) == (-9, -9)


async def _within(awaited: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaited, TURN_DEADLINE_S)


async def _leave(replica: Replica) -> None:
    """Disconnect, and see that nothing more comes: the runtime warns of this and that seconds after some resumes."""
    await replica.disconnect()
    await replica.runtime.kill()
    await replica.settle()


async def _stock(fs: SessionFs) -> list[tuple[object, ...]]:
    """Return the rows as somebody reads them who has only the store."""
    async with fs.volume("s1", read_only=True) as volume:
        result = await volume.sqlite_query("query", STOCK)
    assert result is not None
    return [tuple(row.values()) for row in result.rows]


def _once(log: str) -> bool:
    """Whether each event stands in the conversation once."""
    return max(Counter(json.loads(line)["id"] for line in log.splitlines()).values()) == 1
