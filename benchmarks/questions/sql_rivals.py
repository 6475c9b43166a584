"""The other ways of keeping a database in a bucket, measured with the statements that the session's database gets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.harness.exchanges import Exchange, by_verb
from benchmarks.harness.lab import Lab, waited_s
from benchmarks.harness.report import Row
from benchmarks.harness.rivals import Bucket, CutOff, Journal, WholeImage, counts_of
from benchmarks.harness.todos import COUNTS, TodoList
from sessionfs_s3.store import open_store

_SEED: Final = 11
_IMAGES: Final = {"whole file": False, "whole file, zstd": True}
_JOURNALS: Final[Mapping[str, Journal]] = {"sqlite-s3vfs": "delete", "sqlite-s3vfs, journal in memory": "memory"}
_ROWS: Final = (1, 30, 60, 90, 120)
_CUTS_APART: Final[Mapping[Journal, int]] = {"delete": 4, "memory": 1}
"""PUTs from one place where a transaction is cut off to the next: with a journal there are six times as many."""

_README: Final = 'Its README: "No locking is performed, so client code must ensure that writes do not overlap"'


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: *statements*, a commit each, to the database *image*, which then answers *counts*."""

    image: bytes = field(repr=False)
    statements: Sequence[str]
    counts: Mapping[str, int]

    def check(self, who: str, found: Mapping[str, object]) -> None:
        """Refuse what *who* did, unless its database answers as it has to."""
        if dict(found) != dict(self.counts):
            raise RuntimeError(f"{who}: the database holds {dict(found)} where {dict(self.counts)} belongs")


@dataclass(slots=True)
class Run:
    """What one way of committing took.

    Attributes:
        commits: how many.
        took_s: from the first one's start to the last one's end.
        waited_s: how long of that this process had no core.
        seen: the requests.
    """

    commits: int
    took_s: float = 0.0
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
        return ", ".join(f"{verb} {count / self.commits:.3g}" for verb, count in by_verb(self.seen).items())


@contextmanager
def clocked(lab: Lab, commits: int) -> Generator[Run]:
    """Measure the block, which makes so many commits; the requests are those that ended by then."""
    run = Run(commits)
    lab.proxy.take()
    waiting_s, started_s = waited_s(), time.perf_counter()
    yield run
    run.took_s, run.waited_s = time.perf_counter() - started_s, waited_s() - waiting_s
    run.seen = lab.proxy.take()


async def measured(lab: Lab, work: Work) -> dict[str, Run]:
    """Do *work* in every other way, and return what each took, by name."""
    runs = {name: await _whole_image(lab, work, compressed=compressed) for name, compressed in _IMAGES.items()}
    return {**runs, **await asyncio.to_thread(_s3vfs, lab, work)}


async def _whole_image(lab: Lab, work: Work, *, compressed: bool) -> Run:
    store = await open_store(lab.delayed(lab.prefix()))
    rival = WholeImage(store, work.image, compressed=compressed)
    try:
        await store.list("")  # Makes the connection.
        with clocked(lab, len(work.statements)) as run:
            for sql in work.statements:
                await rival.commit(sql)
        work.check("the whole file", await rival.counts(COUNTS))
    finally:
        rival.close()
        await store.aclose()
    return run


def _s3vfs(lab: Lab, work: Work) -> dict[str, Run]:
    direct, delayed = Bucket(lab.server.endpoint_url), Bucket(lab.proxy.endpoint_url)
    runs: dict[str, Run] = {}
    for name, journal in _JOURNALS.items():
        prefix = lab.prefix()
        direct.load(prefix, work.image)
        with delayed.database(prefix, journal) as database:
            database.execute("SELECT count(*) FROM notes").fetchall()
            with clocked(lab, len(work.statements)) as runs[name]:
                for sql in work.statements:
                    database.execute(sql).fetchall()
        with direct.database(prefix, journal) as database:
            work.check(name, counts_of(database, COUNTS))
    return runs


def cut_off_rows(lab: Lab, question: str) -> list[Row]:
    """Cut a transaction of sqlite-s3vfs off between its PUTs, and see what the next one to open the database finds."""
    todos = TodoList(_SEED)
    for _ in todos.grow(100_000, 2000):
        pass
    image = todos.image()
    todos.close()
    bucket = Bucket(lab.server.endpoint_url)
    rows: list[Row] = []
    for name, journal in _JOURNALS.items():
        halves = cuts = 0
        while (is_half := _cut_off(bucket, lab.prefix(), image, journal, cuts * _CUTS_APART[journal])) is not None:
            cuts += 1
            halves += is_half
        about = f"{name}: transactions of {len(_ROWS)} rows that are half there after being cut off"
        rows.append(Row(question, about, halves, "", note=f"of {cuts}, each between two other PUTs. {_README}"))
    return rows


def _cut_off(bucket: Bucket, prefix: str, image: bytes, journal: Journal, puts: int) -> bool | None:
    """Return whether a transaction that ends after *puts* PUTs is half there; None if it did not need more."""
    bucket.load(prefix, image)
    is_whole = False
    with contextlib.suppress(CutOff), bucket.database(prefix, journal) as database:
        bucket.cut_off_after(puts)
        database.execute(f"UPDATE notes SET body = 'changed' WHERE id IN {_ROWS}").fetchall()  # noqa: S608  # numbers
        is_whole = True
    bucket.cut_off_after(None)
    if is_whole:
        return None
    with bucket.database(prefix, journal) as database:
        changed = counts_of(database, "SELECT count(*) AS rows FROM notes WHERE body = 'changed'")["rows"]
    return changed not in (0, len(_ROWS))
