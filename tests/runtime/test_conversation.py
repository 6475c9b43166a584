"""Turns and tools of the real runtime, and what of them is in the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sessionfs_s3 import InvalidInput, SessionFs
from sessionfs_s3.store import Verb
from sessionfs_s3.testing.model import Call, Calls, Say, ScriptedModel
from sessionfs_s3.testing.replica import ask, said

from .conftest import EVENTS, Start, conversation, stored

TEXT = "first line\nnaïve café, ☕, 𝄞\n"
EDITED = "first line\nplain café, ☕, 𝄞\n"
FILL = "CREATE TABLE stock (name TEXT, amount INTEGER); INSERT INTO stock VALUES ('bolts', 12), ('nuts', 34)"
ROWS = "SELECT name, amount FROM stock ORDER BY name"


async def test_every_tool_works_in_the_store(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    path = "/workspace/notes.txt"
    model.add("Make it.", Call("create", {"path": path, "file_text": TEXT}), Say("Made."))
    model.add("Show it.", Call("view", {"path": path}), Say("Shown."))
    model.add("Mend it.", Call("edit", {"path": path, "old_str": "naïve", "new_str": "plain"}), Say("Mended."))
    model.add("Count.", Call("sql", {"description": "count", "query": FILL}), Say("Counted."))
    model.add("Read.", Call("sql", {"description": "read", "query": ROWS}), Say("Read out."))
    replica = await start()
    session = await replica.create("s1")

    answers = [await ask(session, prompt) for prompt in ("Make it.", "Show it.", "Mend it.", "Count.", "Read.")]

    assert answers == ["Made.", "Shown.", "Mended.", "Counted.", "Read out."]
    assert model.requests_in("Show it.")[-1].results()[-1].strip() == TEXT.strip()
    rows = model.requests_in("Read.")[-1].results()[-1]
    assert "bolts" in rows
    assert "34" in rows
    assert await stored(fs, path) == EDITED.encode()
    assert await stored(fs, EVENTS) == conversation(replica.served).encode()
    async with fs.volume("s1", read_only=True) as volume:
        result = await volume.sqlite_query("query", ROWS)
    assert result is not None
    assert [tuple(row.values()) for row in result.rows] == [("bolts", 12), ("nuts", 34)]
    assert [each for each in replica.served if each.error not in ("", "FileNotFoundError")] == []


async def test_tools_called_at_once_all_take_effect(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    calls = [Call("create", {"path": f"/workspace/{n}.txt", "file_text": f"{n}\n" * n}) for n in range(1, 9)]
    model.add("Make eight.", Calls(tuple(calls)), Say("Eight made."))
    session = await (await start()).create("s1")

    assert await ask(session, "Make eight.") == "Eight made."

    assert [await stored(fs, f"/workspace/{n}.txt") for n in range(1, 9)] == [
        f"{n}\n".encode() * n for n in range(1, 9)
    ]


async def test_disconnect_and_resume_in_the_same_process(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    model.add("Hello.", Say("Good day."))
    model.add("Still there?", Say("Still here."))
    replica = await start()
    await ask(await replica.create("s1"), "Hello.")
    await replica.disconnect()

    session = await replica.resume("s1")

    assert said(await session.get_events()) == ["Hello.", "Good day."]
    assert await ask(session, "Still there?") == "Still here."
    assert "Good day." in model.requests_in("Still there?")[0].text
    await replica.disconnect()
    assert await stored(fs, EVENTS) == conversation(replica.served).encode()


async def test_two_sessions_of_one_runtime_keep_apart(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    for name in ("one", "two"):
        model.add(
            f"I am {name}.", Call("create", {"path": "/workspace/me.txt", "file_text": name}), Say(f"Hi, {name}.")
        )
    replica = await start()
    sessions = [await replica.create(name) for name in ("one", "two")]

    one, two = await asyncio.gather(ask(sessions[0], "I am one."), ask(sessions[1], "I am two."))

    assert (one, two) == ("Hi, one.", "Hi, two.")
    assert await stored(fs, "/workspace/me.txt", "one") == b"one"
    assert await stored(fs, "/workspace/me.txt", "two") == b"two"
    assert b"Hi, two." not in await stored(fs, EVENTS, "one")


async def test_a_file_outside_the_working_directory_is_the_sessions_own(
    start: Start, model: ScriptedModel, fs: SessionFs, tmp_path: Path
) -> None:
    outside = f"{tmp_path}/outside.txt"
    climbing = "/workspace/../../../../../../climbed.txt"
    model.add("Out.", Call("create", {"path": outside, "file_text": "host?"}), Say("Out."))
    model.add("Up.", Call("create", {"path": climbing, "file_text": "root?"}), Say("Up."))
    model.add("Peek.", Call("view", {"path": "/etc/passwd"}), Say("Peeked."))
    session = await (await start()).create("s1")

    for prompt in ("Out.", "Up.", "Peek."):
        await ask(session, prompt)

    assert not await asyncio.to_thread(Path(outside).exists)
    assert not await asyncio.to_thread(Path("/climbed.txt").exists)
    assert "root:" not in model.requests_in("Peek.")[-1].text
    async with fs.volume("s1", read_only=True) as volume:
        for path, text in ((outside, "host?"), ("/climbed.txt", "root?")):
            if await volume.exists(path):  # the tool may refuse as well
                assert await volume.read_file(path) == text
        assert not await volume.exists("/etc/passwd")


async def test_a_bad_session_id_is_refused_before_anything_is_written(start: Start) -> None:
    replica = await start()
    before = replica.fs.requests.snapshot()
    for session_id, refusal, words in (
        ("..", InvalidInput, "session"),
        ("s\0", InvalidInput, "session"),
        ("s" * 300, InvalidInput, "255"),
        ("a/b", Exception, "invalid sessionId"),  # the runtime's own rule; it would reach no other session either
    ):
        with pytest.raises(refusal, match=words):
            await replica.create(session_id)
    assert replica.served == []
    assert (replica.fs.requests.snapshot() - before).requests(Verb.PUT) == 0
