"""Deliberately broken variants of deletion; see ``mutants.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sessionfs_s3.errors import Corrupt, KeyNotFound
from sessionfs_s3.format import Commit, decode_commit
from sessionfs_s3.fs import Clear, Operation, Tree, apply
from sessionfs_s3.testing.simulation import deletions
from sessionfs_s3.volume import VolumeOptions, deletion, loading, state
from sessionfs_s3.volume.collection import StoredSession, delete, everything_of
from sessionfs_s3.volume.deletion import Deleted, Leftovers
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.log import SessionLog, Slot
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.state import State

Break = Callable[[pytest.MonkeyPatch], None]

leftovers = deletion.leftovers
delete_session = deletion.delete_session


def _with_leftovers(patch: pytest.MonkeyPatch, change: Callable[[Leftovers], Leftovers], **options: Any) -> None:
    def careless(stored: StoredSession, tombstone: int, now_ms: int, given: VolumeOptions) -> Leftovers:
        return change(leftovers(stored, tombstone, now_ms, replace(given, **options)))

    patch.setattr(deletion, "leftovers", careless)


def deletion_leaves_no_spent_slots(patch: pytest.MonkeyPatch) -> None:
    """Everything below the tombstone is removed at once."""
    _with_leftovers(patch, lambda left: Leftovers([*left.gone, *left.spent], ()))


def deletion_drops_fences(patch: pytest.MonkeyPatch) -> None:
    """The slot of a claim is kept no longer than any other."""
    _with_leftovers(patch, lambda left: left, fence_age_s=0.0)


def deletion_leaves_blobs(patch: pytest.MonkeyPatch) -> None:
    """Only the log is removed."""
    _with_leftovers(patch, lambda left: replace(left, gone=[each for each in left.gone if "/log/" in each.key]))


def deletion_leaves_slots_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """What cannot be removed yet is not emptied either."""
    _with_leftovers(patch, lambda left: replace(left, spent=()))


def removal_before_the_tombstone(patch: pytest.MonkeyPatch) -> None:
    """What the session holds is removed first, and then it is deleted."""

    async def hasty(session: Session) -> Deleted:
        stored = await everything_of(session)
        await delete(session, [entry.key for entry in (*stored.blobs.values(), *stored.snapshots.values())])
        return await delete_session(session)

    patch.setattr(deletions, "delete_session", hasty)


def blobs_of_the_unborn_are_garbage(patch: pytest.MonkeyPatch) -> None:
    """Where there is no log, blobs are removed without a tombstone."""
    bury = SessionLog.bury

    async def modest(self: SessionLog, *, unborn: bool = False) -> tuple[int, bool]:
        return (1, False) if unborn else await bury(self)

    patch.setattr(SessionLog, "bury", modest)


def tombstone_without_clear(patch: pytest.MonkeyPatch) -> None:
    """A deletion takes the session over, and leaves it as it is."""
    claim = SessionLog._claim

    async def modest(self: SessionLog, sequence: int, seen: int, *_: Operation) -> Any:
        return await claim(self, sequence, seen)

    patch.setattr(SessionLog, "_claim", modest)


def clear_keeps_the_tree(patch: pytest.MonkeyPatch) -> None:
    """Whoever has read the session already goes on with what it held."""
    replay = state.replay

    def forgetful(before: State, key: str, data: bytes, *, lenient: bool = False) -> State:
        after = replay(before, key, data, lenient=lenient)
        return replace(after, tree=before.tree) if after.head.sequence == after.fenced_from else after

    patch.setattr(loading, "replay", forgetful)


def clear_keeps_the_database(patch: pytest.MonkeyPatch) -> None:
    """A tombstone ends the files, and not the database."""
    replay = state.replay

    def forgetful(before: State, key: str, data: bytes, *, lenient: bool = False) -> State:
        after = replay(before, key, data, lenient=lenient)
        if after.head.sequence != after.fenced_from:
            return after
        return replace(after, tree=Tree(apply(before.tree, Clear()).root, before.tree.database))

    patch.setattr(loading, "replay", forgetful)


def reader_needs_what_is_below(patch: pytest.MonkeyPatch) -> None:
    """A listing shows no tombstones: everything from the last snapshot on has to be there."""
    patch.setattr(loading, "TOMBSTONE_BYTES", -1)


def spent_slot_is_damage(patch: pytest.MonkeyPatch) -> None:
    """An empty object is an object that is damaged, for a reader."""
    fetch = LogReader._fetch

    async def strict(self: LogReader, key: str, gate: Any) -> bytes:
        try:
            return await fetch(self, key, gate)
        except KeyNotFound as answer:
            try:
                await self._session.ask(key, lambda: self._session.store.get(key))
            except KeyNotFound:
                raise answer from None
            raise Corrupt(key, 0, "empty") from answer

    patch.setattr(LogReader, "_fetch", strict)


def spent_slot_is_damage_to_a_writer(patch: pytest.MonkeyPatch) -> None:
    """An empty object is an object that is damaged, for whoever finds it in his slot."""

    async def strict(self: SessionLog, key: str, sequence: int) -> Any:
        try:
            fetched = await self._session.ask(key, lambda: self._store.get(key))
        except KeyNotFound:
            return None
        return decode_commit(key, fetched.data, sequence=sequence)[0]

    patch.setattr(SessionLog, "_standing", strict)


def spent_slot_is_free(patch: pytest.MonkeyPatch) -> None:
    """A writer who finds an empty object in his slot takes it for his own."""
    put = SessionLog._put

    async def lenient(self: SessionLog, commit: Commit, data: bytes) -> Any:
        found = await put(self, commit, data)
        return None if found is Slot.SPENT else found

    patch.setattr(SessionLog, "_put", lenient)


DELETION_MUTANTS: tuple[Break, ...] = (
    deletion_leaves_no_spent_slots,
    deletion_drops_fences,
    deletion_leaves_blobs,
    deletion_leaves_slots_as_they_are,
    removal_before_the_tombstone,
    blobs_of_the_unborn_are_garbage,
    tombstone_without_clear,
    clear_keeps_the_tree,
    clear_keeps_the_database,
    reader_needs_what_is_below,
    spent_slot_is_damage,
    spent_slot_is_damage_to_a_writer,
    spent_slot_is_free,
)
