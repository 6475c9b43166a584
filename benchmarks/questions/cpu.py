"""How much processor time one append costs the client, by S3 client, and where it goes."""

from __future__ import annotations

import cProfile
import pstats
import resource
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.harness.conversation import EVENTS_PATH, Words
from benchmarks.harness.lab import TENANT, Lab, Sizes
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs, Volume
from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store import IF_ABSENT, Store, open_store, parse_store_url

NAME = "cpu"
CLIENTS: Final = ("aiobotocore", "obstore")
_OTHERS: Final = "Python's own and others"
_TOP: Final = 15
_WARM_UP: Final = 20
_ROOT: Final = str(Path(__file__).parent.parent.parent)
_FAMILIES: Final = (
    ("/sessionfs_s3/store/", "our adapter"),
    ("/sessionfs_s3/", "our engine"),
    ("/aiobotocore/", "aiobotocore"),
    ("/botocore/", "botocore"),
    ("/obstore/", "obstore"),
    ("/aiohttp/", "aiohttp"),
    ("/yarl/", "aiohttp"),
    ("/multidict/", "aiohttp"),
    ("/asyncio/", "asyncio"),
    ("zstd", "zstandard"),
    ("_hashlib", "hashlib"),
    ("sha256", "hashlib"),
    ("hmac", "hashlib"),
    ("_socket", "socket, ssl"),
    ("_ssl", "socket, ssl"),
    ("epoll", "socket, ssl"),
)
Function = tuple[str, int, str]


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
    own = _own_times(profile)
    total_s = sum(own.values())
    families: defaultdict[str, float] = defaultdict(float)
    for function, own_s in own.items():
        families[_family(function)] += own_s
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
        where = f"{_family(function)}, {1000 * own[function] / count:.3f} ms per append under the profiler"
        rows.append(Row(NAME, f"{client}: {_name(function)}", 100 * own[function] / total_s, "%", note=where))
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


def _own_times(profile: cProfile.Profile) -> dict[Function, float]:
    """Return each function's own seconds.

    What is written in C and belongs to nobody (``str.join``, ``isinstance``) counts for whoever called it. Waiting for
    events is no work and is left out.
    """
    stats = cast("dict[Function, Sequence[Any]]", vars(pstats.Stats(profile))["stats"])
    own: defaultdict[Function, float] = defaultdict(float)
    for function, (_, _, own_s, _, callers) in stats.items():
        if "poll' of 'select.epoll'" in function[2]:
            continue
        if function[0] == "~" and callers and _family(function) == _OTHERS:
            for caller, figures in callers.items():
                own[caller] += figures[2]
        else:
            own[function] += own_s
    return own


def _family(function: Function) -> str:
    path, _, name = function
    text = f"{path.removeprefix(_ROOT)} {name}" if path != "~" else name
    return next((family for needle, family in _FAMILIES if needle in text), _OTHERS)


def _name(function: Function) -> str:
    path, line, name = function
    if path == "~":
        return f"`{name}`"
    parts = Path(path).parts
    roots = [at for at, part in enumerate(parts) if part in ("site-packages", "sessionfs_s3")]
    start = roots[0] if roots else max(0, len(parts) - 3)
    shown = "/".join(parts[start + (parts[start] == "site-packages") :])
    return f"`{shown}:{line} {name}`"
