"""A client that behaves as a sensible application: it connects, opens its session, holds turns, and after any error
connects anew, resumes and goes on. It trusts nothing but what it saw: a turn counts when its answer and its end came.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from sessionfs_s3.testing.raw_client import ConnectionEnded, Json, RawClient, RpcError, raw_client

from .turns import KINDS, Kind, Ledger, Turn, known_as

HOST: Final = "127.0.0.1"

DEADLINE_S: Final = 20.0
"""Within this everything is answered, one way or the other; time in which a gateway is stopped does not count."""

_NEVER_S: Final = 600.0

_PATIENCE_S: Final = (1.0, 5.0)
_IMPATIENT: Final = 0.3
_WALKS_AWAY: Final = 0.12
_DROPS: Final = 0.5

_LOOKUP: Final[Json] = {
    "name": "lookup",
    "description": "Looks up a key.",
    "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
}

_T = TypeVar("_T")


class Failed(Exception):
    """The session failed in the middle of a turn: the message is that of its ``session.error``."""


class World(Protocol):
    """What a client is in."""

    @property
    def port(self) -> int: ...

    @property
    def model_url(self) -> str: ...

    @property
    def over(self) -> bool: ...

    def calm_s(self) -> float:
        """For how long, in all, every gateway that there was could run."""
        ...

    def diary(self, line: str) -> None:
        """Note *line* with the time."""
        ...


@dataclass
class Driver:
    """One client of one session, with what it went through.

    Attributes:
        ledger: what is asked of the session, by all of its clients.
        name: begins the names of its turns.
        alone: whether it is the session's only client.
        creates: whether it creates the session; others wait until there is one.
    """

    world: World
    ledger: Ledger
    name: str
    rng: random.Random
    alone: bool
    creates: bool
    thinks_s: tuple[float, float]
    troubles: Counter[str] = field(default_factory=Counter[str])
    connections: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        # What one client is asked while another one leaves is between them and the runtime: nothing is asked of two.
        self._kinds: Sequence[Kind] = KINDS if self.alone else ("say", "sql")

    async def run(self) -> None:
        """Hold turns until the world is over, and one more."""
        await asyncio.sleep(self.rng.uniform(0, self.thinks_s[1]))
        while not self.creates and not self.ledger.acknowledged:  # noqa: ASYNC110  # many things end this wait
            await asyncio.sleep(0.2)
        pause_s = 0.1
        while True:
            held = len(self.ledger.acknowledged)
            try:
                async with raw_client(HOST, self.world.port) as client:
                    self.connections += 1
                    await self._within(lambda: client.request("connect", {}, deadline_s=_NEVER_S), "connect")
                    if await self._converse(client):
                        return
            except (OSError, RpcError, ConnectionEnded, Failed, TimeoutError) as problem:
                self._note(problem)
            pause_s = 0.1 if len(self.ledger.acknowledged) > held else min(pause_s * 2, 2.0)
            await asyncio.sleep(self.rng.uniform(pause_s / 2, pause_s))

    async def _converse(self, client: RawClient) -> bool:
        """Hold turns on one connection; return whether that was all."""
        await self._open(client)
        while True:
            last = self.world.over
            await self._within(lambda: self._hold(client, self._turn()), "turn", patient=last)
            if last:
                return True
            await asyncio.sleep(self.rng.uniform(*self.thinks_s))
            if self.rng.random() < _WALKS_AWAY:
                self._leave(client)
                return False

    def _leave(self, client: RawClient) -> None:
        if self.rng.random() < _DROPS:
            client.drop()

    async def _open(self, client: RawClient) -> None:
        """Resume the session; create it where there is none and nothing has been acknowledged yet."""
        born = bool(self.ledger.acknowledged)
        method = "session.resume" if self.ledger.turns else "session.create"
        try:
            await self._open_by(client, method)
        except RpcError as problem:
            if "Session not found" not in problem.message:
                raise
            if born:
                self.ledger.problems.append(f"{self.name}: the session was not found: {problem}")
                raise
            await self._open_by(client, "session.create")

    async def _open_by(self, client: RawClient, method: str) -> None:
        params: Json = {
            "sessionId": self.ledger.session_id,
            "model": "scripted",
            "provider": {"type": "openai", "baseUrl": self.world.model_url, "apiKey": "none"},
            "availableTools": ["builtin:create", "builtin:sql", "custom:*"],
            "requestPermission": True,
            "tools": [_LOOKUP] if self.alone else [],
        }
        await self._within(lambda: client.request(method, params, deadline_s=_NEVER_S), method)

    def _turn(self) -> Turn:
        name = f"{self.name}-{next(self._numbers)}"
        turn = Turn(name, self.rng.choice(self._kinds), asyncio.get_running_loop().time())
        self.ledger.turns.append(turn)
        return turn

    async def _hold(self, client: RawClient, turn: Turn) -> None:
        """Send the prompt, answer what is asked, and see the end. Raises Failed, RpcError, ConnectionEnded."""
        seen = len(client.received)
        await client.begin("session.send", {"sessionId": self.ledger.session_id, "prompt": turn.prompt})
        answered = False
        while True:
            message = await client.until(lambda _: True, after=seen, deadline_s=_NEVER_S)
            seen += 1
            if "method" not in message and "error" in message:
                raise RpcError(message["error"]["code"], message["error"]["message"])
            if message.get("method") != "session.event":
                continue
            event: Json = message["params"]["event"]
            match event["type"]:
                case "assistant.message":
                    answered = answered or event["data"]["content"] == turn.answer
                case "session.error":
                    raise Failed(event["data"]["message"])
                case "session.idle" if answered:
                    turn.acknowledged_s = asyncio.get_running_loop().time()
                    return
                case "permission.requested":
                    result: Json = {"result": {"kind": "approve-once"}}
                    await self._tell(client, "session.permissions.handlePendingPermissionRequest", event, result)
                case "external_tool.requested":
                    result = {"result": known_as(event["data"]["arguments"]["key"])}
                    await self._tell(client, "session.tools.handlePendingToolCall", event, result)
                case _:
                    pass

    async def _tell(self, client: RawClient, method: str, event: Json, result: Json) -> None:
        asked: Json = {"sessionId": self.ledger.session_id, "requestId": event["data"]["requestId"]}
        await client.begin(method, asked | result)

    async def _within(
        self, work: Callable[[], Coroutine[object, object, _T]], what: str, *, patient: bool = False
    ) -> _T:
        """Return what *work* does; give it up when the client's patience is at its end, and that may be soon."""
        loop, calm_s = asyncio.get_running_loop(), self.world.calm_s
        impatient = not patient and self.rng.random() < _IMPATIENT
        patience_s = self.rng.uniform(*_PATIENCE_S) if impatient else math.inf
        since_s, since_calm_s = loop.time(), calm_s()
        task = asyncio.ensure_future(work())
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                if loop.time() - since_s > patience_s:
                    raise TimeoutError(f"no answer to {what}, impatient")
                if calm_s() - since_calm_s > DEADLINE_S:
                    told = f"no answer to {what} from {since_s:.1f} to {loop.time():.1f} s"
                    self.ledger.problems.append(f"{self.name}: {told}")
                    raise TimeoutError(told)
            return task.result()
        finally:
            task.cancel()

    def _note(self, problem: Exception) -> None:
        self.world.diary(f"{self.name}: {type(problem).__name__}: {problem}")
        told = re.sub(r"chaos-\d+", "chaos-N", f"{type(problem).__name__}: {problem}")
        self.troubles[re.sub(r"[0-9a-f]{6,}|\d+", "N", told)[:160]] += 1
