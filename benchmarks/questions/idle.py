"""What a thousand open, idle volumes hold in memory, and that they send nothing.

The sessions stand in a local directory, one stored session linked a thousand times: what a volume holds does not depend
on the store below it, and a thousand conversations need not be written.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.harness.child import in_child
from benchmarks.harness.conversation import conversation, replay
from benchmarks.harness.lab import TENANT, Lab, Sizes
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs

NAME = "idle"
_TURNS = 60


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Measure a process without volumes and one with, each fresh, with the same imports and the same store."""
    del lab
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="sessionfs-idle-"))
    try:
        async with SessionFs.open(directory.as_uri(), tenant=TENANT, **sizes.settings) as fs:
            appended = await replay(fs.provider("session-0"), conversation(8, _TURNS))
        sessions = [f"session-{n}" for n in range(sizes.idle_sessions)]
        await asyncio.to_thread(_clone, directory, sessions)
        given = {"url": directory.as_uri(), "wait_s": sizes.idle_wait_s, "settings": sizes.settings}
        empty = await asyncio.to_thread(in_child, "idle", **{**given, "sessions": [], "wait_s": 0.1})
        full = await asyncio.to_thread(in_child, "idle", **given, sessions=sessions)
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    count = len(sessions)
    empty_mb = empty["rss_trimmed"] / 1e6
    beyond_mb = full["rss_idle"] / 1e6 - empty_mb
    waited = f"after {sizes.idle_wait_s:g} s of idling"
    if full["events_bytes"] != count * appended:
        raise RuntimeError(f"{full['events_bytes']} bytes of events are open where {count * appended} belong")
    return [
        Row(
            *(NAME, f"memory of {count} idle volumes", beyond_mb, "MB", 100 * count / 1000, "<"),
            f"{waited}, beyond an empty process of {empty_mb:.0f} MB",
        ),
        Row(NAME, "requests they send", full["sent"], "", 0, "==", waited),
        Row(NAME, "memory of one", 1000 * beyond_mb / count, "kB", note=f"{appended / 1e6:.2f} MB of events in each"),
        Row(NAME, "memory just after opening", full["rss_open"] / 1e6 - empty_mb, "MB"),
        Row(
            *(NAME, "memory that they use, freed memory given back", full["rss_trimmed"] / 1e6 - empty_mb, "MB"),
            note="after malloc_trim, which the process itself does not call",
        ),
        Row(NAME, "opening one, from a local directory", 1000 * full["opened_s"] / count, "ms"),
    ]


def _clone(directory: Path, sessions: list[str]) -> None:
    """Link the objects of the first of *sessions* into all the others: nothing in an object names its session."""
    first = next(path for path in directory.rglob(sessions[0]) if path.is_dir())
    for name in sessions[1:]:
        shutil.copytree(first, first.parent / name, copy_function=os.link)
