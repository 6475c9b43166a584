"""Writing a log: a claim opens an epoch, every commit takes the next slot, and whoever finds it taken is fenced.

One conditional PUT is the whole protocol. ``docs/decisions/0001-log-of-slots.md`` says why it is enough.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Literal

from sessionfs_s3.errors import (
    CommitUnknown,
    Conflict,
    Corrupt,
    Denied,
    Fenced,
    InUse,
    KeyNotFound,
    NoAnswer,
    PreconditionFailed,
    Refused,
    StoreAnswer,
    Unavailable,
)
from sessionfs_s3.format import (
    CHAIN_START,
    Commit,
    decode_commit,
    encode_commit,
    next_chain,
)
from sessionfs_s3.format.limits import SEQUENCE_MAX
from sessionfs_s3.fs import Clear, Operation, Tree
from sessionfs_s3.fs.operations import payload_bytes
from sessionfs_s3.store.protocol import IF_ABSENT
from sessionfs_s3.volume.loading import Listing, LogReader
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.state import EMPTY_STATE, State

FIRST_EPOCH: Final = 1
"""The epoch of a session's first commit, which is its own claim."""

_ID_BYTES: Final = 16


class Slot(Enum):
    """What may stand in a slot besides a commit."""

    SPENT = "an empty object: what stood here was deleted with the session"


