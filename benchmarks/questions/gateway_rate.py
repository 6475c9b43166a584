"""How many turns per second many sessions hold at once, through the gateway against without, and what one costs.

Every session has a client and a turn running at any time. The clients and the model are this process; it, the gateway,
the provider and the runtimes share the machine's cores, so what the gateway uses is taken from the runtimes.
"""

from __future__ import annotations

import asyncio
import pstats
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness.lab import Sizes, waited_s
from benchmarks.harness.profiles import family_of, name_of, own_times
from benchmarks.harness.report import Row
from benchmarks.harness.side import Side
from benchmarks.harness.spread import Spread, orders, spread
from benchmarks.harness.turns import Talker, talker
from sessionfs_s3.testing.model import ScriptedModel

RATE_MIN: Final = 0.85

_OPENING_MAX: Final = 8
"""Sessions that are created side by side."""

_TOP: Final = 12


@dataclass(frozen=True, slots=True)
class Block:
    """The turns of all sessions of one side, one after the other in each.

    Attributes:
        turns: how many.
        wall_s: how long they took together.
        side_cpu_s: processor time of the gateway's or the provider's process.
        runtimes_cpu_s: that of its runtimes.
        load_cpu_s: that of this process.
        load_waited_s: how long this process was ready to run and had no core.
    """

    turns: int
    wall_s: float
    side_cpu_s: float
    runtimes_cpu_s: float
    load_cpu_s: float
    load_waited_s: float

    @property
    def cpu_s(self) -> float:
        """Processor time of all of them."""
        return self.side_cpu_s + self.runtimes_cpu_s + self.load_cpu_s

    @property
    def per_s(self) -> float:
        """Turns per second."""
        return self.turns / self.wall_s


async def rows(name: str, sides: Sequence[Side], model: ScriptedModel, sizes: Sizes) -> list[Row]:
    """Have sessions on each of both *sides*, the provider's first, hold their turns, in blocks that take turns."""
    blocks: tuple[list[Block], list[Block]] = ([], [])
    async with AsyncExitStack() as stack:
        talkers = [await _talkers(stack, side, number, model, sizes) for number, side in enumerate(sides)]
        for order in orders(sizes.gateway_rounds):
            for number in order:
                blocks[number].append(await block(sides[number], talkers[number], sizes.gateway_turns_each))
        with tempfile.TemporaryDirectory(prefix="sessionfs-profile-") as directory:
            path = Path(directory, "gateway.pstats")
            await sides[1].profile()
            profiled = await block(sides[1], talkers[1], sizes.gateway_turns_each)
            await sides[1].profile(path)
            stats = pstats.Stats(str(path))
    return _rate_rows(name, blocks, sizes) + _cpu_rows(name, blocks) + _profile_rows(name, stats, profiled.turns)


async def block(side: Side, talkers: Sequence[Talker], each: int) -> Block:
    """Hold *each* turns with every one of *talkers*, all at once."""

    async def hold(one: Talker) -> int:
        for _ in range(each):
            await one.turn()
        return each

    side_s, runtimes_s = side.cpu_s(), side.runtimes_cpu_s()
    own_s, waiting_s, started_s = time.process_time(), waited_s(), time.perf_counter()
    turns = sum(await asyncio.gather(*map(hold, talkers)))
    wall_s = time.perf_counter() - started_s
    return Block(
        turns,
        wall_s,
        side.cpu_s() - side_s,
        side.runtimes_cpu_s() - runtimes_s,
        time.process_time() - own_s,
        waited_s() - waiting_s,
    )


async def _talkers(stack: AsyncExitStack, side: Side, number: int, model: ScriptedModel, sizes: Sizes) -> list[Talker]:
    room = asyncio.Semaphore(_OPENING_MAX)

    async def opened(index: int) -> Talker:
        async with room:
            return await stack.enter_async_context(talker(side.door(index), f"rate-{number}-{index}", model))

    return await asyncio.gather(*map(opened, range(sizes.gateway_sessions)))


def _rate_rows(name: str, blocks: tuple[list[Block], list[Block]], sizes: Sizes) -> list[Row]:
    direct, gateway = blocks
    ratio = spread([mine.per_s / theirs.per_s for theirs, mine in zip(direct, gateway, strict=True)])
    rates = [spread([each.per_s for each in side]) for side in blocks]
    busy = spread([100 * each.load_cpu_s / each.wall_s for each in gateway])
    waited = spread([100 * each.load_waited_s / each.wall_s for each in gateway])
    what = f"turns per second of {sizes.gateway_sessions} sessions, gateway / direct"
    pairs = f"{len(direct)} pairs of {direct[0].turns} turns, quartiles {ratio.low:.3g} to {ratio.high:.3g}"
    return [
        Row(
            name, what, ratio.median, "x", RATE_MIN, ">=", f"{pairs}; direct {rates[0]}, gateway {rates[1]} per second"
        ),
        Row(name, "clients and model busy", busy.median, "%", note="of one core; they are one process"),
        Row(
            *(name, "clients and model waiting for a core", waited.median, "%"),
            note="of the time; the runtimes wait as well",
        ),
    ]


def _cpu_rows(name: str, blocks: tuple[list[Block], list[Block]]) -> list[Row]:
    def per_turn(side: Sequence[Block], figure: str) -> Spread:
        return spread([1000 * float(getattr(each, figure)) / each.turns for each in side])

    direct, gateway = blocks
    mine, theirs = per_turn(gateway, "side_cpu_s"), per_turn(direct, "side_cpu_s")
    found = [
        Row(name, "CPU per turn of the gateway's process", mine.median, "ms", note=f"{mine}, the provider in it"),
        Row(
            name,
            "CPU per turn of the provider alone",
            theirs.median,
            "ms",
            note=f"{theirs}, clients straight at runtimes",
        ),
        Row(name, "CPU per turn that the gateway adds", mine.median - theirs.median, "ms"),
    ]
    for what, figure in (("the runtimes", "runtimes_cpu_s"), ("clients and model", "load_cpu_s")):
        mine, theirs = per_turn(gateway, figure), per_turn(direct, figure)
        found.append(Row(name, f"CPU per turn of {what}", mine.median, "ms", note=f"{mine}; direct {theirs}"))
    mine, theirs = per_turn(gateway, "cpu_s"), per_turn(direct, "cpu_s")
    found.append(
        Row(
            *(name, "CPU per turn of everything, direct / gateway", theirs.median / mine.median, "x"),
            note=f"what the rate comes to where nothing but the cores is short: direct {theirs} ms, gateway {mine} ms",
        )
    )
    return found


def _profile_rows(name: str, stats: pstats.Stats, turns: int) -> list[Row]:
    own = own_times(stats)
    total_s = sum(own.values())
    found: list[Row] = []
    for function in sorted(own, key=lambda function: -own[function])[:_TOP]:
        note = f"{family_of(function)}, {1000 * own[function] / turns:.3f} ms per turn under the profiler"
        what = f"profile, {name_of(function)}"
        found.append(Row(name, what, 100 * own[function] / total_s, "%", note=note))
    return found
