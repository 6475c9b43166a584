"""The catalogue beside the real runtime: what it says of a session is what the runtime says of its own, and a fork made
in the store is a session like any other.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from copilot import CopilotClient, PermissionHandler, RuntimeConnection, ToolSet

from sessionfs_s3 import SessionFs
from sessionfs_s3.catalog import SessionInfo
from sessionfs_s3.catalog.workspace import read as read_yaml
from sessionfs_s3.testing.model import MODEL_NAME, Call, Say, ScriptedModel
from sessionfs_s3.testing.replica import ask, said
from sessionfs_s3.testing.runtime import start_runtime

from .conftest import EVENTS, Start, stored

NAMES = ("plain", 'it\'s: "odd" # 1', "two\nlines", "naïve ☕ 𝄞", "null", "- x", "tab\there")


async def test_a_fork_is_resumed_under_its_own_id_with_its_history(
    start: Start, model: ScriptedModel, fs: SessionFs
) -> None:
    path = "/workspace/notes.txt"
    model.add("Make it.", Call("create", {"path": path, "file_text": "first\n"}), Say("Made."))
    model.add("How many bolts?", Say("Twelve bolts."))
    model.add("Change it.", Call("edit", {"path": path, "old_str": "first", "new_str": "fork's"}), Say("Changed."))
    model.add("And nuts?", Say("No nuts."))
    a = await start()
    session = await a.create("s1")
    await ask(session, "Make it.")
    await ask(session, "How many bolts?")

    await fs.catalog.fork("s1", "f1")  # the source is open, and goes on
    source = await stored(fs, EVENTS)
    assert await ask(session, "And nuts?") == "No nuts."

    resumed = await a.resume("f1")
    assert said(await resumed.get_events()) == ["Make it.", "Made.", "How many bolts?", "Twelve bolts."]
    assert await ask(resumed, "Change it.") == "Changed."
    assert "Twelve bolts." in model.requests_in("Change it.")[0].text
    assert "No nuts." not in model.requests_in("Change it.")[0].text
    await a.disconnect()

    assert await stored(fs, path, "f1") == b"fork's\n"
    assert await stored(fs, path, "s1") == b"first\n"
    assert (await stored(fs, EVENTS)).startswith(source)
    infos = {info.id: info for info in await fs.catalog.list()}
    assert infos.keys() == {"s1", "f1"}
    assert infos["f1"].name == "Make it. (fork)"


async def test_a_fork_at_an_event_goes_on_from_there(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    for number in (1, 2, 3):
        model.add(f"Question {number}.", Say(f"Answer {number}."))
    a = await start()
    session = await a.create("s1")
    for number in (1, 2, 3):
        await ask(session, f"Question {number}.")
    await a.disconnect()
    events = [json.loads(line) for line in (await stored(fs, EVENTS)).splitlines()]
    asked = [event["id"] for event in events if event["type"] == "user.message"]

    await fs.catalog.fork("s1", "f1", before_event=asked[1], name="From the start")

    resumed = await a.resume("f1")
    assert said(await resumed.get_events()) == ["Question 1.", "Answer 1."]
    model.add("Otherwise?", Say("Otherwise."))
    assert await ask(resumed, "Otherwise?") == "Otherwise."
    told = model.requests_in("Otherwise?")[0].text
    assert "Answer 1." in told
    assert "Answer 2." not in told
    await a.disconnect()
    info = await fs.catalog.info("f1")
    assert info is not None
    assert info.name == "From the start"
    again = await a.resume("f1")
    assert said(await again.get_events())[-1] == "Otherwise."


async def test_forks_and_lists_as_the_runtime_does(executable: Path, model: ScriptedModel, fs: SessionFs) -> None:
    """The same sessions on the runtime's own disk and in the store: the same list, the same pages, the same forks."""
    model.add("Hello.", Say("Good day."))
    model.add("Please create a detailed summary", Say("<summary>They greeted.</summary>"))
    async with start_runtime(executable) as runtime:
        connection = RuntimeConnection.for_uri(f"127.0.0.1:{runtime.port}", connection_token=runtime.token)
        client = CopilotClient(connection=connection)
        await client.start()
        home = runtime.home / "copilot" / "session-state"
        try:
            for index, name in enumerate(NAMES):
                session = await client.create_session(
                    session_id=f"s{index}",
                    model=MODEL_NAME,
                    provider=model.provider,
                    available_tools=ToolSet().add_builtin("view"),
                    on_permission_request=PermissionHandler.approve_all,
                )
                await session.send_and_wait("Hello.\n And   good day." * 40, timeout=60)
                if index:
                    await _call(client, "session.name.set", sessionId=f"s{index}", name=name)
                else:
                    await session.rpc.history.compact()
                    await session.send_and_wait("Hello. Again.", timeout=60)
                await session.disconnect()
            (home / "s2" / "workspace.yaml").unlink()
            for name in ("plan.md", "files/a.txt", "temp/b.txt", "research/c.md", "other.txt", "permissions.json"):
                await asyncio.to_thread(_write, home / "s0" / name, f"{name}\n")
            for index in range(len(NAMES)):
                await _import(fs, home / f"s{index}", f"s{index}")
            listed = {each["sessionId"]: each for each in (await _call(client, "sessions.list"))["sessions"]}
            events = [json.loads(line) for line in (await stored(fs, EVENTS, "s0")).splitlines()]
            boundary = next(each["id"] for each in events if each["type"] == "session.compaction_complete")
            await _check_pages(client, fs)
            forks: dict[str, tuple[str | None, dict[str, bytes]]] = {}
            for before in (None, boundary):
                order = {"name": "A fork"} if before is None else {"toEventId": before, "name": "A fork"}
                fork = (await _call(client, "sessions.fork", sessionId="s0", **order))["sessionId"]
                forks[fork] = (before, await asyncio.to_thread(_files, home / fork))
            unnamed = (await _call(client, "sessions.fork", sessionId="s1"))["sessionId"]
            forks[unnamed] = (None, await asyncio.to_thread(_files, home / unnamed))
        finally:
            await client.force_stop()

    assert {info.id: _told(info) for info in await fs.catalog.list()} == {
        key: {name: value for name, value in each.items() if name not in ("modifiedTime", "isRemote", "sessionId")}
        for key, each in listed.items()
    }
    for fork, (before, theirs) in forks.items():
        if fork == unnamed:
            await fs.catalog.fork("s1", fork)
        else:
            await fs.catalog.fork("s0", fork, before_event=before, name="A fork")
        async with fs.volume(fork, read_only=True) as volume:
            ours = {name: await volume.read_file_bytes(f"/session-state/{name}") for name in theirs}
            found = await volume.readdir("/session-state")
        assert set(found) == {name.split("/")[0] for name in theirs}
        assert _settled(ours) == _settled(theirs)


