"""A writer is killed with SIGKILL in the middle of its work: everything that it was told is stored is there, once."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import open_store
from sessionfs_s3.testing.servers import S3Server
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment

ROUNDS = 4
WRITER = """
import asyncio, sys
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import open_store
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment

async def main(url, name):
    store = await open_store(url)
    options = VolumeOptions(snapshot_commits=16)
    keys = SessionKeys.of("acme", "killed")
    volume = await Volume.open(store, keys, read_only=False, environment=system_environment(), options=options)
    await volume.sqlite_query("exec", "CREATE TABLE IF NOT EXISTS t (name TEXT)")
    for n in range(100_000):
        await volume.append_file("/log", f"{name}.{n}\\n")
        print(f"{name}.{n}", flush=True)
        await volume.sqlite_query("run", "INSERT INTO t VALUES (:name)", {"name": f"{name}.{n}"})
        print(f"row {name}.{n}", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def _run_and_kill(url: str, name: str, after: int) -> list[str]:
    """Start a writer, kill it after so many acknowledgements, and return all that it reported."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, name, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    told = [(await writer.stdout.readline()).decode().strip() for _ in range(after)]
    writer.send_signal(signal.SIGKILL)
    rest = (await writer.stdout.read()).decode()
    assert await writer.wait() == -signal.SIGKILL
    # What follows the last newline was cut off by the kill.
    return told + rest.split("\n")[:-1]


async def check_kills(url: str) -> None:
    """Kill one writer after the other on the store at *url*, and look at what the next one finds."""
    told: list[str] = []
    for n in range(ROUNDS):
        told += await _run_and_kill(url, f"w{n}", 10 + 19 * n)
    volume = await Volume.open(
        await open_store(url),
        SessionKeys.of("acme", "killed"),
        read_only=False,
        environment=system_environment(),
        options=VolumeOptions(),
    )
    stored = (await volume.read_file("/log")).split()
    found = await volume.sqlite_query("query", "SELECT name FROM t ORDER BY rowid")
    assert found is not None
    rows = [f"row {row['name']}" for row in found.rows]
    for seen, acknowledged in (
        (stored, [each for each in told if not each.startswith("row ")]),
        (rows, [each for each in told if each.startswith("row ")]),
    ):
        assert max(Counter(seen).values()) == 1, "nothing is there twice"
        assert [each for each in seen if each in set(acknowledged)] == acknowledged, "all that was told, in order"
        assert len(seen) - len(acknowledged) <= ROUNDS, "at most the one that was under way is there unacknowledged"
    await volume.aclose()


@pytest.mark.timeout(120)
async def test_on_a_directory(tmp_path: Path) -> None:
    await check_kills(tmp_path.as_uri())


@pytest.mark.timeout(120)
async def test_on_an_s3_server(seaweedfs: S3Server, enter: Callable[[S3Server], str]) -> None:
    await check_kills(enter(seaweedfs))
