"""A session whose conversation log has grown to 200 MB: built, and opened, in processes of their own.

``python -m tests.volume.grown build|open|nothing DIRECTORY`` prints what the process did as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
from dataclasses import replace
from pathlib import Path

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import LocalStore, MeteredStore, RequestLog, Verb
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.environment import system_environment

PIECES = 5
PIECE_BYTES = 40_000_000
EVENTS = "/session-state/events.jsonl"
_KEYS = SessionKeys.of("acme", "grown")


def piece(number: int) -> str:
    """Return one part of the log: lines of text that compress badly."""
    return random.Random(number).randbytes(PIECE_BYTES // 2).hex()


async def build(store: MeteredStore) -> Volume:
    volume = await _opened(store)
    for number in range(PIECES):
        await volume.append_file(EVENTS, piece(number))
    return volume


async def open_and_append(store: MeteredStore, log: RequestLog, told: dict[str, object]) -> Volume:
    volume = await _opened(store)
    told["size"] = (await volume.stat(EVENTS)).size
    told["opening"] = log.snapshot().by_verb()
    before = log.snapshot()
    await volume.append_file(EVENTS, "one more line\n")
    told["append"] = (log.snapshot() - before).by_verb()
    told["append_bytes"] = (log.snapshot() - before).tally(Verb.PUT).bytes_up
    told["tail"] = (await volume.read_range(EVENTS, PIECES * PIECE_BYTES - 10, None)).decode()
    return volume


async def _opened(store: MeteredStore) -> Volume:
    return await Volume.open(
        store,
        _KEYS,
        read_only=False,
        environment=replace(system_environment(), cache=ContentCache(16 * 1024 * 1024)),
        options=VolumeOptions(),
    )


async def main(what: str, directory: Path) -> None:
    """Do *what* with the session below *directory* and print what it took."""
    told: dict[str, object] = {}
    log = RequestLog()
    store = MeteredStore(await LocalStore.open(directory), log)
    if what == "build":
        await (await build(store)).aclose()
    elif what == "open":
        volume = await open_and_append(store, log, told)
        told["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        await volume.aclose()
    await store.aclose()
    told.setdefault("rss_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told["cpu_s"] = usage.ru_utime + usage.ru_stime
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
