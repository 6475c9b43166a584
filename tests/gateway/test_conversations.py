"""Conversations of plain SDK clients through the gateway: nothing of a session file system is in their code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from unittest.mock import MagicMock

import pytest
from copilot import CopilotClient, PermissionHandler, RuntimeConnection

from sessionfs_s3 import SessionFs
from sessionfs_s3.copilot import SessionProvider
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Launched
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import MODEL_NAME, Call, Say, ScriptedModel
from sessionfs_s3.testing.runtime import find_runtime
from sessionfs_s3.testing.sdk_client import Record, SdkClient, SdkFailure
from sessionfs_s3.testing.sdk_clients import CLIENTS, PythonClient
from sessionfs_s3.testing.servers import S3Server
from tests.gateway.wire import HOST, PATIENT_S, config, connected, said, turn

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("node_sdk"),
    pytest.mark.xdist_group("gateway-conversations"),
]

LANGUAGES = tuple(CLIENTS)
TOOLS = ("create", "view", "sql", "ask_user")
EVENTS = "/session-state/events.jsonl"
SQL = "CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (41), (9007199254740993)"

Served = tuple[Gateway, Launched]


class ListeningClient(PythonClient):
    """A Python client without a tool of its own: the runtime lets only one connection register a tool's name."""

    def _options(self, session_id: str, tools: Sequence[str]) -> Record:
        options = super()._options(session_id, tools)
        return {**options, "tools": []}


@asynccontextmanager
async def listening(port: int, script: ScriptedModel) -> AsyncIterator[SdkClient]:
    client = ListeningClient(HOST, port, None, script.provider)
    try:
        await client.start()
        yield client
    finally:
        await client.drop()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_conversation_with_tools(
    served: Served, script: ScriptedModel, store_url: str, session_id: str, language: str
) -> None:
    await converse(served[0], script, session_id, language)
    async with SessionFs.open(store_url, tenant="default") as files, files.volume(session_id, read_only=True) as volume:
        assert await volume.read_file("/workspace/notes.txt") == "seven\n"
        assert "Sum it." in await volume.read_file(EVENTS)


async def test_a_conversation_on_s3(
    executable: object, script: ScriptedModel, session_id: str, moto: S3Server, enter: Callable[[S3Server], str]
) -> None:
    gateway, _ = gateway_here(find_runtime(), GatewayOptions(enter(moto), handshake_s=PATIENT_S))
    async with gateway:
        await converse(gateway, script, session_id, "python")
        async with CLIENTS["python"](HOST, gateway.port, None, script.provider) as client:
            assert ids(await client.list_sessions()) == [session_id]
            await client.resume(session_id)
            await client.delete(session_id)
            assert (await client.list_sessions(), await client.last_id()) == ([], None)
            await client.create(session_id)
            assert said(await client.history(session_id)) == []


