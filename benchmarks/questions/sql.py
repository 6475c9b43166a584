"""What a commit of SQL costs with databases of 0.1, 1 and 10 MB, here and with other ways to keep one in a bucket.

The same statements run on the same server, one commit after the other: through the session's database, with the whole
file put for each commit, and through sqlite-s3vfs. Bytes and requests are counted at the proxy, what the engine does in
the background and on closing included.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from benchmarks.harness.exchanges import Exchange, uncompressed_bytes
from benchmarks.harness.lab import TENANT, Lab, Sizes, say
from benchmarks.harness.report import Row
from benchmarks.harness.settle import settle
from benchmarks.harness.todos import COUNTS, TodoList
from benchmarks.questions.sql_rivals import Run, Work, clocked, cut_off_rows, measured
from sessionfs_s3 import SessionFs, Volume

NAME = "sql"
_SEED: Final = 9
_SIZES: Final = (100_000, 1_000_000, 10_000_000)
_GROWING_COMMITS: Final = 500
"""Commits in which a session's database grows to its size: blobs and snapshots are then what they are in use."""

_STEP_BYTES_MIN: Final = 2000
_OURS: Final = "session"


def database_sizes(sizes: Sizes) -> list[int]:
    """Return the sizes in bytes that are measured."""
    return [size for size in _SIZES if size <= max(_SIZES[0], 1000 * sizes.database_kb)]


def size_name(size: int) -> str:
    """Return *size* as the table has it."""
    return f"{size / 1e6:g} MB"


async def grow(volume: Volume, todos: TodoList, size: int) -> int:
    """Have the database of *volume* grow to *size* bytes in many small commits; return how many."""
    step_bytes = max(_STEP_BYTES_MIN, size // _GROWING_COMMITS)
    count = 0
    for script in todos.grow(size, step_bytes):
        await volume.sqlite_query("exec", script)
        count += 1
    return count


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Measure every size, then what a rival's commit leaves that is cut off in its middle."""
    rows: list[Row] = []
    for size in database_sizes(sizes):
        rows += await _size_rows(lab, sizes, size)
    return rows + await asyncio.to_thread(cut_off_rows, lab, NAME)


async def _size_rows(lab: Lab, sizes: Sizes, size: int) -> list[Row]:
    prefix = lab.prefix()
    todos = TodoList(_SEED)
    started_s = time.perf_counter()
    async with (
        SessionFs.open(lab.direct(prefix), tenant=TENANT, **sizes.settings) as fs,
        fs.volume("sql") as volume,
    ):
        commits = await grow(volume, todos, size)
    # What it was built of is sealed now, and not while the commits are counted.
    async with SessionFs.open(lab.direct(prefix), tenant=TENANT, **{**sizes.settings, "snapshot_commits": "1"}) as fs:
        await settle(fs, lab.direct(prefix), "sql")
    say(f"sql: {size_name(size)} in {commits} commits, built in {time.perf_counter() - started_s:.0f} s")
    image = todos.image()
    few = [todos.change() for _ in range(sizes.sql_rival_commits)]
    rivals = await measured(lab, Work(image, few, todos.counts()))
    many = few + [todos.change() for _ in range(sizes.sql_commits - len(few))]
    ours = await _session(lab, prefix, Work(image, many, todos.counts()), sizes)
    todos.close()
    rows = _our_rows(size, ours)
    for name, rival in rivals.items():
        rows += _rival_rows(size, ours, name, rival)
    return rows


async def _session(lab: Lab, prefix: str, work: Work, sizes: Sizes) -> Run:
    async with SessionFs.open(lab.delayed(prefix), tenant=TENANT, **sizes.settings) as fs:
        async with fs.volume("sql") as volume:
            await volume.sqlite_query("query", COUNTS)  # Restored before the clock runs.
            with clocked(lab, len(work.statements)) as run:
                for sql in work.statements:
                    await volume.sqlite_query("run", sql)
            found = await volume.sqlite_query("query", COUNTS)
        run.seen += lab.proxy.take()  # What was still being written when the last commit was acknowledged.
    work.check(_OURS, found.rows[0] if found is not None else {})
    return run


def _our_rows(size: int, ours: Run) -> list[Row]:
    about = size_name(size)
    puts = {".c": list[Exchange](), ".s": list[Exchange](), "": list[Exchange]()}
    for each in ours.seen:
        if each.verb == "PUT":
            puts.get(each.target.partition("?")[0][-2:], puts[""]).append(each)
    commits, snapshots, blobs = puts.values()
    parts = ", ".join(
        f"{name} {sum(each.bytes_up for each in part) / ours.commits / 1000:.1f}"
        for name, part in (("commits", commits), ("snapshots", snapshots), ("blobs", blobs))
    )
    own_s = sum(each.delay_s for each in commits) / len(commits)
    pages = uncompressed_bytes(commits) / ours.commits / 1000
    return [
        Row(
            *(NAME, f"{about}: commit PUTs per commit", len(commits) / ours.commits, "", 1, "=="),
            f"{ours.commits} commits of one statement",
        ),
        Row(
            *(NAME, f"{about}: commits per second", ours.per_s, ""),
            note=f"own delay of the PUTs {1000 * own_s:.1f} ms of {1000 * ours.took_s / ours.commits:.1f} ms; "
            f"{1000 * ours.waited_s / ours.commits:.1f} ms waiting for a core",
        ),
        Row(
            *(NAME, f"{about}: bytes PUT per commit", ours.put_bytes / 1000, "kB"),
            note=f"{parts}; {len(snapshots)} snapshots, {len(blobs)} blobs",
        ),
        Row(NAME, f"{about}: the same, pages of the commits alone, uncompressed", pages, "kB"),
        Row(NAME, f"{about}: requests per commit", len(ours.seen) / ours.commits, "", note=ours.requests),
    ]


def _rival_rows(size: int, ours: Run, name: str, rival: Run) -> list[Row]:
    about = f"{size_name(size)}: {_OURS} / {name}"
    return [
        Row(
            *(NAME, f"{about}, commits per second", ours.per_s / rival.per_s, "x"),
            note=f"{ours.per_s:.1f}/s against {rival.per_s:.2f}/s; per commit: {rival.requests}",
        ),
        Row(
            *(NAME, f"{about}, bytes PUT per commit", ours.put_bytes / rival.put_bytes, "x"),
            note=f"{ours.put_bytes / 1000:.1f} kB against {rival.put_bytes / 1000:,.1f} kB",
        ),
    ]
