"""A writer is killed with SIGKILL in the middle of its work: everything that it was told is stored is there, once.

A few kills on each store; ``make soak`` runs it for long (``SESSIONFS_SOAK_KILLS``, ``SESSIONFS_SOAK_SEED``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import open_store
from sessionfs_s3.testing.servers import S3Server
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment
from tests.volume.forked import FORKED

KILLS = int(os.environ.get("SESSIONFS_SOAK_KILLS") or 3)
LOOKS_EVERY = 25
ACKNOWLEDGED_MAX = 60
"""With a snapshot every 16 commits, some writers are killed before their first snapshot and some after several."""

TIMEOUT_S = 120 + 5 * KILLS
SERVERS = [
    pytest.param(name, marks=[pytest.mark.servers, pytest.mark.xdist_group(name)])
    for name in ("ministack", "seaweedfs", "minio")
]
KEYS = SessionKeys.of("acme", "killed")


async def _write(url: str, name: str, told: int) -> None:
    """Append and insert for ever, and tell the pipe *told* of everything that was acknowledged."""
    options = VolumeOptions(snapshot_commits=16)
    environment = system_environment()
    volume = await Volume.open(await open_store(url), KEYS, read_only=False, environment=environment, options=options)
    await volume.sqlite_query("exec", "CREATE TABLE IF NOT EXISTS t (name TEXT)")
    for n in itertools.count():
        await volume.append_file("/log", f"{name}.{n}\n")
        os.write(told, f"{name}.{n}\n".encode())
        await volume.sqlite_query("run", "INSERT INTO t VALUES (:name)", {"name": f"{name}.{n}"})
        os.write(told, f"row {name}.{n}\n".encode())


def _process(url: str, name: str, environment: dict[str, str], told: Connection) -> None:
    os.environ.update(environment)
    asyncio.run(_write(url, name, told.fileno()))


def _run_and_kill(url: str, name: str, environment: dict[str, str], after: int, delay_s: float) -> list[str]:
    """Start a writer, kill it *delay_s* after so many acknowledgements, and return all that it reported."""
    receiver, sender = FORKED.Pipe(duplex=False)
    writer = FORKED.Process(target=_process, args=(url, name, environment, sender))
    writer.start()
    sender.close()
    with receiver, open(receiver.fileno(), "rb", closefd=False) as pipe:
        told = [pipe.readline() for _ in range(after)]
        time.sleep(delay_s)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        told += pipe.readlines()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    # A line that was cut off by the kill was not told.
    return [line.decode().strip() for line in told if line.endswith(b"\n")]


async def check_kills(url: str, environment: dict[str, str]) -> None:
    """Kill one writer after the other on the store at *url*, and look at what the next one finds."""
    seed = int(os.environ.get("SESSIONFS_SOAK_SEED") or secrets.randbits(32))
    print(f"SESSIONFS_SOAK_SEED={seed} SESSIONFS_SOAK_KILLS={KILLS}")
    chance = random.Random(seed)
    told: list[str] = []
    for n in range(1, KILLS + 1):
        # Anywhere in the two or three requests that follow the acknowledgement.
        after, delay_s = chance.randint(1, ACKNOWLEDGED_MAX), chance.uniform(0, 0.02)
        told += await asyncio.to_thread(_run_and_kill, url, f"w{n}", environment, after, delay_s)
        if n % LOOKS_EVERY == 0 or n == KILLS:
            await _look(url, told, n)
    print(f"{KILLS} writers killed, {len(told)} acknowledgements kept")


async def _look(url: str, told: list[str], killed: int) -> None:
    store = await open_store(url)
    volume = await Volume.open(
        store,
        KEYS,
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
        known = set(acknowledged)
        assert max(Counter(seen).values(), default=0) <= 1, "nothing is there twice"
        assert [each for each in seen if each in known] == acknowledged, "all that was told, in order"
        assert len(seen) - len(acknowledged) <= killed, "at most the one that was under way is there unacknowledged"
    await volume.aclose()
    await store.aclose()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> S3Server:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@pytest.mark.timeout(TIMEOUT_S)
async def test_on_a_directory(tmp_path: Path) -> None:
    await check_kills(tmp_path.as_uri(), {})


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_on_an_s3_server(server: S3Server, enter: Callable[[S3Server], str]) -> None:
    await check_kills(enter(server), dict(server.environment()))
