"""One run from its seed: the world lives, a fresh reader looks, the oracle judges."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.fs import chunk, content
from sessionfs_s3.fs.chunk import CHUNK_BYTES
from sessionfs_s3.testing.simulation.databases import LocalDatabases
from sessionfs_s3.testing.simulation.loop import VirtualLoop, environment, run
from sessionfs_s3.testing.simulation.oracle import files_of, violations
from sessionfs_s3.testing.simulation.world import KEYS, LOG, History, World
from sessionfs_s3.volume import committer
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.session import Session

TIMELINE_LINES = 200
SMALL_CHUNK_BYTES = 24


@dataclass(frozen=True, slots=True)
class Report:
    """What a run that held amounted to.

    Attributes:
        seed: which run.
        commits: how many commits and claims were stored.
        acknowledged: how many appends were acknowledged.
        fenced: how many volumes ended fenced.
        deaths: how many processes were killed.
        suspensions: how many machines were suspended, and went on.
        blobs: how many blobs were stored.
        collected: how many objects were collected.
        digest: of everything that happened and everything stored: the same for the same seed.
    """

    seed: int
    commits: int
    acknowledged: int
    fenced: int
    deaths: int
    suspensions: int
    blobs: int
    collected: int
    digest: str


class SimulationFailed(AssertionError):
    """A rule is broken; the message says which, by which seed, and what led to it."""


def simulate(seed: int) -> Report:
    """Run the world of *seed*.

    Raises:
        SimulationFailed: with the seed, the broken rules and the timeline.
    """
    with _chunks_of(SMALL_CHUNK_BYTES if seed % 4 else CHUNK_BYTES), LocalDatabases() as databases:
        return run(lambda loop: _simulate(loop, seed, databases))


@contextmanager
def _chunks_of(size: int) -> Generator[None]:
    """Have chunks of *size* bytes: files of a few lines are then as divided as real ones of megabytes."""
    with ExitStack() as stack:
        for module in (chunk, content, committer):
            stack.enter_context(patch.object(module, "CHUNK_BYTES", size))
        yield


async def _simulate(loop: VirtualLoop, seed: int, databases: LocalDatabases) -> Report:
    world = World(loop, seed, databases)
    await world.live()
    machine = environment(loop, random.Random(seed), databases)
    calm = LogReader(Session(world.store("judge", calm=True), KEYS, machine, world.options))
    history = world.history
    try:
        state = await calm.load()
        files = files_of(state.tree, {key: found.data for key, found in world.bucket.objects.items()})
    except Corrupt as error:
        raise _failed(seed, [f"what is stored cannot be read: {error}"], history) from None
    except KeyError as error:
        raise _failed(seed, [f"a blob is missing that the session refers to: {error}"], history) from None
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
        suspensions=history.suspensions,
        blobs=sum(each.key.startswith(KEYS.blobs) for each in world.bucket.history),
        collected=len(world.bucket.deleted),
        digest=_digest(world, history),
    )


def _failed(seed: int, broken: list[str], history: History) -> SimulationFailed:
    return SimulationFailed("\n".join([f"seed {seed}: {broken[0]}", *broken[1:], *history.timeline[-TIMELINE_LINES:]]))


def _digest(world: World, history: History) -> str:
    digest = hashlib.sha256("\n".join(history.timeline).encode())
    for key in sorted(world.bucket.objects):
        digest.update(key.encode())
        digest.update(world.bucket.objects[key].data)
    return digest.hexdigest()
