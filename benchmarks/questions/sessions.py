"""How many appends per second 32 sessions of one process reach, against one session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.harness.conversation import EVENTS_PATH, Words
from benchmarks.harness.lab import TENANT, Lab, Sizes, cpu_s, waited_s
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs, Volume
from sessionfs_s3.store import IF_ABSENT, open_store

NAME = "sessions"

Worker = Callable[[int, int], Coroutine[None, None, None]]
"""Does that worker's piece of work number n."""


@dataclass(frozen=True, slots=True)
class _Rate:
    """What a number of workers reached together, and what every process needed for it, per piece of work."""

    per_s: float
    client_cpu_ms: float
    proxy_cpu_ms: float
    server_cpu_ms: float
    client_busy: float
    client_waited: float


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Measure one and many, with volumes and with the bare adapter."""
    line = Words(2).flush(1024)
    async with AsyncExitStack() as exits:
        fs = await exits.enter_async_context(SessionFs.open(lab.delayed(lab.prefix()), tenant=TENANT, **sizes.settings))
        volumes: list[Volume] = [
            await exits.enter_async_context(fs.volume(f"session-{n}")) for n in range(sizes.sessions)
        ]
        store = await open_store(lab.delayed(lab.prefix()))
        exits.push_async_callback(store.aclose)
        numbers = iter(range(1_000_000))

        async def append(worker: int, _n: int) -> None:
            await volumes[worker].append_file(EVENTS_PATH, line)

        async def put(worker: int, _n: int) -> None:
            await store.put(f"raw/{worker}/{next(numbers)}", line.encode(), condition=IF_ABSENT)

        rates = {
            (kind, count): await _rate(lab, work, count, sizes.appends_each)
            for count in (1, sizes.sessions)
            for kind, work in (("volume", append), ("bare", put))
        }
    return _rows(rates, sizes)


async def _rate(lab: Lab, work: Worker, workers: int, each: int) -> _Rate:
    async def worker(number: int) -> None:
        for n in range(each):
            await work(number, n)

    await asyncio.gather(
        *(work(number, -1) for number in range(workers))
    )  # Connections are made before the clock runs.
    lab.proxy.take()
    proxy_s, server_s = lab.proxy.cpu_s, cpu_s(lab.server.pid)
    own_s, waiting_s, started_s = time.process_time(), waited_s(), time.perf_counter()
    await asyncio.gather(*map(worker, range(workers)))
    wall_s = time.perf_counter() - started_s
    own_s, waiting_s = time.process_time() - own_s, waited_s() - waiting_s
    lab.proxy.take()
    pieces_per_ms = workers * each / 1000
    return _Rate(
        workers * each / wall_s,
        own_s / pieces_per_ms,
        (lab.proxy.cpu_s - proxy_s) / pieces_per_ms,
        (cpu_s(lab.server.pid) - server_s) / pieces_per_ms,
        own_s / wall_s,
        waiting_s / wall_s,
    )


def _rows(rates: dict[tuple[str, int], _Rate], sizes: Sizes) -> list[Row]:
    many = sizes.sessions
    volume, bare = rates["volume", many], rates["bare", many]
    one, bare_one = rates["volume", 1], rates["bare", 1]
    ceiling = 1000 / volume.client_cpu_ms / one.per_s
    return [
        Row(
            *(NAME, f"appends per second, {many} sessions / one", volume.per_s / one.per_s, "x", 25 * many / 32, ">="),
            f"{volume.per_s:.0f}/s against {one.per_s:.1f}/s",
        ),
        Row(
            *(NAME, f"bare adapter, {many} at once / one", bare.per_s / bare_one.per_s, "x"),
            note=f"{bare.per_s:.0f}/s against {bare_one.per_s:.1f}/s: the same PUTs without the engine",
        ),
        Row(NAME, "one core's ceiling", ceiling, "x", note="1 / CPU per append, against one session's rate"),
        Row(NAME, "client process busy", 100 * volume.client_busy, "%", note="of one core, its threads included"),
        Row(
            *(NAME, "client waiting for a core", 100 * volume.client_waited, "%"),
            note="of the time; much of it: the machine was too busy to tell",
        ),
        Row(NAME, "client CPU per append", volume.client_cpu_ms, "ms"),
        Row(NAME, "client CPU per bare PUT", bare.client_cpu_ms, "ms"),
        Row(NAME, "server CPU per append", volume.server_cpu_ms, "ms", note="shares the cores"),
        Row(NAME, "proxy CPU per append", volume.proxy_cpu_ms, "ms", note="shares the cores"),
    ]
