"""Sessions that are opened and closed at the same time, by clients that change their minds or go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sessionfs_s3.gateway.client import Client
from sessionfs_s3.gateway.errors import FAILED
from sessionfs_s3.gateway.errors import RpcError as RpcErrorHere
from sessionfs_s3.gateway.runtimes import Runtime
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.gateway.sessions import OpenSession, Tenant
from sessionfs_s3.testing.fake_runtime import Peer, fake_runtime
from sessionfs_s3.testing.raw_client import Json, RawClient, RpcError
from tests.gateway.fakes import PLENTY, all_gone, client_of, gateway_before, until


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionfs_s3.gateway.sessions.LINGER_S", 0.1)


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


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Gateway, RawClient, Client, OpenSession]]:
    """A gateway before two runtimes, a client on both of its ends, and the session that it has created."""
    async with fake_runtime() as first, fake_runtime() as second, gateway_before(first, second) as gateway:
        async with client_of(gateway) as peer:
            await peer.request("session.create", {"sessionId": "one"})
            (client,) = gateway.clients
            yield gateway, peer, client, client.tenant.sessions["one"]
        await all_gone(gateway)


async def test_who_comes_back_when_the_time_is_just_up_keeps_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    up: list[Callable[[], None]] = []
    linger = OpenSession.linger

    def caught(session: OpenSession, after_s: float, then: Callable[[], None]) -> None:
        up.append(then)
        linger(session, after_s + 3600, then)

    async with opened() as (gateway, peer, client, session):
        with monkeypatch.context() as patch:
            patch.setattr(OpenSession, "linger", caught)
            await peer.request("session.detach", {"sessionId": "one"})
        coming = asyncio.create_task(gateway.sessions.open(client.tenant, "one", client))
        up[0]()
        assert await coming is session
        await asyncio.sleep(0.05)
        assert client.tenant.sessions == {"one": session}
        assert session.attached.keys() == {client}


async def test_a_session_that_is_closed_while_the_store_is_asked_is_opened_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as (gateway, peer, client, session):
        await peer.request("session.detach", {"sessionId": "one"})

        async def asked() -> bool:
            await gateway.sessions.close(session)
            return True

        monkeypatch.setattr(session.provider, "still_owned", asked)
        again = await gateway.sessions.open(client.tenant, "one", client)
        assert again is not session
        assert client.tenant.sessions == again.runtime.sessions == {"one": again}


async def test_a_session_is_not_looked_for_on_a_runtime_that_is_being_given_up() -> None:
    async with opened() as (gateway, peer, client, session):
        await peer.request("session.send", {"sessionId": "one", "prompt": "here"})
        # As its keeper does it; then it waits for the file requests that are being answered.
        (keeper,) = (each for each in gateway.pools[0]._keepers if each.runtime is session.runtime)
        keeper.runtime, session.runtime.alive = None, False
        async with client_of(gateway) as other:
            await other.request("session.resume", {"sessionId": "one"}, deadline_s=10)
            assert client.tenant.sessions["one"].runtime is not session.runtime
            await peer.request("session.send", {"sessionId": "one", "prompt": "still here"}, deadline_s=10)


async def test_a_session_that_is_deleted_while_it_is_resumed_unasked_stays_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as (gateway, peer, client, session):
        gateway.sessions.cut(session, client)

        async def asked() -> bool:
            client.lose(session, RpcErrorHere(FAILED, "it was deleted"), for_good=True)
            return True

        monkeypatch.setattr(session.provider, "still_owned", asked)
        with pytest.raises(RpcError, match="Session not found"):
            await peer.request("session.send", {"sessionId": "one", "prompt": "still here?"}, deadline_s=10)
        assert not session.attached


async def test_a_session_that_is_opened_while_the_gateway_goes_down_is_closed_too() -> None:
    closed: list[str] = []
    placing = asyncio.Event()

    async def note(_peer: Peer, message: Json) -> bool:
        if message.get("method") == "sessions.close":
            closed.append(message["params"]["sessionId"])
            placing.set()
            await asyncio.sleep(0.2)
        return False

    async with fake_runtime(misdeed=note) as runtime, gateway_before(runtime) as gateway, client_of(gateway) as client:
        await client.request("session.create", {"sessionId": "early"})
        place = gateway.sessions._place

        async def late(tenant: Tenant, session_id: str) -> Runtime:
            await placing.wait()
            return await place(tenant, session_id)

        gateway.sessions._place = late
        await client.begin("session.create", {"sessionId": "late"})
        await until(lambda: "late" in gateway.usages.of("default", PLENTY).open_sessions)
        await gateway.__aexit__(None, None, None)
    assert closed == ["early", "late"]
