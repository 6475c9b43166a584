"""What is looked at when it is over: how the gateways ended, what the store holds, what a fresh gateway tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from sessionfs_s3 import SessionFs
from sessionfs_s3.errors import SessionFsError
from sessionfs_s3.testing.gateway import START_DEADLINE_S
from sessionfs_s3.testing.raw_client import RawClient, RpcError, raw_client
from sessionfs_s3.volume import Volume

from .cluster import Cluster
from .driver import HOST
from .oracle import Event, problems_of_files, problems_of_history, problems_of_log, without_tools
from .turns import Ledger

TENANT: Final = "default"
EVENTS: Final = "/session-state/events.jsonl"
WORKSPACE: Final = "/workspace"

_TRACEBACK: Final = "Traceback"
_TOLD_CHARACTERS: Final = 3000


class Modelled(Protocol):
    @property
    def model_url(self) -> str: ...


def problems_of_ends(statuses: Sequence[int], outputs: Sequence[str]) -> list[str]:
    """Return which gateways did not end well, and what they stumbled over."""
    problems = [f"a gateway ended with status {status}" for status in statuses if status != 0]
    for output in outputs:
        if _TRACEBACK in output:
            begin = output.index(_TRACEBACK)
            problems.append(f"a gateway stumbled: {output[max(0, begin - 300) : begin + _TOLD_CHARACTERS]}")
    return problems


async def problems_of_store(store: str, ledgers: Sequence[Ledger]) -> list[str]:
    """Return what is wrong with what the store holds, read with no gateway at all."""
    problems: list[str] = []
    async with SessionFs.open(store, tenant=TENANT) as fs:
        for ledger in ledgers:
            try:
                async with fs.volume(ledger.session_id, read_only=True) as volume:
                    found = await _problems_of_volume(volume, ledger)
            except (SessionFsError, OSError) as problem:
                found = [f"it cannot be read: {problem!r}"]
            problems += [f"{ledger.session_id}, stored: {each}" for each in found]
    return problems


async def _problems_of_volume(volume: Volume, ledger: Ledger) -> list[str]:
    log = await volume.read_file(EVENTS)
    names = await volume.readdir(WORKSPACE)
    files = {f"{WORKSPACE}/{name}": await volume.read_file(f"{WORKSPACE}/{name}") for name in names}
    tables = await volume.sqlite_query("query", "SELECT name FROM sqlite_master WHERE name = 'done'")
    noted = await volume.sqlite_query("query", "SELECT name FROM done") if tables and tables.rows else None
    rows = [str(row["name"]) for row in noted.rows] if noted else []
    events = _events(log)
    without = without_tools(events)
    problems = [f"{len(without)} turns had no tool"] if len(without) > max(2, len(ledger.turns) // 10) else []
    return [
        *problems,
        *problems_of_log(log),
        *problems_of_history(ledger, events),
        *problems_of_files(ledger, files, rows, without),
    ]


async def problems_on_a_fresh_gateway(cluster: Cluster, world: Modelled, ledgers: Sequence[Ledger]) -> list[str]:
    """Return what is wrong with what a new gateway tells of each session; it has to tell what is stored."""
    problems: list[str] = []
    async with cluster.start() as gateway:
        async with _connected(gateway.port) as client:
            for ledger in ledgers:
                try:
                    found = problems_of_history(ledger, await _history(client, ledger.session_id, world.model_url))
                except (RpcError, TimeoutError) as problem:
                    found = [f"it cannot be resumed: {problem!r}"]
                problems += [f"{ledger.session_id}, told: {each}" for each in found]
        status = await gateway.stop()
        await cluster.gone(gateway)
    return problems + problems_of_ends([status], [gateway.output])


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[RawClient]:
    """Connect; a gateway says no while its runtimes start, and lets nobody try for ever."""
    until_s = asyncio.get_running_loop().time() + START_DEADLINE_S
    while True:
        async with raw_client(HOST, port) as client:
            try:
                await client.request("connect")
            except RpcError:
                if asyncio.get_running_loop().time() > until_s:
                    raise
            else:
                yield client
                return
        await asyncio.sleep(0.5)


async def _history(client: RawClient, session_id: str, model_url: str) -> list[Event]:
    """Resume the session and return its events. Raises RpcError, TimeoutError."""
    provider = {"type": "openai", "baseUrl": model_url, "apiKey": "none"}
    params = {"sessionId": session_id, "model": "scripted", "provider": provider}
    await client.request("session.resume", params)
    told: list[Event] = (await client.request("session.getMessages", {"sessionId": session_id}))["events"]
    return told


def _events(log: str) -> list[Event]:
    events: list[Event] = []
    for line in log.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # problems_of_log says so
    return events
