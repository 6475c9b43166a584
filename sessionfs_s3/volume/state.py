"""The state of a session as read from its log: the tree, and where in the log it stands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import CHAIN_START, Snapshot, decode_commit, next_chain
from sessionfs_s3.fs import EMPTY_TREE, Inapplicable, Tree, apply


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


@dataclass(frozen=True, slots=True)
class State:
    """What a session holds after the commit *head*.

    Attributes:
        snapshot_sequence: the newest snapshot's number, 0 while there is none.
        snapshot_bytes: the size of that snapshot as stored.
        tail_bytes: the size of the commits after it as stored.
    """

    head: Head = field(default_factory=Head)
    tree: Tree = EMPTY_TREE
    snapshot_sequence: int = 0
    snapshot_bytes: int = 0
    tail_bytes: int = 0

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
        return cls(head, snapshot.tree, snapshot.sequence, size, 0)

    def advanced(self, head: Head, tree: Tree, size: int) -> State:
        """Return the state after one more commit, *head*, an object of *size* bytes that left *tree*."""
        return replace(self, head=head, tree=tree, tail_bytes=self.tail_bytes + size)

    def with_snapshot(self, of: State, size: int) -> State:
        """Return this state, knowing that a snapshot of the earlier state *of*, of *size* bytes, is stored."""
        tail_bytes = self.tail_bytes - of.tail_bytes
        return replace(
            self,
            snapshot_sequence=of.head.sequence,
            snapshot_bytes=size,
            tail_bytes=tail_bytes,
        )

    def to_snapshot(self) -> Snapshot:
        """Return this state as a snapshot."""
        head = self.head
        return Snapshot(head.sequence, head.epoch, head.writer, head.chain, head.time_ms, self.tree)


EMPTY_STATE: Final = State()


def replay(state: State, key: str, data: bytes) -> State:
    """Return *state* after the next commit, which is stored as *data* at *key*.

    Raises:
        Corrupt: it is not the commit that follows: another number, epoch, writer or chain than the log so far demands,
            or operations that do not fit.
    """
    head = state.head
    commit, digest = decode_commit(key, data, sequence=head.sequence + 1)
    if not commit.claim:
        if commit.chain != head.chain:
            raise Corrupt(key, 112, f"does not follow commit {head.sequence}: the chain is broken")
        if (commit.epoch, commit.writer) != (head.epoch, head.writer):
            raise Corrupt(
                key,
                72,
                f"written in epoch {commit.epoch}, which does not own this slot",
            )
    tree = state.tree
    for index, operation in enumerate(commit.operations):
        try:
            tree = apply(tree, operation)
        except Inapplicable as error:
            raise Corrupt(key, 168, f"operation {index} does not fit: {error}") from None
    # The digest of this frame goes into the chain whether or not the commit carried the chain before it: a claim is
    # bound to its predecessor by the commit that follows it.
    chain = next_chain(head.chain, digest)
    after = Head(commit.sequence, commit.epoch, commit.writer, chain, commit.time_ms)
    return state.advanced(after, tree, len(data))
