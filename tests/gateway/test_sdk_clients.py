"""The plain SDK clients on a plain runtime: what they do there is what they have to do through a gateway."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.runtime import RuntimeProcess
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

    def connecting(language: str, *, token: str | None = plain._token) -> AbstractAsyncContextManager[SdkClient]:
        return CLIENTS[language](HOST, plain.port, token, model.provider)

    return connecting


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_conversation_with_tools(
    connect: Connect, plain: RuntimeProcess, model: ScriptedModel, language: str
) -> None:
    path = str(plain.home / "notes.txt")
    model.add(
        "Write.", Call("create", {"path": path, "file_text": "seven\n"}), Call("view", {"path": path}), Say("Done.")
    )
    model.add("Look up.", Call("lookup", {"key": "colour"}), Say("Blue."))
    model.add("Ask.", Call("ask_user", {"question": "Really?"}), Say("Thanks."))
    async with connect(language) as client:
        await client.create("s1")
        assert await client.send("s1", "Write.") == "Done."
        assert (plain.home / "notes.txt").read_text() == "seven\n"
        assert "seven" in model.requests_in("Write.")[-1].results()[-1]
        assert await client.send("s1", "Look up.") == "Blue."
        assert model.requests_in("Look up.")[-1].results()[-1] == f"{language} knows colour"
        assert await client.send("s1", "Ask.") == "Thanks."
        assert f"{language} says: Really?" in model.requests_in("Ask.")[-1].results()[-1]

        asked = await client.asked()
        assert {each["sessionId"] for each in asked} == {"s1"}
        assert [each["detail"] for each in asked if each["kind"] == "permission"] == [
            "write",
            "read",
            "custom-tool",
        ]
        assert [each["detail"] for each in asked if each["kind"] == "tool"] == ["colour"]
        assert [each["detail"] for each in asked if each["kind"] == "user input"] == ["Really?"]
        assert said(await client.events("s1")) == said(await client.history("s1"))
        assert said(await client.history("s1")) == ["Write.", "Done.", "Look up.", "Blue.", "Ask.", "Thanks."]
        await client.stop()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_sessions_are_listed_forked_and_deleted(connect: Connect, model: ScriptedModel, language: str) -> None:
    model.add("One.", Say("First."))
    model.add("Two.", Say("Second."))
    model.add("What did I say?", Say("One and two."))
    async with connect(language) as client:
        assert (await client.list_sessions(), await client.last_id(), await client.metadata("s1")) == ([], None, None)
        await client.create("s1")
        await client.send("s1", "One.")
        await client.send("s1", "Two.")
        assert ids(await client.list_sessions()) == ["s1"]
        assert await client.last_id() == "s1"
        row = await client.metadata("s1")
        assert row is not None
        assert (row["sessionId"], row["isRemote"], row["summary"]) == ("s1", False, "One.")
        assert row["startTime"] <= row["modifiedTime"]

        second = next(each for each in await client.history("s1") if said([each]) == ["Two."])
        whole, part = await client.fork("s1", name="copy"), await client.fork("s1", to_event_id=second["id"])
        assert len({"s1", whole, part}) == 3
        assert ids(await client.list_sessions()) == sorted(["s1", whole, part])
        await client.resume(whole)
        assert await client.send(whole, "What did I say?") == "One and two."
        assert said(await client.history(whole))[:4] == ["One.", "First.", "Two.", "Second."]
        assert {"One.", "Two."} <= set(model.requests_in("What did I say?")[-1].text.split("\n"))
        await client.resume(part)
        assert said(await client.history(part)) == ["One.", "First."]

        await client.disconnect(part)
        await client.delete(part)
        assert ids(await client.list_sessions()) == sorted(["s1", whole])
        with pytest.raises(SdkFailure, match=f"Session file not found for {part}"):
            await client.delete(part)
        with pytest.raises(SdkFailure, match="Session not found") as caught:
            await client.resume(part)
        assert caught.value.code == -32603
        told = [(each["type"], each["sessionId"]) for each in await client.lifecycle()]
        assert ("session.created", "s1") in told
        assert ("session.deleted", part) in told


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_session_is_resumed_in_the_other_language(
    connect: Connect, model: ScriptedModel, language: str
) -> None:
    other = next(each for each in LANGUAGES if each != language)
    model.add("One.", Call("lookup", {"key": "a"}), Say("First."))
    model.add("Two.", Call("lookup", {"key": "b"}), Say("Second."))
    async with connect(language) as first, connect(other) as second:
        await first.create("s1")
        assert await first.send("s1", "One.") == "First."
        await first.disconnect("s1")
        await second.resume("s1")
        assert await second.send("s1", "Two.") == "Second."
        assert model.requests_in("Two.")[-1].results() == [f"{language} knows a", f"{other} knows b"]
        assert said(await second.history("s1")) == ["One.", "First.", "Two.", "Second."]
        with pytest.raises(SdkFailure, match="not connected"):
            await first.send("s1", "Two.")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_what_the_sdk_raises_is_told(connect: Connect, language: str) -> None:
    with pytest.raises(SdkFailure, match="AUTHENTICATION_FAILED"):
        async with connect(language, token="wrong"):
            pass
    with pytest.raises(SdkFailure, match="AUTHENTICATION_FAILED"):
        async with connect(language, token=None):
            pass


async def test_a_node_client_that_dies_fails_every_call(plain: RuntimeProcess, model: ScriptedModel) -> None:
    async with node_client(HOST, plain.port, plain._token, model.provider) as client:
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
