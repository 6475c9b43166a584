"""Snapshots, written in the background by the owner, so that opening costs the same however long the log is.

What a snapshot would hold a second time is sealed into a blob first and only referred to; after a snapshot comes
collection. Failing at any of this never fails a commit: the log alone holds everything.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from sessionfs_s3.errors import PreconditionFailed
from sessionfs_s3.format import CHUNKS_START, blobs_of, encode_snapshot
from sessionfs_s3.fs import Blob, Change, Chunk, Place, Tree, contents, source_of
from sessionfs_s3.store.protocol import IF_ABSENT
from sessionfs_s3.volume.blobs import BlobWriter
from sessionfs_s3.volume.collection import Collector, Owner
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.state import State

_logger = logging.getLogger(__name__)

_MOVED_BYTES_MAX: Final = 8 * 1024 * 1024
"""How much one snapshot moves out of blobs that are mostly dead: a bound on what it reads and writes beside its own."""

_PATIENCE: Final = 2
"""So many times as many commits as usual may go by while they are so small that a snapshot would outweigh them."""

News = Callable[[State], State]
"""What a finished snapshot tells about the state: that it is there, what is gone."""


class SnapshotWriter:
    """Writes a snapshot whenever enough was committed since the last one; one at a time."""

    def __init__(self, session: Session, reader: ContentReader, blobs: BlobWriter) -> None:
        """Write the snapshots of *session*, sealing with *blobs* what *reader* reads."""
        self._session = session
        self._options = session.options
        self._reader = reader
        self._blobs = blobs
        self._collector = Collector(session, blobs.attempted)
        self._task: asyncio.Task[News] | None = None
        self._attempted = 0

    def rest(self) -> bool:
        """Forget the states that snapshots were written of; return False, and do not, while one is being written."""
        if self._task is not None and not self._task.done():
            return False
        self._task = None
        return True

    def consider(self, state: State, owner: Owner) -> State:
        """Have *owner* write a snapshot of the committed *state* if it is due; return it, knowing of one that was."""
        if self._task is not None and self._task.done():
            news = self._task.result()
            self._task = None
            state = news(state)
        if self._task is None and self._due(state):
            self._attempted = state.head.sequence
            self._task = asyncio.create_task(self._write(state, owner))
        return state

    async def finish(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _due(self, state: State) -> bool:
        options = self._options
        commits = state.head.sequence - max(state.snapshot_sequence, self._attempted)
        if commits > options.snapshot_commits * _PATIENCE:
            return True
        # After a failure only that counts, so that a store in trouble is not asked again with every commit.
        if self._attempted > state.snapshot_sequence:
            return False
        if commits > options.snapshot_commits:
            return state.tail_bytes > state.snapshot_bytes // 8
        return state.tail_bytes > max(options.snapshot_bytes_min, state.snapshot_bytes // 2)

    async def _write(self, state: State, owner: Owner) -> News:
        """Write a snapshot of *state*, then collect; return what is to be known of it, whatever came of it."""
        session = self._session
        key = session.keys.snapshot(state.head.sequence)
        try:
            await self._seal(state)
            snapshot = state.to_snapshot()
            data = await session.environment.run_in_thread(functools.partial(encode_snapshot, snapshot))
            async with asyncio.timeout(self._options.patience.deadline_s):
                await session.store.put(key, data, condition=IF_ABSENT)
        except Exception as error:  # noqa: BLE001  # whatever it is, the commits are stored, and the next one goes on
            if not isinstance(error, PreconditionFailed):
                _logger.warning("snapshot %s was not written: %r", key, error)
            # It may be there all the same, and what was sealed for it is referred to by the tree.
            sealed = dict.fromkeys(blobs_of(contents(state.tree)), 0)
            return lambda now: replace(now, blobs=MappingProxyType({**sealed, **now.blobs}))
        _settle(snapshot.tree)
        self._blobs.attempted.difference_update(snapshot.blobs, snapshot.died)
        collected = await self._collector.collect(state, state.with_snapshot(state, snapshot, len(data)), owner)

        def news(now: State) -> State:
            now = now.with_snapshot(state, snapshot, len(data))
            return now if collected is None else now.without(collected.blobs, collected.fences)

        return news

    async def _seal(self, state: State) -> None:
        """Put into blobs what is worth it, and read what was written over without being read.

        Worth it are full chunks, which an append leaves alone; what the last snapshot held inline already; and what is
        left of blobs that are mostly dead.
        """
        moved = _in_sparse_blobs(state.tree)
        chosen: list[Chunk] = []
        changed: list[Chunk] = []
        for content in contents(state.tree):
            for chunk in content.chunks:
                body = chunk.body
                if isinstance(body, Place):
                    if body.blob in moved:
                        chosen.append(chunk)
                elif chunk.settled or chunk.size == content.chunk_bytes():
                    chosen.append(chunk)
                elif isinstance(body, Change):
                    changed.append(chunk)
        if sum(chunk.size for chunk in chosen) < self._options.seal_bytes_min:
            changed += [chunk for chunk in chosen if isinstance(chunk.body, Change)]
            chosen = []
        for chunk, data in zip(changed, await self._reader.held(changed), strict=True):
            chunk.hold(data)
        if chosen:
            held = await self._reader.held(chosen)
            await self._blobs.seal(list(zip(chosen, held, strict=True)), state.head.epoch)


def _in_sparse_blobs(tree: Tree) -> set[Blob]:
    """Return the blobs of which less than half is still needed, as far as one snapshot moves what is."""
    alive: Counter[Blob] = Counter()
    for content in contents(tree):
        for chunk in content.chunks:
            source = source_of(chunk.body)
            if source is not None:
                alive[source.blob] += source.length
    sparse: set[Blob] = set()
    room = _MOVED_BYTES_MAX
    for blob, length in sorted(alive.items(), key=lambda item: item[1]):
        room -= length
        if room >= 0 and 2 * length < blob.size - CHUNKS_START:
            sparse.add(blob)
    return sparse


def _settle(tree: Tree) -> None:
    """Note that a snapshot holds every chunk of *tree* that is not sealed."""
    for content in contents(tree):
        for chunk in content.chunks:
            chunk.settled = True
