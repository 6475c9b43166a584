"""What one durable append costs: requests, and time against the PUT's own delay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.harness.conversation import EVENTS_PATH, Words
from benchmarks.harness.exchanges import Exchange
from benchmarks.harness.lab import TENANT, Lab, Sizes, waited_s
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs
from sessionfs_s3.store import IF_ABSENT, open_store

NAME = "append"
_BYTES = 1024
_WARM_UP = 5


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Append 1 KiB again and again, taking turns with a plain PUT of the bare adapter: both see the same load."""
    words = Words(1)
    lines = [words.flush(_BYTES) for _ in range(_WARM_UP + sizes.appends)]
    raw_s: list[float] = []
    append_s: list[float] = []
    waiting_s = 0.0
    prefix = lab.prefix()
    store = await open_store(lab.delayed(f"{prefix}-raw"))
    async with (
        SessionFs.open(lab.delayed(prefix), tenant=TENANT, **sizes.settings) as fs,
        fs.volume("append") as volume,
    ):
        for n, line in enumerate(lines):
            if n == _WARM_UP:
                lab.proxy.take()
                waiting_s = waited_s()
            data = line.encode()
            started_s = time.perf_counter()
            await store.put(f"raw/{n}", data, condition=IF_ABSENT)
            between_s = time.perf_counter()
            await volume.append_file(EVENTS_PATH, line)
            raw_s.append(between_s - started_s)
            append_s.append(time.perf_counter() - between_s)
        waiting_s = waited_s() - waiting_s
        seen = lab.proxy.take()
    await store.aclose()
    rows = _rows(seen, raw_s[_WARM_UP:], append_s[_WARM_UP:])
    waiting_ms = 1000 * waiting_s / (2 * sizes.appends)
    return [*rows, Row(NAME, "client waiting for a core", waiting_ms, "ms", note="of that, per request")]


def _rows(seen: Sequence[Exchange], raw_s: Sequence[float], append_s: Sequence[float]) -> list[Row]:
    raw = [each for each in seen if "-raw/" in each.target]
    commits = [each for each in seen if each.verb == "PUT" and each.target.endswith(".c")]
    others = len(seen) - len(raw) - len(commits)
    count = len(append_s)
    own_s, raw_own_s = (statistics.fmean(each.delay_s for each in part) for part in (commits, raw))
    held_s, raw_held_s = (statistics.fmean(each.held_s for each in part) for part in (commits, raw))
    mean_s, raw_mean_s = statistics.fmean(append_s), statistics.fmean(raw_s)
    p50_s, p50_own_s = statistics.median(append_s), statistics.median(each.delay_s for each in commits)
    each = "mean of the time / mean of the delays drawn for these PUTs"
    return [
        Row(NAME, "commit PUTs per append", len(commits) / count, "", 1, "==", f"{count} appends of 1 KiB"),
        Row(NAME, "other requests per append", others / count, "", note="snapshots and the like, in the background"),
        Row(NAME, "time / the PUT's own delay", mean_s / own_s, "x", 1.15, "<=", each),
        Row(NAME, "the same, p50 / p50", p50_s / p50_own_s, "x"),
        Row(
            NAME, "bare adapter: time / own delay", raw_mean_s / raw_own_s, "x", note="the same PUTs without the engine"
        ),
        Row(NAME, "append, mean", 1000 * mean_s, "ms", note=f"own delay {1000 * own_s:.2f} ms"),
        Row(NAME, "append, p50", 1000 * p50_s, "ms"),
        Row(NAME, "bare PUT, mean", 1000 * raw_mean_s, "ms", note=f"own delay {1000 * raw_own_s:.2f} ms"),
        Row(NAME, "proxy and server beyond the delay", 1000 * (held_s - own_s), "ms", note="per append"),
        Row(NAME, "client beyond the proxy", 1000 * (mean_s - held_s), "ms", note="per append, engine and adapter"),
        Row(
            NAME, "bare client beyond the proxy", 1000 * (raw_mean_s - raw_held_s), "ms", note="per PUT, adapter alone"
        ),
    ]
