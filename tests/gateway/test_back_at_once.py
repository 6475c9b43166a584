"""A client that comes back to a gateway at once, while the runtime is still at what it began for it before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.gateway.messages import Json, Request
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Runtime
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import Say, ScriptedModel

from .wire import config, connected, history, said, turn


class Held:
    """A gateway whose answers to a runtime's appends wait: as if the gateway's process were stopped meanwhile."""

    def __init__(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        self._serve = gateway.serve
        monkeypatch.setattr(gateway, "serve", self.serve)

    async def serve(self, runtime: Runtime, request: Request) -> Json:
        if request.method == "sessionFs.appendFile" and not self.released.is_set():
            self.reached.set()
            await self.released.wait()
        return await self._serve(runtime, request)


async def test_what_was_read_before_a_takeover_is_not_written_after_it(
    executable: Path, model: ScriptedModel, session_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        model.add(f"Turn {number}.", Say(f"Answer {number}."))
    store = f"file://{tmp_path}"
    (gateway, _), (elsewhere, _) = (gateway_here(executable, GatewayOptions(store)) for _ in range(2))
    async with gateway, elsewhere:
        async with connected(elsewhere.port) as client:
            await client.request("session.create", config(model, session_id))
            await turn(client, session_id, "Turn 1.")
            await client.request("session.detach", {"sessionId": session_id})

        held = Held(gateway, monkeypatch)
        async with connected(gateway.port) as client:
            await client.begin("session.resume", config(model, session_id))
            await asyncio.wait_for(held.reached.wait(), 30)
        async with connected(elsewhere.port) as client:
            await client.request("session.resume", config(model, session_id))
            await turn(client, session_id, "Turn 2.")

        async with connected(gateway.port) as client:
            resuming = await client.begin("session.resume", config(model, session_id))
            await asyncio.sleep(0.3)
            held.released.set()
            await client.answer_to(resuming)
            await turn(client, session_id, "Turn 3.")
            conversation = [f"{each} {number}." for number in (1, 2, 3) for each in ("Turn", "Answer")]
            assert said(await history(client, session_id)) == conversation
    async with SessionFs.open(store, tenant="default") as fs, fs.volume(session_id, read_only=True) as volume:
        events = [json.loads(line) for line in (await volume.read_file("/session-state/events.jsonl")).splitlines()]
    assert [each["parentId"] for each in events[1:]] == [each["id"] for each in events[:-1]]
