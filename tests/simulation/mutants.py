"""Deliberately broken variants of the engine. Each breaks one rule of the protocol; the simulation notices each."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

import pytest

from sessionfs_s3.errors import Conflict, Fenced, KeyNotFound, SessionFsError
from sessionfs_s3.format import Commit, Kind, blobs_of, encode_commit, parse_log_name
from sessionfs_s3.format.frame import decompressed_form
from sessionfs_s3.fs import Place, Tree, apply
from sessionfs_s3.sqlite import Database, ScratchDatabase
from sessionfs_s3.sqlite import database as scratch_database
from sessionfs_s3.sqlite.wal import merge
from sessionfs_s3.store.protocol import UNCONDITIONAL
from sessionfs_s3.testing.simulation.store import SimulatedStore
from sessionfs_s3.volume import Durability, VolumeOptions, collection, committer, contents, log
from sessionfs_s3.volume.committer import Committer
from sessionfs_s3.volume.database import SessionDatabase
from sessionfs_s3.volume.loading import Listing, LogReader
from sessionfs_s3.volume.log import SessionLog
from sessionfs_s3.volume.snapshots import SnapshotWriter
from sessionfs_s3.volume.state import State
from sessionfs_s3.volume.view import View
from tests.simulation.deletion_mutants import DELETION_MUTANTS, Break

FIRST_SEEDS: dict[str, int] = {
    "collection_without_minimum_age": 1655,
    "late_claim_counts": 880,
    "collection_drops_needed_blob": 380,
    "load_stops_at_a_404": 1195,
    "blobs_of_the_unborn_are_garbage": 1750,
    "removal_before_the_tombstone": 180,
    "collection_drops_fences": 100,
}
"""Where to begin to look for a world that shows what is wrong with a mutant that few worlds show; 0 for the others."""


def unconditional_put(patch: pytest.MonkeyPatch) -> None:
    """A commit overwrites whatever stands in its slot."""
    patch.setattr(log, "IF_ABSENT", UNCONDITIONAL)


def success_on_412(patch: pytest.MonkeyPatch) -> None:
    """Whoever finds the slot taken believes that it was himself."""
    patch.setattr(log, "_same", lambda *_: True)


def fresh_nonce_on_retry(patch: pytest.MonkeyPatch) -> None:
    """An own commit whose answer was lost is not recognised, as if every try had a nonce of its own."""
    patch.setattr(log, "_same", lambda *_: False)


def acknowledge_before_put(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the store."""
    submit = Committer.submit

    async def hasty(self: Committer, plan: Any, durability: Durability) -> None:
        task = asyncio.ensure_future(submit(self, plan, durability))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0)

    patch.setattr(Committer, "submit", hasty)


def serve_after_failure(patch: pytest.MonkeyPatch) -> None:
    """A volume that has failed goes on as if nothing had been."""

    def forgiving(self: Committer, error: SessionFsError) -> None:
        for entry in self._queue:
            committer._settle(entry, error)
        self._queue.clear()

    patch.setattr(Committer, "fail", forgiving)


def claim_without_a_new_epoch(patch: pytest.MonkeyPatch) -> None:
    """A claim goes on in the epoch that it finds."""
    put = SessionLog._put

    async def modest(self: SessionLog, commit: Commit, data: bytes) -> Any:
        if commit.claim and commit.sequence > 1:
            commit = replace(commit, epoch=1, claim=False, snapshot_seen=0)
            data = encode_commit(commit)[0]
        return await put(self, commit, data)

    patch.setattr(SessionLog, "_put", modest)


def snapshot_of_uncommitted_state(patch: pytest.MonkeyPatch) -> None:
    """A snapshot holds what was accepted, not what was committed."""
    original = Committer.__init__

    def watched(self: Committer, *arguments: Any) -> None:
        original(self, *arguments)
        consider = self._snapshots.consider

        def early(state: State, owner: Any) -> State:
            return replace(consider(replace(state, tree=self.tree), owner), tree=state.tree)

        patch.setattr(self._snapshots, "consider", early)

    patch.setattr(Committer, "__init__", watched)
    patch.setattr(SnapshotWriter, "_due", lambda *_: True)


