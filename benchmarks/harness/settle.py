"""Bringing a session to rest, so that what is measured afterwards is not what came before."""

from __future__ import annotations

from typing import Final

from benchmarks.harness.conversation import EVENTS_PATH
from benchmarks.harness.lab import TENANT
from sessionfs_s3 import SessionFs
from sessionfs_s3.format import Kind, SessionKeys, parse_log_name
from sessionfs_s3.store import open_store

_SETTLING_MAX: Final = 6


async def settle(fs: SessionFs, url: str, session: str) -> None:
    """Have *session* end with a snapshot, so that whatever it holds, opening it reads equally many objects."""
    keys = SessionKeys.of(TENANT, session)
    store = await open_store(url)
    try:
        for _ in range(_SETTLING_MAX):
            async with fs.volume(session) as volume:
                await volume.append_file(EVENTS_PATH, "{}\n")
            page = await store.list(keys.log, limit=2)
            names = [parse_log_name(entry.key.removeprefix(keys.log)) for entry in page.entries]
            head = max(name.sequence for name in names if name is not None)
            if any(name is not None and name.kind is Kind.SNAPSHOT and name.sequence == head for name in names):
                return
    finally:
        await store.aclose()
    raise RuntimeError(f"{session} has no snapshot of its last commit")
