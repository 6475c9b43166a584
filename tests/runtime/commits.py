"""A store whose faults strike commits of one kind only: those that hold rows, or those that hold none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sessionfs_s3.format import decode_commit, parse_log_name
from sessionfs_s3.fs import WriteDatabase
from sessionfs_s3.store import Condition
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore


class FaultyCommits(FaultyStore):
    """Passes on every PUT but those of commits that hold rows; with *rows* False, those of commits that hold none.

    The runtime appends to the conversation when it likes: only what is in a commit tells which one is the agent's.
    """

    rows = True

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        if key.endswith(".c") and _holds_rows(key, data) == self.rows:
            return await super().put(key, data, condition=condition)
        return await self.inner.put(key, data, condition=condition)

    async def aclose(self) -> None:
        await self.inner.aclose()

    def hold(self, moment: str, *, after: int = 0) -> Fault:
        """Hold the next such commit, once *after* of them have passed, until the gate of the returned fault is opened.

        The fault is reached "before its PUT" when that has not been sent; "after its PUT" when it is stored and is to
        be sent once more, since no answer came.
        """
        if after:
            self.inject(Fault("PUT", times=after))
        if moment == "after its PUT":
            self.inject(Fault("PUT", Fate.LOST_ANSWER))
        return self.inject(Fault("PUT", gate=asyncio.Event()))


def _holds_rows(key: str, data: bytes) -> bool:
    name = parse_log_name(key.rpartition("/")[2])
    assert name is not None
    commit, _ = decode_commit(key, data, sequence=name.sequence)
    return any(isinstance(operation, WriteDatabase) for operation in commit.operations)


def let_go(stores: Sequence[FaultyCommits]) -> None:
    """Open every gate: what closes afterwards waits for what is held."""
    for store in stores:
        for fault in store.faults:
            if fault.gate is not None:
                fault.gate.set()
