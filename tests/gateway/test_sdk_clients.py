"""The plain SDK clients on a plain runtime: what they do there is what they have to do through a gateway."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.runtime import RuntimeProcess, start_runtime
from sessionfs_s3.testing.sdk_client import Record, SdkClient, SdkFailure
from sessionfs_s3.testing.sdk_clients import CLIENTS, NodeClient, node_client

HOST = "127.0.0.1"
LANGUAGES = tuple(CLIENTS)

pytestmark = pytest.mark.usefixtures("node_sdk")


class Connect(Protocol):
    def __call__(self, language: str, *, token: str | None = ...) -> AbstractAsyncContextManager[SdkClient]: ...


@pytest.fixture
def connect(plain: RuntimeProcess, model: ScriptedModel) -> Connect:
    """Connect a client to the plain runtime, with the right token unless another is given."""

    def connecting(language: str, *, token: str | None = plain.token) -> AbstractAsyncContextManager[SdkClient]:
        return CLIENTS[language](HOST, plain.port, token, model.provider)

    return connecting


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_conversation_with_tools(
    connect: Connect, plain: RuntimeProcess, model: ScriptedModel, session_id: str, language: str
) -> None:
    notes = plain.home / f"{session_id}.txt"
    path = str(notes)
    model.add(
        "Write.", Call("create", {"path": path, "file_text": "seven\n"}), Call("view", {"path": path}), Say("Done.")
    )
    model.add("Look up.", Call("lookup", {"key": "colour"}), Say("Blue."))
    model.add("Ask.", Call("ask_user", {"question": "Really?"}), Say("Thanks."))
    async with connect(language) as client:
        await client.create(session_id)
        assert await client.send(session_id, "Write.") == "Done."
        assert notes.read_text() == "seven\n"
        assert "seven" in model.requests_in("Write.")[-1].results()[-1]
        assert await client.send(session_id, "Look up.") == "Blue."
        assert model.requests_in("Look up.")[-1].results()[-1] == f"{language} knows colour"
        assert await client.send(session_id, "Ask.") == "Thanks."
        assert f"{language} says: Really?" in model.requests_in("Ask.")[-1].results()[-1]

        asked = await client.asked()
        assert {each["sessionId"] for each in asked} == {session_id}
        assert [each["detail"] for each in asked if each["kind"] == "permission"] == [
            "write",
            "read",
            "custom-tool",
        ]
        assert [each["detail"] for each in asked if each["kind"] == "tool"] == ["colour"]
        assert [each["detail"] for each in asked if each["kind"] == "user input"] == ["Really?"]
        assert said(await client.events(session_id)) == said(await client.history(session_id))
        assert said(await client.history(session_id)) == ["Write.", "Done.", "Look up.", "Blue.", "Ask.", "Thanks."]
        await client.stop()


async def test_sessions_are_listed_forked_and_deleted(executable: Path, model: ScriptedModel) -> None:
    model.add("One.", Say("First."))
    model.add("Two.", Say("Second."))
    model.add("What did I say?", Say("One and two."))
    async with start_runtime(executable) as alone:
        for language, connecting in CLIENTS.items():
            async with connecting(HOST, alone.port, alone.token, model.provider) as client:
                await list_fork_and_delete(client, language, model)


async def list_fork_and_delete(client: SdkClient, origin: str, model: ScriptedModel) -> None:
    assert (await client.list_sessions(), await client.last_id(), await client.metadata(origin)) == ([], None, None)
    await client.create(origin)
    await client.send(origin, "One.")
    await client.send(origin, "Two.")
    assert ids(await client.list_sessions()) == [origin]
    assert await client.last_id() == origin
    row = await client.metadata(origin)
    assert row is not None
    assert (row["sessionId"], row["isRemote"], row["summary"]) == (origin, False, "One.")
    assert row["startTime"] <= row["modifiedTime"]

    second = next(each for each in await client.history(origin) if said([each]) == ["Two."])
    whole, part = await client.fork(origin, name="copy"), await client.fork(origin, to_event_id=second["id"])
    assert len({origin, whole, part}) == 3
    assert ids(await client.list_sessions()) == sorted([origin, whole, part])
    await client.resume(whole)
    assert await client.send(whole, "What did I say?") == "One and two."
    assert said(await client.history(whole))[:4] == ["One.", "First.", "Two.", "Second."]
    assert {"One.", "Two."} <= set(model.requests_in("What did I say?")[-1].text.split("\n"))
    await client.resume(part)
    assert said(await client.history(part)) == ["One.", "First."]

    await client.disconnect(part)
    await client.delete(part)
    assert ids(await client.list_sessions()) == sorted([origin, whole])
    with pytest.raises(SdkFailure, match=f"Session file not found for {part}"):
        await client.delete(part)
    with pytest.raises(SdkFailure, match="Session not found") as caught:
        await client.resume(part)
    assert caught.value.code == -32603
    told = [(each["type"], each["sessionId"]) for each in await client.lifecycle()]
    assert ("session.created", origin) in told
    assert ("session.deleted", part) in told
    for each in (origin, whole):
        await client.delete(each)


async def test_a_session_is_resumed_in_the_other_language(connect: Connect, model: ScriptedModel) -> None:
    model.add("One.", Call("lookup", {"key": "a"}), Say("First."))
    model.add("Two.", Call("lookup", {"key": "b"}), Say("Second."))
    async with connect("python") as python, connect("node") as node:
        for first, second in ((node, python), (python, node)):
            session = f"begun-in-{first.language}"
            await first.create(session)
            assert await first.send(session, "One.") == "First."
            await first.disconnect(session)
            await second.resume(session)
            assert await second.send(session, "Two.") == "Second."
            assert model.requests[-1].results() == [f"{first.language} knows a", f"{second.language} knows b"]
            assert said(await second.history(session)) == ["One.", "First.", "Two.", "Second."]
            with pytest.raises(SdkFailure, match="not connected"):
                await first.send(session, "Two.")
        await node.drop()
        with pytest.raises(SdkFailure, match="node ended"):
            await node.last_id()
        # The session that Node had open lives on: with its last connection gone, the runtime has closed it in order.
        await python.resume("begun-in-python")
        assert await python.send("begun-in-python", "One.") == "First."


async def test_what_the_sdk_raises_is_told(connect: Connect) -> None:
    for language in LANGUAGES:
        for token in ("wrong", None):
            with pytest.raises(SdkFailure, match="AUTHENTICATION_FAILED") as caught:
                async with connect(language, token=token):
                    pass
            assert caught.value.code == -32002


async def test_a_node_client_that_dies_fails_every_call(plain: RuntimeProcess, model: ScriptedModel) -> None:
    async with node_client(HOST, plain.port, plain.token, model.provider) as client:
        assert isinstance(client, NodeClient)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(SdkFailure, match="node ended with status -9; it said: nothing"):
            await client.list_sessions()
        with pytest.raises(SdkFailure, match="node ended with status -9"):
            await client.stop()
        await client.drop()


def ids(rows: Sequence[Record]) -> list[str]:
    return sorted(row["sessionId"] for row in rows)


def said(events: Sequence[Record]) -> list[str]:
    """Return the words of the user and of the assistant, in order."""
    words = [each["data"]["content"] for each in events if each["type"] in ("user.message", "assistant.message")]
    return [each for each in words if each]
