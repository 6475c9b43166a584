"""Catalogues for tests: one in memory, and one that reads the disk of a plain runtime."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from sessionfs_s3.catalog import SessionInfo
from sessionfs_s3.errors import InvalidInput, SessionFsError

Event = Mapping[str, object]


def Info(  # noqa: N802  # the real record, with what most tests do not care about
    id: str,  # noqa: A002
    *,
    created_ms: int = 0,
    modified_ms: int = 0,
    bytes: int = 0,  # noqa: A002
    epoch: int = 1,
    summary: str | None = None,
    name: str | None = None,
    client_name: str | None = None,
    context: Mapping[str, str] | None = None,
    detached: bool = False,
) -> SessionInfo:
    return SessionInfo(
        id, created_ms, modified_ms, bytes, 0, epoch, epoch, summary, name, client_name, context, detached
    )


@dataclass
class Stored:
    info: SessionInfo
    events: list[Event] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    events: Sequence[Event]
    cursor: str
    has_more: bool
    expired: bool = False


class Pager:
    """Pages of what was stored when the first was asked for; each cursor is good once."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[str, Sequence[Event], bool]] = {}
        self._numbers = itertools.count()

    def page(self, session_id: str, events: Sequence[Event], cursor: str | None, limit: int, backward: bool) -> Page:
        if cursor is not None:
            owner, events, backward = self._left.pop(cursor, ("", (), False))
            if owner != session_id:
                return Page((), cursor, has_more=False, expired=True)
        taken, left = (events[-limit:], events[:-limit]) if backward else (events[:limit], events[limit:])
        following = f"cursor-{next(self._numbers)}"
        if left:
            self._left[following] = session_id, left, backward
        return Page(taken, following, has_more=bool(left))


class MemoryCatalog:
    """What a tenant has stored; set ``failure`` to have every request to the store fail."""

    def __init__(self, *stored: Stored) -> None:
        self.stored = {each.info.id: each for each in stored}
        self.failure: SessionFsError | None = None
        self.asked: list[tuple[str, str]] = []
        self._pager = Pager()

    async def ids(self) -> list[str]:
        self._ask("ids")
        return list(self.stored)

    async def list(self) -> list[SessionInfo]:
        self._ask("list")
        return [each.info for each in self.stored.values()]

    async def info(self, session_id: str) -> SessionInfo | None:
        self._ask("info", session_id)
        return self.stored[session_id].info if session_id in self.stored else None

    async def delete(self, session_id: str) -> int | None:
        self._ask("delete", session_id)
        found = self.stored.pop(session_id, None)
        return None if found is None else found.info.bytes

    async def fork(self, source: str, target: str, *, before_event: str | None, name: str | None) -> None:
        self._ask("fork", source)
        of = self.stored[source]
        ids = [event["id"] for event in of.events]
        if before_event is not None and before_event not in ids[1:]:
            raise InvalidInput("event", before_event, "is none of the conversation, or its first")
        stop = len(ids) if before_event is None else ids.index(before_event)
        info = replace(of.info, id=target, name=name, summary=name)
        self.stored[target] = Stored(info, of.events[:stop], dict(of.files))

    async def events(self, session_id: str, *, cursor: str | None, limit: int, backward: bool) -> Page:
        self._ask("events", session_id)
        if session_id not in self.stored:
            raise FileNotFoundError(session_id)
        return self._pager.page(session_id, self.stored[session_id].events, cursor, limit, backward)

    async def state_file(self, session_id: str, name: str) -> bytes | None:
        self._ask("state_file", session_id)
        return self.stored[session_id].files.get(name) if session_id in self.stored else None

    def _ask(self, verb: str, session_id: str = "") -> None:
        self.asked.append((verb, session_id))
        if self.failure is not None:
            raise self.failure.again()


class DiskCatalog:
    """The sessions of a plain runtime, read from its disk: what the store would hold of them."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._pager = Pager()

    async def ids(self) -> list[str]:
        return [each.parent.name for each in self._state.glob("*/events.jsonl")]

    async def list(self) -> list[SessionInfo]:
        return [self._read(session_id) for session_id in await self.ids()]

    async def info(self, session_id: str) -> SessionInfo | None:
        return self._read(session_id) if session_id in await self.ids() else None

    async def delete(self, session_id: str) -> int | None:
        info = await self.info(session_id)
        shutil.rmtree(self._state / session_id, ignore_errors=True)
        return None if info is None else info.bytes

    async def fork(self, source: str, target: str, *, before_event: str | None, name: str | None) -> None:
        assert before_event is not None, f"{target}: only forks that are refused are asked for here, not {name}"
        raise InvalidInput("event", before_event, "is none of the conversation, or its first")

    async def events(self, session_id: str, *, cursor: str | None, limit: int, backward: bool) -> Page:
        text = (self._state / session_id / "events.jsonl").read_text("utf-8")
        events = [json.loads(line) for line in text.splitlines()]
        return self._pager.page(session_id, events, cursor, limit, backward)

    async def state_file(self, session_id: str, name: str) -> bytes | None:
        path = self._state / session_id / name
        return path.read_bytes() if path.is_file() else None

    def _read(self, session_id: str) -> SessionInfo:
        folder = self._state / session_id
        fields = dict(re.findall(r"^(\w+): (.*)$", (folder / "workspace.yaml").read_text("utf-8"), re.MULTILINE))
        context = {"cwd": "cwd", "git_root": "gitRoot", "repository": "repository", "branch": "branch"}
        return Info(
            session_id,
            created_ms=int(datetime.fromisoformat(fields["created_at"]).timestamp() * 1000 + 0.5),
            modified_ms=int((folder / "events.jsonl").stat().st_mtime_ns // 1_000_000),
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            name=fields.get("name"),
            client_name=fields.get("client_name"),
            context={there: fields[here] for here, there in context.items() if here in fields},
        )


class Live:
    """Sessions that are open here, for a credential that permits what *forbidden* does not name."""

    def __init__(self, *opened: str, forbidden: Collection[str] = ()) -> None:
        self.opened = list(opened)
        self.closed: list[str] = []
        self.gone: list[str] = []
        self.epochs: dict[str, int] = {}
        self.forbidden = set(forbidden)

    def open_here(self) -> Collection[str]:
        return tuple(self.opened)

    async def close(self, session_id: str) -> None:
        self.opened.remove(session_id)
        self.closed.append(session_id)

    def deleted(self, session_id: str) -> None:
        self.gone.append(session_id)

    def epoch(self, session_id: str) -> int:
        return self.epochs.get(session_id, 0)

    def permits(self, session_id: str) -> bool:
        return session_id not in self.forbidden
