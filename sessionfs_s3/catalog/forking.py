"""Forking a session in the store: what the runtime's own ``sessions.fork`` does to files, as one commit.

The source is read at one point of its log and never claimed. Contents go into blobs of the target's own as they are
read, a window at a time; then a single commit, the target's first, brings all of it to life.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sessionfs_s3.catalog.conversation import Cut, cut_before, rewritten
from sessionfs_s3.catalog.info import EVENTS_NAME, WORKSPACE_BYTES_MAX, WORKSPACE_NAME, Facts, facts_of, file_at
from sessionfs_s3.catalog.journal import WINDOW_BYTES, Journal
from sessionfs_s3.catalog.renaming import ForkName, index_cut, is_after_cut, workspace_of_fork
from sessionfs_s3.errors import (
    CommitUnknown,
    Fenced,
    InUse,
    KeyNotFound,
    SessionFsError,
    StoreAnswer,
    Unavailable,
)
from sessionfs_s3.format import blobs_of
from sessionfs_s3.fs import (
    CHUNK_BYTES,
    Chunk,
    Content,
    Directory,
    File,
    MakeDirectory,
    Node,
    Operation,
    Path,
    Tree,
    WriteFile,
    apply,
    parse,
)
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX
from sessionfs_s3.volume.blobs import BlobWriter
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.log import FIRST_EPOCH, SessionLog
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.state import State

_logger = logging.getLogger(__name__)

_SEALED_BYTES: Final = 8 * 1024 * 1024
"""How much is gathered before it goes into blobs: a full blob."""

_TRIES_MAX: Final = 5
"""How often contents may be collected while they are copied, because the source went on meanwhile."""

_CHECKPOINTS: Final = "checkpoints"
_COPIED: Final = frozenset({_CHECKPOINTS, "files", "research", "plan.md", WORKSPACE_NAME})
"""What the runtime's fork takes along of a state directory beside the conversation. Its database, saved tool output
(``temp``) and permissions stay behind."""

_HOME: Final = "session-state"
"""Where a runtime that is served from here keeps state directories of its own: ``$COPILOT_HOME/session-state/<id>``."""


@dataclass(frozen=True, slots=True)
class ForkOrder:
    """What to fork.

    Attributes:
        source: the session to read, and *source_id* its id.
        target: the session to make, and *target_id* its id.
        state_path: where the runtime keeps its state, absolute.
        before_event: the first event that is left out; None: all are taken.
        name: the new session's name; None: that of the source, with a note.
    """

    source: Session
    source_id: str
    target: Session
    target_id: str
    state_path: str
    before_event: str | None
    name: str | None


async def fork(order: ForkOrder) -> None:
    """Carry out *order*.

    Raises:
        FileExistsError: there is a target already.
        FileNotFoundError: there is no source.
        InvalidInput: the event is not one of the source's, or is its first.
        OSError: EFBIG: more files than one commit can hold.
        CommitUnknown: the fork may or may not be there; never a part of it.
        SessionFsError: as in :meth:`SessionLog.open`; nothing was made.
    """
    log, state = await _opened(order)
    target = ContentReader(order.target)
    blobs = BlobWriter(order.target, target)
    try:
        operations = await _operations(order, blobs, state.head.epoch or FIRST_EPOCH)
        tree = await order.target.environment.run_in_thread(functools.partial(_applied, state.tree, operations))
    except BaseException:  # given up by the caller too: nothing refers to them
        await _remove(order.target, blobs, ())
        raise
    try:
        await log.append(state, operations, tree)
    except CommitUnknown:
        raise
    except Exception as error:
        await _remove(order.target, blobs, ())
        if isinstance(error, ValueError):  # the encoder's bounds
            told = f"The session has too many files for a fork: {error}"
            raise OSError(errno.EFBIG, told, order.source_id) from None
        if isinstance(error, Fenced) and (await LogReader(order.target).load()).tree.root.entries:
            raise _exists(order) from None
        raise
    await _remove(order.target, blobs, operations)


async def _opened(order: ForkOrder) -> tuple[SessionLog, State]:
    """Return the log of the target, which has no session, and its state.

    Of a session that never was nothing is claimed: its first commit does that. One that was deleted is claimed first;
    should somebody create it at this very moment, whoever commits later has it, as ever.
    """
    known = await LogReader(order.target).load()
    if known.tree.root.entries:
        raise _exists(order)
    options = order.target.options
    # A session that comes into being between the two listings is left alone: however young or old, it is in use.
    idle_s = None if known.head.sequence else math.inf
    log = SessionLog(replace(order.target, options=replace(options, takeover_idle_s=idle_s)))
    try:
        state = await log.open()
    except InUse:
        raise _exists(order) from None
    if state.tree.root.entries:
        raise _exists(order)
    return log, state


def _exists(order: ForkOrder) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "There is such a session", order.target_id)


async def _operations(order: ForkOrder, blobs: BlobWriter, epoch: int) -> list[Operation]:
    """Return what makes the fork out of an empty tree; large contents are stored already."""
    source = order.source
    log, reader = LogReader(source), ContentReader(source)
    for _ in range(_TRIES_MAX):
        tree = (await log.load()).tree
        name = source.keys.prefix
        with contextlib.suppress(KeyNotFound):  # collected: the source went on meanwhile
            facts = await facts_of(name, tree, reader, order.state_path)
            if facts is None:
                raise FileNotFoundError(errno.ENOENT, "There is no such session", order.source_id)
            return await _Copy(order, tree, reader, _Gatherer(blobs, epoch), facts).operations()
    raise Unavailable(f"forking {source.keys.prefix}: it changed {_TRIES_MAX} times while it was read")


def _applied(tree: Tree, operations: Sequence[Operation]) -> Tree:
    for operation in operations:
        tree = apply(tree, operation)
    return tree


async def _remove(target: Session, blobs: BlobWriter, operations: Sequence[Operation]) -> None:
    """Remove what was stored and is not referred to. Nothing is lost where that fails."""
    kept = blobs_of(each.content for each in operations if isinstance(each, WriteFile))
    keys = [target.keys.blob(blob) for blob in blobs.attempted - kept]
    try:
        for start in range(0, len(keys), PAGE_ENTRIES_MAX):
            await target.store.delete(keys[start : start + PAGE_ENTRIES_MAX])
    except (StoreAnswer, SessionFsError) as error:
        _logger.warning("%s: blobs of a fork that came to nothing stay: %r", target.keys.prefix, error)


class _Gatherer:
    """Makes contents of bytes as they come; whenever a blob is full, it is stored and its memory given back."""

    def __init__(self, blobs: BlobWriter, epoch: int) -> None:
        self._blobs = blobs
        self._epoch = epoch
        self._waiting: list[tuple[Chunk, bytes]] = []
        self._size = 0

    async def content(self, parts: AsyncGenerator[bytes]) -> Content:
        """Return the contents that *parts* are together."""
        chunks: list[Chunk] = []
        pending = bytearray()
        size = 0
        async for part in parts:
            size += len(part)
            pending += part
            whole = len(pending) - len(pending) % CHUNK_BYTES
            for at in range(0, whole, CHUNK_BYTES):
                await self._add(chunks, bytes(pending[at : at + CHUNK_BYTES]))
            del pending[:whole]
        if pending:
            await self._add(chunks, bytes(pending))
        return Content(tuple(chunks), size)

    async def finish(self, inline_bytes_max: int) -> None:
        """Store what is left, unless it is little enough to travel in the commit."""
        if self._size > inline_bytes_max:
            await self._seal()

    async def _add(self, chunks: list[Chunk], data: bytes) -> None:
        chunk = Chunk.held(data)
        chunks.append(chunk)
        self._waiting.append((chunk, data))
        self._size += len(data)
        if self._size >= _SEALED_BYTES:
            await self._seal()

    async def _seal(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        await self._blobs.seal(waiting, self._epoch)


class _Copy:
    """The copy of one state of the source."""

    def __init__(self, order: ForkOrder, tree: Tree, reader: ContentReader, gatherer: _Gatherer, facts: Facts) -> None:
        self._order = order
        self._tree = tree
        self._reader = reader
        self._gatherer = gatherer
        self._state = parse(order.state_path)
        self._time_ms = order.target.environment.wall_ms()
        self._name = ForkName.of(order.source_id, order.target_id, facts.summary, order.name)
        self._cut: Cut | None = None

    async def operations(self) -> list[Operation]:
        """Return what makes the copy, directories before what is in them."""
        events = file_at(self._tree, f"{self._order.state_path}/{EVENTS_NAME}")
        assert events is not None
        journal = Journal(self._order.source.keys.prefix, self._reader, events.content)
        if self._order.before_event is not None:
            self._cut = await cut_before(journal, self._order.source_id, self._order.before_event)
        operations: list[Operation] = []
        waiting: list[tuple[Path, Node]] = [((name,), node) for name, node in self._tree.root.entries.items()]
        while waiting:
            path, node = waiting.pop()
            place = self._place(path)
            if place is None:
                continue
            if isinstance(node, Directory):
                operations.append(MakeDirectory(place, node.mode, node.mtime_ms))
                waiting.extend(((*path, name), child) for name, child in node.entries.items())
            elif place != (*self._state, EVENTS_NAME):
                content = await self._gatherer.content(self._parts(place, node))
                operations.append(WriteFile(place, content, node.mode, node.mtime_ms))
        note = (*self._state, WORKSPACE_NAME)
        if file_at(self._tree, f"{self._order.state_path}/{WORKSPACE_NAME}") is None:
            operations.append(WriteFile(note, Content.of(self._workspace(b"")), 0o600, self._time_ms))
        random_id = self._order.target.environment.random_bytes(16)
        lines = rewritten(journal, self._name, self._cut, self._time_ms, random_id)
        content = await self._gatherer.content(lines)
        operations.append(WriteFile((*self._state, EVENTS_NAME), content, events.mode, self._time_ms))
        await self._gatherer.finish(self._order.target.options.inline_bytes_max)
        return operations

    def _place(self, path: Path) -> Path | None:
        """Return where the copy has what is at *path*; None for what it does not take along."""
        root, place = self._roots(path)
        rest = path[len(root) :]
        if not root or not rest:
            return place + rest
        if rest[0] not in _COPIED and (rest[0] != EVENTS_NAME or root != self._state):
            return None
        if self._cut is not None and rest[0] == _CHECKPOINTS and is_after_cut(rest[-1], self._cut.checkpoints):
            return None
        return place + rest

    def _roots(self, path: Path) -> tuple[Path, Path]:
        """Return the state directory that *path* is in or at, and that of the copy; the root where it is in none."""
        if path[: len(self._state)] == self._state:
            return self._state, self._state
        for index in range(len(path) - 1):
            if path[index : index + 2] == (_HOME, self._order.source_id):
                above = path[: index + 1]
                return (*above, self._order.source_id), (*above, self._order.target_id)
        return (), ()

    async def _parts(self, place: Path, file: File) -> AsyncGenerator[bytes]:
        """Yield what the copy has at *place*, where the source has *file*."""
        content = file.content
        in_state = self._is_state(place[:-1])
        if in_state and place[-1] == WORKSPACE_NAME and content.size <= WORKSPACE_BYTES_MAX:
            yield self._workspace(await self._reader.read(content))
            return
        is_index = place[-1] == "index.md" and place[-2:-1] == (_CHECKPOINTS,) and self._is_state(place[:-2])
        if is_index and self._cut is not None and content.size <= WORKSPACE_BYTES_MAX:
            yield index_cut(await self._reader.read(content), self._cut.checkpoints)
            return
        for at in range(0, content.size, WINDOW_BYTES):
            yield await self._reader.read(content, at, at + WINDOW_BYTES)

    def _is_state(self, place: Path) -> bool:
        return place == self._state or place[-2:] == (_HOME, self._order.target_id)

    def _workspace(self, data: bytes) -> bytes:
        kept = None if self._cut is None else self._cut.checkpoints
        return workspace_of_fork(data, self._name, kept, self._time_ms)
