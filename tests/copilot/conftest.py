"""A session file system over a store in this process's memory, of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from sessionfs_s3 import SessionFs

_numbers = itertools.count()


@pytest.fixture
def url() -> str:
    return f"memory://test-{next(_numbers)}"


@pytest.fixture
async def fs(url: str) -> AsyncIterator[SessionFs]:
    async with SessionFs.open(url, tenant="acme", linger_s=60, probe=False) as opened:
        yield opened
