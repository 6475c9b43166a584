"""Two gateways over one store, 20 sessions, SIGKILL and SIGSTOP all the time: what was acknowledged is there, once.

``SESSIONFS_CHAOS_MINUTES`` makes it longer, ``SESSIONFS_CHAOS_SEED`` repeats a run as far as the machine lets it,
``SESSIONFS_CHAOS_STORE`` takes a server instead of a directory: ``moto`` or ``seaweedfs``.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from sessionfs_s3.testing.balancer import Balancer, balancer
from sessionfs_s3.testing.servers import S3Server

from .afterwards import problems_of_ends, problems_of_store, problems_on_a_fresh_gateway
from .cluster import Cluster, processes_under
from .driver import Driver
from .turns import Ledger, NamingModel

SESSIONS: Final = 20
SHARED: Final = 4
"""How many of them two clients use at once, who take them from each other."""

MINUTES: Final = float(os.environ.get("SESSIONFS_CHAOS_MINUTES") or 0.4)
SEED: Final = int(os.environ.get("SESSIONFS_CHAOS_SEED") or time.time_ns() % 2**32)
SERVERS: Final = ("moto", "ministack", "seaweedfs", "minio")
STORE: Final = os.environ.get("SESSIONFS_CHAOS_STORE") or "file"

THINKS_S: Final = (1.5, 6.0)
"""How long a client thinks between turns: so that two cores are busy, and not more than that."""

LAST_TURN_S: Final = 120.0
"""When nothing is harmed any more, every client holds one more turn within this."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if STORE == "file":
        return f"file://{tmp_path / 'store'}"
    assert STORE in SERVERS, f"SESSIONFS_CHAOS_STORE={STORE!r}: it is file or one of {SERVERS}"
    server: S3Server = request.getfixturevalue(STORE)
    enter: Callable[[S3Server], str] = request.getfixturevalue("enter")
    return enter(server)


class World:
    """What the clients are in; over once nothing is harmed any more."""

    def __init__(self, cluster: Cluster, balancer: Balancer, model: NamingModel) -> None:
        self.over = False
        self.port = balancer.port
        self.model_url = model.url
        self.calm_s, self.diary = cluster.calm_s, cluster.diary


def drivers_in(world: World, ledgers: Sequence[Ledger], rng: random.Random) -> list[Driver]:
    drivers: list[Driver] = []
    for ledger in ledgers:
        names = ("a", "b") if ledger.shared else ("a",)
        drivers += [
            Driver(
                world,
                ledger,
                f"{ledger.session_id}-{name}",
                random.Random(rng.random()),
                alone=not ledger.shared,
                creates=name == "a",
                thinks_s=THINKS_S,
            )
            for name in names
        ]
    return drivers


@pytest.mark.timeout(MINUTES * 60 + 900)
async def test_every_acknowledged_turn_is_in_the_history_once(executable: Path, store: str, tmp_path: Path) -> None:
    print(f"SESSIONFS_CHAOS_SEED={SEED}, {MINUTES:g} minutes over {STORE}")
    rng = random.Random(SEED)
    ledgers = [Ledger(f"chaos-{number}", number < SHARED) for number in range(SESSIONS)]
    model = NamingModel(random.Random(rng.random()))
    directory = tmp_path / "gateways"
    directory.mkdir()
    async with model.serve(), balancer() as spreading:
        cluster = Cluster(executable, store, directory, spreading, random.Random(rng.random()))
        async with cluster.run():
            world = World(cluster, spreading, model)
            drivers = drivers_in(world, ledgers, rng)
            problems = await drive(cluster, world, drivers)
        tell(cluster, drivers)
        problems += problems_of_ends(cluster.statuses, cluster.outputs)
        problems += await problems_of_store(store, ledgers)
        problems += await problems_on_a_fresh_gateway(cluster, world, ledgers)
    problems += [f"process {pid} was left" for pid in processes_under(directory)]
    if problems:
        # Of a run that went well nobody reads them.
        for number, output in enumerate(cluster.outputs):
            (tmp_path / f"gateway-{number}.txt").write_text(output)
        print("\n".join(cluster.lines))
    assert not problems, "\n".join([f"seed {SEED}:", *problems])


async def drive(cluster: Cluster, world: World, drivers: Sequence[Driver]) -> list[str]:
    """Let the clients go on while everything is harmed, then until each has held one more turn; return what failed."""
    clients = {asyncio.create_task(driver.run()): driver for driver in drivers}
    harming = asyncio.create_task(cluster.harm())
    await asyncio.wait([harming, *clients], timeout=MINUTES * 60, return_when=asyncio.FIRST_COMPLETED)
    ledgers = ledgers_of(drivers)
    until_s = asyncio.get_running_loop().time() + LAST_TURN_S
    # A short run on a slow machine goes on, harm included, until every session has begun.
    while not all(each.acknowledged for each in ledgers):
        if asyncio.get_running_loop().time() > until_s:
            break
        await asyncio.sleep(0.5)
    harming.cancel()
    await asyncio.gather(harming, return_exceptions=True)
    problems = [f"{each.session_id}: no turn was acknowledged" for each in ledgers if not each.acknowledged]
    world.over = True
    _, hanging = await asyncio.wait(clients, timeout=LAST_TURN_S)
    problems += [f"{clients[each].name} could not hold another turn in {LAST_TURN_S:g} s" for each in hanging]
    for each in hanging:
        each.cancel()
    ended = await asyncio.gather(harming, *clients, return_exceptions=True)
    problems += [f"{each!r}" for each in ended if isinstance(each, Exception)]
    return problems + [each for ledger in ledgers for each in ledger.problems]


def ledgers_of(drivers: Sequence[Driver]) -> list[Ledger]:
    return list({driver.ledger.session_id: driver.ledger for driver in drivers}.values())


def tell(cluster: Cluster, drivers: Sequence[Driver]) -> None:
    ledgers = ledgers_of(drivers)
    held = [len(ledger.acknowledged) for ledger in ledgers]
    print(f"harm: {dict(cluster.done)}; connections: {sum(driver.connections for driver in drivers)}")
    print(f"turns sent: {sum(len(ledger.turns) for ledger in ledgers)}, acknowledged: {sum(held)}: {held}")
    for trouble, times in sum((driver.troubles for driver in drivers), Counter[str]()).most_common():
        print(f"{times:5} {trouble}")
