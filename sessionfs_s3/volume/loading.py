"""Reading a log: one listing, then everything that is needed at once, then the proof that it fits together."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sessionfs_s3.errors import Corrupt, KeyNotFound
from sessionfs_s3.format import TOMBSTONE_BYTES, Kind, decode_commit, decode_snapshot, parse_log_name
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX
from sessionfs_s3.volume.environment import all_of
from sessionfs_s3.volume.session import Session
from sessionfs_s3.volume.state import EMPTY_STATE, Head, LateSnapshot, State, replay

_logger = logging.getLogger(__name__)

_FETCHES_AT_ONCE: Final = 64
"""Parallel GETs of one load: as many as the S3 client has connections. What is after a snapshot comes in one wave."""

_LISTINGS_MAX: Final = 5
"""Listings of one load before a log that does not hold still counts as broken."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a listing of a log shows: where it begins, by a snapshot or a tombstone, and the commits from there on.

    Attributes:
        snapshot: the number of the newest snapshot, 0 when there is none above the tombstone.
        tombstone: the number of the newest tombstone, 0 when there is none above the snapshot.
        commits: the sizes in bytes of the commits after the snapshot, or from the tombstone on, by number, ascending.
        modified_ms: when the store received the newest of them, by its own clock, in milliseconds since the Unix epoch.
    """

    snapshot: int
    tombstone: int
    commits: Mapping[int, int]
    modified_ms: int

    @property
    def head(self) -> int:
        """The number of the last commit; 0 for a session that does not exist."""
        return max(self.commits, default=self.snapshot)

    @property
    def is_deleted(self) -> bool:
        """Whether the session was deleted, and nobody has opened it for writing since."""
        return 0 < self.tombstone == self.head


class LogReader:
    """Reads one session's log.

    Attributes:
        damaged: the numbers of the snapshots that the last load found damaged, and passed over.
    """

    def __init__(self, session: Session) -> None:
        """Read the log of *session*."""
        self.damaged: set[int] = set()
        self._session = session
        self._keys = session.keys

    @property
    def name(self) -> str:
        """Which session, for messages."""
        return self._keys.prefix

    async def listing(self, passing_over: Callable[[int], bool] = lambda _: False) -> Listing:
        """List the log: one request, unless more than a page of commits was written since the last snapshot.

        Snapshots whose numbers *passing_over* tells to pass over are treated as if they were not there.

        Raises:
            Unavailable, Refused: the store does not answer, or refuses. It never looks like an empty log.
        """
        commits: dict[int, int] = {}
        snapshot = tombstone = newest = modified_ms = 0
        cursor: str | None = None
        limit = self._first_page
        while True:
            page = await self._session.list_page(self._keys.log, cursor, limit)
            limit = PAGE_ENTRIES_MAX
            for entry in page.entries:
                name = parse_log_name(entry.key.removeprefix(self._keys.log))
                if name is None:
                    continue
                if name.kind is Kind.COMMIT:
                    commits[name.sequence] = entry.size
                    if entry.size == TOMBSTONE_BYTES:
                        tombstone = max(tombstone, name.sequence)
                elif not passing_over(name.sequence):
                    snapshot = max(snapshot, name.sequence)
                if name.sequence > newest:
                    newest, modified_ms = name.sequence, entry.modified_ms
            cursor = page.cursor
            # Names descend with the sequence number: in a sorted listing nothing after the first of these matters.
            if cursor is None or ((snapshot or tombstone) and self._session.store.lists_sorted):
                # The session began anew with the tombstone: a snapshot below it has nothing to say.
                snapshot, tombstone = (snapshot, 0) if snapshot > tombstone else (0, tombstone)
                base = snapshot or tombstone - 1
                after = {number: commits[number] for number in sorted(commits) if number > base}
                return Listing(snapshot, tombstone, after, modified_ms)

    async def is_tombstone(self, number: int) -> bool:
        """Return whether commit *number* is a tombstone, in good order. Raises as :meth:`listing`."""
        key = self._keys.commit(number)
        try:
            fetched = await self._session.ask(f"reading {key}", lambda: self._session.store.get(key))
            return decode_commit(key, fetched.data, sequence=number)[0].is_tombstone
        except (KeyNotFound, Corrupt):
            return False

    async def load(self, known: State = EMPTY_STATE) -> State:
        """Return the session's state, reading only what is newer than *known*.

        Raises:
            Corrupt: an object is damaged or missing, or the log does not fit together.
            Unavailable, Refused: the store does not answer, or refuses.
        """
        return await self.advance(known, await self.listing())

    async def advance(self, known: State, listing: Listing) -> State:
        """Return the state that *listing* shows, reading only what is newer than *known*. Raises as :meth:`load`.

        A newest snapshot that is damaged or came late is passed over: the one before it and the commits since tell the
        same. Where these are gone, one that came late has to do.
        """
        self.damaged.clear()
        missing: Corrupt | None = None
        late: list[LateSnapshot] = []
        lenient = False

        def is_passed_over(number: int) -> bool:
            return number in self.damaged or (not lenient and any(each.tells_of(number) for each in late))

        tries = gone = 0
        while tries < _LISTINGS_MAX:
            tries += 1
            try:
                return await self._follow(known, listing, lenient=lenient)
            except LateSnapshot as error:
                late.append(error)
                tries -= 1  # It is passed over from now on: there are only so many.
            except KeyNotFound as answer:
                # Once may be a collection under way.
                gone += 1
                lenient = bool(late) and gone > 1
                if not self.damaged:
                    missing = Corrupt(answer.key, 0, f"missing from the log in {_LISTINGS_MAX} listings")
            except Corrupt as error:
                if listing.snapshot and error.key == self._keys.snapshot(listing.snapshot):
                    missing = error
                    self.damaged.add(listing.snapshot)
                    _logger.error("%s; reading the snapshot before it", error)  # noqa: TRY400  # the message says it all
                # Otherwise what was known may belong to a session of the same name that was deleted since.
                elif known is EMPTY_STATE:
                    raise
            known, listing = EMPTY_STATE, await self.listing(is_passed_over)
        raise missing or Corrupt(self._keys.log, 0, f"did not fit together in {_LISTINGS_MAX} listings")

    async def _follow(self, known: State, listing: Listing, *, lenient: bool) -> State:
        base = self._base(known, listing)
        keys = [self._keys.commit(number) for number in range(base + 1, listing.head + 1)]
        gate = asyncio.Semaphore(_FETCHES_AT_ONCE)
        if base == known.head.sequence or not listing.snapshot:
            state = known if base == known.head.sequence else State(head=Head(sequence=base))
            objects = await all_of(self._fetch(key, gate) for key in keys)
        else:
            key = self._keys.snapshot(base)
            data, *objects = await all_of(self._fetch(each, gate) for each in (key, *keys))
            snapshot = await self._session.work(len(data), functools.partial(decode_snapshot, key, data, sequence=base))
            state = State.of_snapshot(snapshot, len(data))
        for key, data in zip(keys, objects, strict=True):
            state = await self._session.work(len(data), functools.partial(replay, state, key, data, lenient=lenient))
        return state

    def _base(self, known: State, listing: Listing) -> int:
        """Return the number to read on from: that of *known* where the log still joins it, else where the log begins.

        Raises:
            KeyNotFound: a commit after it is missing from the listing.
        """
        begin = listing.snapshot or max(listing.tombstone - 1, 0)
        joins = max(listing.snapshot, listing.tombstone) <= known.head.sequence <= listing.head
        base = known.head.sequence if joins else begin
        for number in range(base + 1, listing.head + 1):
            if number not in listing.commits:
                raise KeyNotFound(self._keys.commit(number))
        return base

    @property
    def _first_page(self) -> int:
        """How many entries to ask for first: enough for the newest snapshot and what is usually after it.

        A page of a thousand is 236 KB of XML, which costs an S3 client more to read than everything else of an open.
        """
        if not self._session.store.lists_sorted:
            return PAGE_ENTRIES_MAX
        return min(PAGE_ENTRIES_MAX, 2 * self._session.options.snapshot_commits + 8)

    async def _fetch(self, key: str, gate: asyncio.Semaphore) -> bytes:
        async with gate:
            fetched = await self._session.ask(f"reading {key}", lambda: self._session.store.get(key))
        if not fetched.data:
            # A spent slot: what stood here was deleted, and what counts now is further on.
            raise KeyNotFound(key)
        return fetched.data
