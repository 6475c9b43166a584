"""What bringing a session's database back costs, in round trips: virtual time, in which only requests take any."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import Fetched, MemoryStore
from sessionfs_s3.testing.faults import FaultyStore
from sessionfs_s3.testing.simulation.databases import NO_KILLS, LocalDatabases
from sessionfs_s3.testing.simulation.loop import VirtualLoop, environment, run
from sessionfs_s3.volume import Environment, Volume, VolumeOptions
from sessionfs_s3.volume.cache import ContentCache

T = TypeVar("T")

KEYS = SessionKeys.of("acme", "task-7")
GET_S = 0.015
MIB = 1024 * 1024


class DistantStore(FaultyStore):
    """A store whose every GET takes a round trip, and nothing else any time at all."""

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        await asyncio.sleep(GET_S)
        return await super().get(key, span=span)


def machine(loop: VirtualLoop, databases: LocalDatabases) -> Environment:
    """Return a machine with an empty cache, whose threads take no time."""

    async def at_once(function: Callable[[], T]) -> T:
        return function()

    base = environment(loop, random.Random(0), databases)
    return replace(
        base, run_in_thread=at_once, databases=databases.host(at_once, random.Random(0), NO_KILLS), cache=ContentCache()
    )


async def opened(store: DistantStore, machine: Environment, *, read_only: bool = False) -> Volume:
    return await Volume.open(
        store, KEYS, read_only=read_only, environment=machine, options=VolumeOptions(directories=("/workspace",))
    )


async def at_once(volume: Volume, size: int) -> None:
    """Write the database in a few transactions."""
    await volume.sqlite_query("exec", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    for _ in range(4):
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :n)"
        count = {"n": size / 4 / 1000}
        await volume.sqlite_query("run", f"{rows} INSERT INTO t(v) SELECT hex(randomblob(490)) FROM n", count)


async def scattered(volume: Volume, size: int) -> None:
    """Write it, and then here and there anew, over many snapshots, so that its pages lie in as many blobs."""
    await at_once(volume, size)
    rng = random.Random(size)
    for _ in range(300):
        await volume.sqlite_query(
            "run", "UPDATE t SET v = hex(randomblob(490)) WHERE id = :id", {"id": rng.randint(1, size // 1000)}
        )


@pytest.mark.parametrize("size", [100_000, MIB, 10 * MIB])
@pytest.mark.parametrize("written", [at_once, scattered])
def test_the_first_touch_costs_one_round_trip(written: Callable[[Volume, int], object], size: int) -> None:
    async def main(loop: VirtualLoop, databases: LocalDatabases) -> None:
        store = DistantStore(MemoryStore())
        writer = await opened(store, machine(loop, databases))
        await written(writer, size)  # type: ignore[misc]
        await writer.aclose()

        for read_only in (True, False):
            volume = await opened(store, machine(loop, databases), read_only=read_only)
            store.requests.clear()
            began_s = loop.time()
            result = await volume.sqlite_query("query", "SELECT count(*) AS n, sum(length(v)) AS b FROM t")
            assert result is not None
            assert int(result.rows[0]["b"] or 0) > 0.9 * size
            took = (loop.time() - began_s) / GET_S
            print(f"{store.count('GET')} GETs in {took:.2f} round trips")
            assert took < 1.01
            assert store.count("GET") == len(store.requests)
            await volume.aclose()

    with LocalDatabases() as databases:
        run(lambda loop: main(loop, databases))
