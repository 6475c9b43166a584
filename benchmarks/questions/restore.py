"""What resuming a session with a database costs: at open nothing, at the first statement one round trip.

Each database is restored in fresh processes, which have nothing in their cache: one that was written in a few large
commits, and one that grew in hundreds of small ones, whose pages lie in several blobs. Round trips are counted in this
process: its cache knows a session by the proxy that it came through, so that it is as empty.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.harness.child import MARKS, WARM_SESSION, in_child
from benchmarks.harness.conversation import EVENTS_PATH
from benchmarks.harness.exchanges import Exchange, by_verb, round_trips
from benchmarks.harness.lab import TENANT, Lab, Sizes, say
from benchmarks.harness.proxy import DelayProxy, delay_proxy
from benchmarks.harness.report import Row
from benchmarks.harness.settle import settle
from benchmarks.harness.todos import COUNTS, TodoList
from benchmarks.questions.sql import database_sizes, grow, size_name
from sessionfs_s3 import SessionFs

NAME = "restore"
_SEED: Final = 10
_STEP_BYTES: Final = 2_000_000
"""SQL text of one commit of a database that is written at once; a call takes at most 4 MiB."""

_SCATTERED_COMMITS: Final = 200
"""Commits of one row after a database has grown to its size: what a snapshot seals of them is in a blob of its own."""

_ROUND_TRIP_S: Final = 0.4
"""As where openings are counted: longer than a client needs to send all that it can send at once."""

_AT_ONCE: Final = "written at once"
_GROWN: Final = "grown"
_WITHOUT: Final = "without"


@dataclass(slots=True)
class _Seen:
    """What resuming one session took, once for each time."""

    opening: list[list[Exchange]] = field(default_factory=list[list[Exchange]])
    restoring: list[list[Exchange]] = field(default_factory=list[list[Exchange]])
    restored_s: list[float] = field(default_factory=list[float])
    open_trips: int = 0
    restore_trips: int = 0


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Build the sessions straight at the server, then resume each in fresh processes behind the delay."""
    prefix = lab.prefix()
    expected: dict[str, dict[str, int]] = {_WITHOUT: {}}
    names = {f"{size_name(size)} {how}": size for size in database_sizes(sizes) for how in (_AT_ONCE, _GROWN)}
    async with SessionFs.open(lab.direct(prefix), tenant=TENANT, **sizes.settings) as fs:
        async with fs.volume(WARM_SESSION) as volume:
            await volume.append_file(EVENTS_PATH, "{}\n")
        for name, size in names.items():
            expected[name] = await _build(fs, name, size)
    settings = {**sizes.settings, "snapshot_commits": "1"}
    async with SessionFs.open(lab.direct(prefix), tenant=TENANT, **settings) as fs:
        for name in expected:
            await settle(fs, lab.direct(prefix), _session(name))
    seen = {name: _Seen() for name in expected}
    for _ in range(sizes.restores):
        for name, each in seen.items():
            await _resume(lab, prefix, name, expected[name], seen=each, sizes=sizes)
    with delay_proxy(lab.server.endpoint_url, fixed_s=_ROUND_TRIP_S) as slow:
        settings = {**sizes.settings, "probe": "false"}
        async with SessionFs.open(lab.through(slow, prefix), tenant=TENANT, **settings) as fs:
            for name, each in seen.items():
                await _count_round_trips(slow, fs, name, expected[name], each)
    without = seen.pop(_WITHOUT)
    return [row for name, each in seen.items() for row in _rows(name, each, without)]


def _session(name: str) -> str:
    return name.replace(" ", "-")


