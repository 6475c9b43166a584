"""What only a tenant alone on its runtimes may ask for: it reaches the session that it is about, and its files."""

from __future__ import annotations

import pytest

from sessionfs_s3.gateway.rules.methods import is_of_session
from sessionfs_s3.testing.fake_runtime import fake_runtime
from sessionfs_s3.testing.raw_client import Json
from tests.gateway.fakes import client_of, gateway_before

PROGRAM: Json = {"mcpServers": {"files": {"command": "mcp-files", "args": []}}}


async def test_a_session_with_a_program_for_mcp_server_is_stored_and_taken_up() -> None:
    async with fake_runtime() as runtime, gateway_before(runtime) as gateway:
        async with client_of(gateway) as client:
            created = await client.request("session.create", {"sessionId": "one", **PROGRAM}, deadline_s=10)
            assert created["sessionId"] == "one"
            await client.request("session.send", {"sessionId": "one", "prompt": "hello"})
        async with client_of(gateway) as client:
            await client.request("session.resume", {"sessionId": "one", "configDir": "/etc/copilot"}, deadline_s=10)
            stored = await client.request("session.getMessages", {"sessionId": "one"})
            assert [each["prompt"] for each in stored["events"]] == ["hello"]


async def test_what_runs_programs_goes_to_the_sessions_own_runtime() -> None:
    async with (
        fake_runtime() as first,
        fake_runtime() as second,
        gateway_before(first, second) as gateway,
        client_of(gateway) as client,
    ):
        for name in ("one", "two"):
            await client.request("session.create", {"sessionId": name})
        assert len(first.sessions) == len(second.sessions) == 1
        for name in ("one", "two"):
            answer = await client.request("session.shell.exec", {"sessionId": name, "command": "ls"})
            assert answer == {"echo": "session.shell.exec"}


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("session.create", PROGRAM, True),
        ("session.shell.exec", {"sessionId": "one"}, True),
        ("sessions.open", {"kind": "create", "options": PROGRAM}, True),
        ("sessions.open", {"kind": "remote", "remoteSessionId": "far"}, False),
        ("sessions.connect", {"sessionId": "far"}, False),
        ("runtime.shutdown", {}, False),
    ],
)
def test_what_is_of_a_session(method: str, params: Json, expected: bool) -> None:
    assert is_of_session(method, params) is expected


@pytest.mark.parametrize(
    ("method", "params", "passes"),
    [
        ("session.log", {"message": "hello"}, True),
        ("no.such", {}, True),
        ("session.resume", {"parentSessionId": "another"}, False),
        ("sessions.open", {"kind": "create", "options": {"sessionId": "another"}}, False),
        ("session.shell.exec", {"command": "ls"}, False),
        ("runtime.shutdown", {}, False),
        ("sessionFs.setProvider", {}, False),
    ],
)
async def test_a_notification_reaches_no_more_than_a_request(method: str, params: Json, passes: bool) -> None:
    async with fake_runtime() as runtime, gateway_before(runtime) as gateway, client_of(gateway) as client:
        await client.request("session.create", {"sessionId": "one"})
        (peer,) = (peer for peer in runtime.peers if "session.create" in peer.received)
        await client.notify(method, {"sessionId": "one", **params})
        await client.request("session.getMessages", {"sessionId": "one"})
        assert (method in peer.received[peer.received.index("session.create") :]) is passes
