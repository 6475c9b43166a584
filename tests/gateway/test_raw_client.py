"""The bare connection, and what it shows of a plain runtime: the facts that the gateway's routing rests on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from sessionfs_s3.testing.model import Call, Say, ScriptedModel, Stall
from sessionfs_s3.testing.raw_client import (
    UNANSWERED,
    Answer,
    ConnectionEnded,
    Json,
    RawClient,
    RpcError,
    framed,
    raw_client,
    unanswered,
)
from sessionfs_s3.testing.runtime import RuntimeProcess

HOST = "127.0.0.1"
LOOKUP: Json = {"name": "lookup", "description": "Looks up a key.", "parameters": {"type": "object", "properties": {}}}


class Connect(Protocol):
    def __call__(self, *, answer: Answer = ..., greet: bool = ...) -> AbstractAsyncContextManager[RawClient]: ...


@pytest.fixture
def connect(plain: RuntimeProcess) -> Connect:
    """Connect to the plain runtime, and say who one is unless ``greet`` is false."""

    @asynccontextmanager
    async def connecting(*, answer: Answer = unanswered, greet: bool = True) -> AsyncIterator[RawClient]:
        async with raw_client(HOST, plain.port, answer=answer) as client:
            if greet:
                await client.request("connect", {"token": plain.token})
            yield client

    return connecting


@pytest.fixture
def config(model: ScriptedModel) -> Callable[..., Json]:
    def of(session_id: str, *tools: Json) -> Json:
        return {
            "sessionId": session_id,
            "model": "scripted",
            "provider": {"type": "openai", "baseUrl": model.url, "apiKey": "none"},
            "availableTools": ["builtin:ask_user", "custom:*"],
            "requestPermission": True,
            "requestUserInput": True,
            "tools": list(tools),
        }

    return of


async def test_the_token_decides(connect: Connect, plain: RuntimeProcess) -> None:
    async with connect(greet=False) as client:
        for method in ("ping", "session.list", "no.such"):
            assert await refusal(client, method) == (-32001, "AUTHENTICATION_REQUIRED")
        for params in ({}, {"token": ""}, {"token": None}, {"token": 5}, {"token": "wrong"}):
            assert await refusal(client, "connect", params) == (-32002, "AUTHENTICATION_FAILED")
        # The connection stands all the while, and a later try may succeed; a wrong one after it changes nothing.
        greeting = await client.request("connect", {"token": plain.token})
        assert (greeting["ok"], greeting["protocolVersion"]) == (True, 3)
        assert await refusal(client, "connect", {"token": "wrong"}) == (-32002, "AUTHENTICATION_FAILED")
        assert "sessions" in await client.request("session.list")
        assert await refusal(client, "no.such") == (-32601, "Unhandled method no.such")
        assert client.ended == ""


async def test_frames_that_break_the_rules(connect: Connect) -> None:
    """What is no JSON, or no message, is answered with an error; what is no frame ends the connection."""
    async with connect() as client:
        for wrong, code in (
            (b"Content-Length: 5\r\n\r\n{bad}", -32700),
            (b"content-length: 2\r\n\r\n[]", -32600),
            (b"Content-Length: 2\r\nContent-Type: x\r\n\r\n{}", -32600),
            (framed({"jsonrpc": "1.0", "id": 1, "method": "ping"}), -32600),
            (framed({"jsonrpc": "2.0", "id": None, "method": "ping"}), -32600),
        ):
            seen = len(client.received)
            await client.send_bytes(wrong)
            answer = await client.until(lambda message: "error" in message, after=seen)
            assert (answer["id"], answer["error"]["code"]) == (None, code)
        for request_id in (0, -1, 2**53, "a", "é"):
            answer = await client.request("ping", {"message": "still here"}, request_id=request_id)
            assert answer["message"] == "pong: still here"
    for wrong in (b"Content-Length: -1\r\n\r\n", b"Content-Length: five\r\n\r\n", b"Other: 1\r\n\r\n"):
        async with connect() as client:
            await client.send_bytes(wrong)
            assert await client.wait_ended() == "closed"
            assert client.received[-1]["error"]["code"] == -32700
            with pytest.raises(ConnectionEnded, match="closed"):
                await client.until(lambda _: False)
    async with connect() as client:
        client.half_close()
        assert await client.wait_ended() == "closed"


async def test_events_go_to_those_attached_and_lifecycle_to_everybody(
    connect: Connect, model: ScriptedModel, config: Callable[..., Json], session_id: str
) -> None:
    model.add("One.", Say("First."))
    model.add("Two.", Say("Second."))
    async with connect() as owner, connect() as other, connect() as bystander, connect(greet=False) as stranger:
        number = await owner.begin("session.create", config(session_id, LOOKUP))
        created = await owner.answer_to(number)
        assert created["sessionId"] == session_id
        # The first lifecycle notification comes before the answer.
        methods = [message.get("method", "answer") for message in owner.received[1:]]
        assert methods.index("session.lifecycle") < methods.index("answer")
        code, message = await refusal(other, "session.resume", config(session_id, LOOKUP))
        assert (code, message.split(": ", 1)[1]) == (
            -32603,
            "External tool name clash: lookup already registered by another connection",
        )
        await turn(owner, session_id, "One.")
        assert set(other.methods()) == {"session.lifecycle"}

        await other.request("session.resume", config(session_id))
        begun = len(owner.received), len(other.received)
        # Who is not attached may send, and is told nothing.
        await bystander.request("session.send", {"sessionId": session_id, "prompt": "Two."})
        await idle(owner, begun[0])
        await idle(other, begun[1])
        assert one_turn(owner, begun[0]) == one_turn(other, begun[1])
        assert set(bystander.methods()) == {"session.lifecycle"}
        assert stranger.received == []


async def test_what_the_server_asks(
    connect: Connect, model: ScriptedModel, config: Callable[..., Json], session_id: str
) -> None:
    """Permissions and tools come as events, a question as a request, whose ids count from 1 on each connection."""
    asked: list[str] = []

    async def answer(method: str, params: Json) -> object:
        asked.append(method)
        if params["question"] == "Refuse?":
            raise RpcError(-32099, "no answer today")
        return {"answer": "yes", "wasFreeform": True} if params["question"] == "Answer?" else UNANSWERED

    model.add("Use.", Call("lookup"), Say("Used."))
    for question in ("Answer?", "Refuse?", "Wait?"):
        model.add(question, Call("ask_user", {"question": question}), Say("Heard."))
    async with connect(answer=answer) as client:
        await client.request("session.create", config(session_id, LOOKUP))
        seen = len(client.received)
        await client.request("session.send", {"sessionId": session_id, "prompt": "Use."})
        permission = await event(client, "permission.requested", seen)
        allowed = {"sessionId": session_id, "requestId": permission["requestId"], "result": {"kind": "approve-once"}}
        assert await client.request("session.permissions.handlePendingPermissionRequest", allowed) == {"success": True}
        call = await event(client, "external_tool.requested", seen)
        done = {"sessionId": session_id, "requestId": call["requestId"], "result": "forty-two"}
        assert await client.request("session.tools.handlePendingToolCall", done) == {"success": True}
        assert await client.request("session.tools.handlePendingToolCall", done) == {"success": False}
        await idle(client, seen)
        assert model.requests[-1].results() == ["forty-two"]
        assert asked == []

        await turn(client, session_id, "Answer?")
        assert "yes" in model.requests[-1].results()[-1]
        await turn(client, session_id, "Refuse?")
        assert model.requests[-1].results()[-1].endswith("The user was unable to respond due to an error")
        seen = len(client.received)
        await client.request("session.send", {"sessionId": session_id, "prompt": "Wait?"})
        waiting = await client.until(lambda message: message.get("method") == "userInput.request", after=seen)
        assert [message["id"] for message in client.received if message.get("method") == "userInput.request"] == [
            1,
            2,
            3,
        ]
        await client.respond(waiting["id"], {"answer": "at last", "wasFreeform": True})
        await idle(client, seen)
        assert "at last" in model.requests[-1].results()[-1]
        assert asked == ["userInput.request"] * 3


async def test_a_session_is_closed_with_its_last_connection(
    connect: Connect, model: ScriptedModel, config: Callable[..., Json], session_id: str
) -> None:
    """At once, even in the middle of a turn, which is lost; until then any other connection keeps it going."""
    model.add("One.", Say("First."))
    stall = Stall(Say("Never heard."))
    model.add("Long.", stall)
    async with connect() as first, connect() as second, connect() as heir:
        await first.request("session.create", config(session_id, LOOKUP))
        await second.request("session.resume", config(session_id))
        first.drop()
        await first.wait_ended()
        await turn(second, session_id, "One.")
        await second.request("session.send", {"sessionId": session_id, "prompt": "Long."})
        await stall.reached.wait()
        second.drop()
        code, message = await gone(heir, session_id)
        assert code == -32603
        assert message == f"Request session.send failed with message: Session not found for sessionId: {session_id}"
        await heir.request("session.resume", config(session_id, LOOKUP))
        stall.released.set()
        history = (await heir.request("session.getMessages", {"sessionId": session_id}))["events"]
        told = [each["type"] for each in history if each["type"] in {"assistant.message", "session.shutdown", "abort"}]
        assert told == ["assistant.message", "session.shutdown"]
        assert history[-1]["type"] == "session.resume"
        await turn(heir, session_id, "One.")


async def test_a_reader_that_stops_stops_nobody_else(
    connect: Connect, model: ScriptedModel, config: Callable[..., Json], session_id: str
) -> None:
    """The runtime keeps for it whatever it does not read: nothing but its own end bounds that."""
    model.add("Say much.", Say("much " * 200_000))
    async with connect() as owner, connect() as slow:
        await owner.request("session.create", config(session_id))
        await slow.request("session.resume", config(session_id))
        slow.stop_reading()
        seen = len(owner.received), len(slow.received)
        for _ in range(2):
            await turn(owner, session_id, "Say much.")
        assert len(slow.received) <= seen[1] + 1
        slow.go_on_reading()
        for _ in range(2):
            await idle(slow, seen[1])
            assert one_turn(slow, seen[1]) == one_turn(owner, seen[0])
            seen = after_turn(owner, seen[0]), after_turn(slow, seen[1])


async def refusal(client: RawClient, method: str, params: Json | None = None) -> tuple[int, str]:
    with pytest.raises(RpcError) as caught:
        await client.request(method, params)
    return caught.value.code, caught.value.message


async def gone(client: RawClient, session_id: str) -> tuple[int, str]:
    """Wait until the runtime has noticed that a connection is gone, and has closed its session."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.request("session.getMessages", {"sessionId": session_id})
            except RpcError:
                return await refusal(client, "session.send", {"sessionId": session_id, "prompt": "Hello?"})
            await asyncio.sleep(0.02)


