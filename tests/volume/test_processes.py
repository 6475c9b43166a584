"""Fifty processes open one session at once: one chain, every acknowledged append once, every loser fenced."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from sessionfs_s3.errors import Fenced
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import open_store
from sessionfs_s3.testing.servers import S3Server
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment
from sessionfs_s3.volume.retry import Patience
from tests.volume.forked import FORKED

PROCESSES = 50
APPENDS = 4
WAIT_S = 100.0
SERVERS = [
    pytest.param(name, marks=[pytest.mark.servers, pytest.mark.xdist_group(name)])
    for name in ("ministack", "seaweedfs", "minio")
]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> S3Server:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@dataclass
class Outcome:
    """What one process saw: the appends that were acknowledged, and how it ended."""

    name: str
    acknowledged: list[str]
    ended: str


async def _open(url: str, *, read_only: bool) -> Volume:
    return await Volume.open(
        await open_store(url),
        SessionKeys.of("acme", "contended"),
        read_only=read_only,
        environment=system_environment(),
        options=VolumeOptions(patience=Patience(deadline_s=WAIT_S), snapshot_commits=16),
    )


async def _compete(url: str, name: str, all_ready: Barrier, all_open: Barrier) -> Outcome:
    acknowledged: list[str] = []
    await asyncio.to_thread(all_ready.wait, WAIT_S)
    volume = await _open(url, read_only=False)
    try:
        for n in range(APPENDS):
            await volume.append_file("/log", f"{name}.{n}\n")
            acknowledged.append(f"{name}.{n}")
        ended = "done"
    except Fenced:
        ended = "fenced"
    await asyncio.to_thread(all_open.wait, WAIT_S)
    if ended == "done":
        try:
            await volume.append_file("/log", f"{name}.last\n")
            acknowledged.append(f"{name}.last")
            ended = "owner"
        except Fenced:
            ended = "fenced"
    await volume.aclose()
    return Outcome(name, acknowledged, ended)


def _process(url: str, name: str, environment: dict[str, str], barriers: tuple[Barrier, Barrier], results: Any) -> None:
    os.environ.update(environment)
    try:
        outcome = asyncio.run(_compete(url, name, *barriers))
    except BaseException as error:  # noqa: BLE001  # whatever it was, the parent has to hear of it
        outcome = Outcome(name, [], f"failed: {error!r}")
    results.put(outcome)


def _race(url: str, environment: dict[str, str]) -> list[Outcome]:
    results = FORKED.Queue()
    barriers = (FORKED.Barrier(PROCESSES), FORKED.Barrier(PROCESSES))
    processes = [
        FORKED.Process(target=_process, args=(url, f"p{n}", environment, barriers, results)) for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=WAIT_S + 30) for _ in processes]
    for process in processes:
        process.join(30)
    return outcomes


async def _check(url: str, outcomes: list[Outcome]) -> None:
    assert Counter(outcome.ended for outcome in outcomes) == {"owner": 1, "fenced": PROCESSES - 1}
    # Loading follows the chain from its start and refuses anything but one unbroken one.
    reader = await _open(url, read_only=True)
    stored = Counter((await reader.read_file("/log")).split())
    acknowledged = [each for outcome in outcomes for each in outcome.acknowledged]
    assert len(acknowledged) >= APPENDS + 1
    assert all(stored[each] == 1 for each in acknowledged), "an acknowledged append is there exactly once"
    assert max(stored.values()) == 1, "nothing is there twice"
    for outcome in outcomes:
        mine = [each for each in stored if each.split(".")[0] == outcome.name]
        assert mine[: len(outcome.acknowledged)] == outcome.acknowledged, "in the order of the calls"


@pytest.mark.timeout(240)
async def test_fifty_processes_on_a_directory(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    await _check(url, await asyncio.to_thread(_race, url, {}))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
async def test_fifty_processes_on_an_s3_server(server: S3Server, enter: Callable[[S3Server], str]) -> None:
    """On the servers that decide races; moto would prove nothing."""
    url = enter(server)
    await _check(url, await asyncio.to_thread(_race, url, dict(server.environment())))
