"""What is measured in a process of its own: memory, and a resume.

``python -m benchmarks.harness.child WORK`` takes JSON on standard input and prints one JSON object. Reads
``/proc/self``; reaches the store that its input names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.conversation import EVENTS_PATH, Words
from benchmarks.harness.lab import TENANT
from sessionfs_s3 import SessionFs
from sessionfs_s3.errors import KeyNotFound
from sessionfs_s3.store import RequestCounts, open_store

WARM_SESSION: Final = "warm"
"""Opened before anything is measured, where a process has to have opened one."""

MARKS: Final = ("begin", "opened", "restored")
"""Objects that a resume asks for between its steps, and that are not there."""

_ROOT: Final = Path(__file__).parent.parent.parent
_DEADLINE_S: Final = 900.0
_LINE_BYTES: Final = 1024
_TEXTS: Final = 16
"""Different texts of 1 MB that a large file repeats: more than compression looks back (2 MB at zstd's level 3)."""


def in_child(work: str, **given: object) -> dict[str, Any]:
    """Run *work* in a fresh process and return what it measured; blocks.

    Raises:
        RuntimeError: it failed; the message holds the end of what it said.
    """
    done = subprocess.run(  # noqa: S603  # this interpreter and this package
        [sys.executable, "-m", "benchmarks.harness.child", work],
        cwd=_ROOT,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{work} ended with exit status {done.returncode}: {done.stderr[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def idle(url: str, sessions: list[str], wait_s: float, settings: Mapping[str, str]) -> dict[str, object]:
    """Open *sessions*, read a little of each, leave them alone for *wait_s*; say what they hold and what they sent."""
    async with SessionFs.open(url, tenant=TENANT, **settings) as fs, AsyncExitStack() as exits:
        trim()  # What the imports left behind must not make room for volumes without being seen.
        started_s = time.perf_counter()
        sizes = 0
        for session in sessions:
            volume = await exits.enter_async_context(fs.volume(session))
            sizes += (await volume.stat(EVENTS_PATH)).size
        opened_s = time.perf_counter() - started_s
        gc.collect()
        rss_open = rss_bytes()
        before = fs.requests.snapshot()
        await asyncio.sleep(wait_s)
        gc.collect()
        sent = fs.requests.snapshot() - before
        rss_idle = rss_bytes()
        trim()
        rss_trimmed = rss_bytes()
    return {
        "events_bytes": sizes,
        "opened_s": opened_s,
        "rss_open": rss_open,
        "rss_idle": rss_idle,
        "rss_trimmed": rss_trimmed,
        "sent": sent.requests(),
    }


async def build(url: str, size: int, chunk: int, settings: Mapping[str, str]) -> dict[str, object]:
    """Append *size* bytes of events, *chunk* at a time."""
    words = Words(6)
    texts = [words.flush(chunk) for _ in range(_TEXTS)]
    async with SessionFs.open(url, tenant=TENANT, **settings) as fs, fs.volume("large") as volume:
        for n in range(size // chunk):
            await volume.append_file(EVENTS_PATH, texts[n % _TEXTS])
        counts = fs.requests.snapshot()
    return {"peak": peak_bytes(), **_counted(counts)}


async def reopen(url: str, size: int, settings: Mapping[str, str]) -> dict[str, object]:
    """Open the large session, append a line, read everything; say what each step asked for and the peak after it."""
    line = Words(7).flush(_LINE_BYTES)
    found: dict[str, object] = {"rss_start": rss_bytes()}
    async with SessionFs.open(url, tenant=TENANT, **settings) as fs:
        started_s = time.perf_counter()
        async with fs.volume("large") as volume:
            found["opened_s"] = time.perf_counter() - started_s
            found["open"] = {"peak": peak_bytes(), **_counted(fs.requests.snapshot())}
            before = fs.requests.snapshot()
            await volume.append_file(EVENTS_PATH, line)
            found["append"] = {"peak": peak_bytes(), **_counted(fs.requests.snapshot() - before)}
            before = fs.requests.snapshot()
            data = await volume.read_file_bytes(EVENTS_PATH)
            found["read"] = {"peak": peak_bytes(), **_counted(fs.requests.snapshot() - before)}
            if len(data) != size + _LINE_BYTES:
                raise RuntimeError(f"{len(data)} bytes were read where {size + _LINE_BYTES} belong")
    return found


async def restore(url: str, marks_url: str, session: str, query: str, settings: Mapping[str, str]) -> dict[str, object]:
    """Open *session* and, unless *query* is empty, ask its database that; say what it answers and how long each took.

    A request for an object that is not there stands between one step and the next, for whoever counts requests.
    """
    marks = await open_store(marks_url)

    async def mark(step: int) -> None:
        with contextlib.suppress(KeyNotFound):
            await marks.get(MARKS[step])

    found: dict[str, object] = {}
    async with SessionFs.open(url, tenant=TENANT, **settings) as fs:
        async with fs.volume(WARM_SESSION) as volume:  # Imports, connections and the probe are no part of what follows.
            await volume.stat(EVENTS_PATH)
        await mark(0)
        started_s = time.perf_counter()
        async with fs.volume(session) as volume:
            found["opened_s"] = time.perf_counter() - started_s
            await mark(1)
            if query:
                started_s = time.perf_counter()
                answer = await volume.sqlite_query("query", query)
                found["restored_s"] = time.perf_counter() - started_s
                found["row"] = answer.rows[0] if answer is not None else {}
            await mark(2)
    await marks.aclose()
    return found


def trim() -> None:
    """Give freed memory back to the system: the C library keeps it otherwise (glibc's malloc_trim)."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def rss_bytes() -> int:
    """Return what this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the most that this process has held in memory (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _counted(counts: RequestCounts) -> dict[str, object]:
    total = counts.tally()
    return {"requests": counts.by_verb(), "bytes_up": total.bytes_up, "bytes_down": total.bytes_down}


_WORK: Final[Mapping[str, Callable[..., Coroutine[None, None, dict[str, object]]]]] = {
    "idle": idle,
    "build": build,
    "reopen": reopen,
    "restore": restore,
}

if __name__ == "__main__":
    _given = json.load(sys.stdin)
    sys.stdout.write(json.dumps(asyncio.run(_WORK[sys.argv[1]](**_given))))
