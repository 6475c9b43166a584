"""A volume over a store that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import MemoryStore
from sessionfs_s3.testing.faults import FaultyStore
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.environment import Environment, system_environment
from sessionfs_s3.volume.retry import Patience

KEYS = SessionKeys.of("acme", "task-7")
QUICK = Patience(deadline_s=1.0, backoff_s_min=0.001, backoff_s_max=0.01)

OpenVolume = Callable[..., Coroutine[Any, Any, Volume]]


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def environment() -> Environment:
    return system_environment()


@pytest.fixture
async def open_volume(store: FaultyStore, environment: Environment) -> AsyncIterator[OpenVolume]:
    """Open the session; ``session=``, ``read_only=``, ``environment=`` and any option may be given."""
    opened: list[Volume] = []

    async def open_one(
        session: str = "task-7", *, read_only: bool = False, environment: Environment = environment, **options: Any
    ) -> Volume:
        volume = await Volume.open(
            store,
            SessionKeys.of("acme", session),
            read_only=read_only,
            environment=environment,
            options=replace(VolumeOptions(patience=QUICK), **options),
        )
        opened.append(volume)
        return volume

    yield open_one
    store.faults.clear()
    for volume in opened:
        await volume.aclose()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in the background; the suite's own timeout ends a wait for what never comes."""
    while not condition():  # noqa: ASYNC110  # what is waited for has no event to announce it
        await asyncio.sleep(0.002)
