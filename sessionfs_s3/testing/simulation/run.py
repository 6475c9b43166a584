"""One run from its seed: the world lives, a fresh reader looks, the oracle judges."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from sessionfs_s3 import fs
from sessionfs_s3.errors import Corrupt
from sessionfs_s3.testing.simulation.loop import VirtualLoop, environment, run
from sessionfs_s3.testing.simulation.oracle import violations
from sessionfs_s3.testing.simulation.world import KEYS, LOG, History, World
from sessionfs_s3.volume.loading import LogReader

TIMELINE_LINES = 200


@dataclass(frozen=True, slots=True)
class Report:
    """What a run that held amounted to.

    Attributes:
        seed: which run.
        commits: how many commits and claims were stored.
        acknowledged: how many appends were acknowledged.
        fenced: how many volumes ended fenced.
        deaths: how many processes were killed.
        digest: of everything that happened and everything stored: the same for the same seed.
    """

    seed: int
    commits: int
    acknowledged: int
    fenced: int
    deaths: int
    digest: str


class SimulationFailed(AssertionError):
    """A rule is broken; the message says which, by which seed, and what led to it."""


def simulate(seed: int) -> Report:
    """Run the world of *seed*.

    Raises:
        SimulationFailed: with the seed, the broken rules and the timeline.
    """
    return run(lambda loop: _simulate(loop, seed))


async def _simulate(loop: VirtualLoop, seed: int) -> Report:
    world = World(loop, seed)
    await world.live()
    calm = LogReader(
        world.store("judge", calm=True), KEYS, environment(loop, random.Random(seed)), world.options.patience
    )
    history = world.history
    try:
        state = await calm.load()
    except Corrupt as error:
        raise _failed(seed, [f"what is stored cannot be read: {error}"], history) from None
    files = dict(_files(state.tree))
    records = files.get(LOG, b"").decode().split()
    broken = list(violations(history, world.bucket, records, files))
    if broken:
        raise _failed(seed, broken, history)
    return Report(
        seed=seed,
        commits=state.head.sequence,
        acknowledged=sum(append.acknowledged_s is not None for append in history.appends),
        fenced=len(history.fences),
        deaths=history.deaths,
        digest=_digest(world, history),
    )


def _failed(seed: int, broken: list[str], history: History) -> SimulationFailed:
    return SimulationFailed("\n".join([f"seed {seed}: {broken[0]}", *broken[1:], *history.timeline[-TIMELINE_LINES:]]))


def _files(tree: fs.Tree) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    waiting: list[tuple[fs.Path, fs.Node]] = [((), tree.root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, fs.File):
            found.append((fs.joined(path), node.content.to_bytes()))
        else:
            waiting.extend(((*path, name), child) for name, child in node.entries.items())
    return found


def _digest(world: World, history: History) -> str:
    digest = hashlib.sha256("\n".join(history.timeline).encode())
    for key in sorted(world.bucket.objects):
        digest.update(key.encode())
        digest.update(world.bucket.objects[key].data)
    return digest.hexdigest()
