"""Fixtures for the real runtime and the plain SDK clients: located once, and a scripted model.

A test that asks for ``executable``, itself or through another fixture, is marked ``runtime``. Without a runtime it is
skipped with the reason, or fails under ``SESSIONFS_REQUIRE_RUNTIME=1``; so is one that asks for ``node_sdk`` without
Node.js or its SDK.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from sessionfs_s3.testing.fetched import ServerUnavailable
from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.runtime import (
    INSTALL_DEADLINE_S,
    RuntimeProcess,
    RuntimeUnavailable,
    find_runtime,
    start_runtime,
)
from sessionfs_s3.testing.sdk_clients import fetch_node_sdk


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
        give_up(error)


@pytest.fixture(scope="session")
def node_sdk() -> None:
    """The Node SDK is here."""
    try:
        fetch_node_sdk()
    except ServerUnavailable as error:
        give_up(error)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A model that a test writes the script of, with ``model.add``."""
    model = ScriptedModel({})
    async with model.serve():
        yield model


@pytest.fixture
async def plain(executable: Path) -> AsyncIterator[RuntimeProcess]:
    """A runtime that nobody serves: its sessions live on its own disk."""
    async with start_runtime(executable) as runtime:
        yield runtime


def give_up(error: Exception) -> NoReturn:
    if os.environ.get("SESSIONFS_REQUIRE_RUNTIME") == "1":
        pytest.fail(str(error))
    pytest.skip(str(error))
