"""Bare conversations: sessions held over a RawClient, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.raw_client import Answer, Json, RawClient, RpcError, raw_client, unanswered

HOST = "127.0.0.1"
PATIENT_S = 120.0
"""``handshake_s`` for tests: half of it is how long a client waits for the first runtime, on a machine that is busy."""
LOOKUP: Json = {
    "name": "lookup",
    "description": "Looks up a key.",
    "parameters": {"type": "object", "properties": {"key": {}}},
}


def config(model: ScriptedModel, session_id: str, *tools: Json, builtin: Sequence[str] = ("ask_user",)) -> Json:
    """Return the parameters by which a session is created or resumed."""
    return {
        "sessionId": session_id,
        "model": "scripted",
        "provider": {"type": "openai", "baseUrl": model.url, "apiKey": "none"},
        "availableTools": [*(f"builtin:{name}" for name in builtin), "custom:*"],
        "requestPermission": True,
        "requestUserInput": True,
        "tools": list(tools),
    }


@asynccontextmanager
async def connected(port: int, *, token: str | None = None, answer: Answer = unanswered) -> AsyncIterator[RawClient]:
    """Connect to *port*, and say who one is."""
    async with raw_client(HOST, port, answer=answer) as client:
        await client.request("connect", {} if token is None else {"token": token})
        yield client


async def begin_turn(client: RawClient, session_id: str, prompt: str) -> int:
    """Send *prompt*; return how many messages had been received before."""
    seen = len(client.received)
    await client.request("session.send", {"sessionId": session_id, "prompt": prompt})
    return seen


async def turn(client: RawClient, session_id: str, prompt: str) -> list[Json]:
    """Hold a turn and return its events."""
    seen = await begin_turn(client, session_id, prompt)
    return await idle(client, session_id, seen)


async def idle(client: RawClient, session_id: str, after: int) -> list[Json]:
    """Wait for the end of the turn, and return the session's events since *after* messages."""
    await event(client, session_id, "session.idle", after)
    return events(client, session_id, after)


async def event(client: RawClient, session_id: str, kind: str, after: int = 0, *, deadline_s: float = 30) -> Json:
    """Wait for an event of that type and return its data."""
    message = await client.until(
        lambda message: is_event(message, session_id) and message["params"]["event"]["type"] == kind,
        after=after,
        deadline_s=deadline_s,
    )
    data: Json = message["params"]["event"]["data"]
    return data


def events(client: RawClient, session_id: str, after: int = 0) -> list[Json]:
    """Return the session's events since *after* messages."""
    return [each["params"]["event"] for each in client.received[after:] if is_event(each, session_id)]


def is_event(message: Json, session_id: str) -> bool:
    return message.get("method") == "session.event" and message["params"]["sessionId"] == session_id


async def history(client: RawClient, session_id: str) -> list[Json]:
    """Return all the session's events."""
    told: list[Json] = (await client.request("session.getMessages", {"sessionId": session_id}))["events"]
    return told


async def eventually(holds: Callable[[], bool], *, deadline_s: float = 30) -> None:
    """Wait until *holds* does. Raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)


async def refusal(client: RawClient, method: str, params: Json) -> str:
    """Return the words of the error that *method* is answered with."""
    with pytest.raises(RpcError) as caught:
        await client.request(method, params)
    return caught.value.message


def said(told: Sequence[Json]) -> list[str]:
    """Return the words of the user and of the assistant, in order."""
    words: list[Any] = [
        each["data"]["content"] for each in told if each["type"] in ("user.message", "assistant.message")
    ]
    return [each for each in words if each]