async def _check_pages(client: CopilotClient, fs: SessionFs) -> None:
    for direction in ("forward", "backward"):
        backward = direction == "backward"
        theirs = await _call(client, "sessions.readPersistedEvents", sessionId="s0", max=5, direction=direction)
        ours = await fs.catalog.events("s0", limit=5, backward=backward)
        while True:
            assert list(ours.events) == theirs["events"]
            assert ours.has_more == theirs["hasMore"]
            if not ours.has_more:
                break
            cursor = theirs["cursor"]
            theirs = await _call(client, "sessions.readPersistedEvents", sessionId="s0", max=5, cursor=cursor)
            ours = await fs.catalog.events("s0", limit=5, cursor=ours.cursor)


async def _call(client: CopilotClient, method: str, **params: object) -> Any:
    return await client._client.request(method, params)  # type: ignore[union-attr]  # what the SDK has no name for


async def _import(fs: SessionFs, home: Path, session_id: str) -> None:
    files = await asyncio.to_thread(_files, home)
    async with fs.volume(session_id) as volume:
        for name, data in files.items():
            await volume.write_file_bytes(f"/session-state/{name}", data)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def _files(home: Path) -> dict[str, bytes]:
    """Return the files of a state directory, without the runtime's locks and its database."""
    found = {str(path.relative_to(home)): path for path in sorted(home.rglob("*")) if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if not name.startswith(("inuse.", ".workspace", "session.db"))
    }


def _told(info: SessionInfo) -> dict[str, object]:
    """Return *info* in the shape of the runtime's list, without what the store's clock decides."""
    created = datetime.fromtimestamp(info.created_ms / 1000, UTC).isoformat(timespec="milliseconds")
    optional = {
        "summary": info.summary,
        "name": info.name,
        "clientName": info.client_name,
        "context": None if info.context is None else dict(info.context),
    }
    told = {name: value for name, value in optional.items() if value is not None}
    return {"startTime": created.replace("+00:00", "Z"), "isDetached": info.detached, **told}


def _settled(files: dict[str, bytes]) -> dict[str, object]:
    """Return what *files* say, without times and random ids; JSON and YAML by their values, in any order."""
    said: dict[str, object] = dict(files)
    lines = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    for line in (lines[0], lines[-1]):
        line["timestamp"] = ""
        line["data"].pop("startTime", None)
    lines[-1]["id"] = ""
    for (
        line
    ) in lines:  # on a disk of its own the path of a state directory holds the session's id; in a store it does not
        if "checkpointPath" in line["data"]:
            line["data"]["checkpointPath"] = line["data"]["checkpointPath"].rpartition("/")[2]
    said["events.jsonl"] = lines
    note = read_yaml(files["workspace.yaml"].decode())
    said["workspace.yaml"] = {key: value for key, value in note.items() if key not in ("created_at", "updated_at")}
    return said
