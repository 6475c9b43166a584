"""What an open volume knows of its session: the tree, given up while nobody asks, and the contents of its files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sessionfs_s3.errors import Closed, Corrupt, Fenced, KeyNotFound
from sessionfs_s3.fs import Content, Tree
from sessionfs_s3.volume.committer import Committer
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.state import Head, State

_READS_MAX: Final = 5
"""How often a read may find that what it needs was collected meanwhile."""


class View:
    """The tree of a volume: its committer's, or, of one that is open for reading only, the state that was read last."""

    def __init__(self, committer: Committer | None, state: State, log: LogReader, contents: ContentReader) -> None:
        """Show the tree of *committer*, or *state* where there is none; read *log* and *contents* when need be."""
        self._committer = committer
        self._state = state if committer is None else State()
        self._log = log
        self._contents = contents
        self._asleep = False
        self._closed = False
        self._waking = asyncio.Lock()

    @property
    def head(self) -> Head:
        """The last commit that is known to be stored."""
        return self._state.head if self._committer is None else self._committer.state.head

    async def tree(self) -> Tree:
        """Return the tree as it is now; read anew, where it was given up.

        Raises:
            SessionFsError: the volume has failed or is closed, or the session cannot be read.
        """
        self.check()
        if self._is_asleep:
            async with self._waking:
                if self._is_asleep:
                    await self._wake()
            self.check()
        return self._state.tree if self._committer is None else self._committer.tree

    async def read(self, find: Callable[[Tree], Content], start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes of the contents that *find* finds in the tree.

        A blob that is gone has been collected, if somebody else has gone on with the session since: a reader then reads
        that, and a writer is fenced.

        Raises:
            SessionFsError: as :meth:`tree`; Corrupt where something that is stored is damaged or missing.
        """
        missing = ""
        for _ in range(_READS_MAX):
            content = find(await self.tree())
            try:
                return await self._contents.read(content, start, stop)
            except KeyNotFound as answer:
                missing = answer.key
            if self._committer is None:
                self._state = await self._log.load()
            elif await self.still_owned():
                break
            else:
                self._fail(await self._log.load())
        raise Corrupt(missing, 0, "missing, and the session refers to it")

    async def refresh(self) -> None:
        """Read what was committed since, for a volume that is open for reading only. Raises as :meth:`tree`."""
        if self._committer is None:
            await self.tree()
            self._state = await self._log.load(self._state)

    async def still_owned(self) -> bool:
        """Return whether nobody has committed to the session since this volume did; one request.

        Raises:
            SessionFsError: why the volume failed, or why the store could not be asked.
        """
        if self._committer is None:
            return False
        await self._committer.settle()
        listing = await self._log.listing()
        self._committer.check()
        return listing.head == self._committer.state.head.sequence

    def rest(self) -> bool:
        """Give the tree up, unless something is under way; return whether it was."""
        if self._waking.locked():
            return False
        if self._committer is not None:
            return self._committer.rest()
        self._state = State(head=self._state.head)
        self._asleep = True
        return True

    def check(self) -> None:
        """Raise why the volume cannot be used, if that is so."""
        if self._committer is not None:
            self._committer.check()
        elif self._closed:
            raise Closed("the volume is closed")

    def close(self) -> None:
        """Show nothing any more; a committer closes by itself."""
        self._closed = True
        self._state = State()

    @property
    def _is_asleep(self) -> bool:
        return self._asleep if self._committer is None else self._committer.asleep

    async def _wake(self) -> None:
        state = await self._log.load()
        if self._committer is None:
            self._state = state
            self._asleep = False
        elif self._committer.error is None:
            if state.head == self._committer.state.head:
                self._committer.wake(state)
            else:
                self._fail(state)

    def _fail(self, state: State) -> None:
        """Fail the volume whose session went on, without it, to *state*."""
        head = state.head
        at = head.time.isoformat(timespec="milliseconds")
        assert self._committer is not None
        self._committer.fail(
            Fenced(
                f"{self._log.name}: taken over by writer {head.writer.hex()} in epoch {head.epoch}; "
                f"its last commit, {head.sequence}, is of {at}; nothing more of this writer is stored"
            )
        )
