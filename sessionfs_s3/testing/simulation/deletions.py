"""Deleting the session of a world: what has to hold at the moment when a deletion is acknowledged, and at the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sessionfs_s3.errors import SessionFsError
from sessionfs_s3.format import TOMBSTONE_BYTES
from sessionfs_s3.fs import EMPTY_TREE
from sessionfs_s3.testing.simulation.history import KEYS, Deletion
from sessionfs_s3.testing.simulation.loop import environment
from sessionfs_s3.testing.simulation.store import Bucket
from sessionfs_s3.volume.deletion import delete_session, sweep
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.session import Session

if TYPE_CHECKING:
    from sessionfs_s3.testing.simulation.world import World


async def delete(world: World, who: str, rng: random.Random) -> None:
    """Delete the session of *world*, or sweep what an earlier deletion left of it."""
    machine = environment(world.loop, rng, world.databases, ahead_s=world.clock(rng))
    session = Session(world.store(who), KEYS, machine, world.options)
    history = world.history
    began, began_s = history.now(), world.loop.time()
    try:
        if rng.random() < 0.2:
            world.tell(who, "sweeps the session")
            swept = await sweep(session)
            world.tell(who, f"has swept {swept.objects} objects")
            return
        world.tell(who, "deletes the session")
        deleted = await delete_session(session)
    except SessionFsError as error:
        world.tell(who, f"fails: {type(error).__name__}: {error}")
        world.check_damage(who, error)
        return
    world.tell(who, f"has deleted the session: {deleted}")
    history.deletions.append(Deletion(who, began, world.loop.time()))
    if deleted.unfinished is None:
        history.broken += [f"{who} has deleted the session, and {key} is left" for key in _left(world.bucket, began_s)]


async def judge_end(session: Session, bucket: Bucket, later_s: float) -> list[str]:
    """Delete *session*, in calm, and sweep it *later_s* seconds later; return what is wrong with what is left then."""
    broken: list[str] = []
    try:
        deleted = await delete_session(session)
        if deleted.unfinished is not None:
            broken.append(f"the last deletion is unfinished: {deleted.unfinished}")
        broken += [f"the session is deleted, and {key} is left" for key in _left(bucket, None)]
        again = await delete_session(session)
        if again.existed:
            broken.append(f"what is deleted is deleted again: {again}")
        if (await LogReader(session).load()).tree is not EMPTY_TREE:
            broken.append("the session is deleted, and not empty")
        for found in bucket.objects.values():
            found.modified_s -= later_s
        await sweep(session)
    except SessionFsError as error:
        broken.append(f"the session is deleted, and fails: {error}")
    if len(bucket.objects) > 1:
        broken.append(f"the session is swept, and {sorted(bucket.objects)} are left")
    return broken


def _left(bucket: Bucket, before_s: float | None) -> Iterator[str]:
    """Yield every object of before *before_s*, of any time if None, that holds something, and is no tombstone."""
    for key, found in bucket.objects.items():
        is_old = before_s is None or found.modified_s < before_s
        is_tombstone = key.startswith(KEYS.log) and len(found.data) == TOMBSTONE_BYTES
        if is_old and found.data and not is_tombstone:
            yield key
