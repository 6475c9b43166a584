"""What the gateway costs: what it adds to a turn, what is left of the rate of turns, and memory.

Against a provider that is no gateway: a process that holds the runtimes' provider slots with the gateway's own code,
while the clients connect to the runtimes themselves. Both sides stand side by side all the time and take turns, ABBA.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from benchmarks.harness.lab import Lab, Sizes
from benchmarks.harness.report import Row
from benchmarks.harness.side import Kind, start_side
from benchmarks.harness.turns import scripted
from benchmarks.questions import gateway_added, gateway_memory, gateway_rate
from sessionfs_s3.testing.runtime import find_runtime

NAME = "gateway"

_KINDS: Final[tuple[Kind, Kind]] = ("provider", "gateway")
_RUNTIMES: Final = 2
_STORE: Final = "memory://gateway"
"""In each side's own process: what a store takes is the same on both sides, and would only hide the rest."""


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Ask all the questions about the gateway."""
    del lab
    executable = await asyncio.to_thread(find_runtime)
    model = scripted()
    async with model.serve(), AsyncExitStack() as stack:
        sides = [
            await stack.enter_async_context(
                start_side(kind, executable, _STORE, runtimes=_RUNTIMES, settings=sizes.settings)
            )
            for kind in _KINDS
        ]
        rows = await gateway_added.rows(NAME, sides, model, sizes.gateway_turns)
        rows += await gateway_rate.rows(NAME, sides, model, sizes)
    return rows + await gateway_memory.rows(NAME, executable, sizes)
