"""What opening a session costs with 10 commits and with 10,000: round trips, requests, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.harness.conversation import EVENTS_PATH, Words
from benchmarks.harness.exchanges import Exchange, by_verb, round_trips
from benchmarks.harness.lab import TENANT, Lab, Sizes, say
from benchmarks.harness.proxy import DelayProxy, delay_proxy
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs

NAME = "open"
_SHORT = 10
_LINE_BYTES = 64
_ROUND_TRIP_S = 0.4
"""Where round trips are counted every request takes this long: longer than a client needs to send all that it can send
at once, so that a request that begins after another's end has waited for it."""

Kind = tuple[str, bool]
"""Which session, and whether it is opened for reading only."""


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Build the sessions straight at the server, then open them in turns through the delay."""
    prefix = lab.prefix()
    words = Words(3)
    # Opening for writing adds a claim: each such opening of the short session has one of its own.
    short = [f"short-{n}" for n in range(sizes.opens + 2)]
    async with SessionFs.open(lab.direct(prefix), tenant=TENANT, **sizes.settings) as fs:
        started_s = time.perf_counter()
        for session in short:
            await _build(fs, session, _SHORT, words)
        await _build(fs, "long", sizes.commits, words)
        say(f"open: built sessions of {_SHORT} and {sizes.commits} commits in {time.perf_counter() - started_s:.0f} s")
    took: dict[Kind, list[float]] = {}
    seen: dict[Kind, list[list[Exchange]]] = {}
    async with SessionFs.open(lab.delayed(prefix), tenant=TENANT, **sizes.settings) as fs:
        for n, session in enumerate(short[1:]):
            for kind in _kinds():
                opened_s, requests = await _open(lab.proxy, fs, session, kind, sizes)
                if n:  # The first round makes the connections.
                    took.setdefault(kind, []).append(opened_s)
                    seen.setdefault(kind, []).append(requests)
    trips: dict[Kind, int] = {}
    with delay_proxy(lab.server.endpoint_url, fixed_s=_ROUND_TRIP_S) as slow:
        async with SessionFs.open(lab.through(slow, prefix), tenant=TENANT, **sizes.settings) as fs:
            for kind in _kinds():
                trips[kind] = round_trips((await _open(slow, fs, short[0], kind, sizes))[1])
    return [row for read_only in (False, True) for row in _rows(took, seen, trips, sizes, read_only=read_only)]


def _kinds() -> list[Kind]:
    return [(name, read_only) for read_only in (True, False) for name in ("short", "long")]


async def _open(proxy: DelayProxy, fs: SessionFs, short: str, kind: Kind, sizes: Sizes) -> tuple[float, list[Exchange]]:
    """Open one session; return how long that took and what it asked for."""
    session, commits = (short, _SHORT) if kind[0] == "short" else ("long", sizes.commits)
    proxy.take()
    started_s = time.perf_counter()
    async with fs.volume(session, read_only=kind[1]) as volume:
        opened_s = time.perf_counter() - started_s
        requests = proxy.take()
        size = (await volume.stat(EVENTS_PATH)).size
    if size != commits * _LINE_BYTES:
        raise RuntimeError(f"{session} opened with {size} bytes of events, not {commits * _LINE_BYTES}")
    return opened_s, requests


async def _build(fs: SessionFs, session: str, commits: int, words: Words) -> None:
    """Make a session of *commits* commits, each an append that was waited for; snapshots as the engine makes them."""
    async with fs.volume(session) as volume:
        for _ in range(commits):
            line = words.code(_LINE_BYTES - 1).replace("\n", " ").encode("ascii", "replace").decode()
            await volume.append_file(EVENTS_PATH, line + "\n")


def _rows(
    took: dict[Kind, list[float]],
    seen: dict[Kind, list[list[Exchange]]],
    trips: dict[Kind, int],
    sizes: Sizes,
    *,
    read_only: bool,
) -> list[Row]:
    how = "for reading" if read_only else "for writing"
    short_s, long_s = (statistics.median(took[kind, read_only]) for kind in ("short", "long"))
    # Delays are random: what remains of the ratio when each opening is measured in the delays that it had to wait for.
    short_own, long_own = (_excess(took[kind, read_only], seen[kind, read_only]) for kind in ("short", "long"))
    rows = [
        Row(
            *(NAME, f"{how}: time, {sizes.commits} commits / {_SHORT}", long_s / short_s, "x", 1.2, "<="),
            f"p50 {1000 * long_s:.1f} ms against {1000 * short_s:.1f} ms",
        ),
        Row(NAME, f"{how}: beyond the delays, {_SHORT} commits", 1000 * short_own, "ms", note="median"),
        Row(NAME, f"{how}: beyond the delays, {sizes.commits} commits", 1000 * long_own, "ms", note="median"),
    ]
    for kind, commits in (("short", _SHORT), ("long", sizes.commits)):
        each = seen[kind, read_only]
        requests = statistics.fmean(map(len, each))
        down = statistics.fmean(sum(one.bytes_down for one in requests) for requests in each) / 1024
        rows += [
            Row(
                NAME,
                f"{how}: round trips, {commits} commits",
                trips[kind, read_only],
                "",
                2,
                "<=",
                "one after the other, at most",
            ),
            Row(NAME, f"{how}: requests, {commits} commits", requests, "", note=f"the last: {by_verb(each[-1])}"),
            Row(NAME, f"{how}: received, {commits} commits", down, "KiB"),
        ]
    return rows


def _excess(took: Sequence[float], seen: Sequence[Sequence[Exchange]]) -> float:
    """Return the median of what an opening took beyond the time in which the proxy held at least one request."""
    return statistics.median(own_s - _covered(requests) for own_s, requests in zip(took, seen, strict=True))


def _covered(requests: Sequence[Exchange]) -> float:
    """Return how long at least one request was drawn to last, in seconds."""
    total, until_s = 0.0, float("-inf")
    for each in sorted(requests, key=lambda each: each.started_s):
        end_s = each.started_s + each.delay_s
        total += max(0.0, end_s - max(until_s, each.started_s))
        until_s = max(until_s, end_s)
    return total
