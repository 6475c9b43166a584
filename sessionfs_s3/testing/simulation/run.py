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
from sessionfs_s3.fs.chunk import CHUNK_BYTES, PAGES_CHUNK_BYTES
from sessionfs_s3.testing.simulation.databases import LocalDatabases
from sessionfs_s3.testing.simulation.deletions import judge_end
from sessionfs_s3.testing.simulation.history import KEYS, History, Log
from sessionfs_s3.testing.simulation.loop import VirtualLoop, environment, run
from sessionfs_s3.testing.simulation.oracle import files_of, violations
from sessionfs_s3.testing.simulation.world import DAY_S, World
from sessionfs_s3.volume import committer
from sessionfs_s3.volume import database as volume_database
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.session import Session

TIMELINE_LINES = 200
TINY_CHUNK_BYTES = 24
"""Divides files of a few lines as real ones of megabytes are."""

ODD_CHUNK_BYTES = 1500
"""Divides the pages of a database, and not at their ends."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run that held amounted to.

    Attributes:
        seed: which run.
        commits: how many commits and claims were stored.
        acknowledged: how many appends to the file were acknowledged.
        transactions: how many calls that changed the database were.
        rolled_back: how many calls of SQL were rolled back.
        fenced: how many volumes ended fenced.
        deaths: how many processes were killed.
        suspensions: how many machines were suspended, and went on.
        blobs: how many blobs were stored.
        collected: how many objects were collected, or removed by a deletion.
        deletions: how many deletions were acknowledged.
        digest: of everything that happened and everything stored: the same for the same seed.
    """

    seed: int
    commits: int
    acknowledged: int
    transactions: int
    rolled_back: int
    fenced: int
    deaths: int
    suspensions: int
    blobs: int
    collected: int
    deletions: int
    digest: str


class SimulationFailed(AssertionError):
    """A rule is broken; the message says which, by which seed, and what led to it."""


def simulate(seed: int) -> Report:
    """Run the world of *seed*.

    Raises:
        SimulationFailed: with the seed, the broken rules and the timeline.
    """
    with_sql = seed % 4 in (0, 3)
    with_deletions = random.Random(f"deletions {seed}").random() < 1 / 3
    chunk_bytes = TINY_CHUNK_BYTES if seed % 4 else CHUNK_BYTES
    pages_chunk_bytes = ODD_CHUNK_BYTES if seed % 8 in (3, 4) else PAGES_CHUNK_BYTES
    with _chunks_of(chunk_bytes, pages_chunk_bytes), LocalDatabases() as databases:
        return run(lambda loop: _simulate(loop, seed, databases, with_sql, with_deletions))


@contextmanager
def _chunks_of(size: int, pages_size: int) -> Generator[None]:
    """Have chunks of *size* bytes in files, of *pages_size* in databases; read these some pages at a time."""
    with ExitStack() as stack:
        for module in (chunk, content, committer):
            stack.enter_context(patch.object(module, "CHUNK_BYTES", size))
        for module in (chunk, content):
            stack.enter_context(patch.object(module, "PAGES_CHUNK_BYTES", pages_size))
        stack.enter_context(patch.object(volume_database, "_WINDOW_BYTES", 10_000))
        yield


async def _simulate(
    loop: VirtualLoop, seed: int, databases: LocalDatabases, with_sql: bool, with_deletions: bool
) -> Report:
    world = World(loop, seed, databases, with_sql=with_sql, with_deletions=with_deletions)
    await world.live()
    machine = environment(loop, random.Random(seed), databases)
    session = Session(world.store("judge", calm=True), KEYS, machine, world.options)
    calm = LogReader(session)
    history = world.history
    try:
        state = await calm.load()
        files = files_of(state.tree, {key: found.data for key, found in world.bucket.objects.items()})
    except Corrupt as error:
        raise _failed(seed, [f"what is stored cannot be read: {error}"], history) from None
    except KeyError as error:
        raise _failed(seed, [f"a blob is missing that the session refers to: {error}"], history) from None
    broken = list(violations(history, world.bucket, files))
    if broken:
        raise _failed(seed, broken, history)
    report = Report(
        seed=seed,
        commits=state.head.sequence,
        acknowledged=_acknowledged(history, Log.FILE),
        transactions=_acknowledged(history, Log.DATABASE),
        rolled_back=history.rolled_back,
        fenced=len(history.fences),
        deaths=history.deaths,
        suspensions=history.suspensions,
        blobs=sum(each.key.startswith(KEYS.blobs) for each in world.bucket.history),
        collected=len(world.bucket.deleted),
        deletions=len(history.deletions),
        digest=_digest(world, history),
    )
    if with_deletions:
        world.stop()
        broken = await judge_end(session, world.bucket, 8 * DAY_S)
        if broken:
            raise _failed(seed, broken, history)
    return report


def _acknowledged(history: History, log: Log) -> int:
    return sum(append.log is log and append.ended is not None for append in history.appends)


def _failed(seed: int, broken: list[str], history: History) -> SimulationFailed:
    return SimulationFailed("\n".join([f"seed {seed}: {broken[0]}", *broken[1:], *history.timeline[-TIMELINE_LINES:]]))


def _digest(world: World, history: History) -> str:
    digest = hashlib.sha256("\n".join(history.timeline).encode())
    for key in sorted(world.bucket.objects):
        digest.update(key.encode())
        digest.update(world.bucket.objects[key].data)
    return digest.hexdigest()
