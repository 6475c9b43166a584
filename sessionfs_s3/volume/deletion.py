"""Deleting a session: one conditional PUT ends it, whoever owns it; then what it held is removed.

The PUT is that of a tombstone (:meth:`.log.SessionLog.bury`). What may be removed then, at once or later, is decided by
:func:`leftovers`; ``docs/decisions/0007-deletion.md`` says why. Ages are by the store's own timestamps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessionfs_s3.errors import SessionFsError, Unavailable
from sessionfs_s3.format import TOMBSTONE_BYTES
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, UNCONDITIONAL, Entry
from sessionfs_s3.volume.collection import StoredSession, delete, everything_of
from sessionfs_s3.volume.environment import all_of
from sessionfs_s3.volume.log import SessionLog
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.session import Session

_REQUESTS_AT_ONCE: Final = 32
"""Slots that are emptied side by side: half of the connections that the S3 client has."""

_ROUNDS_MAX: Final = 5
"""Listings before somebody who goes on writing to a deleted session is left to the next deletion."""

_CLOCK: Final = "clock"
"""The name below ``log/`` of an empty object that is stored to read the store's clock; nobody reads what it holds."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion came to. The session is deleted, whatever stands here.

    Attributes:
        existed: whether there was anything to delete: a session, or what an earlier deletion had left of one.
        objects: how many objects were removed, or emptied.
        bytes_freed: what these took, in bytes.
        unfinished: why some of what the session held is still stored, though nobody reads it any more: delete it again.
            None: nothing is.
    """

    existed: bool
    objects: int = 0
    bytes_freed: int = 0
    unfinished: SessionFsError | None = None


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is left of a deleted session.

    Attributes:
        gone: what may be removed.
        spent: commits in whose slots something has to stay, without what they held.
    """

    gone: Sequence[Entry]
    spent: Sequence[Entry]


async def delete_session(session: Session) -> Deleted:
    """Delete *session*, whatever state it is in, and remove what it held. Its id can be used again at once.

    The session is deleted as soon as the store has acknowledged one PUT: whoever opens it after that finds it empty,
    and whoever had it open for writing is fenced, in use or not. A session that does not exist costs two listings, and
    nothing is written. When this is cut short, the session is whole, or deleted and not all of it removed yet;
    deleting again goes on with that.

    Raises:
        Unavailable: the store does not answer, or other writers were first for the whole deadline: nothing is deleted.
        CommitUnknown: the session may or may not be deleted; nothing else was changed. Delete it again.
        Refused: the store refuses; nothing is deleted.
        Corrupt: there is no slot left for a tombstone.
    """
    log = SessionLog(session)
    tombstone, put = await log.bury()
    if not tombstone:
        if not (await session.list_page(session.keys.blobs, None, 1)).entries:
            return Deleted(existed=put)
        # Somebody has uploaded contents for a first commit. It must not come once they are gone.
        tombstone, put = await log.bury(unborn=True)
    removal = _Removal(session)
    try:
        for _ in range(_ROUNDS_MAX):
            stored = await everything_of(session)
            left = leftovers(stored, tombstone, stored.now_ms, session.options)
            if not (left.gone or left.spent):
                return removal.outcome(put, None)
            await removal.carry_out(left)
    except SessionFsError as error:
        return removal.outcome(put, error)
    last = Unavailable(f"deleting {session.keys.prefix}: its last owner was still writing after {_ROUNDS_MAX} listings")
    return removal.outcome(put, last)


async def sweep(session: Session) -> Deleted:
    """Remove what the deletion of *session* had to leave below its tombstone, once that is old enough.

    For sessions that nobody has opened since; of any other it removes nothing (collection does). The tombstone itself
    stays, an object of 170 bytes, so that the numbers of a session's commits never begin again. Seven requests when
    there is something to remove, at most three when there is not.

    Raises:
        Unavailable, Refused: the store does not answer, or refuses. What was not removed is, the next time.
    """
    log = SessionLog(session)
    listing = await log.reader.listing()
    age_s = (session.environment.wall_ms() - listing.modified_ms) / 1000
    # This machine's clock decides when to ask, and nothing else.
    if not listing.is_deleted or age_s < session.options.fence_age_s:
        return Deleted(existed=False)
    stored = await everything_of(session)
    if not leftovers(stored, listing.tombstone, stored.now_ms + round(age_s * 1000), session.options).gone:
        return Deleted(existed=False)
    now_ms = await _store_clock_ms(session)
    removal = _Removal(session)
    await removal.carry_out(leftovers(stored, listing.tombstone, now_ms, session.options))
    return removal.outcome(False, None)


