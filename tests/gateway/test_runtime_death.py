"""Runtimes that die, are cut off, or never come up: sessions go on elsewhere, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from sessionfs_s3.gateway import pool
from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Launched, Running, Runtime
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import Call, Say, ScriptedModel, Stall
from sessionfs_s3.testing.raw_client import RpcError, raw_client
from sessionfs_s3.testing.runtime import start_runtime
from sessionfs_s3.testing.sdk_client import SdkFailure
from sessionfs_s3.testing.sdk_clients import CLIENTS
from tests.gateway.tap import tapped
from tests.gateway.wire import (
    HOST,
    LOOKUP,
    PATIENT_S,
    begin_turn,
    config,
    connected,
    event,
    events,
    eventually,
    history,
    idle,
    said,
    turn,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-death")]

AT_ONCE_S = 5.0
"""What is told at once is told within that, however busy the machine is; deadlines of the gateway are 30 s and more."""

Served = tuple[Gateway, Launched]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(executable: Path) -> AsyncIterator[Served]:
    """A gateway with two runtimes."""
    gateway, launched = gateway_here(executable, GatewayOptions("memory://death", handshake_s=PATIENT_S), runtimes=2)
    async with gateway:
        yield gateway, launched


@pytest.fixture(autouse=True)
def prepared(script: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, word in enumerate(("First.", "Second.", "Third."), 1):
        script.add(f"Turn {number}.", Say(word))
    # The pauses between two deaths are for runtimes that keep dying: here each death is of the test's own making.
    monkeypatch.setattr(pool, "STABLE_S", 0.0)


async def kill(served: Served, runtime: Runtime) -> None:
    (process,) = [each for each in served[1].processes if each.port == runtime._endpoint.port]
    await process.kill()


def home(gateway: Gateway, session_id: str) -> Runtime:
    return gateway.tenants["default"].sessions[session_id].runtime


async def all_serve(gateway: Gateway, count: int = 2) -> None:
    await eventually(lambda: len([each for every in gateway.pools for each in every.runtimes]) >= count)


async def test_killed_while_idle(pair: Served, script: ScriptedModel, session_id: str) -> None:
    """The next turn is held elsewhere, by itself; a session of the other runtime notices nothing."""
    gateway, _ = pair
    bystander = f"{session_id}-bystander"
    await all_serve(gateway)
    async with connected(gateway.port) as client, connected(gateway.port) as second:
        for each in (session_id, bystander):
            await client.request("session.create", config(script, each, LOOKUP))
            await turn(client, each, "Turn 1.")
        await second.request("session.resume", config(script, session_id))
        dead = home(gateway, session_id)
        assert home(gateway, bystander) is not dead
        seen = len(client.received)
        await kill(pair, dead)
        assert said(await turn(client, session_id, "Turn 2.")) == ["Turn 2.", "Second."]
        assert home(gateway, session_id) is not dead
        assert said(await history(second, session_id)) == ["Turn 1.", "First.", "Turn 2.", "Second."]
        assert "session.error" not in [each["type"] for each in events(client, session_id, seen)]
        # The second client is attached again, too, with its first call.
        heard = len(second.received)
        await turn(client, session_id, "Turn 3.")
        assert said(await idle(second, session_id, heard)) == ["Turn 3.", "Third."]
        assert said(await turn(client, bystander, "Turn 2.")) == ["Turn 2.", "Second."]


@pytest.mark.usefixtures("node_sdk")
@pytest.mark.parametrize("language", list(CLIENTS))
async def test_killed_in_the_middle_of_a_turn(
    pair: Served, script: ScriptedModel, session_id: str, language: str
) -> None:
    """The client hears so at once; what was acknowledged before is there, and the next turn is held."""
    gateway, _ = pair
    stall = Stall(Say("Never heard."))
    script.add("Long.", stall)
    await all_serve(gateway)
    async with CLIENTS[language](HOST, gateway.port, None, script.provider) as client:
        await client.create(session_id)
        await client.send(session_id, "Turn 1.")
        turning = asyncio.create_task(client.send(session_id, "Long."))
        await asyncio.wait_for(stall.reached.wait(), 30)
        await asyncio.sleep(0.3)  # until the runtime has stored the question
        await kill(pair, home(gateway, session_id))
        with pytest.raises(SdkFailure, match=r"the runtime of session .* ended"):
            await asyncio.wait_for(turning, AT_ONCE_S)
        assert await client.send(session_id, "Turn 2.") == "Second."
        assert said(await client.history(session_id)) == ["Turn 1.", "First.", "Long.", "Turn 2.", "Second."]


async def test_killed_while_somebody_waits(pair: Served, script: ScriptedModel, session_id: str) -> None:
    """A request of the client's is answered with an error; one that it was asked is nobody's any more."""
    gateway, _ = pair
    stall = Stall(Say("Never heard."))
    script.add("detailed summary of the conversation", stall)
    script.add("Ask.", Call("ask_user", {"question": "Which?"}), Say("Heard."))
    await all_serve(gateway)
    async with connected(gateway.port) as client:
        await client.request("session.create", config(script, session_id, LOOKUP))
        await turn(client, session_id, "Turn 1.")
        await client.begin("session.history.compact", {"sessionId": session_id}, request_id="compacting")
        await asyncio.wait_for(stall.reached.wait(), 30)
        await kill(pair, home(gateway, session_id))
        with pytest.raises(RpcError, match=r"the runtime .*ended"):
            await client.answer_to("compacting", deadline_s=AT_ONCE_S)

        await all_serve(gateway)
        seen = await begin_turn(client, session_id, "Ask.")
        old = await client.until(lambda message: message.get("method") == "userInput.request", after=seen)
        await kill(pair, home(gateway, session_id))
        failure = await event(client, session_id, "session.error", seen, deadline_s=AT_ONCE_S)
        assert "its running turn is lost" in failure["message"]
        await all_serve(gateway)
        seen = await begin_turn(client, session_id, "Ask.")
        new = await client.until(lambda message: message.get("method") == "userInput.request", after=seen)
        # The late answer to the dead one's question, then the answer to this one: the latter counts.
        if old["id"] != new["id"]:
            await client.respond(old["id"], {"answer": "too late", "wasFreeform": True})
        await client.respond(new["id"], {"answer": "just in time", "wasFreeform": True})
        await idle(client, session_id, seen)
        assert "just in time" in script.requests_in("Ask.")[-1].results()[-1]
        assert client.ended == ""


async def test_all_runtimes_at_once(pair: Served, script: ScriptedModel, session_id: str) -> None:
    gateway, launched = pair
    sessions = [f"{session_id}-{number}" for number in range(4)]
    await all_serve(gateway)
    async with connected(gateway.port) as client:
        for each in sessions:
            await client.request("session.create", config(script, each))
            await turn(client, each, "Turn 1.")
        await asyncio.gather(*(each.kill() for each in list(launched.processes)))
        told = await asyncio.gather(*(turn(client, each, "Turn 2.") for each in sessions))
        assert [said(each) for each in told] == [["Turn 2.", "Second."]] * 4
        for each in sessions:
            assert said(await history(client, each)) == ["Turn 1.", "First.", "Turn 2.", "Second."]
        assert len(await client.request("ping")) == 3


async def test_a_control_connection_that_is_lost(pair: Served, script: ScriptedModel, session_id: str) -> None:
    """The slot of that runtime is gone for ever: it is replaced, though its process lives."""
    gateway, launched = pair
    await all_serve(gateway)
    async with connected(gateway.port) as client:
        await client.request("session.create", config(script, session_id))
        await turn(client, session_id, "Turn 1.")
        lost = home(gateway, session_id)
        assert lost._link is not None
        lost._link._stream.abort()
        await eventually(lambda: not lost.alive, deadline_s=AT_ONCE_S)
        assert said(await turn(client, session_id, "Turn 2.")) == ["Turn 2.", "Second."]
        assert home(gateway, session_id) is not lost
        await all_serve(gateway)
        assert lost not in gateway.pools[0].runtimes
        assert lost._endpoint.port not in [each.port for each in launched.processes]
        assert said(await history(client, session_id)) == ["Turn 1.", "First.", "Turn 2.", "Second."]


async def test_a_runtime_that_never_comes_up() -> None:
    """Whoever comes is told why there is none, and the gateway stays up."""
    gateway, _ = gateway_here(Path("/bin/false"), GatewayOptions("memory://none", handshake_s=4.0))
    async with gateway:
        async with raw_client(HOST, gateway.port) as client:
            with pytest.raises(RpcError, match=r"^-32603: no runtime serves at the moment: try again later"):
                await client.request("connect", {}, deadline_s=30)
            assert client.ended == ""
        assert not gateway.ready


async def test_a_runtime_of_somebody_elses_that_is_started_anew(
    executable: Path, script: ScriptedModel, session_id: str
) -> None:
    """``--runtime HOST:PORT``: it is connected to again, and its sessions go on."""
    token = {"COPILOT_CONNECTION_TOKEN": "a-token"}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(start_runtime(executable, extra=token))
        tap = await stack.enter_async_context(tapped(first.port))
        source = Running(HOST, tap.port, "a-token")
        gateway = Gateway(
            GatewayOptions("memory://theirs", handshake_s=PATIENT_S),
            Authenticator.load(None),
            lambda: [source],
            may_grow=False,
        )
        await stack.enter_async_context(gateway)
        client = await stack.enter_async_context(connected(gateway.port))
        await client.request("session.create", config(script, session_id))
        await turn(client, session_id, "Turn 1.")
        stall = Stall(Say("Never heard."))
        script.add("Long.", stall)
        seen = await begin_turn(client, session_id, "Long.")
        await asyncio.wait_for(stall.reached.wait(), 30)
        await first.kill()
        await event(client, session_id, "session.error", seen, deadline_s=AT_ONCE_S)
        second = await stack.enter_async_context(start_runtime(executable, extra=token))
        tap.target = second.port
        assert said(await turn(client, session_id, "Turn 2.")) == ["Turn 2.", "Second."]
        assert said(await history(client, session_id))[:2] == ["Turn 1.", "First."]
