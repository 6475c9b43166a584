"""The state of a session as read from its log: the tree, and where in the log it stands."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import CHAIN_START, TOMBSTONE_BYTES, Commit, Snapshot, blobs_of, decode_commit, next_chain
from sessionfs_s3.fs import EMPTY_TREE, Blob, Inapplicable, Tree, apply, contents


@dataclass(frozen=True, slots=True)
class Head:
    """The last commit of a log; all zero for a session that has none.

    Attributes:
        sequence: its number.
        epoch: its epoch: the number of the claim that opened it.
        writer: who wrote it.
        chain: the chain after it.
        time_ms: when it was written, by its writer's clock, in milliseconds since the Unix epoch.
    """

    sequence: int = 0
    epoch: int = 0
    writer: bytes = bytes(16)
    chain: bytes = CHAIN_START
    time_ms: int = 0

    @property
    def time(self) -> datetime:
        """The same moment, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class State:
    """What a session holds after the commit *head*, and what is known of its objects.

    Attributes:
        snapshot_sequence: the newest snapshot's number, 0 while there is none.
        snapshot_bytes: the size of that snapshot as stored.
        snapshot_time_ms: when the commit was written of which it is, in milliseconds since the Unix epoch.
        tail_bytes: the size of the commits after it as stored.
        blobs: every blob that a commit or snapshot has referred to and that may still be there. Beside it the number of
            the first snapshot whose tree did not refer to it any more, 0 for none: what died stays dead.
        fences: the numbers of the claims above *fenced_from* that may still be there, ascending; beside each the newest
            snapshot that its writer saw.
        fenced_from: at and below this number it is not known which commits are claims: that of the newest tombstone
            below which nothing counts, or of a snapshot that version 1 wrote.
    """

    head: Head = field(default_factory=Head)
    tree: Tree = EMPTY_TREE
    snapshot_sequence: int = 0
    snapshot_bytes: int = 0
    snapshot_time_ms: int = 0
    tail_bytes: int = 0
    blobs: Mapping[Blob, int] = field(default_factory=lambda: MappingProxyType[Blob, int]({}))
    fences: Mapping[int, int] = field(default_factory=lambda: MappingProxyType[int, int]({}))
    fenced_from: int = 0

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot, size: int) -> State:
        """Return the state that *snapshot*, an object of *size* bytes, holds."""
        head = Head(
            snapshot.sequence,
            snapshot.epoch,
            snapshot.writer,
            snapshot.chain,
            snapshot.time_ms,
        )
        blobs = MappingProxyType({**dict.fromkeys(snapshot.blobs, 0), **snapshot.died})
        return cls(
            head=head,
            tree=snapshot.tree,
            snapshot_sequence=snapshot.sequence,
            snapshot_bytes=size,
            snapshot_time_ms=snapshot.time_ms,
            blobs=blobs,
            fences=snapshot.fences,
            fenced_from=snapshot.fenced_from,
        )

    @classmethod
    def cleared(cls, tombstone: Commit, digest: bytes) -> State:
        """Return the state after *tombstone*, whose frame has *digest*: nothing, whatever was there."""
        chain = next_chain(CHAIN_START, digest)
        head = Head(tombstone.sequence, tombstone.epoch, tombstone.writer, chain, tombstone.time_ms)
        return cls(head=head, tail_bytes=TOMBSTONE_BYTES, fenced_from=tombstone.sequence)

    def advanced(self, commit: Commit, chain: bytes, tree: Tree, size: int) -> State:
        """Return the state after *commit*, an object of *size* bytes that left *tree*; *chain* is the one after it."""
        new = dict.fromkeys(commit.blobs, 0)
        return replace(
            self,
            head=Head(commit.sequence, commit.epoch, commit.writer, chain, commit.time_ms),
            tree=tree,
            tail_bytes=self.tail_bytes + size,
            blobs=MappingProxyType({**self.blobs, **new}) if new else self.blobs,
            fences=_with_fence(self.fences, commit) if commit.claim else self.fences,
        )

    def with_snapshot(self, of: State, snapshot: Snapshot, size: int) -> State:
        """Return this state, knowing that *snapshot*, of the earlier state *of* and of *size* bytes, is stored."""
        since = {blob: died for blob, died in self.blobs.items() if blob not in of.blobs}
        return replace(
            self,
            snapshot_sequence=snapshot.sequence,
            snapshot_bytes=size,
            snapshot_time_ms=snapshot.time_ms,
            tail_bytes=self.tail_bytes - of.tail_bytes,
            blobs=MappingProxyType({**dict.fromkeys(snapshot.blobs, 0), **snapshot.died, **since}),
        )

    def without(self, blobs: AbstractSet[Blob], fences: AbstractSet[int]) -> State:
        """Return this state, knowing that these blobs, which had died, and these claims are gone."""
        kept = {blob: died for blob, died in self.blobs.items() if blob not in blobs}
        return replace(
            self,
            blobs=MappingProxyType(kept),
            fences=MappingProxyType({fence: seen for fence, seen in self.fences.items() if fence not in fences}),
        )

    def to_snapshot(self) -> Snapshot:
        """Return this state as a snapshot."""
        head = self.head
        alive = blobs_of(contents(self.tree))
        died = {blob: died or head.sequence for blob, died in self.blobs.items() if blob not in alive}
        return Snapshot(
            head.sequence,
            head.epoch,
            head.writer,
            head.chain,
            head.time_ms,
            self.tree,
            MappingProxyType(died),
            self.fences,
            self.fenced_from,
        )