async def converse(gateway: Gateway, script: ScriptedModel, session_id: str, language: str) -> None:
    """Use built-in tools, a tool of the client's, its permissions and its user; see that all of it is answered."""
    path = "/workspace/notes.txt"
    script.add(
        "Write.", Call("create", {"path": path, "file_text": "seven\n"}), Call("view", {"path": path}), Say("W.")
    )
    script.add(
        "Sum it.",
        Call("sql", {"description": "fill", "query": SQL}),
        Call("sql", {"description": "sum", "query": "SELECT sum(n) AS total FROM kept"}),
        Say("S."),
    )
    script.add("Look up.", Call("lookup", {"key": "colour"}), Say("L."))
    script.add("Ask.", Call("ask_user", {"question": "Really?"}), Say("A."))
    async with CLIENTS[language](HOST, gateway.port, None, script.provider) as client:
        await client.create(session_id, tools=TOOLS)
        assert await client.send(session_id, "Write.") == "W."
        assert "seven" in script.requests_in("Write.")[-1].results()[-1]
        assert await client.send(session_id, "Sum it.") == "S."
        assert "9007199254741034" in script.requests_in("Sum it.")[-1].results()[-1]
        assert await client.send(session_id, "Look up.") == "L."
        assert script.requests_in("Look up.")[-1].results()[-1] == f"{language} knows colour"
        assert await client.send(session_id, "Ask.") == "A."
        assert f"{language} says: Really?" in script.requests_in("Ask.")[-1].results()[-1]

        asked = await client.asked()
        assert {each["sessionId"] for each in asked} == {session_id}
        details = {kind: [each["detail"] for each in asked if each["kind"] == kind] for kind in ("tool", "user input")}
        assert details == {"tool": ["colour"], "user input": ["Really?"]}
        # What the tools of the runtime's own ask for is the runtime's business; the client's answer is heard.
        assert {"write", "read", "custom-tool"} <= {each["detail"] for each in asked if each["kind"] == "permission"}
        whole = ["Write.", "W.", "Sum it.", "S.", "Look up.", "L.", "Ask.", "A."]
        assert said(await client.events(session_id)) == said(await client.history(session_id)) == whole
        await client.stop()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_session_goes_on_in_the_other_language(
    served: Served, script: ScriptedModel, session_id: str, language: str
) -> None:
    """When the one has left, and when it is still there: then both hear everything."""
    gateway, _ = served
    script.add("One.", Say("First."))
    script.add("Two.", Say("Second."))
    script.add("Three.", Say("Third."))
    other = {"python": "node", "node": "python"}[language]
    async with CLIENTS[language](HOST, gateway.port, None, script.provider) as first:
        await first.create(session_id)
        assert await first.send(session_id, "One.") == "First."
        await first.disconnect(session_id)
        # The one of the two that is in Python goes without a tool of its own: both attach the same session.
        connecting = (
            listening(gateway.port, script)
            if other == "python"
            else CLIENTS[other](HOST, gateway.port, None, script.provider)
        )
        async with connecting as second:
            await second.resume(session_id)
            assert said(await second.history(session_id)) == ["One.", "First."]
            assert await second.send(session_id, "Two.") == "Second."
            if language == "python":
                await second.disconnect(session_id)
                async with (
                    listening(gateway.port, script) as third,
                    CLIENTS["node"](HOST, gateway.port, None, script.provider) as fourth,
                ):
                    await third.resume(session_id)
                    await fourth.resume(session_id)
                    await both_hear(third, fourth, session_id)
            else:
                await first.resume(session_id)
                await both_hear(first, second, session_id)


async def both_hear(one: SdkClient, other: SdkClient, session_id: str) -> None:
    """Each of two clients that are attached holds a turn: both hear both, the same events in the same order."""
    begun = len(await one.events(session_id)), len(await other.events(session_id))
    assert await one.send(session_id, "Three.") == "Third."
    async with asyncio.timeout(30):
        # The SDK would take the end of this turn, when it comes to the other client, for that of the next.
        while "session.idle" not in types_of((await other.events(session_id))[begun[1] :]):  # noqa: ASYNC110  # it hears when it does
            await asyncio.sleep(0.02)
    assert await other.send(session_id, "Three.") == "Third."
    async with asyncio.timeout(30):
        while True:
            told = [
                (await one.events(session_id))[begun[0] :],
                (await other.events(session_id))[begun[1] :],
            ]
            if all([each["type"] for each in some].count("session.idle") == 2 for some in told):
                break
            await asyncio.sleep(0.02)
    heard = [[each["id"] for each in turns_of(some)] for some in told]
    assert heard[0] == heard[1]
    assert said(told[0]) == ["Three.", "Third."] * 2
    whole = ["One.", "First.", "Two.", "Second.", *["Three.", "Third."] * 2]
    assert said(await one.history(session_id)) == said(await other.history(session_id)) == whole


def turns_of(events: Sequence[Record]) -> Sequence[Record]:
    """Return what came from the first message to the end of the last turn: what comes after may still be on its way."""
    types = types_of(events)
    return events[types.index("user.message") : len(types) - types[::-1].index("session.idle")]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_sessions_are_listed_forked_and_deleted(
    served: Served, script: ScriptedModel, session_id: str, language: str
) -> None:
    gateway, _ = served
    script.add("One.", Say("First."))
    script.add("Two.", Say("Second."))
    script.add("What did I say?", Say("One and two."))
    async with CLIENTS[language](HOST, gateway.port, None, script.provider) as client:
        before = ids(await client.list_sessions())
        assert session_id not in before
        assert await client.metadata(session_id) is None
        await client.create(session_id)
        await client.send(session_id, "One.")
        await client.send(session_id, "Two.")
        assert ids(await client.list_sessions()) == sorted([*before, session_id])
        assert await client.last_id() == session_id
        row = await client.metadata(session_id)
        assert row is not None
        assert (row["sessionId"], row["isRemote"], row["summary"]) == (session_id, False, "One.")
        assert row["startTime"] <= row["modifiedTime"]

        source = await client.history(session_id)
        second = next(each for each in source if said([each]) == ["Two."])
        whole = await client.fork(session_id, name="copy")
        part = await client.fork(session_id, to_event_id=second["id"])
        assert len({session_id, whole, part}) == 3
        assert ids(await client.list_sessions()) == sorted([*before, session_id, whole, part])
        await client.resume(whole)
        assert await client.send(whole, "What did I say?") == "One and two."
        assert said(await client.history(whole)) == [
            "One.",
            "First.",
            "Two.",
            "Second.",
            "What did I say?",
            "One and two.",
        ]
        assert {"One.", "Two."} <= set(script.requests_in("What did I say?")[-1].text.split("\n"))
        await client.resume(part)
        assert said(await client.history(part)) == ["One.", "First."]
        assert await client.history(session_id) == source

        for gone in (whole, part, session_id):
            await client.delete(gone)
            assert await client.metadata(gone) is None
            with pytest.raises(SdkFailure, match=f"Session file not found for {gone}"):
                await client.delete(gone)
        assert ids(await client.list_sessions()) == before