class SessionLog:
    """One writer's view of a session's log. One append at a time: so there are no gaps.

    Attributes:
        reader: reads the same log.
        writer: this writer's identity, 16 random bytes.
    """

    def __init__(self, session: Session) -> None:
        """Write the log of *session*."""
        self.reader = LogReader(session)
        self.writer = session.environment.random_bytes(_ID_BYTES)
        self._session = session
        self._store = session.store
        self._keys = session.keys
        self._environment = session.environment
        self._options = session.options
        self._listed_s = 0.0
        self._heard_s = 0.0

    async def open(self) -> State:
        """Load the session and claim it: one listing, then the reads and the claim side by side.

        A session that does not exist is claimed by its first commit instead. When somebody else commits first, what
        they wrote is read and the next slot claimed, until the deadline.

        Raises:
            InUse: somebody commits to the session, and the options say to leave it to them then.
            Unavailable: the store does not answer, or the claim kept losing, for the whole deadline.
            CommitUnknown: the fate of the claim is unknown. Nothing of the session changed either way.
            Refused, Corrupt: as in :meth:`LogReader.load`.
        """
        state = EMPTY_STATE
        deadline_s = self._options.patience.deadline_s
        until_s = self._environment.uptime_s() + deadline_s
        tries = 0
        read: int | None = None
        while not tries or self._environment.uptime_s() < until_s:
            tries += 1
            self._listed_s = self._heard_s = self._environment.uptime_s()
            listing = await self.reader.listing()
            if not listing.head:
                return EMPTY_STATE
            self._check_idle(listing)
            claimed, loaded = await asyncio.gather(
                self._claim(listing.head + 1, listing.snapshot if read is None else read),
                self.reader.advance(state, listing),
                return_exceptions=True,
            )
            # The claim has to be over before the read's failure is raised: nothing may go on in the background.
            for outcome in (loaded, claimed):
                if isinstance(outcome, BaseException):
                    raise outcome
            assert isinstance(loaded, State)
            state = loaded
            if isinstance(claimed, tuple):
                commit, digest, size = claimed
                if any(state.snapshot_sequence < each <= commit.snapshot_seen for each in self.reader.damaged):
                    # That the claim has seen what nobody can read would make it count: again, without it.
                    read = state.snapshot_sequence
                elif state.head.sequence == listing.head and not self._too_late():
                    chain = next_chain(state.head.chain, digest)
                    return state.advanced(commit, chain, state.tree, size)
            await self._options.patience.pause(self._environment, tries)
        raise Unavailable(f"claiming {self._keys.prefix}: other writers were first for {deadline_s:g} s")

    async def bury(self, *, unborn: bool = False) -> tuple[int, bool]:
        """Delete the session: claim it with a tombstone, which clears it, whatever it holds and whoever owns it.

        Needs nothing but a listing: a session that cannot be read is deleted like any other.

        Args:
            unborn: write a tombstone even where nothing is in the log, so that whoever was to begin it is fenced.

        Returns:
            the number of the tombstone, 0 where there is none and nothing to delete; and whether this call put it there
            rather than found it.

        Raises:
            Unavailable: the store does not answer, or other writers were first for the whole deadline.
            CommitUnknown: the session may or may not be deleted.
            Refused: the store refuses; nothing was changed.
            Corrupt: the log has come to its end: there is no slot for a tombstone.
        """
        until_s = self._environment.uptime_s() + self._options.patience.deadline_s
        tries = 0
        put = False
        while not tries or self._environment.uptime_s() < until_s:
            tries += 1
            self._listed_s = self._heard_s = self._environment.uptime_s()
            listing = await self.reader.listing()
            if not (listing.head or unborn):
                return 0, put
            if listing.is_deleted and await self.reader.is_tombstone(listing.head):
                return listing.head, put
            if listing.head == SEQUENCE_MAX:
                raise Corrupt(self._keys.commit(listing.head), 0, "the last slot of all is taken")
            # It saw no snapshot: none below it counts.
            claimed = await self._claim(listing.head + 1, 0, Clear())
            put = put or claimed is not None
            if claimed is not None and not self._too_late():
                return listing.head + 1, True
            await self._options.patience.pause(self._environment, tries)
        raise Unavailable(
            f"deleting {self._keys.prefix}: other writers were first for {self._options.patience.deadline_s:g} s"
        )

    async def append(self, state: State, operations: Sequence[Operation], tree: Tree) -> State:
        """Commit *operations*, which turn the tree of *state* into *tree*, and return the state after it.

        Raises:
            Fenced: another writer has claimed the session; nothing was stored.
            CommitUnknown: it may or may not be stored.
            Unavailable, Refused: nothing was stored.
            Corrupt: an object that no writer could have put there stands in the slot.
        """
        began_s = self._environment.uptime_s()
        outcome = "ok"
        try:
            return await self._append(state, operations, tree)
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._environment.commits.ended(outcome, self._environment.uptime_s() - began_s)

    async def _append(self, state: State, operations: Sequence[Operation], tree: Tree) -> State:
        await self._check_unchanged(state)
        first = not state.head.sequence
        sequence = state.head.sequence + 1
        commit = Commit(
            sequence=sequence,
            epoch=sequence if first else state.head.epoch,
            writer=self.writer,
            nonce=self._environment.random_bytes(_ID_BYTES),
            chain=state.head.chain,
            time_ms=self._environment.wall_ms(),
            claim=first,
            operations=tuple(operations),
        )
        size = sum(map(payload_bytes, operations))
        data, digest = await self._session.work(size, functools.partial(encode_commit, commit))
        other = await self._put(commit, data)
        if other is Slot.SPENT:
            raise Fenced(f"{self._keys.prefix}: deleted meanwhile; nothing of this writer is stored any more")
        if other is not None:
            raise self._fenced(other)
        if self._too_late() if first else self._out_of_contact_s() > self._options.fence_age_s:
            raise CommitUnknown(f"committing {self._keys.commit(sequence)}: the answer came too late to count")
        self._heard_s = self._environment.uptime_s()
        return state.advanced(commit, next_chain(state.head.chain, digest), tree, len(data))

    async def _claim(
        self, sequence: int, snapshot_seen: int, *operations: Operation
    ) -> tuple[Commit, bytes, int] | None:
        """Put a claim into the slot *sequence*; return it, its digest and its size, or None if that was taken."""
        commit = Commit(
            sequence=sequence,
            epoch=sequence,
            writer=self.writer,
            nonce=self._environment.random_bytes(_ID_BYTES),
            chain=CHAIN_START,
            time_ms=self._environment.wall_ms(),
            claim=True,
            operations=operations,
            snapshot_seen=snapshot_seen,
        )
        data, digest = encode_commit(commit)
        return (commit, digest, len(data)) if await self._put(commit, data) is None else None

    async def _put(self, commit: Commit, data: bytes) -> Commit | Literal[Slot.SPENT] | None:
        """Put *data*, which encodes *commit*, into its slot; return None, or what of another's stands there.

        Every try sends the same bytes to the same slot, so that a try whose answer was lost is found again by its
        writer and nonce.
        """
        key = self._keys.commit(commit.sequence)
        patience = self._options.patience
        perhaps_stored = False
        last: StoreAnswer | None = None
        tries = 0
        try:
            async with asyncio.timeout(patience.deadline_s):
                while True:
                    tries += 1
                    perhaps_stored_before, perhaps_stored = perhaps_stored, True
                    try:
                        await self._store.put(key, data, condition=IF_ABSENT)
                        return None
                    except Conflict as answer:
                        last, perhaps_stored = answer, perhaps_stored_before
                    except Denied as answer:
                        if perhaps_stored_before:
                            raise CommitUnknown(f"committing {key}: an earlier try may be stored: {answer}") from answer
                        raise Refused(f"committing {key}: the store refuses: {answer}") from answer
                    except NoAnswer as answer:
                        last = answer
                    except PreconditionFailed as answer:
                        last = answer
                        found = await self._standing(key, commit.sequence)
                        if found is not None:
                            return None if isinstance(found, Commit) and _same(found, commit) else found
                    await patience.pause(self._environment, tries)
        except TimeoutError:
            told = f"no answer in {patience.deadline_s:g} s and {tries} tries: {last or 'none at all'}"
            if perhaps_stored:
                raise CommitUnknown(f"committing {key}: {told}") from None
            raise Unavailable(f"committing {key}: {told}") from None

    async def _standing(self, key: str, sequence: int) -> Commit | Literal[Slot.SPENT] | None:
        """Return what stands in a taken slot; None, for another try, when the store does not show it."""
        try:
            fetched = await self._store.get(key)
        except (KeyNotFound, NoAnswer, Conflict):
            return None
        except Denied as answer:
            raise CommitUnknown(f"committing {key}: the slot is taken, by whom cannot be read: {answer}") from answer
        return decode_commit(key, fetched.data, sequence=sequence)[0] if fetched.data else Slot.SPENT

    async def _check_unchanged(self, state: State) -> None:
        """Make sure, when the store has not been heard of for long, that the next slot is one that never was taken.

        Otherwise it could have been taken by another writer and collected since.
        """
        options = self._options
        trusted_s = (options.fence_age_s if state.head.sequence else options.claim_answer_s_max) / 2
        if self._out_of_contact_s() <= trusted_s:
            return
        listed_s = self._environment.uptime_s()
        listing = await self.reader.listing()
        if listing.head != state.head.sequence:
            raise Fenced(f"{self._keys.prefix}: another writer has taken the session over (commit {listing.head})")
        self._listed_s = self._heard_s = listed_s

    def _check_idle(self, listing: Listing) -> None:
        """Raise InUse when the newest commit is younger than the options allow for taking the session over.

        One that was deleted is nobody's.
        """
        idle_s = self._options.takeover_idle_s
        if idle_s is None or listing.is_deleted:
            return
        age_s = (self._environment.wall_ms() - listing.modified_ms) / 1000
        if age_s < idle_s:
            raise InUse(
                f"{self._keys.prefix}: in use: commit {listing.head} was stored {age_s:.1f} s ago, "
                f"and is left alone for {idle_s:g} s"
            )

    def _out_of_contact_s(self) -> float:
        return self._environment.uptime_s() - self._heard_s

    def _too_late(self) -> bool:
        return self._environment.uptime_s() - self._listed_s > self._options.claim_answer_s_max

    def _fenced(self, other: Commit) -> Fenced | Corrupt:
        if not other.claim:
            return Corrupt(
                self._keys.commit(other.sequence),
                72,
                f"written in epoch {other.epoch} without a claim",
            )
        at = datetime.fromtimestamp(other.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        if other.is_tombstone:
            return Fenced(f"{self._keys.prefix}: deleted at {at}; nothing of this writer is stored any more")
        return Fenced(
            f"{self._keys.prefix}: taken over by writer {other.writer.hex()} in epoch {other.epoch} at {at}; "
            "nothing more of this writer is stored"
        )


def _same(found: Commit, commit: Commit) -> bool:
    return (found.writer, found.nonce) == (commit.writer, commit.nonce)