def _with_fence(fences: Mapping[int, int], claim: Commit) -> Mapping[int, int]:
    return MappingProxyType({**fences, claim.sequence: claim.snapshot_seen})


EMPTY_STATE: Final = State()


class LateSnapshot(Exception):
    """The snapshot that a state was read from does not count: it came after the claim that ended its writer's epoch.

    What it holds is right. But whoever went on with the session went on from an earlier one, and may collect its blobs.
    """

    def __init__(self, claim: int, seen: int) -> None:
        """Tell of the claim of this number, whose writer saw no snapshot newer than *seen*."""
        super().__init__(f"claim {claim} saw snapshot {seen}")
        self._claim = claim
        self._seen = seen

    def tells_of(self, number: int) -> bool:
        """Return whether snapshot *number* is one of those that came too late for the claim."""
        return self._seen < number < self._claim


def replay(state: State, key: str, data: bytes, *, lenient: bool = False) -> State:
    """Return *state* after the next commit, which is stored as *data* at *key*.

    Raises:
        LateSnapshot: it is a claim whose writer saw an older snapshot than the one of *state*; not if *lenient*.
        Corrupt: it is not the commit that follows: another number, epoch, writer or chain than the log so far demands,
            or operations that do not fit.
    """
    head = state.head
    commit, digest = decode_commit(key, data, sequence=head.sequence + 1)
    if commit.is_tombstone:
        return State.cleared(commit, digest)
    if not commit.claim:
        if commit.chain != head.chain:
            raise Corrupt(key, 112, f"does not follow commit {head.sequence}: the chain is broken")
        if (commit.epoch, commit.writer) != (head.epoch, head.writer):
            raise Corrupt(
                key,
                72,
                f"written in epoch {commit.epoch}, which does not own this slot",
            )
    elif commit.snapshot_seen < state.snapshot_sequence and not lenient:
        raise LateSnapshot(commit.sequence, commit.snapshot_seen)
    tree = state.tree
    for index, operation in enumerate(commit.operations):
        try:
            tree = apply(tree, operation)
        except Inapplicable as error:
            raise Corrupt(key, 168, f"operation {index} does not fit: {error}") from None
    # The digest of this frame goes into the chain whether or not the commit carried the chain before it: a claim is
    # bound to its predecessor by the commit that follows it.
    chain = next_chain(head.chain, digest)
    return state.advanced(commit, chain, tree, len(data))
