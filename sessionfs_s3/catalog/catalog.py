"""The catalogue of one tenant: its sessions as the store has them, however they came there and whoever writes them.

What is listed is derived from the sessions' own objects, never from a record of what somebody meant to do. What was
found out is kept: in memory, and in hints (:mod:`~sessionfs_s3.catalog.hints`), both good for the commit they name.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from sessionfs_s3.catalog import hints
from sessionfs_s3.catalog.forking import ForkOrder, fork
from sessionfs_s3.catalog.info import EVENTS_NAME, Facts, SessionInfo, facts_of, file_at
from sessionfs_s3.catalog.journal import Journal
from sessionfs_s3.catalog.listing import Head, TenantListing, decoded
from sessionfs_s3.catalog.pages import EVENTS_DEFAULT, EventsPage, Pager
from sessionfs_s3.catalog.renaming import check_name
from sessionfs_s3.errors import Corrupt, KeyNotFound, SessionFsError, StoreAnswer, Unavailable
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.format.keys import encode_id
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, UNCONDITIONAL, Entry, Store
from sessionfs_s3.volume import Environment, VolumeOptions
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.contents import ContentReader
from sessionfs_s3.volume.deletion import delete_session
from sessionfs_s3.volume.environment import all_of
from sessionfs_s3.volume.loading import LogReader
from sessionfs_s3.volume.session import Session

A = TypeVar("A")
B = TypeVar("B")

_logger = logging.getLogger(__name__)

_LOADS_AT_ONCE: Final = 32
"""Sessions that are read side by side: each takes some requests of its own, and the memory of a snapshot."""

_HINTS_AT_ONCE: Final = 64
"""Hints that are read or written side by side: as many as the S3 client has connections."""

_FORK_CACHE_BYTES: Final = 8 * 1024 * 1024
"""What the fork of a large session keeps of what it reads, instead of in the cache that all sessions share."""

_STATE_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""The largest that the runtime writes is a client's metadata: 128 values of 16 KiB."""

_TRIES_MAX: Final = 5
"""How often what is being read of one session may be collected meanwhile."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found out at *head*: None where that is no session, unborn or deleted."""

    head: Head
    info: SessionInfo | None