def conflict_is_a_fence(patch: pytest.MonkeyPatch) -> None:
    """A 409, which stored nothing and says nothing, is taken for the loss of the session."""
    put = SimulatedStore.put

    async def timid(self: SimulatedStore, *arguments: Any, **more: Any) -> str:
        try:
            return await put(self, *arguments, **more)
        except Conflict as answer:
            raise Fenced(f"409: {answer}") from answer

    patch.setattr(SimulatedStore, "put", timid)


def _with_options(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have collection plan by other numbers than those that were asked for."""
    plan = collection.plan

    def careless(stored: Any, state: State, attempted: Any, options: VolumeOptions) -> Any:
        return plan(stored, state, attempted, replace(options, **changes))

    patch.setattr(collection, "plan", careless)


def collection_drops_fences(patch: pytest.MonkeyPatch) -> None:
    """The first commit of an epoch is collected like any other."""
    _with_options(patch, fence_age_s=0.0)


def collection_without_minimum_age(patch: pytest.MonkeyPatch) -> None:
    """What is not needed is collected at once."""
    _with_options(patch, collect_age_s=0.0)
    patch.setattr(collection.Collector, "_is_due", lambda *_: True)


def late_claim_counts(patch: pytest.MonkeyPatch) -> None:
    """A claim counts whenever its answer comes."""
    patch.setattr(SessionLog, "_too_late", lambda _: False)


def collection_drops_needed_blob(patch: pytest.MonkeyPatch) -> None:
    """A blob goes with the first snapshot that does not need it, though the one before it still does."""
    plan = collection.plan

    def careless(stored: Any, state: State, attempted: Any, options: VolumeOptions) -> Any:
        return plan(
            stored, replace(state, blobs={blob: min(died, 1) for blob, died in state.blobs.items()}), attempted, options
        )

    patch.setattr(collection, "plan", careless)


def load_stops_at_a_404(patch: pytest.MonkeyPatch) -> None:
    """A commit that is missing ends the log."""
    follow = LogReader._follow

    async def content_with_less(self: LogReader, known: State, listing: Listing, *, lenient: bool) -> State:
        while True:
            try:
                return await follow(self, known, listing, lenient=lenient)
            except KeyNotFound as answer:
                name = parse_log_name(answer.key.rsplit("/", 1)[-1])
                if name is None or name.kind is not Kind.COMMIT:
                    raise
                commits = {number: size for number, size in listing.commits.items() if number < name.sequence}
                listing = replace(listing, commits=commits)

    patch.setattr(LogReader, "_follow", content_with_less)


def reader_trusts_unverified_chunk(patch: pytest.MonkeyPatch) -> None:
    """What comes back from the store is what was stored there."""

    def trusting(key: str, place: Place, stored: bytes) -> bytes:
        return decompressed_form(key, place.offset, stored, place.size) if place.compressed else stored

    patch.setattr(contents, "unpack_chunk", trusting)


def waking_without_looking(patch: pytest.MonkeyPatch) -> None:
    """A volume that had given its memory back goes on from whatever it finds."""

    async def trusting(self: View) -> None:
        state = await self._log.load()
        if self._committer is None:
            self._state, self._asleep = state, False
        elif self._committer.error is None:
            self._committer.state = replace(self._committer.state, head=state.head)
            self._committer.wake(state)

    patch.setattr(View, "_wake", trusting)


def birth_overtakes(patch: pytest.MonkeyPatch) -> None:
    """What somebody waits for is committed before what came first and nobody waits for."""
    take = Committer._take

    def impatient(self: Committer) -> Any:
        awaited = [entry for entry in self._queue if entry.done is not None]
        others = [entry for entry in self._queue if entry.done is None]
        self._queue.clear()
        self._queue.extend([*awaited, *others])
        batch = take(self)
        if awaited:
            kept = [entry for entry in batch if entry.done is None]
            self._queue.extendleft(reversed(kept))
            self._queued_bytes += sum(entry.size for entry in kept)
            batch = [entry for entry in batch if entry.done is not None]
        return batch

    patch.setattr(Committer, "_take", impatient)
    patch.setattr(Committer, "_tree_after", _tree_of_the_log)


def _tree_of_the_log(self: Committer, operations: Any) -> Any:
    tree = self.state.tree
    for operation in operations:
        tree = apply(tree, operation)
    return tree


def sql_acknowledged_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the commit of what SQL changed."""
    run = SessionDatabase._run

    async def hasty(self: SessionDatabase, work: Any, durability: Durability) -> Any:
        return await run(self, work, Durability.SOON if durability is Durability.STORED else durability)

    patch.setattr(SessionDatabase, "_run", hasty)


def copy_outlives_a_failed_commit(patch: pytest.MonkeyPatch) -> None:
    """The local copy is kept, whatever became of the change that it has made."""

    async def nothing(_: SessionDatabase) -> None:
        return

    patch.setattr(SessionDatabase, "_discard", nothing)


def copy_of_another_database(patch: pytest.MonkeyPatch) -> None:
    """A local copy, once made, is never compared with what is stored."""
    current = SessionDatabase._current

    async def trusting(self: SessionDatabase) -> Database:
        if self._copy is not None and not self._copy.lost:
            await self._view.tree()
            return self._copy
        return await current(self)

    patch.setattr(SessionDatabase, "_current", trusting)


def change_without_its_last_page(patch: pytest.MonkeyPatch) -> None:
    """What a call changed is all but one page."""

    def careless(pages: dict[int, bytes]) -> tuple[tuple[int, bytes], ...]:
        return merge({page: data for page, data in pages.items() if page == 1 or page < max(pages)})

    patch.setattr(scratch_database, "merge", careless)


def kept_in_spite_of_an_error(patch: pytest.MonkeyPatch) -> None:
    """What a call did before it failed is committed, not rolled back."""

    def lenient(self: ScratchDatabase) -> None:
        self._guard.in_transaction = False
        if self._connection.in_transaction:
            self._own("COMMIT")

    patch.setattr(ScratchDatabase, "_roll_back", lenient)


def left_open_after_an_error(patch: pytest.MonkeyPatch) -> None:
    """What a call did before it failed is neither committed nor rolled back."""
    patch.setattr(ScratchDatabase, "_roll_back", lambda _: None)


def snapshot_without_database(patch: pytest.MonkeyPatch) -> None:
    """A snapshot has the files alone."""
    to_snapshot = State.to_snapshot

    def partial(self: State) -> Any:
        return to_snapshot(replace(self, tree=Tree(self.tree.root)))

    patch.setattr(State, "to_snapshot", partial)


def database_blobs_are_garbage(patch: pytest.MonkeyPatch) -> None:
    """What no file refers to is nobody's: the blobs of the database are collected."""
    plan = collection.plan

    def careless(stored: Any, state: State, needed: Any, options: VolumeOptions) -> Any:
        database = blobs_of([] if state.tree.database is None else [state.tree.database])
        return plan(
            stored, replace(state, blobs={**state.blobs, **dict.fromkeys(database, 1)}), needed - database, options
        )

    patch.setattr(collection, "plan", careless)


def calls_side_by_side(patch: pytest.MonkeyPatch) -> None:
    """The next call of SQL begins before what the last one changed is stored."""

    class Open(asyncio.Lock):
        async def acquire(self) -> Literal[True]:
            return True

        def release(self) -> None:
            return

    original = SessionDatabase.__init__

    def unlocked(self: SessionDatabase, *arguments: Any) -> None:
        original(self, *arguments)
        self._lock = Open()

    patch.setattr(SessionDatabase, "__init__", unlocked)


def answers_without_looking(patch: pytest.MonkeyPatch) -> None:
    """A volume that has failed goes on to answer SQL out of its copy."""
    current = SessionDatabase._current

    async def trusting(self: SessionDatabase) -> Database:
        if self._copy is not None and not self._copy.lost and self._view._committer is not None:
            return self._copy
        return await current(self)

    patch.setattr(SessionDatabase, "_current", trusting)


MUTANTS: tuple[Break, ...] = (
    unconditional_put,
    success_on_412,
    fresh_nonce_on_retry,
    acknowledge_before_put,
    serve_after_failure,
    claim_without_a_new_epoch,
    snapshot_of_uncommitted_state,
    conflict_is_a_fence,
    collection_drops_fences,
    collection_without_minimum_age,
    late_claim_counts,
    collection_drops_needed_blob,
    load_stops_at_a_404,
    reader_trusts_unverified_chunk,
    waking_without_looking,
    birth_overtakes,
    sql_acknowledged_before_commit,
    copy_outlives_a_failed_commit,
    copy_of_another_database,
    change_without_its_last_page,
    kept_in_spite_of_an_error,
    left_open_after_an_error,
    snapshot_without_database,
    database_blobs_are_garbage,
    calls_side_by_side,
    answers_without_looking,
    *DELETION_MUTANTS,
)
