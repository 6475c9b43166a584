"""Fixtures for the real runtime: located once, a scripted model, and replicas that a test starts and kills.

A test that asks for ``executable``, itself or through ``start``, is marked ``runtime``. Without a runtime it is skipped
with the reason, or fails under ``SESSIONFS_REQUIRE_RUNTIME=1``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.gateway.process import RuntimeUnavailable
from sessionfs_s3.store import Store, open_store
from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.replica import Replica, Served, appended, start_replica
from sessionfs_s3.testing.runtime import INSTALL_DEADLINE_S, find_runtime

from .commits import FaultyCommits, let_go

EVENTS = "/session-state/events.jsonl"
WORKSPACE = "/session-state/workspace.yaml"

DEBOUNCE_MS = 5000
"""Longer than any turn here takes: a turn without tools is then one append, however slow the machine is."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "executable" in item.fixturenames:
            item.add_marker(pytest.mark.runtime)
            # The first of them may have to wait until npm has fetched the runtime.
            item.add_marker(pytest.mark.timeout(INSTALL_DEADLINE_S + 120))


@pytest.fixture(scope="session")
def executable() -> Path:
    try:
        return find_runtime()
    except RuntimeUnavailable as error:
        if os.environ.get("SESSIONFS_REQUIRE_RUNTIME") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A model that a test writes the script of, with ``model.add``."""
    model = ScriptedModel({})
    async with model.serve():
        yield model


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FaultyCommits]]:
    """The store of each session file system that is opened from now on, oldest first: their commits fail on demand."""
    opened: list[FaultyCommits] = []

    async def opening(url: str) -> Store:
        opened.append(FaultyCommits(await open_store(url)))
        return opened[-1]

    monkeypatch.setattr("sessionfs_s3.copilot.session_fs.open_store", opening)
    yield opened
    let_go(opened)


@pytest.fixture
async def fs(url: str) -> AsyncIterator[SessionFs]:
    """A session file system on the test's store, beside those of the replicas."""
    async with SessionFs.open(url, tenant="acme") as opened:
        yield opened


class Start(Protocol):
    async def __call__(
        self, *, fs: SessionFs | None = None, url: str = ..., debounce_ms: int | None = ...
    ) -> Replica: ...


@pytest.fixture
async def start(executable: Path, model: ScriptedModel, url: str) -> AsyncIterator[Start]:
    """Start replicas: each with a runtime of its own, and, unless it is given one, a session file system of its own."""
    async with AsyncExitStack() as stack:

        async def starting(
            *, fs: SessionFs | None = None, url: str = url, debounce_ms: int | None = DEBOUNCE_MS
        ) -> Replica:
            if fs is None:
                fs = await stack.enter_async_context(SessionFs.open(url, tenant="acme"))
                await fs.probe()
            replica = start_replica(executable, fs, model.provider, debounce_ms=debounce_ms)
            return await stack.enter_async_context(replica)

        yield starting


async def stored(fs: SessionFs, path: str, session_id: str = "s1") -> bytes:
    """Return a file as somebody reads it who has only the store."""
    async with fs.volume(session_id, read_only=True) as volume:
        return await volume.read_file_bytes(path)


def conversation(served: Sequence[Served]) -> str:
    """Return what was appended to the conversation and acknowledged."""
    return appended(served, EVENTS)


def created(served: Sequence[Served]) -> bool:
    """Whether all of create has been served: the runtime does it again under its own home and ends with the plan."""
    home = [each.path for each in served if not each.path.startswith("/session-state")]
    return any(path.endswith("/plan.md") for path in home)


def settled(served: Sequence[Served]) -> bool:
    """Whether create and the first turn have been served: the title is read back after it has been renamed in place."""
    renamed = [index for index, each in enumerate(served) if (each.operation, each.path) == ("rename", WORKSPACE)]
    read = [index for index, each in enumerate(served) if (each.operation, each.path) == ("read_file", WORKSPACE)]
    return len(renamed) == 2 and read[-1] > renamed[-1] and created(served)


async def give_up(turn: asyncio.Task[str]) -> None:
    """Wait no longer for a turn that cannot end."""
    turn.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await turn
