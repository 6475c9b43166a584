"""The questions about the session's database still run, at their smallest size, and say what they are to say."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator

import pytest
import zstandard

from benchmarks.harness.lab import BUCKET, Lab, Sizes
from benchmarks.harness.proxy import delay_proxy
from benchmarks.harness.report import Row
from benchmarks.harness.todos import COUNTS, TodoList
from benchmarks.questions import restore, sql
from sessionfs_s3.testing.servers import S3Server

SEED = 12
SMALLEST = Sizes(database_kb=1, sql_commits=40, sql_rival_commits=2, restores=1)


@pytest.fixture
def lab(ministack: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    for name, value in ministack.environment().items():
        monkeypatch.setenv(name, value)
    with contextlib.suppress(ministack.client.exceptions.BucketAlreadyOwnedByYou):
        ministack.create_bucket(BUCKET)
    with delay_proxy(ministack.endpoint_url, fixed_s=0.0) as proxy:
        yield Lab(ministack, proxy)


def found(rows: list[Row], what: str) -> Row:
    return next(row for row in rows if what in row.what)


def valued(rows: list[Row], what: str) -> list[float]:
    values = [row.value for row in rows if what in row.what]
    assert values, f"no row says {what!r}"
    return [value for value in values if value is not None]


@pytest.mark.servers
async def test_commits_of_sql(lab: Lab) -> None:
    rows = await sql.run(lab, SMALLEST)
    assert [row.what for row in rows if row.met is False] == []
    assert valued(rows, "commit PUTs per commit") == [1]
    pages, put = valued(rows, "pages of the commits alone")[0], valued(rows, "0.1 MB: bytes PUT per commit")[0]
    assert pages > 4, "a statement changes a page at the least"
    assert put > 0.2 * pages
    assert not re.search(r"\b0 snapshots", found(rows, "0.1 MB: bytes PUT per commit").note), "enough commits for one"
    assert [value < 1 for value in valued(rows, "session / whole file, bytes PUT per commit")] == [True]
    assert len(valued(rows, "commits per second")) == 5, "four others"
    whole, torn = valued(rows, "half there after being cut off")
    assert whole == 0
    assert torn > 0


@pytest.mark.servers
async def test_restoring_a_database(lab: Lab) -> None:
    rows = await restore.run(lab, SMALLEST)
    assert valued(rows, "more requests at open") == [0, 0]
    assert valued(rows, "more round trips at open") == [0, 0]
    assert valued(rows, "round trips of the first statement") == [1, 1]
    assert all(value > 0 for value in valued(rows, "time of the first statement"))


def test_the_statements_make_the_database_that_they_are_said_to_make() -> None:
    todos, again = TodoList(SEED), TodoList(SEED)
    scripts = [*todos.grow(300_000, 2000), *(todos.change() for _ in range(50))]
    assert scripts == [*again.grow(300_000, 2000), *(again.change() for _ in range(50))], "from one seed the same"
    assert len(scripts) > 100
    assert 300_000 <= todos.size < 350_000
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        for script in scripts:
            database.executescript(script)
        names = [name for name, *_ in database.execute(COUNTS).description]
        assert dict(zip(names, database.execute(COUNTS).fetchone(), strict=True)) == todos.counts()
    assert todos.counts()["done"] > 0
    assert todos.image().startswith(b"SQLite format 3")
    assert 0.2 < len(zstandard.compress(todos.image())) / todos.size < 0.4, "as words do"
    todos.close()
    again.close()
