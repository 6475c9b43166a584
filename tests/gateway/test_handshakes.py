"""How connections begin: who is known and waits for a runtime keeps no stranger out."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.runtimes import Endpoint
from sessionfs_s3.testing.fake_runtime import Peer, fake_runtime
from sessionfs_s3.testing.raw_client import Json, RawClient, RpcError, raw_client
from tests.gateway.fakes import HOST, all_gone, client_of, gateway_before, until


async def test_who_waits_for_a_runtime_counts_against_its_tenants_limit_and_keeps_nobody_out() -> None:
    async def slow(_peer: Peer, message: Json) -> bool:
        return message.get("method") == "connect" and "slow" in message["params"]

    limits = TenantLimits(connections_max=4)
    async with (
        fake_runtime(misdeed=slow) as runtime,
        gateway_before(runtime, limits=limits, handshakes_max=2) as gateway,
        AsyncExitStack() as stack,
    ):
        waiting: list[RawClient] = []
        for number in range(3):
            waiting.append(await stack.enter_async_context(raw_client(HOST, gateway.port)))
            await waiting[-1].begin("connect", {"slow": number})
            await until(lambda: len(gateway.clients) == number + 1)  # noqa: B023  # it is over by then
        async with client_of(gateway) as other:
            assert await other.request("ping")
            with pytest.raises(RpcError, match="connections_max is 4"):
                await stack.enter_async_context(client_of(gateway))
        for client in waiting:
            client.drop()
        for peer in list(runtime.peers):
            if peer is not runtime.holder:
                peer.drop()
        await asyncio.sleep(0)
        await all_gone(gateway)


async def test_a_client_is_not_told_where_a_runtime_listens_or_what_it_says() -> None:
    async def refuse(peer: Peer, message: Json) -> bool:
        if message.get("method") != "connect" or not message["params"].get("refused"):
            return False
        await peer.send({"id": message["id"], "error": {"code": -32603, "message": "/home/operator/copilot is full"}})
        return True

    async with fake_runtime(misdeed=refuse) as runtime, gateway_before(runtime) as gateway:
        async with raw_client(HOST, gateway.port) as client:
            with pytest.raises(RpcError) as caught:
                await client.request("connect", {"refused": True})
            assert caught.value.message == "no runtime can be reached"
        async with client_of(gateway) as client:
            gateway.pools[0].runtimes[0]._endpoint = Endpoint(HOST, 1, None, asyncio.get_running_loop().create_future())
            with pytest.raises(RpcError) as caught:
                await client.request("session.create", {"sessionId": "two"})
            assert caught.value.message == "the runtime cannot be reached"