class Catalog:
    """The sessions of one tenant: list, look at, delete, fork. For use within one event loop.

    A session is what a runtime could resume: one whose files hold ``<state_path>/events.jsonl``. Sessions are read as
    anybody may read them; only :meth:`delete` and :meth:`fork` change anything but hints.

    Every method may raise :class:`~sessionfs_s3.errors.Unavailable` and :class:`~sessionfs_s3.errors.Refused` where the
    store does not answer or refuses, and InvalidInput for an id that breaks a rule.
    """

    def __init__(
        self, store: Store, tenant: str, *, environment: Environment, options: VolumeOptions, state_path: str
    ) -> None:
        """Catalogue the sessions of *tenant* in *store*.

        Args:
            store: where they are; it stays the caller's to close.
            tenant: whose they are; nothing of another is ever read.
            environment: clocks, randomness and threads.
            options: how patiently to ask, and how a fork is written.
            state_path: where the runtime keeps its state inside a session.

        Raises:
            InvalidInput: the tenant's id breaks a rule.
        """
        self._store = store
        self._tenant = tenant
        self._environment = environment
        self._options = options
        self._state_path = state_path
        self._listing = TenantListing(store, tenant, environment, options)
        self._known: dict[str, _Known] = {}
        self._complained: dict[str, str] = {}
        self._swept = False
        self._finding = asyncio.Lock()
        self._pager = Pager(environment.uptime_s)

    async def ids(self) -> list[str]:
        """Return the ids of all sessions, sorted. Costs what :meth:`list` costs."""
        return sorted(info.id for info in await self.list())

    async def list(self) -> list[SessionInfo]:
        """Return all sessions, the one that was written last first.

        One request for a thousand objects, in ranges side by side where there are many, and for each session that has
        changed since this catalogue last saw it those of a read-only load. The first time those whose hints still hold
        cost one request each instead. A session that cannot be read is listed with what the listing says of it.
        """
        if self._swept:
            heads, stored = await self._listing.heads(), dict[str, Entry]()
        else:
            heads, stored = await _both(self._listing.heads(), self._hints())
        # One at a time: who comes meanwhile finds what the first one has found out.
        async with self._finding:
            found = await self._all(heads, stored)
            await self._sweep(heads, stored)
        infos = [info for info in found if info is not None]
        return sorted(infos, key=lambda info: (-info.modified_ms, info.id))

    async def info(self, session_id: str) -> SessionInfo | None:
        """Return what is known of *session_id*, None where there is no such session.

        One listing of its log; where that has moved since it was last looked at, a read-only load.

        Raises:
            Corrupt: it cannot be read.
        """
        keys = self._keys(session_id)
        known = self._known.get(session_id)
        if known is not None or self._swept:
            head, hint = await self._listing.head(keys), None
        else:
            head, hint = await _both(self._listing.head(keys), self._hint(session_id))
        if head is None or head.is_deleted:
            self._known.pop(session_id, None)
            return None
        info = self._remembered(session_id, head)
        if info is not None:
            return info.info
        from_hint = None if hint is None else hints.decode(session_id, head, hint)
        if from_hint is not None:
            self._known[session_id] = _Known(head, from_hint)
            return from_hint
        found = await self._find_out(session_id, head)
        await self._leave_hint(session_id, found)
        return found.info

    async def delete(self, session_id: str) -> int | None:
        """Delete a session, whoever has it open: they are fenced. Return the bytes it had, as a user sees them.

        None, and nothing is done, where there is no such session. One that cannot be read is deleted too; its bytes are
        not known, and 0 is returned.

        Raises:
            SessionFsError: as the deletion itself; it may be done again.
        """
        keys = self._keys(session_id)
        try:
            info = await self.info(session_id)
        except Corrupt as error:
            _logger.warning("deleting a session that cannot be read: %s", error)
            freed = 0
        else:
            if info is None:
                return None
            freed = info.bytes
        deleted = await delete_session(self._session(keys))
        if deleted.unfinished is not None:
            _logger.warning("session %r is deleted, but not all of it removed: %s", session_id, deleted.unfinished)
        self._known.pop(session_id, None)
        await self._remove_hints([self._hint_key(session_id)])
        return freed

    async def fork(self, source: str, target: str, *, before_event: str | None = None, name: str | None = None) -> None:
        """Make the session *target* out of *source*, as the runtime's ``sessions.fork`` would; all of it or nothing.

        Taken along are the conversation, what belongs to it (checkpoints, plan, files, research) and everything outside
        the state directory; not the database, saved tool output and permissions. *source* may be open and being
        written: what the fork has is its state after one commit.

        Args:
            source: the session to read.
            target: the id of the new one.
            before_event: the id of the first event that is left out, None: all are taken along. Files are those of now.
            name: what to call it, at most 100 characters; None: as the source, with a note.

        Raises:
            FileNotFoundError: there is no session *source*.
            FileExistsError: there is a session *target*, born or not.
            InvalidInput: the event is none of the conversation, or its first; the name breaks a rule.
            Corrupt: the source cannot be read.
            CommitUnknown: the fork is there as a whole or not at all; look.
            OSError: EFBIG: the source has more files than one commit can hold.
        """
        target_keys = self._keys(target)
        if name is not None:
            check_name(name)
        info = await self.info(source)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "There is no such session", source)
        environment = self._environment
        if info.bytes > environment.cache.budget_bytes // 4:  # it would push everything else out
            environment = replace(environment, cache=ContentCache(_FORK_CACHE_BYTES))
        await fork(
            ForkOrder(
                source=Session(self._store, self._keys(source), environment, self._options),
                source_id=source,
                target=Session(self._store, target_keys, environment, self._options),
                target_id=target,
                state_path=self._state_path,
                before_event=before_event,
                name=name,
            )
        )

    async def events(
        self, session_id: str, *, cursor: str | None = None, limit: int = EVENTS_DEFAULT, backward: bool = False
    ) -> EventsPage:
        """Return a page of the conversation, as the runtime's ``sessions.readPersistedEvents`` does.

        Args:
            session_id: the session.
            cursor: that of the page before; None for the first page.
            limit: how many events at most, 1 to 1000; fewer where they are over a mebibyte together.
            backward: begin with the newest. A cursor keeps the direction of its first page.

        Raises:
            FileNotFoundError: there is no such session.
            InvalidInput: *limit* is out of bounds.
            Corrupt: the session cannot be read, or holds a line that is no event.
        """
        keys = self._keys(session_id)
        if cursor is not None:
            return await self._pager.next(session_id, cursor, limit)
        session = self._session(keys)
        for _ in range(_TRIES_MAX):
            tree = (await LogReader(session).load()).tree
            file = file_at(tree, f"{self._state_path}/{EVENTS_NAME}")
            if file is None:
                raise FileNotFoundError(errno.ENOENT, "There is no such session", session_id)
            journal = Journal(keys.prefix, ContentReader(session), file.content)
            try:
                return await self._pager.first(session_id, journal, backward=backward, limit=limit)
            except KeyNotFound:  # collected: the session went on meanwhile
                continue
        raise Unavailable(f"reading {keys.prefix}: it changed {_TRIES_MAX} times meanwhile")

    async def state_file(self, session_id: str, name: str) -> bytes | None:
        """Return what the file *name* of a session's state directory holds, at most 4 MiB; None where it is not.

        Raises:
            Corrupt: the session cannot be read.
        """
        keys = self._keys(session_id)
        session = self._session(keys)
        for _ in range(_TRIES_MAX):
            file = file_at((await LogReader(session).load()).tree, f"{self._state_path}/{name}")
            if file is None:
                return None
            try:
                return await ContentReader(session).read(file.content, 0, min(file.content.size, _STATE_FILE_BYTES_MAX))
            except KeyNotFound:  # collected: the session went on meanwhile
                continue
        raise Unavailable(f"reading {keys.prefix}: it changed {_TRIES_MAX} times meanwhile")

    async def _all(self, heads: Mapping[str, Head], stored: Mapping[str, Entry]) -> Sequence[SessionInfo | None]:
        loads, small = asyncio.Semaphore(_LOADS_AT_ONCE), asyncio.Semaphore(_HINTS_AT_ONCE)

        async def one(session_id: str, head: Head) -> SessionInfo | None:
            if head.is_deleted:
                return None
            known = self._remembered(session_id, head)
            if known is not None:
                return known.info
            entry = stored.get(encode_id("session id", session_id))
            if entry is not None and entry.size <= hints.HINT_BYTES_MAX:
                async with small:
                    hint = await self._hint(session_id)
                info = None if hint is None else hints.decode(session_id, head, hint)
                if info is not None:
                    self._known[session_id] = _Known(head, info)
                    return info
            async with loads:
                found = await self._find_out_or_complain(session_id, head)
            async with small:
                await self._leave_hint(session_id, found)
            return found.info

        return await all_of(one(session_id, head) for session_id, head in heads.items())

    def _remembered(self, session_id: str, head: Head) -> _Known | None:
        """Return what is known of the session at *head*."""
        known = self._known.get(session_id)
        if known is None or not known.head.is_at(head.sequence, head.etag):
            return None
        return known

    async def _find_out_or_complain(self, session_id: str, head: Head) -> _Known:
        try:
            return await self._find_out(session_id, head)
        except Corrupt as error:
            if self._complained.get(session_id) != head.etag:
                self._complained[session_id] = head.etag
                _logger.error("session %r is listed, but cannot be read: %s", session_id, error)  # noqa: TRY400
        nothing = Facts(head.modified_ms, 0, 0, None, None, None, None, detached=False)
        return _Known(head, _info(session_id, head, 0, nothing))

    async def _find_out(self, session_id: str, head: Head) -> _Known:
        """Read the session, whose log ends at *head*, and remember what it says.

        Raises:
            Corrupt: it cannot be read.
        """
        session = self._session(self._keys(session_id))
        log, contents = LogReader(session), ContentReader(session)
        missing = ""
        for _ in range(_TRIES_MAX):
            state = await log.load()
            if state.head.sequence == head.sequence:
                try:
                    facts = await facts_of(session.keys.prefix, state.tree, contents, self._state_path)
                except KeyNotFound as answer:  # collected, if the session went on meanwhile
                    missing = answer.key
                else:
                    info = None if facts is None else _info(session_id, head, state.head.epoch, facts)
                    known = self._known[session_id] = _Known(head, info)
                    return known
            now = await self._listing.head(session.keys)
            if now is None or now.is_deleted:
                return _Known(head, None)
            head = now
        if missing:
            raise Corrupt(missing, 0, "missing, and the session refers to it")
        raise Unavailable(f"reading {session.keys.prefix}: it changed {_TRIES_MAX} times meanwhile")

    async def _hints(self) -> dict[str, Entry]:
        """Return the hints that are listed; none where they cannot be."""
        try:
            return await self._listing.hints()
        except SessionFsError as error:
            _logger.info("hints cannot be listed: %s", error)
            return {}

    async def _hint(self, session_id: str) -> bytes | None:
        """Return the session's hint as it is stored; None where there is none, or it cannot be had at once."""
        key = self._hint_key(session_id)
        try:
            async with asyncio.timeout(self._options.patience.deadline_s):
                return (await self._store.get(key, span=(0, hints.HINT_BYTES_MAX))).data
        except KeyNotFound:
            return None
        except (StoreAnswer, TimeoutError) as error:
            _logger.info("hint %s cannot be read: %r", key, error)
            return None

    async def _leave_hint(self, session_id: str, found: _Known) -> None:
        """Store a hint of what was found, if that can be done at once: nothing depends on it."""
        if found.info is None or not found.info.epoch:
            return
        data = hints.encode(found.info, found.head)
        if data is None:
            return
        key = self._hint_key(session_id)
        try:
            async with asyncio.timeout(self._options.patience.deadline_s):
                await self._store.put(key, data, condition=UNCONDITIONAL)
        except (StoreAnswer, SessionFsError, TimeoutError) as error:
            _logger.info("hint %s was not written: %r", key, error)

    async def _sweep(self, heads: Mapping[str, Head], stored: Mapping[str, Entry]) -> None:
        """Forget the sessions that are gone, and remove their hints."""
        heads = {session_id: head for session_id, head in heads.items() if not head.is_deleted}
        gone = {session_id for session_id in self._known if session_id not in heads}
        kept = {session_id for session_id, known in self._known.items() if known.info is not None} - gone
        hinted = {session_id for name in stored if (session_id := decoded(name)) is not None}
        stale = {session_id for session_id in hinted if session_id not in heads or self._is_none(session_id)}
        for session_id in gone:
            if self._known.pop(session_id).info is not None:
                stale.add(session_id)
        self._complained = {key: etag for key, etag in self._complained.items() if key in heads}
        self._swept = True
        await self._remove_hints(self._hint_key(session_id) for session_id in sorted(stale - kept))

    def _is_none(self, session_id: str) -> bool:
        known = self._known.get(session_id)
        return known is not None and known.info is None

    async def _remove_hints(self, keys: Iterable[str]) -> None:
        waiting = [*keys]
        try:
            for start in range(0, len(waiting), PAGE_ENTRIES_MAX):
                await self._store.delete(waiting[start : start + PAGE_ENTRIES_MAX])
        except (StoreAnswer, SessionFsError) as error:
            _logger.info("hints of sessions that are gone stay: %r", error)

    def _hint_key(self, session_id: str) -> str:
        return f"{self._listing.catalog}{encode_id('session id', session_id)}"

    def _keys(self, session_id: str) -> SessionKeys:
        return SessionKeys.of(self._tenant, session_id)

    def _session(self, keys: SessionKeys) -> Session:
        return Session(self._store, keys, self._environment, self._options)


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Return both answers, asked for side by side; where one fails, the other does not go on."""
    task = asyncio.create_task(second)
    try:
        return await first, await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _info(session_id: str, head: Head, epoch: int, facts: Facts) -> SessionInfo:
    return SessionInfo(
        id=session_id,
        created_ms=facts.created_ms,
        modified_ms=head.modified_ms,
        bytes=facts.bytes,
        files=facts.files,
        sequence=head.sequence,
        epoch=epoch,
        summary=facts.summary,
        name=facts.name,
        client_name=facts.client_name,
        context=facts.context,
        detached=facts.detached,
    )
