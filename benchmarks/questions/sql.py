"""What a commit of SQL costs with databases of 0.1, 1 and 10 MB, here and with other ways to keep one in a bucket.

The same statements run on the same server, one commit after the other: through the session's database, with the whole
file put for each commit, and through sqlite-s3vfs. Bytes and requests are counted at the proxy, what the engine does in
the background and on closing included.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.harness.exchanges import Exchange, by_verb, uncompressed_bytes
from benchmarks.harness.lab import TENANT, Lab, Sizes, say, waited_s
from benchmarks.harness.report import Row
from benchmarks.harness.rivals import Bucket, CutOff, Journal, WholeImage, counts_of
from benchmarks.harness.todos import COUNTS, TodoList
from sessionfs_s3 import SessionFs, Volume
from sessionfs_s3.store import open_store

NAME = "sql"
_SEED: Final = 9
_SIZES: Final = (100_000, 1_000_000, 10_000_000)
_GROWING_COMMITS: Final = 500
"""Commits in which a session's database grows to its size: blobs and snapshots are then what they are in use."""

_STEP_BYTES_MIN: Final = 2000
_IMAGES: Final = {"whole file": False, "whole file, zstd": True}
_JOURNALS: Final[Mapping[str, Journal]] = {"sqlite-s3vfs": "delete", "sqlite-s3vfs, journal in memory": "memory"}
_OURS: Final = "session"
_ROWS: Final = (1, 30, 60, 90, 120)
_README: Final = 'Its README: "No locking is performed, so client code must ensure that writes do not overlap"'


@dataclass(slots=True)
class _Run:
    """What one way of committing took."""

    commits: int
    took_s: float
    waited_s: float = 0.0
    seen: list[Exchange] = field(default_factory=list[Exchange])

    @property
    def per_s(self) -> float:
        """Commits per second."""
        return self.commits / self.took_s

    @property
    def put_bytes(self) -> float:
        """Bytes put for each commit."""
        return sum(each.bytes_up for each in self.seen if each.verb == "PUT") / self.commits

    @property
    def requests(self) -> str:
        """Requests of each verb for each commit."""
        return ", ".join(f"{verb} {count / self.commits:.2g}" for verb, count in by_verb(self.seen).items())


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
    return rows + await asyncio.to_thread(_cut_off_rows, lab)


async def _size_rows(lab: Lab, sizes: Sizes, size: int) -> list[Row]:
    prefix = lab.prefix()
    todos = TodoList(_SEED)
    started_s = time.perf_counter()
    async with (
        SessionFs.open(lab.direct(prefix), tenant=TENANT, **sizes.settings) as fs,
        fs.volume("sql") as volume,
    ):
        commits = await grow(volume, todos, size)
    say(f"sql: {size_name(size)} in {commits} commits, built in {time.perf_counter() - started_s:.0f} s")
    image = todos.image()
    few = [todos.change() for _ in range(sizes.sql_rival_commits)]
    few_counts = todos.counts()
    runs = {
        name: await _image(lab, image, few, few_counts, compressed=compressed) for name, compressed in _IMAGES.items()
    }
    for name, journal in _JOURNALS.items():
        runs[name] = await asyncio.to_thread(_s3vfs, lab, image, few, few_counts, journal)
    many = few + [todos.change() for _ in range(sizes.sql_commits - len(few))]
    ours = await _session(lab, prefix, many, todos.counts(), sizes)
    todos.close()
    return [
        *_our_rows(size, ours),
        *(row for name, rival in runs.items() for row in _rival_rows(size, ours, name, rival)),
    ]


async def _session(lab: Lab, prefix: str, statements: Sequence[str], counts: Mapping[str, int], sizes: Sizes) -> _Run:
    async with SessionFs.open(lab.delayed(prefix), tenant=TENANT, **sizes.settings) as fs:
        async with fs.volume("sql") as volume:
            await volume.sqlite_query("query", COUNTS)  # Restored before the clock runs.
            lab.proxy.take()
            waiting_s, started_s = waited_s(), time.perf_counter()
            for sql in statements:
                await volume.sqlite_query("run", sql)
            run = _Run(len(statements), time.perf_counter() - started_s, waited_s() - waiting_s)
            found = await volume.sqlite_query("query", COUNTS)
        run.seen = lab.proxy.take()
    assert found is not None
    _check(_OURS, found.rows[0], counts)
    return run


