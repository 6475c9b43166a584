"""What passes through the gateway passes as it is, in order: compared with what the runtime's own wire carries."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.frames import FRAME_BYTES_MAX
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Running, Source
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.model import Call, Say, ScriptedModel, Stall
from sessionfs_s3.testing.raw_client import Json, RawClient, RpcError, framed
from sessionfs_s3.testing.runtime import RuntimeProcess, start_runtime
from tests.gateway.tap import Line, Tap, tapped
from tests.gateway.wire import LOOKUP, PATIENT_S, begin_turn, config, connected, event, events, eventually, idle, turn

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-order")]

TOKEN = "a-token-of-both-runtimes"
ODD_TEXT = "naïve ☕ 𝄞 \u2028 \x00 \x7f \ufeff \U0010ffff \\u0041 </script>"
NUMBERS = [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, 1e-7, 1e300, 0.1 + 0.2]


@dataclass
class Tapped:
    """A gateway, and taps before both of its runtimes."""

    gateway: Gateway
    taps: Sequence[Tap]

    def lines(self, of: str) -> list[Line]:
        """Return the connections on which the session *of* was named by a client."""
        return [
            line
            for tap in self.taps
            for line in tap.lines
            if not line.holds_the_slot and any(named(message) == of for message in line.there)
        ]


def named(message: Json) -> object:
    return (message.get("params") or {}).get("sessionId")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def wired(executable: Path) -> AsyncIterator[Tapped]:
    async with AsyncExitStack() as stack:
        taps: list[Tap] = []
        for _ in range(2):
            starting = start_runtime(executable, extra={"COPILOT_CONNECTION_TOKEN": TOKEN})
            runtime = await stack.enter_async_context(starting)
            taps.append(await stack.enter_async_context(tapped(runtime.port)))
        sources: list[Source] = [Running("127.0.0.1", tap.port, TOKEN) for tap in taps]
        gateway = Gateway(
            GatewayOptions("memory://order", handshake_s=PATIENT_S),
            Authenticator.load(None, limits=TenantLimits(frame_bytes_max=FRAME_BYTES_MAX)),
            lambda: sources,
            may_grow=False,
        )
        await stack.enter_async_context(gateway)
        await eventually(lambda: all(any(line.holds_the_slot for line in tap.lines) for tap in taps))
        yield Tapped(gateway, taps)


async def test_a_turn_is_what_the_runtimes_own_connection_carries(
    wired: Tapped, script: ScriptedModel, session_id: str
) -> None:
    """Every message of the session, either way, in the same order and with the same contents, answers included."""
    script_of_tools(script)
    async with connected(wired.gateway.port) as client:
        seen = len(client.received)
        sent = await hold_turns(client, session_id, script)
        received = client.received[seen:]
    (line,) = wired.lines(session_id)
    assert received == [message for message in line.back if message.get("id") != 0]
    assert sent == [message for message in line.there if message.get("method") != "connect"]


async def test_a_turn_is_what_a_plain_runtime_says(
    wired: Tapped, plain: RuntimeProcess, script: ScriptedModel, session_id: str
) -> None:
    """The same script, directly and through the gateway: the same messages in the same order, with the same words."""
    script_of_tools(script)
    told: list[list[object]] = []
    for port, token in ((plain.port, plain.token), (wired.gateway.port, None)):
        async with connected(port, token=token) as client:
            seen = len(client.received)
            await hold_turns(client, session_id, script)
            received = [each for each in client.received[seen:] if not is_background(each)]
            # An answer and the events that its request brings about come side by side.
            told.append([faded(each) for each in received if "method" in each])
            told.append([faded(each) for each in received if "method" not in each])
    direct, direct_answers, through, through_answers = told
    # In which order the runtime tells what it does side by side is its own affair; the test above compares that.
    for one, other in zip(sorted(direct, key=str), sorted(through, key=str), strict=True):
        assert one == other
    assert direct_answers == through_answers
    assert len(direct) > 30


def is_background(message: Json) -> bool:
    """Whether the runtime sends it whenever it comes to it."""
    kind = message["params"]["event"]["type"] if message.get("method") == "session.event" else message.get("method")
    return kind in BACKGROUND


def script_of_tools(script: ScriptedModel) -> None:
    script.add("Look up.", Call("lookup", {"key": "a"}), Call("lookup", {"key": ODD_TEXT}), Say("Done."))
    script.add("Ask.", Call("ask_user", {"question": "Which?"}), Say(f"Heard. {ODD_TEXT}"))


async def hold_turns(client: RawClient, session_id: str, script: ScriptedModel) -> list[Json]:
    """Create a session, have tools and a question answered; return the requests that were sent."""
    sent: list[Json] = []

    async def ask(method: str, params: Json) -> None:
        sent.append({"jsonrpc": "2.0", "id": f"request {len(sent)}", "method": method, "params": params})
        await client.request(method, params, request_id=sent[-1]["id"])

    await ask("session.create", config(script, session_id, LOOKUP))
    seen = len(client.received)
    await ask("session.send", {"sessionId": session_id, "prompt": "Look up."})
    for number in range(2):
        requested = await nth(client, session_id, "permission.requested", seen, number)
        answer = {"sessionId": session_id, "requestId": requested["requestId"], "result": {"kind": "approve-once"}}
        await ask("session.permissions.handlePendingPermissionRequest", answer)
        call = await nth(client, session_id, "external_tool.requested", seen, number)
        done = {"sessionId": session_id, "requestId": call["requestId"], "result": f"answer {number}"}
        await ask("session.tools.handlePendingToolCall", done)
    await idle(client, session_id, seen)
    seen = len(client.received)
    await ask("session.send", {"sessionId": session_id, "prompt": "Ask."})
    question = await client.until(lambda message: message.get("method") == "userInput.request", after=seen)
    await client.respond(question["id"], {"answer": ODD_TEXT, "wasFreeform": True})
    sent.append({"jsonrpc": "2.0", "id": question["id"], "result": {"answer": ODD_TEXT, "wasFreeform": True}})
    await idle(client, session_id, seen)
    await ask("session.getMessages", {"sessionId": session_id})
    return sent


async def nth(client: RawClient, session_id: str, kind: str, after: int, number: int) -> Json:
    """Return the data of the event of that type, after *number* others of it."""
    await client.until(
        lambda _: len([each for each in events(client, session_id, after) if each["type"] == kind]) > number
    )
    found = [each["data"] for each in events(client, session_id, after) if each["type"] == kind]
    data: Json = found[number]
    return data


BACKGROUND = {"session.lifecycle", "session.mcp_servers_loaded", "session.title_changed", "session.skills_loaded"}
PLACES = {"workspacePath", "cwd", "workingDirectory"}
_VOLATILE = re.compile("[0-9a-f]{8}-[0-9a-f-]{27}|call_[0-9a-f]{32}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+]00:00)")


def faded(message: object, key: str = "") -> object:
    """Return *message* with its shape and words, without ids, times, sizes and places."""
    if isinstance(message, Mapping):
        if message.get("type") == "session.start":
            return {"type": "session.start"}
        return {name: faded(value, name) for name, value in message.items()}
    if isinstance(message, list):
        return [faded(each) for each in message]
    if key in PLACES:
        return "…"
    if isinstance(message, str):
        # What is long is the system prompt, which names the working directory.
        return _VOLATILE.sub("…", message) if len(message) < 1000 else "…"
    if isinstance(message, int | float) and not isinstance(message, bool):
        return 0
    return message


@pytest.mark.parametrize(
    "request_id", [0, -7, 1, 2**53 + 1, -(2**63), 2**63 - 1, "a", "", "1", "naïve ☕ 𝄞", "x" * 256]
)
async def test_a_requests_id_comes_back_from_the_runtime(wired: Tapped, request_id: object) -> None:
    async with connected(wired.gateway.port) as client:
        seen = len(client.received)
        await client.begin("tools.list", {}, request_id=request_id)
        answer = await client.until(lambda message: "method" not in message, after=seen)
        assert repr(answer["id"]) == repr(request_id)
        assert "tools" in answer["result"]


@pytest.mark.parametrize("request_id", [2**63, 1.5, -0.5, 1e300])
async def test_an_id_that_a_runtime_refuses(wired: Tapped, request_id: float) -> None:
    """A runtime takes strings and integers of 64 bits and answers others under no id at all; here it comes back."""
    async with connected(wired.gateway.port) as client:
        for method in ("ping", "session.list", "tools.list", "no.such"):
            seen = len(client.received)
            await client.begin(method, {}, request_id=request_id)
            answer = await client.until(lambda message: "method" not in message, after=seen, deadline_s=5)
            assert repr(answer["id"]) == repr(request_id)
            assert ("result" in answer) == (method != "no.such")


async def test_two_runtimes_ask_one_client_at_once(wired: Tapped, script: ScriptedModel, session_id: str) -> None:
    """Both count their requests from 1 on; each gets the answer to its own."""
    sessions = [f"{session_id}-{name}" for name in "ab"]
    for each in sessions:
        script.add(f"Ask for {each}.", Call("ask_user", {"question": f"Who is {each}?"}), Say("Heard."))
    async with connected(wired.gateway.port) as client:
        for each in sessions:
            await client.request("session.create", config(script, each))
        seen = len(client.received)
        for each in sessions:
            await client.request("session.send", {"sessionId": each, "prompt": f"Ask for {each}."})
        questions = [await asked_about(client, each, seen) for each in sessions]
        assert len({question["id"] for question in questions}) == 2
        for each, question in reversed([*zip(sessions, questions, strict=True)]):
            await client.respond(question["id"], {"answer": f"I am {each}", "wasFreeform": True})
        for each in sessions:
            await idle(client, each, seen)
            assert f"I am {each}" in script.requests_in(f"Ask for {each}.")[-1].results()[-1]
    asked = [
        message["id"]
        for each in sessions
        for line in wired.lines(each)
        for message in line.back
        if message.get("method") == "userInput.request"
    ]
    assert asked == [1, 1]


async def asked_about(client: RawClient, session_id: str, after: int) -> Json:
    return await client.until(
        lambda message: message.get("method") == "userInput.request" and named(message) == session_id, after=after
    )


async def test_numbers_and_text_pass_unchanged(wired: Tapped, script: ScriptedModel, session_id: str) -> None:
    """To the runtime and from it: numbers of 64 bits, fractions, every kind of character."""
    script.add("Numbers.", Call("lookup", {"key": {"numbers": NUMBERS, "text": ODD_TEXT}}), Say(ODD_TEXT))
    async with connected(wired.gateway.port) as client:
        await client.request("session.create", config(script, session_id, LOOKUP))
        seen = await begin_turn(client, session_id, "Numbers.")
        requested = await event(client, session_id, "permission.requested", seen)
        allowed = {"sessionId": session_id, "requestId": requested["requestId"], "result": {"kind": "approve-once"}}
        await client.request("session.permissions.handlePendingPermissionRequest", allowed)
        call = await event(client, session_id, "external_tool.requested", seen)
        result = {"textResultForLlm": ODD_TEXT, "resultType": "success", "toolTelemetry": {"numbers": NUMBERS}}
        done = {"sessionId": session_id, "requestId": call["requestId"], "result": result}
        assert await client.request("session.tools.handlePendingToolCall", done) == {"success": True}
        await idle(client, session_id, seen)
        assert script.requests_in("Numbers.")[-1].results() == [ODD_TEXT]
    (line,) = wired.lines(session_id)
    # The runtime itself makes a float of an integer over 53 bits that a model says.
    kept = next(each["params"]["event"] for each in line.back if repr(call["requestId"]) in repr(each))
    assert repr(kept["data"]) == repr(call)
    assert ODD_TEXT in call["arguments"]["key"]["text"]
    (passed,) = [each for each in line.there if each.get("method") == "session.tools.handlePendingToolCall"]
    assert repr(passed["params"]) == repr(done)


@pytest.mark.parametrize(
    "extra",
    ['"text":"half a \\ud834 character"', '"deep":' + '{"a":' * 200 + "1" + "}" * 200],
    ids=["lone-surrogate", "deep"],
)
async def test_json_that_a_runtime_does_not_read(
    wired: Tapped, script: ScriptedModel, session_id: str, extra: str
) -> None:
    """It answers under no id at all; through the gateway the client hears that, and the request is over."""
    async with connected(wired.gateway.port) as client:
        await client.request("session.create", config(script, session_id))
        for request_id in ("odd", "odd"):  # free again: nothing waits for it any more
            seen = len(client.received)
            params = f'{{"sessionId":"{session_id}","message":"x",{extra}}}'
            body = f'{{"jsonrpc":"2.0","id":"{request_id}","method":"session.log","params":{params}}}'
            await client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body.encode()))
            answer = await client.until(lambda message: "error" in message, after=seen, deadline_s=5)
            assert (answer["id"], answer["error"]["code"]) == ("odd", -32700)
        logged = await client.request("session.log", {"sessionId": session_id, "message": "still here"})
        assert set(logged) == {"eventId"}


async def test_twenty_megabytes_both_ways(wired: Tapped, script: ScriptedModel, session_id: str) -> None:
    text = "naïve ☕ " * 2_000_000
    async with connected(wired.gateway.port) as client:
        await client.request("session.create", config(script, session_id))
        seen = len(client.received)
        note = {"sessionId": session_id, "message": text, "ephemeral": True}
        await client.request("session.log", note)
        told = await event(client, session_id, "session.info", seen)
        assert told["message"] == text
        assert len(framed({"params": note})) > 20_000_000


async def test_what_the_runtime_does_not_know_it_says_itself(
    wired: Tapped, script: ScriptedModel, session_id: str
) -> None:
    async with connected(wired.gateway.port) as client:
        await client.request("session.create", config(script, session_id))
        for method, params in (
            ("no.such", {}),
            ("session.noSuch", {"sessionId": session_id}),
            ("session.name.set", {"sessionId": session_id, "name": {}}),
        ):
            with pytest.raises(RpcError) as through:
                await client.request(method, params)
            line = next(
                line
                for tap in wired.taps
                for line in reversed(tap.lines)
                if any(each.get("method") == method for each in line.there)
            )
            error = next(each["error"] for each in reversed(line.back) if "error" in each)
            assert (through.value.code, through.value.message) == (error["code"], error["message"])


@pytest.mark.parametrize("request_id", ["compacting", 1.5])
async def test_a_request_is_cancelled(
    wired: Tapped, script: ScriptedModel, session_id: str, request_id: object
) -> None:
    """By the runtime, if it can: the word reaches it, and what it answers is passed on."""
    script.add("One.", Say("First."))
    stall = Stall(Say("A summary."))
    script.add("detailed summary of the conversation", stall)
    async with connected(wired.gateway.port) as client:
        await client.request("session.create", config(script, session_id))
        await turn(client, session_id, "One.")
        seen = len(client.received)
        await client.begin("session.history.compact", {"sessionId": session_id}, request_id=request_id)
        await asyncio.wait_for(stall.reached.wait(), 10)
        await client.notify("$/cancelRequest", {"id": request_id})
        # What is sent after it arrives after it.
        await client.request("session.name.get", {"sessionId": session_id})
        stall.released.set()
        answer = await client.until(lambda message: message.get("id") == request_id, after=seen)
    (line,) = wired.lines(session_id)
    (asked,) = [each for each in line.there if each.get("method") == "session.history.compact"]
    assert {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": asked["id"]}} in line.there
    assert (asked["id"] == request_id) == isinstance(request_id, str)
    (answered,) = [each for each in line.back if each.get("id") == asked["id"]]
    assert answer == {**answered, "id": request_id}
