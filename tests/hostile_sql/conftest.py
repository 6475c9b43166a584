"""Sessions to attack: each test has its own store, in memory or in a directory. Needs Linux's ``/proc``."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hostile_sql.sessions import World, open_world

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def proc() -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("memory, processes and descriptors are measured through Linux's /proc")


@pytest.fixture
def url() -> str:
    """The URL of a store of the test's own."""
    return f"memory://hostile-{next(_numbers)}"


@pytest.fixture
async def world(url: str) -> AsyncIterator[World]:
    """Three sessions in memory."""
    async with open_world(url) as opened:
        yield opened
