"""The gateway's answers to catalogue calls: from the store, in the shapes and words of the runtime.

A runtime whose sessions live with a provider answers these from its own empty disk. Which methods they are stands in
:mod:`sessionfs_s3.gateway.rules.methods`; here is what each answers. All of it is one tenant's: the catalogue knows no
other, and a session that the credential does not permit is treated as if it did not exist.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

from sessionfs_s3.catalog import SessionInfo
from sessionfs_s3.errors import CommitUnknown, Corrupt, Fenced, InUse, InvalidInput, SessionFsError, Unavailable
from sessionfs_s3.gateway.catalogue import listing
from sessionfs_s3.gateway.catalogue.arguments import (
    SESSION_ID_CHARS_MAX,
    TOO_LONG,
    Arguments,
    is_session_id,
    name_error,
)
from sessionfs_s3.gateway.catalogue.client_metadata import FILE_NAME, client_metadata
from sessionfs_s3.gateway.catalogue.pages import EVENTS_MAX, page_request
from sessionfs_s3.gateway.catalogue.visible import Catalog, EventsPage, LiveSessions, VisibleSessions, each_of
from sessionfs_s3.gateway.errors import RpcError, failed, unhandled

EVENTS_FILE: Final = "events.jsonl"
WORKSPACE_FILE: Final = "workspace.yaml"

_USER_NAMED: Final = re.compile(rb"^user_named: *true *$", re.MULTILINE)
_STEERABLE_EVENT: Final = "session.remote_steerable_changed"
_SHOWN_CHARS_MAX: Final = 256
_DAY_MS: Final = 24 * 60 * 60 * 1000
_IN_USE_MS: Final = 60 * 1000
"""A session that was written to within so many milliseconds counts as in use."""

_NO_FOREGROUND: Final = "Not running in TUI+server mode - no foreground session change handler registered"


class CatalogueAnswers:
    """Answers one client's catalogue calls.

    Attributes:
        methods: what :meth:`answer` answers.
    """

    def __init__(
        self,
        catalog: Catalog,
        live: LiveSessions,
        *,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        state_path: str = "/session-state",
    ) -> None:
        """Answer from *catalog*.

        Args:
            catalog: the stored sessions of the client's tenant.
            live: which of them are open here, and which of them this client may see.
            new_id: makes the id of a fork; a random UUID, as the runtime's.
            now_ms: the wall clock, in milliseconds since 1970.
            state_path: the state directory inside each session's file system.
        """
        self._catalog = catalog
        self._sessions = VisibleSessions(catalog, live)
        self._new_id = new_id
        self._now_ms = now_ms
        self._state_path = state_path.rstrip("/")
        self._answers: dict[str, Callable[[Arguments], Awaitable[object]]] = {
            "session.delete": self._legacy_delete,
            "session.getForeground": self._nothing,
            "session.getLastId": self._last_id,
            "session.getMetadata": self._legacy_metadata,
            "session.list": self._list,
            "session.setForeground": self._set_foreground,
            "sessions.bulkDelete": self._bulk_delete,
            "sessions.checkInUse": self._check_in_use,
            "sessions.close": self._close,
            "sessions.delete": self._delete,
            "sessions.enrichMetadata": self._enrich,
            "sessions.findByPrefix": self._find_by_prefix,
            "sessions.findByTaskId": self._find_by_task_id,
            "sessions.fork": self._fork,
            "sessions.getBoardEntryCount": self._nothing_of_session,
            "sessions.getClientMetadata": self._client_metadata,
            "sessions.getEventFilePath": self._event_file_path,
            "sessions.getLastForContext": self._last_for_context,
            "sessions.getMetadata": self._metadata,
            "sessions.getPersistedRemoteSteerable": self._remote_steerable,
            "sessions.getSizes": self._sizes,
            "sessions.list": self._list,
            "sessions.listNonEmptySessionIds": self._non_empty,
            "sessions.pruneOld": self._prune,
            "sessions.readPersistedEvents": self._events,
            "sessions.releaseLock": self._nothing_of_session,
        }
        self.methods = frozenset(self._answers)

    async def answer(self, method: str, params: object) -> object:
        """Return the result of a request of *method*, one of :attr:`methods`: a JSON value.

        Raises:
            RpcError: the request is refused, or the store is in no state to answer it.
        """
        if (answer := self._answers.get(method)) is None:
            raise unhandled(method)
        try:
            return await answer(Arguments(method, params))
        except InvalidInput as error:
            raise failed(method, str(error)) from error
        except SessionFsError as error:
            raise failed(method, _words(error)) from error
        except OSError as error:
            raise failed(method, error.strerror or "the request could not be carried out") from error

    async def resolved_open(self, params: object) -> Mapping[str, object] | None:
        """Return the parameters of ``sessions.open`` with the session named in full, None for "not found".

        A runtime resolves prefixes and "the last one" among the sessions that it has open, whoever they belong to:
        here they are resolved among the tenant's own. What comes back names one session, or a new one.

        Raises:
            RpcError: the session id breaks the runtime's rule, or the store cannot answer.
        """
        arguments = Arguments("sessions.open", params)
        given = dict(cast("Mapping[str, object]", params)) if isinstance(params, Mapping) else {}
        try:
            if given.get("kind") == "resumeLast":
                last = listing.last_for(await self._sessions.listed(), arguments.part("context") or {})
                without = {key: value for key, value in given.items() if key != "context"}
                return None if last is None else without | {"kind": "resume", "sessionId": last.id}
            if given.get("kind") not in ("resume", "attach"):
                return given
            session_id = arguments.session_id()
            if await self._sessions.info(session_id) is None and session_id not in self._sessions.open():
                found = await self._sessions.by_prefix(session_id)
                return None if found is None else given | {"sessionId": found}
            return given
        except SessionFsError as error:
            raise failed("sessions.open", _words(error)) from error

    async def _nothing(self, _: Arguments) -> object:
        return {}

    async def _nothing_of_session(self, arguments: Arguments) -> object:
        """Answer what concerns a runtime's own disk: nothing of it exists here. The id is checked all the same."""
        arguments.session_id()
        return {}

    async def _set_foreground(self, arguments: Arguments) -> object:
        if not isinstance(arguments.get("sessionId"), str):
            raise arguments.error("Missing sessionId parameter")
        return {"success": False, "error": _NO_FOREGROUND}

    async def _list(self, arguments: Arguments) -> object:
        newer = arguments.method == "sessions.list"
        source = arguments.get("source") if newer else None
        if source in ("remote", "all") and arguments.flag("throwOnError"):
            raise arguments.error("Not authenticated. Please authenticate first.")
        if source == "remote":
            return {"sessions": []}
        everything = newer and arguments.flag("includeDetached")
        infos = await self._sessions.all() if everything else await self._sessions.listed()
        wanted = arguments.part("filter")
        infos = [info for info in infos if listing.matches(info, wanted)]
        limit = _count(arguments.get("metadataLimit")) if newer else None
        full = len(infos) if limit is None else limit
        records = [listing.metadata(info) for info in infos[:full]]
        return {"sessions": records + [listing.basic(info) for info in infos[full:]]}

    async def _last_id(self, _: Arguments) -> object:
        return _session(next(iter(await self._sessions.listed()), None))

    async def _last_for_context(self, arguments: Arguments) -> object:
        context: Mapping[str, object] = {}
        if arguments.get("context") is not None:
            context = arguments.part("context") or {}
            if not isinstance(context.get("cwd"), str):
                raise arguments.error("missing or non-string parameter 'cwd'")
        return _session(listing.last_for(await self._sessions.listed(), context))

    async def _legacy_metadata(self, arguments: Arguments) -> object:
        return _record(await self._sessions.info(arguments.legacy_session_id()))

    async def _metadata(self, arguments: Arguments) -> object:
        return _record(await self._sessions.info(arguments.session_id()))

    async def _find_by_prefix(self, arguments: Arguments) -> object:
        found = await self._sessions.by_prefix(arguments.text("prefix"))
        return {} if found is None else {"sessionId": found}

    async def _find_by_task_id(self, arguments: Arguments) -> object:
        """Answer that there is none: a session is bound to a GitHub task by remote control, which is refused here."""
        arguments.text("taskId")
        return {}

    async def _check_in_use(self, arguments: Arguments) -> object:
        """Answer which are open here, and which another process has written to a short while ago.

        To the client of a gateway its runtimes are other processes. Whether one that writes nothing is open elsewhere
        the store does not tell.
        """
        wanted, opened = list(dict.fromkeys(arguments.session_ids())), set(self._sessions.open())
        since_ms = self._now_ms() - _IN_USE_MS

        async def used(session_id: str) -> bool:
            return session_id in opened or await self._sessions.written_elsewhere(session_id, since_ms)

        uses = await each_of(wanted, used)
        return {"inUse": [each for each, is_used in zip(wanted, uses, strict=True) if is_used]}

    async def _sizes(self, _: Arguments) -> object:
        return {"sizes": {info.id: info.bytes for info in await self._sessions.all()}}

    async def _non_empty(self, arguments: Arguments) -> object:
        """Answer which have a summary: a session gets one with the user's first message, or with a name."""
        limit = _count(arguments.get("limit"))
        found = [info.id for info in await self._sessions.listed() if info.summary is not None or info.name is not None]
        return {"sessionIds": found[:limit]}

    async def _enrich(self, arguments: Arguments) -> object:
        """Fill in what is known of the sessions; times stay as the client has them."""
        records = arguments.array("sessions")
        if not all(isinstance(record, Mapping) for record in records):
            raise arguments.error("session metadata entry must be an object")
        given = cast("list[Mapping[str, object]]", records)
        session_ids = [Arguments(arguments.method, record).session_id() for record in given]
        known = {info.id: info for info in await self._sessions.all()}
        enriched: list[object] = []
        for session_id, record in zip(session_ids, given, strict=True):
            info = known.get(session_id)
            added = {"isDetached": False} if info is None else {"isDetached": info.detached} | listing.details(info)
            enriched.append({**record, **added})
        return {"sessions": enriched}

    async def _event_file_path(self, arguments: Arguments) -> object:
        """Answer with the path inside the session's own file system, whether there is such a session or not."""
        arguments.session_id()
        return {"filePath": f"{self._state_path}/{EVENTS_FILE}"}

    async def _remote_steerable(self, arguments: Arguments) -> object:
        """Answer what the newest event about it says; the events are read from the end until there is one."""
        session_id, cursor = arguments.session_id(), None
        while (page := await self._read(session_id, cursor)) is not None:
            for event in reversed(page.events):
                if event.get("type") == _STEERABLE_EVENT and isinstance(data := event.get("data"), Mapping):
                    steerable = cast("Mapping[str, object]", data).get("remoteSteerable")
                    return {"remoteSteerable": steerable} if isinstance(steerable, bool) else {}
            if not page.has_more:
                break
            cursor = page.cursor
        return {}

    async def _read(self, session_id: str, cursor: str | None) -> EventsPage | None:
        return await self._sessions.events(session_id, cursor=cursor, limit=EVENTS_MAX, backward=True)

    async def _events(self, arguments: Arguments) -> object:
        asked = page_request(arguments)
        page = await self._sessions.events(
            asked.session_id, cursor=asked.cursor, limit=asked.count_max, backward=asked.backward
        )
        if page is None:
            raise arguments.error(f"Persisted event journal is unavailable for session {asked.session_id}")
        return {
            "events": list(page.events),
            "cursor": page.cursor,
            "hasMore": page.has_more,
            "cursorStatus": "expired" if page.expired else "ok",
        }

    async def _client_metadata(self, arguments: Arguments) -> object:
        session_ids = arguments.session_ids()
        keys = arguments.get("keys")
        if arguments.has("keys") and not isinstance(keys, list):
            raise arguments.error("client metadata parameter 'keys' must be an array")
        wanted = cast("list[object] | None", keys)
        if wanted is not None and not all(isinstance(key, str) for key in wanted):
            raise arguments.error("client metadata parameter 'keys' must contain only strings")
        return await each_of(session_ids, lambda each: self._metadata_entry(each, wanted))

    async def _metadata_entry(self, session_id: str, keys: list[object] | None) -> dict[str, object]:
        entry: dict[str, object] = {"sessionId": session_id}
        try:
            stored = await self._sessions.info(session_id)
            if stored is None:
                opened = session_id in self._sessions.open()
                return entry | (client_metadata(None, keys) if opened else {"status": "notFound"})
            content = await self._sessions.state_file(session_id, FILE_NAME)
        except SessionFsError as error:
            return entry | {"status": "unavailable", "code": "EIO", "message": _words(error)}
        return entry | client_metadata(content, keys)

    async def _legacy_delete(self, arguments: Arguments) -> object:
        session_id = arguments.get("sessionId")
        if isinstance(session_id, str) and not is_session_id(session_id):
            return {"success": False, "error": "Invalid sessionId"}
        if isinstance(session_id, str) and len(session_id) > SESSION_ID_CHARS_MAX:
            return {"success": False, "error": TOO_LONG}
        checked = arguments.legacy_session_id()
        if await self._sessions.remove(checked) is None:
            return {"success": False, "error": f"Session file not found for {checked}"}
        return {"success": True}

    async def _delete(self, arguments: Arguments) -> object:
        """Delete a session. ``sessionPath`` names a directory of the runtime's host, and is not looked at."""
        session_id = arguments.session_id()
        if await self._sessions.remove(session_id) is None:
            raise arguments.error(f"Session file not found for {session_id}")
        return {}

    async def _bulk_delete(self, arguments: Arguments) -> object:
        session_ids = list(dict.fromkeys(arguments.session_ids()))
        return {
            "freedBytes": {key: freed or 0 for key, freed in (await self._sessions.remove_all(session_ids)).items()}
        }

    async def _close(self, arguments: Arguments) -> object:
        await self._sessions.close(arguments.session_id())
        return {}

    async def _prune(self, arguments: Arguments) -> object:
        """Delete old sessions. Unlike the runtime, skip those that are open here, whoever of the tenant uses them."""
        days = arguments.number("olderThanDays")
        given = arguments.get("excludeSessionIds") is not None
        excluded = set(arguments.session_ids("excludeSessionIds")) if given else set[str]()
        dry_run, named_too = arguments.flag("dryRun"), arguments.flag("includeNamed")
        now_ms, opened = self._now_ms(), set(self._sessions.open())
        old = [info for info in await self._sessions.listed() if now_ms - info.modified_ms >= days * _DAY_MS]
        old = [info for info in old if info.id not in excluded]
        spared = {info.id for info in old if info.id in opened}
        if not named_too:
            idle = [info for info in old if info.id not in opened]
            named = await each_of(idle, self._named_by_user)
            spared |= {info.id for info, by_user in zip(idle, named, strict=True) if by_user}
        candidates = [info for info in old if info.id not in spared]
        freed: dict[str, int | None] = {info.id: info.bytes for info in candidates}
        if not dry_run:
            freed = await self._sessions.remove_all(list(freed))
        deleted = [key for key, value in freed.items() if value is not None]
        return {
            "deleted": [] if dry_run else deleted,
            "candidates": deleted if dry_run else [],
            "skipped": [info.id for info in old if info.id in spared],
            "freedBytes": sum(value or 0 for value in freed.values()),
            "dryRun": dry_run,
        }

    async def _named_by_user(self, info: SessionInfo) -> bool:
        if info.name is None:
            return False
        content = await self._sessions.state_file(info.id, WORKSPACE_FILE)
        return content is not None and _USER_NAMED.search(content) is not None

    async def _fork(self, arguments: Arguments) -> object:
        source = arguments.session_id()
        absent = arguments.error(f"Cannot fork session {source}: no persisted or in-memory events found")
        if (info := await self._sessions.info(source)) is None:
            raise absent
        before, name = arguments.get("toEventId"), arguments.get("name")
        before = before if isinstance(before, str) else None
        if not isinstance(name, str):
            name = listing.fork_name(info, (each.name for each in await self._sessions.all()))
        elif (broken := name_error(name)) is not None:
            raise arguments.error(broken)
        target = self._new_id()
        if not self._sessions.permits(target):
            raise arguments.error("this credential is limited to certain sessions, and a fork would not be one of them")
        try:
            await self._sessions.fork(source, target, before_event=before, name=name)
        except FileNotFoundError:
            raise absent from None
        except InvalidInput:
            if before is None:
                raise
            raise await self._no_boundary(arguments, source, before) from None
        return {"sessionId": target, "name": name}

    async def _no_boundary(self, arguments: Arguments, source: str, before: str) -> RpcError:
        """Return the error for a boundary that is no event, or the first."""
        page = await self._sessions.events(source, limit=1)
        if page is not None and page.events and page.events[0].get("id") == before:
            return arguments.error("Cannot fork: truncation to the specified event would result in an empty session")
        return arguments.error(f"Event {before[:_SHOWN_CHARS_MAX]} not found in session {source}")


def _session(info: SessionInfo | None) -> dict[str, object]:
    return {} if info is None else {"sessionId": info.id}


def _record(info: SessionInfo | None) -> dict[str, object]:
    return {} if info is None else {"session": listing.metadata(info)}


def _count(value: object) -> int | None:
    """Return a count, None where the runtime takes it for no limit: anything but a whole number from 0 on."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _words(error: SessionFsError) -> str:
    """Return what a client is told of a failure of the store: what to do next, nothing of keys, buckets or servers."""
    match error:
        case Unavailable():
            return "the session store is unavailable; try again later"
        case CommitUnknown():
            return "the session store did not answer, and the change may or may not be stored; look again"
        case Corrupt():
            return "the stored session is damaged, and was not read any further"
        case Fenced() | InUse():
            return "the session was changed by somebody else at the same time; try again"
        case _:
            return "the session store refused the request"


__all__ = ["Catalog", "CatalogueAnswers", "LiveSessions", "RpcError"]
