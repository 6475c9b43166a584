"""Snapshots, written in the background by the owner, so that opening costs the same however long the log is.

Failing to write one never fails a commit: the log alone holds everything.
"""

from __future__ import annotations

import asyncio
import functools
import logging

from sessionfs_s3.errors import PreconditionFailed, StoreAnswer
from sessionfs_s3.format import SessionKeys, encode_snapshot
from sessionfs_s3.store.protocol import IF_ABSENT, Store
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.state import State

_logger = logging.getLogger(__name__)


class SnapshotWriter:
    """Writes a snapshot whenever enough was committed since the last one; one at a time."""

    def __init__(
        self,
        store: Store,
        keys: SessionKeys,
        environment: Environment,
        options: VolumeOptions,
    ) -> None:
        """Write the snapshots named by *keys* to *store*."""
        self._store = store
        self._keys = keys
        self._environment = environment
        self._options = options
        self._task: asyncio.Task[tuple[State, int] | None] | None = None
        self._attempted = 0

    def consider(self, state: State) -> State:
        """Start a snapshot of the committed *state* if it is due; return *state*, knowing of one that was written."""
        if self._task is not None and self._task.done():
            written = self._task.result()
            self._task = None
            if written is not None:
                state = state.with_snapshot(*written)
        if self._task is None and self._due(state):
            self._attempted = state.head.sequence
            self._task = asyncio.create_task(self._write(state))
        return state

    async def finish(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _due(self, state: State) -> bool:
        since = max(state.snapshot_sequence, self._attempted)
        if state.head.sequence - since > self._options.snapshot_commits:
            return True
        # After a failure only the count decides, so that a store in trouble is not asked again with every commit.
        failed = self._attempted > state.snapshot_sequence
        return not failed and state.tail_bytes > max(self._options.snapshot_bytes_min, state.snapshot_bytes // 2)

    async def _write(self, state: State) -> tuple[State, int] | None:
        """Write a snapshot of *state*; return that and its size in bytes, or None when it was not stored."""
        key = self._keys.snapshot(state.head.sequence)
        try:
            snapshot = state.to_snapshot()
            data = await self._environment.run_in_thread(functools.partial(encode_snapshot, snapshot))
            async with asyncio.timeout(self._options.patience.deadline_s):
                await self._store.put(key, data, condition=IF_ABSENT)
        except PreconditionFailed:
            return None
        except (StoreAnswer, TimeoutError, ValueError) as error:
            _logger.warning("snapshot %s was not written: %s", key, error)
            return None
        return state, len(data)
