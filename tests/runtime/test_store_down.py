"""A store that is down fails loudly, at create, in a turn and at resume; it never looks like an empty session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.testing.model import Say, ScriptedModel
from sessionfs_s3.testing.replica import ask, said
from sessionfs_s3.testing.servers import S3Server

from .conftest import EVENTS, Start, conversation, stored

DEADLINE_S = 1.5


class Gate:
    """A way to the store that can be shut: connections then break, as with a server that went down."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self.shut = False

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.shut:
            writer.close()
            return
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, to_writer}
        await asyncio.gather(self._copy(reader, to_writer), self._copy(to_reader, writer))

    def close(self) -> None:
        """Shut it, and break what is open."""
        self.shut = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def gate(moto: S3Server) -> AsyncIterator[Gate]:
    gate = Gate(int(moto.endpoint_url.rpartition(":")[2]))
    yield gate
    gate.close()


# Asked for before `start`, and so shut after the replicas have closed, which store what they still hold.
@pytest.fixture
async def gated(moto: S3Server, gate: Gate, enter: Callable[[S3Server], str]) -> AsyncIterator[str]:
    """The store's URL by way of the gate."""
    direct = enter(moto)
    server = await asyncio.start_server(gate.pass_on, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield direct.replace(str(moto.endpoint_url.rpartition(":")[2]), str(port))
    server.close()


@pytest.mark.servers
async def test_a_session_cannot_be_created_while_the_store_is_down(gate: Gate, gated: str, start: Start) -> None:
    gate.close()
    async with SessionFs.open(gated, tenant="acme", deadline_s=DEADLINE_S) as fs:
        replica = await start(fs=fs)
        with pytest.raises(Exception, match=r"session\.create failed.*no answer in 1\.5 s") as raised:
            await replica.create("s1")
        print(raised.value)
        assert {each.error for each in replica.served} == {"Unavailable"}

        gate.shut = False
        assert await ask(await replica.create("s1"), "Hello?") != ""


@pytest.mark.servers
async def test_a_session_is_not_missing_while_the_store_is_down(
    gate: Gate, gated: str, start: Start, model: ScriptedModel
) -> None:
    model.add("One.", Say("First."))
    a = await start(fs=None, url=gated)
    await ask(await a.create("s1"), "One.")
    await a.runtime.kill()
    gate.close()
    async with SessionFs.open(gated, tenant="acme", deadline_s=DEADLINE_S) as fs:
        b = await start(fs=fs)
        for session_id in ("s1", "never-created"):
            with pytest.raises(Exception, match=r"session\.resume failed.*no answer in 1\.5 s") as raised:
                await b.resume(session_id)
            assert "not found" not in str(raised.value).lower()

        gate.shut = False
        assert said(await (await b.resume("s1")).get_events()) == ["One.", "First."]
        with pytest.raises(Exception, match="Session not found: never-created"):
            await b.resume("never-created")


@pytest.mark.servers
async def test_a_turn_is_not_acknowledged_while_the_store_is_down(
    gate: Gate, gated: str, start: Start, model: ScriptedModel
) -> None:
    for prompt, answer in (("One.", "First."), ("Two.", "Second."), ("Three.", "Third."), ("Four.", "Fourth.")):
        model.add(prompt, Say(answer))
    async with SessionFs.open(gated, tenant="acme", deadline_s=DEADLINE_S) as fs:
        a = await start(fs=fs)
        session = await a.create("s1")
        await ask(session, "One.")
        acknowledged = conversation(a.served)
        gate.close()

        with pytest.raises(Exception, match=r"Failed to persist session events.*no answer in 1\.5 s"):
            await ask(session, "Two.")
        assert conversation(a.served) == acknowledged

        gate.shut = False
        with pytest.raises(Exception, match="Failed to persist session events"):
            await ask(session, "Three.")  # what the volume holds may not be what is stored: it has to be opened again
        # Resuming does that; the runtime still has what it could not append, and appends it now.
        session = await a.resume("s1")
        assert await ask(session, "Four.") == "Fourth."
        await a.runtime.kill()
        log = (await stored(fs, EVENTS)).decode()
        assert log.startswith(acknowledged)
        ids = [json.loads(line)["id"] for line in log.splitlines()]
        assert len(ids) == len(set(ids))
        assert all(words in log for words in ("First.", "Second.", "Third.", "Fourth."))