def leftovers(stored: StoredSession, tombstone: int, now_ms: int, options: VolumeOptions) -> Leftovers:
    """Return what has to become of what is *stored* below the commit *tombstone*, by which the session was deleted.

    A slot stays as long as somebody may still come to create it: a claimant who had listed what was below it, for an
    hour; where it may be a claim, the owner whom that had fenced, for a week. A commit that is a claim is known by its
    size: see :data:`~sessionfs_s3.format.TOMBSTONE_BYTES`. And the slot just below the tombstone stays in any case: a
    listing during which the tombstone came, and everything else went, may show any part of what was there. It must not
    pass for a shorter log.

    Args:
        stored: what was listed after the tombstone had been acknowledged.
        tombstone: its number.
        now_ms: the time by the store's clock, in milliseconds since the Unix epoch.
        options: ages.
    """
    old_ms = now_ms - round(options.collect_age_s * 1000)
    fence_ms = min(old_ms, now_ms - round(options.fence_age_s * 1000))
    gone = [entry for number, entry in stored.snapshots.items() if number < tombstone]
    # Nobody writes blobs in the tombstone's own epoch, but for whoever was to begin the session where it is the first.
    gone += [entry for (epoch, _), entry in stored.blobs.items() if epoch <= tombstone]
    spent: list[Entry] = []
    for number, entry in stored.commits.items():
        if number >= tombstone:
            continue
        may_be_fence = number == 1 or entry.size <= TOMBSTONE_BYTES
        is_last = number == tombstone - 1 and entry.size
        if entry.modified_ms <= (fence_ms if may_be_fence else old_ms) and not is_last:
            gone.append(entry)
        elif entry.size:
            spent.append(entry)
    return Leftovers(gone, spent)


class _Removal:
    """Removes what is left of one deleted session, and counts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gate = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._objects = 0
        self._bytes = 0

    async def carry_out(self, left: Leftovers) -> None:
        """Remove and empty what *left* says. Raises Unavailable or Refused, with nothing of it going on any more."""
        batches = [left.gone[at : at + PAGE_ENTRIES_MAX] for at in range(0, len(left.gone), PAGE_ENTRIES_MAX)]
        await all_of([*map(self._remove, batches), *map(self._empty, left.spent)])

    def outcome(self, put: bool, error: SessionFsError | None) -> Deleted:
        """Return what it came to, where a tombstone was *put* or not, and *error* ended it or nothing did."""
        existed = put or self._objects > 0 or error is not None
        return Deleted(existed, self._objects, self._bytes, error)

    async def _remove(self, entries: Sequence[Entry]) -> None:
        async with self._gate:
            await delete(self._session, [entry.key for entry in entries])
        self._count(entries)

    async def _empty(self, entry: Entry) -> None:
        session = self._session
        async with self._gate:
            # Whatever stands there: nothing in this slot, or below, will ever be read again.
            put = session.store.put
            await session.ask(f"emptying {entry.key}", lambda: put(entry.key, b"", condition=UNCONDITIONAL))
        self._count([entry])

    def _count(self, entries: Sequence[Entry]) -> None:
        self._objects += len(entries)
        self._bytes += sum(entry.size for entry in entries)


async def _store_clock_ms(session: Session) -> int:
    """Return the time by the store's clock, in milliseconds since the Unix epoch: that of an object stored now."""
    key = f"{session.keys.log}{_CLOCK}"
    await session.ask(f"writing {key}", lambda: session.store.put(key, b"", condition=UNCONDITIONAL))
    page = await session.list_page(key, None)
    await delete(session, [key])
    return max((entry.modified_ms for entry in page.entries), default=0)