async def turn(client: RawClient, session_id: str, prompt: str) -> None:
    seen = len(client.received)
    await client.request("session.send", {"sessionId": session_id, "prompt": prompt})
    await idle(client, seen)


async def idle(client: RawClient, after: int) -> None:
    await event(client, "session.idle", after)


async def event(client: RawClient, kind: str, after: int) -> Json:
    """Wait for an event of that type and return its data."""
    message = await client.until(
        lambda message: of_session(message) and message["params"]["event"]["type"] == kind,
        after=after,
    )
    data: Json = message["params"]["event"]["data"]
    return data


def one_turn(client: RawClient, after: int) -> list[str]:
    """Return the ids of the events of the first turn in what was received after so many messages."""
    told = [
        message["params"]["event"]
        for message in client.received[after : after_turn(client, after)]
        if of_session(message)
    ]
    types = [each["type"] for each in told]
    return [each["id"] for each in told[types.index("user.message") :]]


def after_turn(client: RawClient, after: int) -> int:
    """Return how many messages had been received at the end of that turn."""
    return next(
        number
        for number, message in enumerate(client.received[after:], after + 1)
        if of_session(message) and message["params"]["event"]["type"] == "session.idle"
    )


def of_session(message: Json) -> bool:
    return message.get("method") == "session.event"
