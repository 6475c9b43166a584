"""Sessions as the runtime leaves them, in a store in memory that counts what it is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from sessionfs_s3.catalog import Catalog
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.fs import Tree
from sessionfs_s3.store import MemoryStore, Store
from sessionfs_s3.volume import Environment, Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment
from sessionfs_s3.volume.retry import Patience
from tests.volume.stored import RecordingStore

STATE = "/session-state"
EVENTS = f"{STATE}/events.jsonl"
WORKSPACE = f"{STATE}/workspace.yaml"
OPTIONS = VolumeOptions(
    patience=Patience(deadline_s=1.0, backoff_s_min=0.001, backoff_s_max=0.01), directories=("/workspace", STATE)
)

MakeCatalog = Callable[..., Catalog]


@pytest.fixture
def environment() -> Environment:
    return system_environment()


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore(MemoryStore())


@pytest.fixture
def make_catalog(store: RecordingStore, environment: Environment) -> MakeCatalog:
    """Make a catalogue that knows nothing yet: of ``tenant="acme"``, in ``store=``, on ``environment=``."""

    def make(tenant: str = "acme", *, store: Store = store, environment: Environment = environment) -> Catalog:
        return Catalog(store, tenant, environment=environment, options=OPTIONS, state_path=STATE)

    return make


@pytest.fixture
def catalog(make_catalog: MakeCatalog) -> Catalog:
    return make_catalog()


async def opened(
    store: Store, session_id: str, *, tenant: str = "acme", read_only: bool = False, **options: Any
) -> Volume:
    return await Volume.open(
        store,
        SessionKeys.of(tenant, session_id),
        read_only=read_only,
        environment=system_environment(),
        options=replace(OPTIONS, **options),
    )


def start_event(session_id: str, **data: object) -> dict[str, Any]:
    return {
        "type": "session.start",
        "data": {
            "sessionId": session_id,
            "version": 1,
            "producer": "copilot-agent",
            "copilotVersion": "1.0.102",
            "startTime": "2026-01-02T03:04:05.678Z",
            "context": {"cwd": "/workspace"},
            "remoteSteerable": False,
            "alreadyInUse": False,
            **data,
        },
        "id": f"start-of-{session_id}",
        "timestamp": "2026-01-02T03:04:06.916Z",
        "parentId": None,
    }


def event(kind: str, event_id: str, **data: object) -> dict[str, Any]:
    return {"type": kind, "data": data, "id": event_id, "timestamp": "2026-01-02T04:00:00.000Z", "parentId": "any"}


def lines(*events: Mapping[str, object]) -> bytes:
    """Return the lines as the runtime writes them; half a character stays escaped."""
    text = [json.dumps(each, separators=(",", ":"), ensure_ascii=False) for each in events]
    escaped = (re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", each) for each in text)
    return b"".join(each.encode() + b"\n" for each in escaped)


def yaml(session_id: str, *, name: str | None = None) -> bytes:
    named = "" if name is None else f"name: {name}\n"
    return (
        f"id: {session_id}\ncwd: /workspace\nclient_name: sdk\n{named}user_named: false\nsummary_count: 0\n"
        "fork_count: 0\ncreated_at: 2025-05-05T05:05:05.555Z\nupdated_at: 2025-06-06T06:06:06.666Z\n"
    ).encode()


async def write(
    store: Store,
    session_id: str,
    *events: Mapping[str, object],
    tenant: str = "acme",
    name: str | None = "A name",
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Store a session that has said hello, and *events* after that."""
    async with await opened(store, session_id, tenant=tenant) as volume:
        for path, data in (files or {}).items():
            await volume.write_file_bytes(path, data)
        await volume.write_file_bytes(WORKSPACE, yaml(session_id, name=name), 0o600)
        hello = event("user.message", "hello", content="Hello there.")
        await volume.write_file_bytes(EVENTS, lines(start_event(session_id), hello, *events), 0o600)


async def read(store: Store, session_id: str, path: str, *, tenant: str = "acme") -> bytes:
    async with await opened(store, session_id, tenant=tenant, read_only=True) as volume:
        return await volume.read_file_bytes(path)


async def everything(store: Store, session_id: str) -> dict[str, bytes]:
    async with await opened(store, session_id, read_only=True) as volume:
        found: dict[str, bytes] = {}
        waiting = ["/"]
        while waiting:
            for name, kind in await volume.readdir_with_types(path := waiting.pop()):
                inner = f"{path.rstrip('/')}/{name}"
                if kind == "directory":
                    waiting.append(inner)
                else:
                    found[inner] = await volume.read_file_bytes(inner)
        return found


async def tree_of(store: Store, session_id: str) -> Tree:
    async with await opened(store, session_id, read_only=True) as volume:
        return await volume._tree()


def talk() -> list[dict[str, Any]]:
    return [
        event("session.compaction_complete", "c1", checkpointNumber=1),
        event("user.message", "mid", content='naïve ☕ 𝄞 \u2028 \\ " \U0001f600'),
        event("session.compaction_complete", "c2", checkpointNumber=2),
        event("user.message", "end", content="mentions mid and end"),
    ]
