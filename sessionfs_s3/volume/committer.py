"""Group commit: operations change the tree as they arrive, and travel together in one PUT after the other.

While a PUT is in flight further operations queue; the next one takes them all. There is never more than one in flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from sessionfs_s3.errors import Closed, CommitUnknown, Refused, SessionFsError, Unavailable
from sessionfs_s3.format import blobs_of
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    AppendFile,
    Blob,
    Inapplicable,
    MakeDirectory,
    Operation,
    Tree,
    WriteFile,
    apply,
    contents,
)
from sessionfs_s3.fs.operations import payload_bytes
from sessionfs_s3.volume.blobs import BlobWriter
from sessionfs_s3.volume.log import FIRST_EPOCH, SessionLog
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.snapshots import SnapshotWriter
from sessionfs_s3.volume.state import State

Plan = Callable[[Tree], Sequence[Operation]]
"""Turns the current tree into the operations of one command; raises ``OSError`` where the command is not allowed."""


class Durability(Enum):
    """When a change is acknowledged, and what makes it travel."""

    STORED = "stored"
    """Acknowledged when it is in the store. What ``Volume`` does unless told otherwise."""

    SOON = "soon"
    """Acknowledged at once; committed with the next commit, at the latest after ``VolumeOptions.linger_s``."""

    NEXT = "next"
    """Acknowledged at once; committed with the next commit that something else causes, or on close."""


@dataclass(slots=True)
class _Entry:
    """One command that waits for its commit; *done* is there when somebody waits for it."""

    operations: Sequence[Operation]
    size: int
    done: asyncio.Future[None] | None


class Committer:
    """The queue between a volume's callers and its log.

    Attributes:
        tree: the state with everything that was accepted, committed or not: what the session reads.
        state: the state after the last commit.
        error: why nothing more is accepted, once that is so. Those whose commit failed are told this very error, and
            those who come later another that is equal to it.
        asleep: whether the tree was given up to save memory; :meth:`wake` has to bring it back before anything else.
    """

    def __init__(
        self,
        log: SessionLog,
        state: State,
        blobs: BlobWriter,
        snapshots: SnapshotWriter,
        options: VolumeOptions,
    ) -> None:
        """Commit to *log* from *state* on; large contents through *blobs*."""
        self.tree = state.tree
        self.state = state
        self.error: SessionFsError | None = None
        self.asleep = False
        self._log = log
        self._blobs = blobs
        self._snapshots = snapshots
        self._options = options
        self._queue: deque[_Entry] = deque()
        self._queued_bytes = 0
        self._flush = False
        self._task: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._progress = asyncio.Event()

    @property
    def writer(self) -> bytes:
        """This writer's identity in the log."""
        return self._log.writer

    @property
    def idle(self) -> bool:
        """Whether everything accepted so far is committed."""
        return not self._queue and (self._task is None or self._task.done())

    def rest(self) -> bool:
        """Give the tree up, which is stored, unless something is under way; return whether it is given up."""
        if self.asleep or self.error is not None:
            return True
        if not self.idle or not self._snapshots.rest():
            return False
        self.asleep = True
        self.state = State(head=self.state.head)
        self.tree = self.state.tree
        return True

    def wake(self, state: State) -> None:
        """Go on from *state*, which was read anew and has the head of the state that was given up."""
        assert self.asleep
        assert state.head == self.state.head
        self.state = state
        self.tree = state.tree
        self.asleep = False

    async def submit(self, plan: Plan, durability: Durability) -> None:
        """Apply the operations of *plan* to the tree and commit them as *durability* says.

        A command that changes nothing costs no commit, but with :attr:`Durability.STORED` it still waits for what it
        saw to be stored.

        Raises:
            OSError: the plan's own; nothing changed.
            SessionFsError: why the volume failed; with :attr:`Durability.STORED` also a failure of this very commit.
        """
        assert not self.asleep
        while self._queued_bytes >= self._options.queue_bytes_max and self.error is None:
            self._flush = True
            self._start()
            self._progress.clear()
            await self._progress.wait()
        self.check()
        operations = plan(self.tree)
        if not operations and (durability is not Durability.STORED or self.idle):
            return
        for operation in operations:
            self.tree = apply(self.tree, operation)
        done = asyncio.get_running_loop().create_future() if durability is Durability.STORED else None
        size = sum(map(payload_bytes, operations))
        self._queue.append(_Entry(operations, size, done))
        self._queued_bytes += size
        if done is not None:
            self._start()
            await done
        elif durability is Durability.SOON and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(self._options.linger_s, self._flush_now)

    def check(self) -> None:
        """Raise why nothing more is accepted, if that is so."""
        if self.error is not None:
            raise self.error.again() from self.error

    async def settle(self) -> None:
        """Wait for the commits that are under way, without causing one."""
        if self._task is not None:
            # wait() shields: a caller who gives up does not take the commit with him.
            await asyncio.wait([self._task])

    async def confirmed(self) -> int:
        """Wait for the commit that is under way, if any, and return the number of the last one.

        Raises:
            SessionFsError: the volume has failed.
        """
        sequence = self.state.head.sequence
        while self._task is not None and not self._task.done() and self.state.head.sequence == sequence:
            self._progress.clear()
            await self._progress.wait()
        self.check()
        return self.state.head.sequence

    def needed(self) -> set[Blob]:
        """Return the blobs that the trees refer to, the committed one and the one that is read."""
        return blobs_of([*contents(self.tree), *contents(self.state.tree)])

    async def flush(self) -> None:
        """Commit everything that is queued. Raises as :meth:`submit`."""
        while True:
            self._flush_now()
            await self.settle()
            self.check()
            if not self._queue:  # else those who waited were told of a failure, and nobody of what is left
                return

    async def aclose(self) -> None:
        """Flush, then accept nothing more. Raises as :meth:`submit`."""
        try:
            if self.error is None:
                await self.flush()
            await self._snapshots.finish()
        finally:
            self.fail(Closed("the volume is closed"))

    def fail(self, error: SessionFsError) -> None:
        """Accept nothing more; whoever waits gets *error*. The state is given up: it may not be what is stored."""
        if self.error is None:
            self.error = error
            self.state = State()
            self.tree = self.state.tree
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._drop(error)

    def _take_back(self, entries: Sequence[_Entry], error: SessionFsError) -> bool:
        """Go on from what is stored, without *entries*: for certain, none of them is.

        Directories that nobody waits for stay on the queue. Return False where anything else was acknowledged without
        a wait: somebody believes it stored.
        """
        kept = [entry for entry in entries if entry.done is None]
        if len(kept) == len(entries):
            return False  # nobody would hear of it
        if not all(isinstance(operation, MakeDirectory) for entry in kept for operation in entry.operations):
            return False
        tree = self.state.tree
        try:
            for entry in kept:
                tree = self._with(tree, entry.operations)
        except Inapplicable:  # below one that somebody waited for
            return False
        self._flush = False
        self._drop(error)
        self.tree = tree
        self._queue.extend(kept)
        self._queued_bytes = sum(entry.size for entry in kept)
        return True

    def _drop(self, error: SessionFsError) -> None:
        """Take everything off the queue, because of *error*."""
        entries = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._progress.set()
        for entry in entries:
            _settle(entry, error.again())

    def _flush_now(self) -> None:
        self._flush = bool(self._queue)
        self._start()

    def _start(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._queue and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Commit batch after batch until nobody waits and nothing has to be flushed."""
        batch: list[_Entry] = []
        try:
            while self._flush or any(entry.done is not None for entry in self._queue):
                batch = self._take()
                operations = [operation for entry in batch for operation in entry.operations]
                if operations:
                    await self._seal(operations)
                    tree = self._tree_after(operations)
                    self.state = await self._log.append(self.state, operations, tree)
                    self.state = self._snapshots.consider(self.state, self)
                self._progress.set()
                for entry in batch:
                    _settle(entry, None)
                batch = []
        except SessionFsError as error:
            if not (isinstance(error, (Unavailable, Refused)) and self._take_back([*batch, *self._queue], error)):
                self.fail(error)
            for entry in batch:
                _settle(entry, error)
        except BaseException as error:
            # A bug or a cancelled event loop: the fate of the batch is unknown, and nobody may wait for ever.
            failure = CommitUnknown(f"the commit was given up: {error!r}")
            self.fail(failure)
            for entry in batch:
                _settle(entry, failure)
            raise

    async def _seal(self, operations: Sequence[Operation]) -> None:
        """Store the contents of large writes in blobs: the chunks of the trees that hold them are places then."""
        # Never less than a chunk: what fills up the last chunk of a file becomes part of it, and is not sealed alone.
        inline_bytes_max = max(self._options.inline_bytes_max, CHUNK_BYTES)
        large = [
            (chunk, chunk.body)
            for operation in operations
            if isinstance(operation, (WriteFile, AppendFile)) and operation.content.size > inline_bytes_max
            for chunk in operation.content.chunks
            if isinstance(chunk.body, bytes)
        ]
        if large:
            await self._blobs.seal(large, self.state.head.epoch or FIRST_EPOCH)

    def _take(self) -> list[_Entry]:
        """Take the entries of the next commit off the queue, in order, bounded in bytes and count."""
        batch: list[_Entry] = []
        size = 0
        while self._queue and len(batch) < self._options.commit_entries_max:
            if batch and size + self._queue[0].size > self._options.commit_bytes_max:
                break
            entry = self._queue.popleft()
            size += entry.size
            batch.append(entry)
        self._queued_bytes -= size
        self._flush = self._flush and bool(self._queue)
        return batch

    def _tree_after(self, operations: Sequence[Operation]) -> Tree:
        """Return the committed tree after *operations*: with an empty queue that is the current one, already made."""
        return self._with(self.state.tree, operations) if self._queue else self.tree

    def _with(self, tree: Tree, operations: Sequence[Operation]) -> Tree:
        for operation in operations:
            tree = apply(tree, operation)
        return tree


def _settle(entry: _Entry, error: SessionFsError | None) -> None:
    done = entry.done
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
