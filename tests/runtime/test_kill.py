"""kill -9 of a runtime, at each point of a turn, and the session on another one with nothing but the store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from sessionfs_s3 import Fenced, SessionFs
from sessionfs_s3.testing.model import Call, Say, ScriptedModel, Stall
from sessionfs_s3.testing.replica import Replica, Served, ask, said

from .conftest import EVENTS, Start, conversation, give_up, stored

REPORT = "/workspace/report.md"
REPORT_TEXT = "# half a turn\n"
FILL = "CREATE TABLE stock (name TEXT); INSERT INTO stock VALUES ('bolts'), ('nuts')"


async def _converse(replica: Replica, model: ScriptedModel) -> None:
    """Hold three turns: words, a file, rows."""
    model.add("Hello.", Say("Good day."))
    model.add("Make it.", Call("create", {"path": "/workspace/a.txt", "file_text": "alpha\n"}), Say("Made."))
    model.add("Count.", Call("sql", {"description": "count", "query": FILL}), Say("Counted."))
    session = await replica.create("s1")
    for prompt in ("Hello.", "Make it.", "Count."):
        await ask(session, prompt)


async def _begin_turn(replica: Replica, model: ScriptedModel, *replies: Call | Stall) -> asyncio.Task[str]:
    """Begin a turn that the model does not finish, and wait until the model stalls."""
    model.add("Write the report.", *replies)
    stall = next(reply for reply in replies if isinstance(reply, Stall))
    turn = asyncio.create_task(ask(replica.sessions[-1], "Write the report."))
    await stall.reached.wait()
    return turn


@pytest.mark.parametrize("moment", ["between turns", "before the first reply", "after a tool", "in the disconnect"])
async def test_everything_acknowledged_is_there_on_another_runtime(
    start: Start, model: ScriptedModel, fs: SessionFs, moment: str
) -> None:
    a = await start(debounce_ms=None)
    await _converse(a, model)
    before = len(a.served)
    turn: asyncio.Task[str] | None = None
    if moment == "before the first reply":
        turn = await _begin_turn(a, model, Stall(Say("never said")))
        await a.until(_appended("Write the report.", after=before))
    elif moment == "after a tool":
        create = Call("create", {"path": REPORT, "file_text": REPORT_TEXT})
        turn = await _begin_turn(a, model, create, Stall(Say("never said")))
        await a.until(_appended('"tool.execution_complete"', after=before))
    elif moment == "in the disconnect":
        turn = asyncio.create_task(_answered(a))
        await a.until(lambda served: any(each.operation == "exists" for each in served[before:]))

    await a.runtime.kill()

    assert a.runtime.status == -9
    if turn is not None:
        await give_up(turn)
    await a.settle()
    assert (await stored(fs, EVENTS)).decode() == conversation(a.served)
    b = await start()
    model.add("Go on.", Call("view", {"path": "/workspace/a.txt"}), Say("Going on."))
    session = await b.resume("s1")
    history = said(await session.get_events())
    assert history[:6] == ["Hello.", "Good day.", "Make it.", "Made.", "Count.", "Counted."]
    assert ("Write the report." in history) == (moment in ("before the first reply", "after a tool"))
    assert await ask(session, "Go on.") == "Going on."
    sent = model.requests_in("Go on.")
    assert all(words in sent[0].text for words in history)
    assert sent[-1].results()[-1].strip() == "alpha"
    await b.disconnect()

    log = (await stored(fs, EVENTS)).decode()
    assert log == conversation(a.served) + conversation(b.served)
    assert max(Counter(json.loads(line)["id"] for line in log.splitlines()).values()) == 1
    if moment == "after a tool":
        assert await stored(fs, REPORT) == REPORT_TEXT.encode()
    async with fs.volume("s1", read_only=True) as volume:
        result = await volume.sqlite_query("query", "SELECT name FROM stock ORDER BY name")
    assert result is not None
    assert [row["name"] for row in result.rows] == ["bolts", "nuts"]


async def test_a_session_survives_one_kill_after_the_other(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    log = ""
    for round_ in range(4):
        replica = await start(debounce_ms=None)
        model.add(f"Round {round_}.", Say(f"Round {round_} it is."))
        session = await (replica.resume("s1") if round_ else replica.create("s1"))
        assert await ask(session, f"Round {round_}.") == f"Round {round_} it is."
        stall = Stall(Say("never said"))
        model.add(f"Cut {round_}.", stall)
        turn = asyncio.create_task(ask(session, f"Cut {round_}."))
        await stall.reached.wait()
        await replica.until(_appended(f"Cut {round_}."))
        await replica.runtime.kill()
        await give_up(turn)
        await replica.settle()
        log += conversation(replica.served)
        assert (await stored(fs, EVENTS)).decode() == log
    request = model.requests_in("Cut 3.")[-1].text
    assert all(f"Round {n} it is." in request and f"Cut {n}." in request for n in range(4))


async def test_the_provider_of_a_killed_runtime_is_a_ghost(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    a = await start()
    await _converse(a, model)
    await a.runtime.kill()
    ghost = a.provider
    assert ghost is not None
    b = await start()
    session = await b.resume("s1")
    await ask(session, "Anyone?")
    before = await stored(fs, EVENTS)

    with pytest.raises(Fenced):
        await ghost.append_file(EVENTS, '{"id":"ghost"}\n')
    with pytest.raises(Fenced):
        await ghost.write_file("/workspace/ghost.txt", "boo")
    with pytest.raises(Fenced):
        await ghost.read_file(EVENTS)

    assert await stored(fs, EVENTS) == before
    async with fs.volume("s1", read_only=True) as volume:
        assert await volume.readdir("/workspace") == ["a.txt"]
    await ask(session, "And now?")  # B is not disturbed


def _appended(words: str, *, after: int = 0) -> Callable[[list[Served]], bool]:
    """Say of what was served whether, *after* so many calls, *words* were appended and acknowledged."""
    return lambda served: words in conversation(served[after:])


async def _answered(replica: Replica) -> str:
    await replica.disconnect()
    return ""
