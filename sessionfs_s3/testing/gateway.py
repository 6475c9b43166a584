"""Gateways for tests: one within the test's own event loop, and one as a process that a test can kill.

Starts processes; listens on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.runtimes import Launched
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.runtime import DEBOUNCE_VARIABLE, OFFLINE, unpacked

START_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 60.0

_LISTENING: Final = re.compile(r"listening on port (\d+)")
_OUTPUT_LINES_MAX: Final = 1000


def runtime_environment(*, debounce_ms: int | None = None) -> dict[str, str]:
    """Return the variables of a runtime that reaches no network but the model of each session.

    *debounce_ms* is how long it gathers events before it appends them; None leaves its default of 100 ms.
    """
    return OFFLINE if debounce_ms is None else {**OFFLINE, DEBOUNCE_VARIABLE: str(debounce_ms)}


def gateway_here(
    executable: Path,
    options: GatewayOptions,
    authenticator: Authenticator | None = None,
    *,
    runtimes: int = 1,
    debounce_ms: int | None = None,
    **settings: object,
) -> tuple[Gateway, Launched]:
    """Return a gateway to be entered in this event loop, and what starts its runtimes: ``launched.processes``."""
    launched = Launched(executable, unpacked(), runtime_environment(debounce_ms=debounce_ms))
    known = authenticator or Authenticator.load(None, default_tenant=options.tenant)
    return Gateway(options, known, lambda: [launched] * runtimes, may_grow=True, **settings), launched


class GatewayProcess:
    """A gateway as a process of its own.

    Attributes:
        port: where it listens for clients.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use :func:`start_gateway`."""
        self._process = process
        self._output: deque[str] = deque(maxlen=_OUTPUT_LINES_MAX)
        self._reading = asyncio.create_task(self._read())
        self._listening = asyncio.Event()
        self.port = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.returncode

    @property
    def output(self) -> str:
        """The last lines that it printed."""
        return "".join(self._output)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone; its runtimes end with it."""
        self.signal(signal.SIGKILL)
        await self.wait()

    async def stop(self) -> int:
        """End it with SIGTERM, wait until it has drained, and return its exit status."""
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_DEADLINE_S):
            return await self.wait()

    async def wait(self) -> int:
        """Wait until it has ended and return its exit status."""
        status = await self._process.wait()
        await self._reading
        return status

    async def listen(self) -> None:
        """Wait until it listens.

        Raises:
            RuntimeError: it ended instead, or said nothing for a minute.
        """
        ended = asyncio.create_task(self._process.wait())
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait([ended, listening], timeout=START_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        failed = not listening.done()
        for task in (ended, listening):
            task.cancel()
        if failed:
            raise RuntimeError(f"the gateway did not listen: {self.output[-4000:]}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace")
            self._output.append(text)
            if not self.port and (found := _LISTENING.search(text)):
                self.port = int(found[1])
                self._listening.set()


@asynccontextmanager
async def start_gateway(
    executable: Path,
    store: str,
    *arguments: str,
    runtimes: int = 1,
    debounce_ms: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[GatewayProcess]:
    """Start ``sessionfs-s3 gateway`` on a free port of loopback; it and its runtimes are gone at the end.

    Args:
        executable: the runtime's.
        store: the store's URL.
        *arguments: more arguments.
        runtimes: how many runtimes it starts.
        debounce_ms: see :func:`runtime_environment`.
        environment: more variables for it.

    Raises:
        RuntimeError: it does not start.
    """
    variables = runtime_environment(debounce_ms=debounce_ms)
    given: Sequence[str] = [
        *("--store", store, "--listen", "127.0.0.1:0", "--runtimes", str(runtimes)),
        *("--runtime-path", str(executable), "--runtime-cache", str(unpacked())),
        *(each for name, value in variables.items() for each in ("--runtime-env", f"{name}={value}")),
        *arguments,
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sessionfs_s3.cli", "gateway", *given),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        start_new_session=True,
    )
    gateway = GatewayProcess(process)
    try:
        await gateway.listen()
        yield gateway
    finally:
        await asyncio.shield(gateway.kill())
        # Where nothing ends its runtimes with it: they are of its process group, which has nobody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
