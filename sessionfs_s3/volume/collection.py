"""Collection: removing what no retained state needs any more, without ever making a late writer's commit succeed.

:func:`plan` decides, from what is listed; ``docs/decisions/0005-collection.md`` says why each rule is there. Ages are
by the store's own timestamps, against the newest that a listing shows: no clock of ours takes part.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Protocol

from sessionfs_s3.errors import Fenced
from sessionfs_s3.format import Kind, parse_blob_name, parse_log_name
from sessionfs_s3.fs import Blob
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Entry
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.state import State

_logger = logging.getLogger(__name__)

SNAPSHOTS_KEPT: Final = 2
"""The newest, and one more for the day on which the newest is damaged."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """Everything that is listed of a session, by number, and blobs by epoch and id."""

    commits: dict[int, Entry] = field(default_factory=dict[int, Entry])
    snapshots: dict[int, Entry] = field(default_factory=dict[int, Entry])
    blobs: dict[tuple[int, bytes], Entry] = field(default_factory=dict[tuple[int, bytes], Entry])

    @property
    def now_ms(self) -> int:
        """The newest timestamp of all: the store's clock stood there at least."""
        entries = [*self.commits.values(), *self.snapshots.values(), *self.blobs.values()]
        return max((entry.modified_ms for entry in entries), default=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What may go.

    Attributes:
        keys: the objects to delete.
        blobs: the dead blobs that are gone after that, or were before.
        fences: the claims that are gone after that, or were before.
    """

    keys: tuple[str, ...]
    blobs: frozenset[Blob]
    fences: frozenset[int]


class Owner(Protocol):
    """Who collects: the writer that holds the session."""

    async def confirmed(self) -> int:
        """Wait for the commit that is under way and return the number of the last one; raise why the owner is none."""
        ...

    def needed(self) -> set[Blob]:
        """Return the blobs that the owner's own trees refer to."""
        ...


def plan(stored: StoredSession, state: State, needed: AbstractSet[Blob], options: VolumeOptions) -> Plan:
    """Return what may be removed of *stored*, by the owner whose last commit left *state*.

    Args:
        stored: what is listed, at a time when nobody had superseded this owner.
        state: what the owner knows.
        needed: the blobs that the owner has begun to write, for some of its commits may be under way, and those that
            its trees refer to: a chunk that is written over while a snapshot moves it away still needs its origin.
        options: ages and retention.
    """
    now_ms = stored.now_ms
    old_ms = now_ms - round(options.collect_age_s * 1000)
    base = _base(stored, state, min(old_ms, now_ms - round(options.retention_s * 1000)))
    fence_ms = now_ms - round(options.fence_age_s * 1000)
    fences = set(state.fences)
    keys = [entry.key for number, entry in stored.snapshots.items() if number < base and entry.modified_ms <= old_ms]
    commits: set[int] = set()
    for number, entry in stored.commits.items():
        is_fence = number in fences or number <= state.fenced_from
        if number <= base and entry.modified_ms <= (min(old_ms, fence_ms) if is_fence else old_ms):
            commits.add(number)
            keys.append(entry.key)
    own = {(blob.epoch, blob.id) for blob in needed}
    known = {(blob.epoch, blob.id): died for blob, died in state.blobs.items()}
    blobs: set[tuple[int, bytes]] = set()
    for name, entry in stored.blobs.items():
        # What nobody knows of belongs to an epoch that is over: nothing refers to it, and nothing ever can.
        orphan = name not in known and name[0] <= state.head.epoch
        if (orphan or 0 < known.get(name, 0) <= base) and name not in own and entry.modified_ms <= old_ms:
            blobs.add(name)
            keys.append(entry.key)
    return Plan(
        keys=tuple(keys),
        blobs=frozenset(
            blob
            for blob, died in state.blobs.items()
            if died and ((blob.epoch, blob.id) in blobs or (blob.epoch, blob.id) not in stored.blobs)
        ),
        fences=frozenset(fence for fence in fences if fence in commits or fence not in stored.commits),
    )


def _base(stored: StoredSession, state: State, kept_ms: int) -> int:
    """Return the number of the oldest snapshot to be kept: nothing at or below its commit is needed; 0 for none.

    The second newest, or the newest of the earlier ones that was stored before *kept_ms*: whoever claims the session
    now has then seen it. What its writer put there after it had been superseded does not count.
    """
    late = {number for number in stored.snapshots for fence, seen in state.fences.items() if seen < number < fence}
    known = [number for number in stored.snapshots if number <= state.head.sequence and number not in late]
    snapshots = sorted(known, reverse=True)
    for number in snapshots[SNAPSHOTS_KEPT - 1 :]:
        if stored.snapshots[number].modified_ms <= kept_ms:
            return number
    return 0


class Collector:
    """Collects one session's garbage, now and then, on behalf of its owner."""

    def __init__(self, session: Session, attempted: AbstractSet[Blob]) -> None:
        """Collect objects of *session*; *attempted* grows with the owner's uploads."""
        self._session = session
        self._attempted = attempted
        self._collected_s: float | None = None
        self._oldest_ms: int | None = None

    async def collect(self, before: State, state: State, owner: Owner) -> Plan | None:
        """Remove what *owner* may, now that *before* has got a snapshot and is *state*; return what that was.

        Never raises: what stays this time goes the next.
        """
        options = self._session.options
        if not self._is_due(before.snapshot_time_ms or state.snapshot_time_ms):
            return None
        try:
            stored = await everything_of(self._session)
            if max(stored.commits, default=0) > await owner.confirmed():
                return None  # Somebody has claimed the session: what is garbage is theirs to say.
            found = plan(stored, state, self._attempted | owner.needed(), options)
            await delete(self._session, found.keys)
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not fail the commit that comes next
            level = logging.INFO if isinstance(error, Fenced) else logging.WARNING
            _logger.log(level, "collecting %s: %r", self._session.keys.prefix, error)
            return None
        return found

    def _is_due(self, snapshot_ms: int) -> bool:
        """Return whether to look, knowing of a snapshot of the time *snapshot_ms*.

        Not lately, and not before there can be a snapshot old enough to be the base. That is by this machine's clock,
        which decides when to ask and nothing else.
        """
        environment, options = self._session.environment, self._session.options
        self._oldest_ms = snapshot_ms if self._oldest_ms is None else min(self._oldest_ms, snapshot_ms)
        now_s = environment.uptime_s()
        is_late = self._collected_s is None or now_s - self._collected_s >= options.collect_interval_s
        if not is_late or environment.wall_ms() - self._oldest_ms < options.collect_age_s * 1000:
            return False
        self._collected_s = now_s
        return True


async def everything_of(session: Session) -> StoredSession:
    """Return everything that is stored of *session*.

    Raises:
        Unavailable, Refused: the store does not answer, or refuses.
    """
    stored = StoredSession()
    keys = session.keys
    # Blobs first: one that a later commit refers to is then missing here, rather than listed and not known of.
    for entry in await _entries(session, keys.blobs):
        blob = parse_blob_name(entry.key.removeprefix(keys.blobs))
        if blob is not None:
            stored.blobs[blob] = entry
    for entry in await _entries(session, keys.log):
        name = parse_log_name(entry.key.removeprefix(keys.log))
        if name is not None:
            (stored.commits if name.kind is Kind.COMMIT else stored.snapshots)[name.sequence] = entry
    return stored


async def delete(session: Session, keys: Sequence[str]) -> None:
    """Delete the objects of these *keys*. Raises as :func:`everything_of`."""
    for start in range(0, len(keys), PAGE_ENTRIES_MAX):
        some = keys[start : start + PAGE_ENTRIES_MAX]
        await session.ask(f"deleting {some[0]}", functools.partial(session.store.delete, some))


async def _entries(session: Session, prefix: str) -> Collection[Entry]:
    entries: list[Entry] = []
    cursor: str | None = None
    while True:
        page = await session.list_page(prefix, cursor)
        entries.extend(page.entries)
        cursor = page.cursor
        if cursor is None:
            return entries