async def test_what_a_client_noted_about_a_session_is_told_from_the_store(
    served: Served, script: ScriptedModel, session_id: str
) -> None:
    script.add("One.", Say("First."))
    async with connected(served[0].port) as client:
        await client.request("session.create", config(script, session_id))
        await turn(client, session_id, "One.")
        noted = {"sessionId": session_id, "set": {"notes.colour": "red"}}
        await client.request("session.metadata.updateClientMetadata", noted)
        told = await client.request("sessions.getClientMetadata", {"sessionIds": [session_id, "never-made"]})
        assert told == [
            {"sessionId": session_id, "status": "ok", "metadata": {"notes.colour": "red"}},
            {"sessionId": "never-made", "status": "notFound"},
        ]


async def test_a_session_that_is_open_is_deleted_and_stays_so(
    served: Served, script: ScriptedModel, store_url: str, session_id: str
) -> None:
    """Both who have it open are told; nothing brings it back but a new session of that name, which is empty."""
    gateway, _ = served
    script.add("One.", Say("First."))
    script.add("Again.", Say("Anew."))
    async with (
        CLIENTS["node"](HOST, gateway.port, None, script.provider) as node,
        listening(gateway.port, script) as python,
    ):
        await node.create(session_id)
        await python.resume(session_id)
        assert await node.send(session_id, "One.") == "First."
        await python.delete(session_id)
        for client in (node, python):
            assert session_id not in ids(await client.list_sessions())
            assert {"type": "session.deleted", "sessionId": session_id} in await client.lifecycle()
        with pytest.raises(SdkFailure, match=f"Session not found for sessionId: {session_id}"):
            await node.send(session_id, "One.")
        for client in (node, python):
            with pytest.raises(SdkFailure, match=f"Session not found: {session_id}"):
                await client.resume(session_id)
        # Longer than the runtime gathers events before it appends them.
        await asyncio.sleep(0.3)
        assert session_id not in ids(await python.list_sessions())
        async with (
            SessionFs.open(store_url, tenant="default") as files,
            files.volume(session_id, read_only=True) as volume,
        ):
            assert not await volume.exists(EVENTS)

        await node.create(session_id)
        assert said(await node.history(session_id)) == []
        assert await node.send(session_id, "Again.") == "Anew."
        await python.resume(session_id)
        assert said(await python.history(session_id)) == ["Again.", "Anew."]
        assert session_id in ids(await python.list_sessions())


async def test_a_client_with_a_provider_of_its_own_starts_and_is_not_asked(
    served: Served, script: ScriptedModel, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, _ = served
    script.add("One.", Say("First."))
    handler = MagicMock(spec=SessionProvider)
    async with SessionFs.open("memory://never", tenant="default") as own:
        with caplog.at_level(logging.INFO, "sessionfs_s3.gateway"):
            for number in range(2):
                connection = RuntimeConnection.for_uri(f"{HOST}:{gateway.port}")
                client = CopilotClient(mode="empty", connection=connection, session_fs=own.config)
                await client.start()
                session = await client.create_session(
                    session_id=f"{session_id}-{number}",
                    create_session_fs_handler=lambda _: handler,
                    on_permission_request=PermissionHandler.approve_all,
                    available_tools=[],
                    model=MODEL_NAME,
                    provider=script.provider,
                )
                await session.send_and_wait("One.", timeout=30)
                assert said([each.to_dict() for each in await session.get_events()]) == ["One.", "First."]
                await client.stop()
    assert handler.mock_calls == []
    told = [record for record in caplog.records if "provider of its own" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]


def ids(rows: Sequence[Record]) -> list[str]:
    return sorted(row["sessionId"] for row in rows)


def types_of(events: Sequence[Record]) -> list[str]:
    return [each["type"] for each in events]
