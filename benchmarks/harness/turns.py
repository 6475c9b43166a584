"""Turns of a session over the bare wire: a client that costs little, and counts a turn only when it was one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.harness.side import HOST, Door
from sessionfs_s3.testing.model import MODEL_NAME, Say, ScriptedModel
from sessionfs_s3.testing.raw_client import Json, RawClient, raw_client

PROMPT: Final = "Say what a log is."
REPLY: Final = "A log is a list of what happened, in the order in which it happened, to which one only ever adds. " * 4
DEADLINE_S: Final = 120.0
"""Of one turn: fifty of them share two cores with everything else."""


def scripted() -> ScriptedModel:
    """Return the model of all turns here: it answers :data:`PROMPT` with :data:`REPLY`, and calls no tool."""
    return ScriptedModel({PROMPT: [Say(REPLY)]})


class Talker:
    """One client with one session."""

    def __init__(self, client: RawClient, session_id: str) -> None:
        """Use *client*, which has been greeted."""
        self._client = client
        self._id = session_id

    async def create(self, model: ScriptedModel) -> None:
        """Create the session, without tools."""
        provider: Json = {"type": "openai", "baseUrl": model.url, "apiKey": "none"}
        given: Json = {"sessionId": self._id, "model": MODEL_NAME, "provider": provider, "availableTools": []}
        await self._client.request("session.create", given, deadline_s=DEADLINE_S)

    async def turn(self) -> float:
        """Hold a turn; return how long it took until the session was idle, in seconds.

        Raises:
            RuntimeError: the assistant did not say what the model was to say, or the session failed.
        """
        received = self._client.received
        received.clear()
        started_s = time.perf_counter()
        await self._client.begin("session.send", {"sessionId": self._id, "prompt": PROMPT})
        end = await self._client.until(self._ends, deadline_s=DEADLINE_S)
        took_s = time.perf_counter() - started_s
        said = [_event(each)["data"].get("content") for each in received if _type(each) == "assistant.message"]
        if "error" in end or _type(end) != "session.idle" or said != [REPLY]:
            raise RuntimeError(f"session {self._id}: a turn ended with {end}, the assistant said {said}")
        return took_s

    def _ends(self, message: Json) -> bool:
        if "error" in message:
            return True
        of = message["params"].get("sessionId") if "method" in message else None
        return of == self._id and _type(message) in ("session.idle", "session.error")


@asynccontextmanager
async def greeted(door: Door) -> AsyncGenerator[RawClient]:
    """Connect at *door* and be let in."""
    port, token = door
    async with raw_client(HOST, port) as client:
        await client.request("connect", {"token": token}, deadline_s=DEADLINE_S)
        yield client


@asynccontextmanager
async def talker(door: Door, session_id: str, model: ScriptedModel) -> AsyncGenerator[Talker]:
    """Connect at *door*, create the session and hold its first turn, which is unlike the others."""
    async with greeted(door) as client:
        found = Talker(client, session_id)
        await found.create(model)
        await found.turn()
        yield found


def _event(message: Json) -> dict[str, Any]:
    event: dict[str, Any] = message["params"]["event"]
    return event


def _type(message: Json) -> str:
    return str(_event(message)["type"]) if message.get("method") == "session.event" else ""
