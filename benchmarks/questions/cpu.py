"""How much processor time one append costs the client, by S3 client, and where it goes."""

from __future__ import annotations

import cProfile
import pstats
import resource
from collections import defaultdict
from typing import Final

from benchmarks.harness.conversation import EVENTS_PATH, Words
from benchmarks.harness.lab import TENANT, Lab, Sizes
from benchmarks.harness.profiles import family_of, name_of, own_times
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs, Volume
from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store import IF_ABSENT, Store, open_store, parse_store_url

NAME = "cpu"
CLIENTS: Final = ("aiobotocore", "obstore")
_TOP: Final = 15
_WARM_UP: Final = 20


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Measure each client that a URL can name here, straight at the server."""
    rows: list[Row] = []
    for client in CLIENTS:
        url = lab.direct(lab.prefix(), "" if client == CLIENTS[0] else client)
        try:
            parse_store_url(url)
            store = await open_store(url)
        except (InvalidInput, ImportError) as error:
            rows.append(Row(NAME, f"{client}: CPU per append", None, "ms", note=f"{error}"))
            continue
        rows += await _client_rows(client, url, store, sizes)
        await store.aclose()
    return rows


async def _client_rows(client: str, url: str, store: Store, sizes: Sizes) -> list[Row]:
    line = Words(5).flush(1024)
    data = line.encode()
    count = sizes.cpu_appends
    async with (
        SessionFs.open(url, tenant=TENANT, **sizes.settings) as fs,
        fs.volume("cpu") as volume,
    ):
        await _append(volume, line, _WARM_UP)
        before_s = _used_s()
        await _append(volume, line, count)
        append_ms = 1000 * (_used_s() - before_s) / count
        await _put(store, data, "warm", _WARM_UP)
        before_s = _used_s()
        await _put(store, data, "raw", count)
        put_ms = 1000 * (_used_s() - before_s) / count
        profile = cProfile.Profile()
        profile.enable()
        await _append(volume, line, count)
        profile.disable()
    own = own_times(pstats.Stats(profile))
    total_s = sum(own.values())
    families: defaultdict[str, float] = defaultdict(float)
    for function, own_s in own.items():
        families[family_of(function)] += own_s
    shares = sorted(families.items(), key=lambda item: -item[1])
    rows = [
        Row(NAME, f"{client}: CPU per append", append_ms, "ms", note="user and system, all threads"),
        Row(NAME, f"{client}: CPU per bare PUT", put_ms, "ms", note="the adapter alone"),
        Row(NAME, f"{client}: the engine's share", append_ms - put_ms, "ms"),
    ]
    rows += [
        Row(NAME, f"{client}: profile, {family}", 100 * own_s / total_s, "%", note="of own time, event loop's thread")
        for family, own_s in shares
    ]
    for function in sorted(own, key=lambda function: -own[function])[:_TOP]:
        where = f"{family_of(function)}, {1000 * own[function] / count:.3f} ms per append under the profiler"
        rows.append(Row(NAME, f"{client}: {name_of(function)}", 100 * own[function] / total_s, "%", note=where))
    return rows


async def _append(volume: Volume, line: str, count: int) -> None:
    for _ in range(count):
        await volume.append_file(EVENTS_PATH, line)


async def _put(store: Store, data: bytes, name: str, count: int) -> None:
    for n in range(count):
        await store.put(f"{name}/{n}", data, condition=IF_ABSENT)


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
