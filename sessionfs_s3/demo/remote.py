"""The demo's end of the line to replica A: starts its process, tells it what to do, and keeps what it reports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from sessionfs_s3.demo.narrator import DemoFailed, Requests
from sessionfs_s3.demo.replica_a import LINE_BYTES_MAX, Command, Report, Start
from sessionfs_s3.testing.replica import Served

STEP_DEADLINE_S = 60.0
_CLOSE_GRACE_S = 20.0


class RemoteA:
    """Replica A, as the demo sees it.

    Attributes:
        served: what A's provider has answered, oldest first.
        runtime_pid: the process id of A's runtime.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use :func:`start_a`."""
        self._process = process
        self._reports: list[Report] = []
        self._arrived = asyncio.Event()
        self._ended = False
        self._complaint = ""
        self.served: list[Served] = []
        self.runtime_pid = 0

    @property
    def pid(self) -> int:
        """The process id of the application."""
        return self._process.pid

    async def started(self, start: Start) -> None:
        """Tell A what it needs to know, and wait until its runtime is up."""
        await self._send(start.model_dump_json())
        report = await self._reported("start")
        assert report.pid is not None
        self.runtime_pid = report.pid

    async def create(self) -> None:
        """Have the session created."""
        await self._do(Command(do="create"))

    async def ask(self, prompt: str) -> str:
        """Hold a turn and return what the assistant said."""
        report = await self._do(Command(do="ask", prompt=prompt))
        if report.error:
            raise DemoFailed(f"the turn {prompt!r} failed: {report.error}")
        return report.text

    async def begin(self, prompt: str) -> None:
        """Begin a turn, and do not wait for its end."""
        await self._send(Command(do="ask", prompt=prompt).model_dump_json())

    async def until(self, seen: Callable[[list[Served]], bool]) -> None:
        """Wait until *seen* holds of what the provider has answered."""
        async with asyncio.timeout(STEP_DEADLINE_S):
            while not seen(self.served):
                await self._news()

    async def kill_runtime(self) -> int | None:
        """End A's runtime with SIGKILL, have A open a second volume, and return the runtime's exit status."""
        os.kill(self.runtime_pid, signal.SIGKILL)
        return (await self._do(Command(do="open second volume"))).status

    async def haunt(self) -> list[str]:
        """Have A write through what it still holds; return what came of each attempt."""
        return (await self._do(Command(do="haunt"))).text.split()

    async def requests(self) -> Requests:
        """Return what A has asked of the store since the last time."""
        report = await self._do(Command(do="count"))
        assert report.requests is not None
        return report.requests

    async def listen(self) -> None:
        """Take in A's reports until it ends."""
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                report = Report.model_validate_json(line)
                if report.served is not None:
                    self.served.append(report.served)
                else:
                    self._reports.append(report)
                self._arrived.set()
        finally:
            self._ended = True
            self._arrived.set()

    async def complain(self) -> None:
        """Keep the end of what A writes to standard error, for the message when it fails."""
        assert self._process.stderr is not None
        while part := await self._process.stderr.read(65536):
            self._complaint = (self._complaint + part.decode(errors="replace"))[-4000:]

    async def close(self) -> None:
        """End A's input, upon which it ends; if it does not, end it with SIGKILL."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_CLOSE_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _do(self, command: Command) -> Report:
        await self._send(command.model_dump_json())
        return await self._reported(command.do)

    async def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # A has ended: the report that does not come says so
            await self._process.stdin.drain()

    async def _reported(self, did: str) -> Report:
        """Wait for the report of what A was told to do."""
        async with asyncio.timeout(STEP_DEADLINE_S):
            while True:
                for report in self._reports:
                    if report.did == did:
                        self._reports.remove(report)
                        return report
                await self._news()

    async def _news(self) -> None:
        if self._ended:
            await self._process.wait()
            sys.stderr.write(self._complaint)
            last = self._complaint.strip().rpartition("\n")[2]
            raise DemoFailed(f"replica A ended with status {self._process.returncode}: {last}")
        self._arrived.clear()
        await self._arrived.wait()


@asynccontextmanager
async def start_a(start: Start) -> AsyncGenerator[RemoteA]:
    """Start replica A; it and its runtime are gone at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sessionfs_s3.demo.replica_a"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        start_new_session=True,  # Ctrl-C reaches the demo alone, which then closes A
    )
    a = RemoteA(process)
    listening = [asyncio.create_task(a.listen()), asyncio.create_task(a.complain())]
    try:
        await a.started(start)
        yield a
    finally:
        await asyncio.shield(a.close())
        await asyncio.gather(*listening, return_exceptions=True)
