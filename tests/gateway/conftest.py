"""Fixtures for the real runtime and the plain SDK clients: located once, and a scripted model.

A test that asks for ``executable``, itself or through another fixture, is marked ``runtime``. Without a runtime it is
skipped with the reason, or fails under ``SESSIONFS_REQUIRE_RUNTIME=1``; so is one that asks for ``node_sdk`` without
Node.js or its SDK.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Launched
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.fetched import ServerUnavailable
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import ScriptedModel
from sessionfs_s3.testing.runtime import (
    INSTALL_DEADLINE_S,
    RuntimeProcess,
    RuntimeUnavailable,
    find_runtime,
    start_runtime,
)
from sessionfs_s3.testing.sdk_clients import fetch_node_sdk
from tests.gateway.wire import PATIENT_S


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


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def script() -> AsyncIterator[ScriptedModel]:
    """The model of a module whose tests share one event loop (``pytest.mark.asyncio(loop_scope="module")``)."""
    model = ScriptedModel({})
    async with model.serve():
        yield model


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of a module's tests, a directory."""
    return tmp_path_factory.mktemp("store").as_uri()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(executable: Path, store_url: str) -> AsyncIterator[tuple[Gateway, Launched]]:
    """A gateway with one runtime, for the tests of one module, which share its event loop; and what has its runtime."""
    gateway, launched = gateway_here(executable, GatewayOptions(store_url, handshake_s=PATIENT_S))
    async with gateway:
        yield gateway, launched


@pytest.fixture(scope="session")
def plain(executable: Path) -> Iterator[RuntimeProcess]:
    """A runtime that nobody serves: its sessions live on its own disk. One for all tests, whose sessions it keeps.

    It is started by an event loop that outlives those of the tests, in a thread.
    """
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:
        starting = start_runtime(executable)
        runtime = thread.submit(runner.run, starting.__aenter__()).result()
        try:
            yield runtime
        finally:
            thread.submit(runner.run, starting.__aexit__(None, None, None)).result()


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> str:
    """A session's id that no other test uses on the runtime that they share."""
    return re.sub("[^A-Za-z0-9_-]", "-", request.node.name)


def give_up(error: Exception) -> NoReturn:
    if os.environ.get("SESSIONFS_REQUIRE_RUNTIME") == "1":
        pytest.fail(str(error))
    pytest.skip(str(error))
