"""What an idle client and an idle session hold in the memory of the gateway, of a provider alone, and of the runtime.

Fresh processes with one runtime each, over a local directory. Each session has a client of its own, so that what is
counted for a session holds the gateway's connection to the runtime on behalf of that client, too.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.harness.lab import Sizes
from benchmarks.harness.report import Row
from benchmarks.harness.side import Kind, Memory, Side, memory_of, start_side
from benchmarks.harness.turns import Talker, greeted, scripted
from sessionfs_s3.testing.raw_client import RawClient

_IDLE_S: Final = 4.0
"""After so long without a call a volume gives its memory back here; its default, five minutes, is too long to wait."""

_AT_ONCE: Final = 8
_WARM_CLIENTS: Final = 20

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the side's own process and its runtime hold, and its own once freed memory has been given back."""

    side: Memory
    runtime: Memory
    trimmed: Memory


@dataclass(frozen=True, slots=True)
class _Held:
    """The readings of one side, each after one more step."""

    warm: _Reading
    clients: _Reading
    turned: _Reading
    rested: _Reading


async def rows(name: str, executable: Path, sizes: Sizes) -> list[Row]:
    """Measure both sides, one after the other."""
    held: dict[Kind, _Held] = {}
    for kind in ("provider", "gateway"):
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="sessionfs-gateway-"))
        try:
            held[kind] = await _measured(kind, executable, directory.as_uri(), sizes)
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    return _client_rows(name, held, sizes.gateway_idle_clients) + _session_rows(name, held, sizes.gateway_idle_sessions)


async def _measured(kind: Kind, executable: Path, store: str, sizes: Sizes) -> _Held:
    settings = {**sizes.settings, "idle_s": _IDLE_S}
    model = scripted()
    async with (
        model.serve(),
        start_side(kind, executable, store, runtimes=1, settings=settings) as side,
        AsyncExitStack() as stack,
    ):

        async def connected(_: int) -> RawClient:
            return await stack.enter_async_context(greeted(side.door(0)))

        async def talking(number: int) -> Talker:
            client = await stack.enter_async_context(greeted(side.door(0)))
            found = Talker(client, f"memory-{number}")
            await found.create(model)
            await found.turn()
            return found

        # What the first client and the first session load is not what one more holds.
        await _made(connected, _WARM_CLIENTS)
        await talking(-1)
        warm = await _read(side)
        await _made(connected, sizes.gateway_idle_clients)
        clients = await _read(side)
        await _made(talking, sizes.gateway_idle_sessions)
        turned = await _read(side)
        await asyncio.sleep(2 * _IDLE_S)
        return _Held(warm, clients, turned, await _read(side))


async def _made(make: Callable[[int], Awaitable[_Made]], count: int) -> list[_Made]:
    """Make that many, a few side by side."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> _Made:
        async with room:
            return await make(number)

    return await asyncio.gather(*map(one, range(count)))


async def _read(side: Side) -> _Reading:
    await asyncio.sleep(0.5)  # what a turn leaves to be written
    own, runtime = memory_of(side.pid), memory_of(side.runtime_pids[0])
    await side.trim()
    return _Reading(own, runtime, memory_of(side.pid))


def _client_rows(name: str, held: dict[Kind, _Held], count: int) -> list[Row]:
    gateway, direct = held["gateway"], held["provider"]
    mine = gateway.clients.side - gateway.warm.trimmed
    trimmed = gateway.clients.trimmed - gateway.warm.trimmed
    runtime = direct.clients.runtime - direct.warm.runtime
    return [
        Row(
            *(name, "memory of an idle client, gateway", _kb(mine.rss_bytes, count), "kB"),
            note=f"resident; {count} of them, greeted; {_detail(mine, trimmed, count)}",
        ),
        Row(
            *(name, "memory of an idle client, runtime", _kb(runtime.rss_bytes, count), "kB"),
            note=f"connected to it directly; {_kb(runtime.pss_bytes, count):.3g} kB proportional",
        ),
    ]


def _session_rows(name: str, held: dict[Kind, _Held], count: int) -> list[Row]:
    found: list[Row] = []
    for readings, where in ((held["gateway"], "gateway"), (held["provider"], "provider alone")):
        for reading, when in ((readings.turned, "after a turn"), (readings.rested, f"{2 * _IDLE_S:g} s later")):
            mine = reading.side - readings.clients.trimmed
            trimmed = reading.trimmed - readings.clients.trimmed
            found.append(
                Row(
                    *(name, f"memory of an idle session {when}, {where}", _kb(mine.rss_bytes, count), "kB"),
                    note=f"resident; {count} of them, each with its client; {_detail(mine, trimmed, count)}",
                )
            )
    for readings, how in ((held["gateway"], "through the gateway"), (held["provider"], "directly")):
        runtime = readings.rested.runtime - readings.clients.runtime
        note = f"{_kb(runtime.pss_bytes, count):.3g} kB proportional"
        found.append(
            Row(name, f"memory of an idle session {how}, runtime", _kb(runtime.rss_bytes, count), "kB", note=note)
        )
    return found


def _detail(mine: Memory, trimmed: Memory, count: int) -> str:
    return (
        f"{_kb(mine.pss_bytes, count):.3g} kB proportional, "
        f"{_kb(trimmed.pss_bytes, count):.3g} kB with freed memory given back"
    )


def _kb(size: int, count: int) -> float:
    return size / count / 1000