async def _build(fs: SessionFs, name: str, size: int) -> dict[str, int]:
    """Make the session whose database is *name*; return what :data:`COUNTS` has to answer."""
    todos = TodoList(_SEED)
    commits = 0
    started_s = time.perf_counter()
    async with fs.volume(_session(name)) as volume:
        if name.endswith(_GROWN):
            commits = await grow(volume, todos, size)
            for _ in range(_SCATTERED_COMMITS):
                await volume.sqlite_query("run", todos.change())
            commits += _SCATTERED_COMMITS
        else:
            for script in todos.grow(size, _STEP_BYTES):
                await volume.sqlite_query("exec", script)
                commits += 1
    say(f"restore: {name} in {commits} commits, built in {time.perf_counter() - started_s:.0f} s")
    counts = todos.counts()
    todos.close()
    return counts


async def _resume(lab: Lab, prefix: str, name: str, expected: Mapping[str, int], *, seen: _Seen, sizes: Sizes) -> None:
    """Open a session in a fresh process and ask its database; add what that took to *seen*."""
    marks = lab.prefix()
    lab.proxy.take()
    found = await asyncio.to_thread(
        in_child,
        "restore",
        url=lab.delayed(prefix),
        marks_url=lab.delayed(marks),
        session=_session(name),
        query=COUNTS if expected else "",
        settings=sizes.settings,
    )
    requests = sorted(lab.proxy.take(), key=lambda each: each.started_s)
    _check(name, found.get("row", {}), expected)
    at = [n for n, each in enumerate(requests) if f"/{marks}/" in each.target]
    if len(at) != len(MARKS):
        raise RuntimeError(f"{len(at)} marks were seen where {len(MARKS)} belong")
    seen.opening.append(requests[at[0] + 1 : at[1]])
    seen.restoring.append(requests[at[1] + 1 : at[2]])
    seen.restored_s.append(float(found.get("restored_s", 0.0)))


async def _count_round_trips(
    proxy: DelayProxy, fs: SessionFs, name: str, expected: Mapping[str, int], seen: _Seen
) -> None:
    proxy.take()
    async with fs.volume(_session(name)) as volume:
        seen.open_trips = round_trips(proxy.take())
        if expected:
            found = await volume.sqlite_query("query", COUNTS)
            seen.restore_trips = round_trips(proxy.take())
            _check(name, found.rows[0] if found is not None else {}, expected)


def _check(name: str, found: Mapping[str, object], expected: Mapping[str, int]) -> None:
    if dict(found) != dict(expected):
        raise RuntimeError(f"{name}: the database holds {found} where {expected} belongs")


def _rows(name: str, seen: _Seen, without: _Seen) -> list[Row]:
    more = max(len(one) - len(other) for one, other in zip(seen.opening, without.opening, strict=True))
    more_kb = (_down_bytes(seen.opening[0]) - _down_bytes(without.opening[0])) / 1000
    first = seen.restoring[0]
    objects = len({each.target for each in first})
    reading_s = statistics.median(
        max(each.ended_s for each in one) - min(each.started_s for each in one) for one in seen.restoring if one
    )
    return [
        Row(
            *(NAME, f"{name}: more requests at open than without a database", more, "", 0, "=="),
            f"{by_verb(seen.opening[-1])} against {by_verb(without.opening[-1])}",
        ),
        Row(
            *(NAME, f"{name}: more round trips at open", seen.open_trips - without.open_trips, "", 0, "=="),
            f"{seen.open_trips} against {without.open_trips}; {more_kb:.1f} kB more received",
        ),
        Row(
            *(NAME, f"{name}: round trips of the first statement", seen.restore_trips, "", 1, "<="),
            f"{by_verb(first)} of {objects} objects, {_down_bytes(first) / 1000:,.0f} kB",
        ),
        Row(
            *(NAME, f"{name}: time of the first statement", statistics.median(seen.restored_s), "s", 1, "<"),
            f"at most {max(seen.restored_s):.3f} s; {reading_s:.3f} s from the first GET's start to the last one's end",
        ),
    ]


def _down_bytes(requests: Sequence[Exchange]) -> int:
    return sum(each.bytes_down for each in requests)
