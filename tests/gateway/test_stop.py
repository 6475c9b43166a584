"""What ends a gateway: the first signal drains it, and the second ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import cast

import pytest

from sessionfs_s3.cli.gateway import _serve
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.server import Gateway


class Busy:
    """A gateway with a turn that does not end, to which somebody sends SIGINT, and loses patience."""

    def __init__(self) -> None:
        self.http = None
        self.port = 0
        self.options = GatewayOptions("memory://stop")
        self.drains = 0

    def reload(self) -> None:
        """Nothing to be read."""

    async def __aenter__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def __aexit__(self, *_: object) -> None:
        pass

    async def drain(self) -> bool:
        self.drains += 1
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(10)
        return False


def test_the_second_signal_has_its_usual_effect() -> None:
    gateway = Busy()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(_serve(cast("Gateway", gateway)))
    assert gateway.drains == 1
