"""A gateway as a process of its own, before runtimes that run: ``python -m tests.gateway.soak_gateway STORE PORT…``.

Short limits in seconds, where the command's own are those of production; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys

from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Running
from sessionfs_s3.gateway.server import Gateway
from tests.gateway.fakes import until

STALL_S = 2.0
FRAME_S = 3.0
HANDSHAKE_S = 2.0
LIMITS = TenantLimits(connections_max=5000, open_sessions_max=5000, requests_per_s=20_000, burst=40_000)


async def serve(store: str, *ports: str) -> None:
    options = GatewayOptions(store, stall_s=STALL_S, frame_s=FRAME_S, handshake_s=HANDSHAKE_S)
    known = Authenticator.load(None, limits=LIMITS)
    sources = [Running("127.0.0.1", int(port), None) for port in ports]
    async with Gateway(options, known, lambda: list(sources), may_grow=False) as gateway:
        await until(lambda: all(len(pool.runtimes) == len(sources) for pool in gateway.pools))
        print(f"listening on port {gateway.port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
