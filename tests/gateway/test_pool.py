"""Keeping runtimes: whatever goes wrong where one is brought up, it is tried again."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Endpoint, Running
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.fake_runtime import fake_runtime
from tests.gateway.fakes import HOST, client_of, until


class FullDisk:
    """Where runtimes come from, after a while: at first there is no room for the home of one."""

    def __init__(self, port: int) -> None:
        self.tries = 0
        self._running = Running(HOST, port, None)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Endpoint]:
        self.tries += 1
        if self.tries < 3:
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/copilot-runtime")
        async with self._running.open() as endpoint:
            yield endpoint


async def test_a_runtime_comes_up_once_the_disk_has_room_again(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_runtime() as runtime:
        source = FullDisk(runtime.port)
        options, everybody = GatewayOptions("memory://full-disk"), Authenticator.load(None)
        async with Gateway(options, everybody, lambda: [source], may_grow=False) as gateway:
            await until(lambda: gateway.ready)
            assert source.tries == 3
            async with client_of(gateway) as client:
                await client.request("session.create", {"sessionId": "one"})
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == ["no runtime"] * 2