async def _image(
    lab: Lab, image: bytes, statements: Sequence[str], counts: Mapping[str, int], *, compressed: bool
) -> _Run:
    store = await open_store(lab.delayed(lab.prefix()))
    rival = WholeImage(store, image, compressed=compressed)
    try:
        await store.list("")  # Makes the connection.
        lab.proxy.take()
        waiting_s, started_s = waited_s(), time.perf_counter()
        for sql in statements:
            await rival.commit(sql)
        run = _Run(len(statements), time.perf_counter() - started_s, waited_s() - waiting_s, lab.proxy.take())
        _check("the whole file", await rival.counts(COUNTS), counts)
    finally:
        rival.close()
        await store.aclose()
    return run


def _s3vfs(lab: Lab, image: bytes, statements: Sequence[str], counts: Mapping[str, int], journal: Journal) -> _Run:
    prefix = lab.prefix()
    Bucket(lab.server.endpoint_url).load(prefix, image)
    with Bucket(lab.proxy.endpoint_url).database(prefix, journal) as database:
        database.execute("SELECT count(*) FROM notes").fetchall()
        lab.proxy.take()
        waiting_s, started_s = waited_s(), time.perf_counter()
        for sql in statements:
            database.execute(sql).fetchall()
        run = _Run(len(statements), time.perf_counter() - started_s, waited_s() - waiting_s, lab.proxy.take())
    with Bucket(lab.server.endpoint_url).database(prefix, journal) as database:
        _check("sqlite-s3vfs", counts_of(database, COUNTS), counts)
    return run


def _check(who: str, found: Mapping[str, object], expected: Mapping[str, int]) -> None:
    if dict(found) != dict(expected):
        raise RuntimeError(f"{who}: the database holds {dict(found)} where {dict(expected)} belongs")


def _our_rows(size: int, ours: _Run) -> list[Row]:
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


def _rival_rows(size: int, ours: _Run, name: str, rival: _Run) -> list[Row]:
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


def _cut_off_rows(lab: Lab) -> list[Row]:
    """Cut a transaction of sqlite-s3vfs off after each of its PUTs, and see what the next to open finds."""
    todos = TodoList(_SEED)
    for _ in todos.grow(_SIZES[0], _STEP_BYTES_MIN):
        pass
    image = todos.image()
    todos.close()
    bucket = Bucket(lab.server.endpoint_url)
    rows: list[Row] = []
    for name, journal in _JOURNALS.items():
        halves = cuts = 0
        while (is_half := _cut_off(bucket, lab.prefix(), image, journal, cuts)) is not None:
            cuts += 1
            halves += is_half
        about = f"{name}: transactions of {len(_ROWS)} rows that are half there after being cut off"
        rows.append(Row(NAME, about, halves, "", note=f"of {cuts}, one after each number of PUTs. {_README}"))
    return rows


def _cut_off(bucket: Bucket, prefix: str, image: bytes, journal: Journal, puts: int) -> bool | None:
    """Return whether a transaction that ends after *puts* PUTs is half there; None if it did not need more."""
    bucket.load(prefix, image)
    is_whole = False
    with contextlib.suppress(CutOff), bucket.database(prefix, journal) as database:
        bucket.cut_off_after(puts)
        database.execute(f"UPDATE notes SET body = 'changed' WHERE id IN {_ROWS}").fetchall()  # noqa: S608
        is_whole = True
    bucket.cut_off_after(None)
    if is_whole:
        return None
    with bucket.database(prefix, journal) as database:
        changed = counts_of(database, "SELECT count(*) AS rows FROM notes WHERE body = 'changed'")["rows"]
    return changed not in (0, len(_ROWS))
