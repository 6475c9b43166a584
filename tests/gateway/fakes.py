"""A gateway in front of impostor runtimes, and what has to be true of it when everybody has gone."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Running
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.fake_runtime import FakeRuntime
from sessionfs_s3.testing.raw_client import Json, RawClient, raw_client

HOST = "127.0.0.1"
GENEROUS_S = 10.0
"""What a neighbour may wait for, however busy the machine is."""

PLENTY = TenantLimits(requests_per_s=1e6, burst=10**6, connections_max=2000, open_sessions_max=5000)

_stores = itertools.count()


@asynccontextmanager
async def gateway_before(
    *runtimes: FakeRuntime,
    limits: TenantLimits = PLENTY,
    tenants: Path | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """Serve before *runtimes*, with a store of its own in memory; everything is closed at the end."""
    given: dict[str, Any] = {"store": f"memory://fuzz-{next(_stores)}", "drain_s": 2.0} | options
    known = Authenticator.load(tenants) if tenants else Authenticator.load(None, limits=limits)
    sources = [Running(HOST, runtime.port, runtime.token) for runtime in runtimes]
    async with Gateway(GatewayOptions(**given), known, lambda: list(sources), may_grow=False) as gateway:
        await until(lambda: sum(len(pool.runtimes) for pool in gateway.pools) == len(runtimes) or gateway.draining)
        yield gateway


@asynccontextmanager
async def client_of(gateway: Gateway, *, token: str | None = None, **settings: Any) -> AsyncIterator[RawClient]:
    """Be a client that has been let in."""
    async with raw_client(HOST, gateway.port, **settings) as client:
        await client.request("connect", {} if token is None else {"token": token})
        yield client


async def until(condition: Callable[[], bool], *, deadline_s: float = GENEROUS_S) -> None:
    """Wait until *condition* holds. Raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  # it may depend on anything
            await asyncio.sleep(0.01)


async def answers_to(client: RawClient, numbers: list[int], *, deadline_s: float = 60.0) -> dict[object, Json]:
    """Wait for the answers to all of these requests and return them by id: each comes once."""
    wanted = set(numbers)

    def answered() -> list[Json]:
        return [each for each in client.received if "method" not in each and each["id"] in wanted]

    await until(lambda: len(answered()) >= len(wanted), deadline_s=deadline_s)
    found = {each["id"]: each for each in answered()}
    assert len(found) == len(answered()) == len(wanted)
    return found


def contents(message: Json) -> str | None:
    """Return what the assistant says in an event, None where it is something else."""
    event = message.get("params", {}).get("event", {})
    found = event.get("data", {}).get("content") if event.get("type") == "assistant.message" else None
    return found if isinstance(found, str) else None


class Neighbour:
    """A client that minds its own business: every request is answered in time, and nothing is lost or out of order."""

    def __init__(self, client: RawClient, session_id: str) -> None:
        self.client = client
        self.session_id = session_id
        self.turns = 0
        self.slowest_s = 0.0
        self._stop = asyncio.Event()

    async def talk(self) -> None:
        """Hold a conversation until stopped."""
        await self._ask("session.create", {"sessionId": self.session_id})
        while not self._stop.is_set():
            await self.turn()
            await asyncio.sleep(0.01)

    async def turn(self) -> None:
        self.turns += 1
        await self._ask("session.send", {"sessionId": self.session_id, "prompt": f"turn {self.turns}"})
        pong = await self._ask("ping", {"message": str(self.turns)})
        assert pong["message"] == f"pong: {self.turns}"

    def stop(self) -> None:
        self._stop.set()

    async def check(self) -> None:
        """What was said is what was answered and what is stored: all of it, in order, once."""
        said = [text for message in self.client.received if (text := contents(message)) is not None]
        assert said == [f"{turn}: turn {turn}" for turn in range(1, self.turns + 1)]
        stored = await self._ask("session.getMessages", {"sessionId": self.session_id})
        assert [each["prompt"] for each in stored["events"]] == [f"turn {turn}" for turn in range(1, self.turns + 1)]
        answers = [message["id"] for message in self.client.received if "method" not in message]
        assert len(answers) == len(set(answers))
        strays = [
            message
            for message in self.client.received
            if message.get("method") == "session.event" and message["params"]["sessionId"] != self.session_id
        ]
        assert not strays, strays[:3]

    async def _ask(self, method: str, params: Json) -> Any:
        began_s = asyncio.get_running_loop().time()
        seen = len(self.client.received)
        answer = await self.client.request(method, params, deadline_s=GENEROUS_S)
        self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - began_s)
        assert len(self.client.received) > seen
        return answer


@asynccontextmanager
async def neighbour(gateway: Gateway, session_id: str = "neighbour", **settings: Any) -> AsyncIterator[Neighbour]:
    """Have a neighbour converse while the body runs; afterwards its conversation is looked at."""
    async with client_of(gateway, **settings) as client:
        one = Neighbour(client, session_id)
        talking = asyncio.create_task(one.talk())
        try:
            yield one
            one.stop()
            await talking
            await one.turn()
            await one.check()
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)


async def all_gone(gateway: Gateway, *, deadline_s: float = 30.0) -> None:
    """Wait until nobody is connected and nothing open, and every count is back at zero. Raises TimeoutError."""

    def gone() -> bool:
        counts = [len(usage.open_sessions) + usage.connections for usage in gateway.usages]
        idle = all(tenant.idle for tenant in gateway.tenants.values())
        empty = not any(runtime.sessions for pool in gateway.pools for runtime in pool.runtimes)
        listening = gateway.listener.connections == 0 and gateway.listener._strangers == 0
        return not gateway.clients and not any(counts) and idle and empty and listening

    await until(gone, deadline_s=deadline_s)


def open_transports(gateway: Gateway) -> int:
    """Return how many connections to its port the gateway holds, whether or not it still counts them."""
    gc.collect()
    server: Any = gateway.listener._server
    # asyncio keeps a count up to Python 3.12, a set from 3.13 on.
    return server._active_count if hasattr(server, "_active_count") else len(server._clients)


def errors(records: list[logging.LogRecord]) -> list[str]:
    """Return what the gateway, or asyncio on its behalf, logged as an error."""
    return [
        f"{record.name}: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
        for record in records
        if record.levelno >= logging.ERROR and record.name.startswith(("sessionfs_s3", "asyncio"))
    ]
