"""What the gateway adds to a turn: the raw client and the SDKs, each with a session on either side, taking turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from benchmarks.harness.report import Row
from benchmarks.harness.side import HOST, Door, Side
from benchmarks.harness.spread import orders, spread
from benchmarks.harness.turns import PROMPT, REPLY, talker
from sessionfs_s3.testing.fetched import ServerUnavailable
from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.sdk_clients import CLIENTS

ADDED_MS_MAX: Final = 5.0

_PAUSE_S: Final = 0.12
"""Between two turns: the runtime gathers what comes after a turn for 100 ms, and writes it then."""

Turn = Callable[[], Awaitable[float]]
"""Holds a turn and returns how long it took, in seconds."""

TurnOf = Callable[[Door, str, ScriptedModel], AbstractAsyncContextManager[Turn]]
"""Opens a session at a door, with that id and that model, and gives its turns."""


async def rows(name: str, sides: Sequence[Side], model: ScriptedModel, count: int) -> list[Row]:
    """Hold *count* turns on each of both *sides*, the provider's first, with each client that is there."""
    found: list[Row] = []
    clients: dict[str, TurnOf] = {"raw client": _raw, "Python SDK": _sdk("python"), "Node SDK": _sdk("node")}
    for client, turn_of in clients.items():
        what = f"added to a turn, {client}"
        ids = [f"{client.partition(' ')[0].lower()}-{number}" for number in range(len(sides))]
        try:
            async with AsyncExitStack() as stack:
                turns = [
                    await stack.enter_async_context(turn_of(side.door(0), session_id, model))
                    for side, session_id in zip(sides, ids, strict=True)
                ]
                found.append(_row(name, what, *await alternate(turns, count)))
        except ServerUnavailable as error:
            found.append(Row(name, what, None, "ms", note=f"{error}"[:200]))
    return found


async def alternate(turns: Sequence[Turn], count: int, pause_s: float = _PAUSE_S) -> tuple[list[float], list[float]]:
    """Hold *count* turns on each of two sides, in turns; return how long each took, in seconds, pair by pair."""
    took: tuple[list[float], list[float]] = ([], [])
    for order in orders(count):
        for side in order:
            took[side].append(await turns[side]())
            await asyncio.sleep(pause_s)
    return took


def _row(name: str, what: str, direct_s: Sequence[float], gateway_s: Sequence[float]) -> Row:
    added = spread([1000 * (mine - theirs) for theirs, mine in zip(direct_s, gateway_s, strict=True)])
    direct, gateway = (spread([1000 * each for each in side_s]) for side_s in (direct_s, gateway_s))
    sides = f"direct {direct} ms, gateway {gateway} ms"
    note = f"{len(direct_s)} pairs, quartiles {added.low:.3g} to {added.high:.3g}; {sides}"
    return Row(name, what, added.median, "ms", ADDED_MS_MAX, "<", note)


@asynccontextmanager
async def _raw(door: Door, session_id: str, model: ScriptedModel) -> AsyncGenerator[Turn]:
    async with talker(door, session_id, model) as found:
        yield found.turn


def _sdk(language: str) -> TurnOf:
    @asynccontextmanager
    async def connected(door: Door, session_id: str, model: ScriptedModel) -> AsyncGenerator[Turn]:
        port, token = door
        async with CLIENTS[language](HOST, port, token, model.provider) as client:
            await client.create(session_id, tools=[])

            async def turn() -> float:
                started_s = time.perf_counter()
                said = await client.send(session_id, PROMPT)
                took_s = time.perf_counter() - started_s
                if said != REPLY:
                    raise RuntimeError(f"session {session_id}: the assistant said {said!r}")
                return took_s

            await turn()
            yield turn

    return connected
