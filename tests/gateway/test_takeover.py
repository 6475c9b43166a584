"""A session that another gateway takes over: this one says so, lets it go, and brings it back when asked to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Launched
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import Say, ScriptedModel, Stall
from sessionfs_s3.testing.sdk_client import SdkFailure
from sessionfs_s3.testing.sdk_clients import CLIENTS
from tests.gateway.wire import (
    HOST,
    LOOKUP,
    PATIENT_S,
    begin_turn,
    config,
    connected,
    event,
    history,
    idle,
    refusal,
    said,
    turn,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-takeover")]

Served = tuple[Gateway, Launched]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def other(executable: Path, store_url: str) -> AsyncIterator[Gateway]:
    """A second gateway over the same store."""
    gateway, _ = gateway_here(executable, GatewayOptions(store_url, handshake_s=PATIENT_S))
    async with gateway:
        yield gateway


@pytest.fixture(autouse=True)
def turns(script: ScriptedModel) -> None:
    for number, word in enumerate(("First.", "Second.", "Third.", "Fourth."), 1):
        script.add(f"Turn {number}.", Say(word))


async def test_a_session_is_taken_over_and_brought_back(
    served: Served, other: Gateway, script: ScriptedModel, session_id: str
) -> None:
    gateway, launched = served
    bystander = f"{session_id}-bystander"
    async with connected(gateway.port) as here, connected(gateway.port) as second, connected(other.port) as there:
        for each in (session_id, bystander):
            await here.request("session.create", config(script, each, LOOKUP))
        await second.request("session.resume", config(script, session_id))
        await turn(here, session_id, "Turn 1.")
        await there.request("session.resume", config(script, session_id, LOOKUP))
        await turn(there, session_id, "Turn 2.")

        seen = len(second.received)
        begun = await begin_turn(here, session_id, "Turn 3.")
        for client, after in ((here, begun), (second, seen)):
            failure = await event(client, session_id, "session.error", after)
            assert failure["errorType"] == "persistence"
            assert "taken over by another replica" in failure["message"]
            assert "resume it to bring it back" in failure["message"]
        # Later calls say the same, on whatever connection; the runtime knows nothing of the session any more.
        for client in (here, second):
            for method in ("session.send", "session.getMessages", "session.name.get"):
                told = await refusal(client, method, {"sessionId": session_id, "prompt": "Turn 4."})
                assert "taken over by another replica" in told
        process = launched.processes[0]
        async with connected(process.port, token=process.token) as direct:
            assert "Session not found" in await refusal(direct, "session.getMessages", {"sessionId": session_id})
        # Other sessions go on, and so does this one where it is now.
        assert said(await turn(here, bystander, "Turn 1.")) == ["Turn 1.", "First."]
        await turn(there, session_id, "Turn 3.")

        await here.request("session.resume", config(script, session_id, LOOKUP))
        whole = ["Turn 1.", "First.", "Turn 2.", "Second.", "Turn 3.", "Third."]
        assert said(await history(here, session_id)) == whole
        assert said(await turn(here, session_id, "Turn 4.")) == ["Turn 4.", "Fourth."]
        assert said(await history(here, session_id)) == [*whole, "Turn 4.", "Fourth."]
        # Each event is stored once.
        ids = [each["id"] for each in await history(here, session_id)]
        assert len(set(ids)) == len(ids)
        await begin_turn(there, session_id, "Turn 1.")
        assert "taken over" in (await event(there, session_id, "session.error"))["message"]


async def test_in_the_middle_of_a_turn(served: Served, other: Gateway, script: ScriptedModel, session_id: str) -> None:
    """What the turn says after the takeover is nobody's: it is not stored, and its client hears why."""
    stall = Stall(Say("Never heard of."))
    script.add("Long.", stall)
    async with connected(served[0].port) as here, connected(other.port) as there:
        await here.request("session.create", config(script, session_id))
        await turn(here, session_id, "Turn 1.")
        seen = await begin_turn(here, session_id, "Long.")
        await stall.reached.wait()
        # Until the runtime has stored the question, which it gathers for 100 ms.
        await asyncio.sleep(0.3)
        await there.request("session.resume", config(script, session_id))
        assert said(await history(there, session_id)) == ["Turn 1.", "First.", "Long."]
        stall.released.set()
        failure = await event(here, session_id, "session.error", seen)
        assert "taken over by another replica" in failure["message"]
        assert said(await turn(there, session_id, "Turn 2.")) == ["Turn 2.", "Second."]
        await here.request("session.resume", config(script, session_id))
        assert said(await history(here, session_id)) == ["Turn 1.", "First.", "Long.", "Turn 2.", "Second."]


@pytest.mark.usefixtures("node_sdk")
async def test_what_sdk_clients_see_of_it(
    served: Served, other: Gateway, script: ScriptedModel, session_id: str
) -> None:
    async with (
        CLIENTS["python"](HOST, served[0].port, None, script.provider) as python,
        CLIENTS["node"](HOST, other.port, None, script.provider) as node,
    ):
        await python.create(session_id)
        await python.send(session_id, "Turn 1.")
        owner, heir = python, node
        for number, word in ((2, "Second."), (3, "Third.")):
            await heir.resume(session_id)
            assert await heir.send(session_id, f"Turn {number}.") == word
            with pytest.raises(SdkFailure, match="taken over by another replica"):
                await owner.send(session_id, "Turn 4.")
            owner, heir = heir, owner
        assert said(await owner.history(session_id)) == ["Turn 1.", "First.", "Turn 2.", "Second.", "Turn 3.", "Third."]


async def test_two_gateways_resume_it_at_once(
    served: Served, other: Gateway, script: ScriptedModel, session_id: str
) -> None:
    """One of them has it in the end; whatever was acknowledged is in the history, once."""
    async with connected(served[0].port) as here, connected(other.port) as there:
        await here.request("session.create", config(script, session_id))
        await turn(here, session_id, "Turn 1.")
        await here.request("session.detach", {"sessionId": session_id})
        await asyncio.gather(
            *(each.request("session.resume", config(script, session_id)) for each in (here, there)),
        )
        heard: list[str] = []
        for number, client in ((2, here), (3, there)):
            seen = await begin_turn(client, session_id, f"Turn {number}.")
            await client.until(
                lambda message: (
                    message.get("method") == "session.event"
                    and message["params"]["event"]["type"] in ("session.idle", "session.error")
                ),
                after=seen,
            )
            kinds = [
                each["params"]["event"]["type"]
                for each in client.received[seen:]
                if "params" in each and "event" in each["params"]
            ]
            if "session.error" not in kinds:
                await idle(client, session_id, seen)
                heard.append(f"Turn {number}.")
        assert heard
        await here.request("session.resume", config(script, session_id))
        stored = said(await history(here, session_id))
        assert [each for each in stored if each in heard] == heard
        assert len(set(stored)) == len(stored)
