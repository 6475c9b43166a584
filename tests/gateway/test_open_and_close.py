"""Sessions that are opened and closed at the same time, by clients that change their minds or go."""

from __future__ import annotations

import asyncio

import pytest

from sessionfs_s3.testing.fake_runtime import Peer, fake_runtime
from sessionfs_s3.testing.raw_client import Json, RpcError
from tests.gateway.fakes import all_gone, client_of, gateway_before, until


async def test_a_session_is_let_go_though_the_request_to_close_it_is_cancelled() -> None:
    """Else nobody could open it any more, or another tenant's of the same id came to lie beside it."""
    closing, released = asyncio.Event(), asyncio.Event()

    async def slow(_peer: Peer, message: Json) -> bool:
        if message.get("method") == "sessions.close":
            closing.set()
            await released.wait()
        return False

    async with fake_runtime(misdeed=slow) as runtime, gateway_before(runtime) as gateway:
        async with client_of(gateway) as client:
            await client.request("session.create", {"sessionId": "one"})
            deleting = await client.begin("session.delete", {"sessionId": "one"})
            await closing.wait()
            await client.notify("$/cancelRequest", {"id": deleting})
            with pytest.raises(RpcError, match="cancelled"):
                await client.answer_to(deleting)
            (served,) = gateway.pools[0].runtimes
            assert "one" in served.sessions
            released.set()
            await until(lambda: "one" not in served.sessions)
            assert await client.request("session.create", {"sessionId": "one"}, deadline_s=10)
        await all_gone(gateway)
