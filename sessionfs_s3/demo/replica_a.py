"""Replica A of the demo, in a process of its own: an application whose runtime will be killed.

Reads commands from standard input and reports on standard output, one JSON object a line, until its input ends. When
its runtime is gone it lives on as a ghost: it still holds the session open and has not heard of anybody else.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

from copilot import CopilotSession
from pydantic import BaseModel

from sessionfs_s3 import SessionFs, Volume
from sessionfs_s3.demo.narrator import Requests
from sessionfs_s3.demo.script import GHOST_LINE, GHOST_PATH
from sessionfs_s3.errors import SessionFsError
from sessionfs_s3.testing.model import provider_at
from sessionfs_s3.testing.replica import Replica, Served, ask, start_replica

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""The longest line either side sends: one may carry what one append did, and the SDK's frames are bounded by this."""


class Start(BaseModel):
    """The first line: what A needs to know."""

    store: str
    tenant: str
    session: str
    executable: Path
    model_url: str


class Command(BaseModel):
    """A line to A."""

    do: Literal["create", "ask", "count", "open second volume", "haunt"]
    prompt: str = ""


class Report(BaseModel):
    """A line from A: what it did, with whatever there is to say about it.

    Attributes:
        did: a command, or "start", or "serve" for one call that the provider has answered.
        text: what the assistant said; of a haunting what came of each attempt.
        error: why a turn did not end well; "" when it did.
        pid: the runtime's process id.
        status: the runtime's exit status.
    """

    did: Literal["start", "serve", "create", "ask", "count", "open second volume", "haunt"]
    text: str = ""
    error: str = ""
    pid: int | None = None
    status: int | None = None
    served: Served | None = None
    requests: Requests | None = None


def send(report: Report) -> None:
    """Send *report* to the demo."""
    sys.stdout.write(report.model_dump_json() + "\n")
    sys.stdout.flush()


class ReplicaA:
    """The application: does what it is told and reports it."""

    def __init__(self, start: Start, replica: Replica) -> None:
        """Answer for *replica*."""
        self._start = start
        self._replica = replica
        self._counts = replica.fs.requests.snapshot()
        self._session: CopilotSession | None = None
        self._second: Volume | None = None
        self._closing = AsyncExitStack()
        self._turns: set[asyncio.Task[None]] = set()

    async def serve(self, lines: asyncio.StreamReader) -> None:
        """Carry out the commands in *lines* until they end, one at a time; a turn runs beside what follows it."""
        async with self._closing:
            while line := await lines.readline():
                command = Command.model_validate_json(line)
                if command.do == "ask":
                    self._turns.add(asyncio.create_task(self._ask(command.prompt)))
                else:
                    send(await self._done(command))
            for turn in self._turns:
                turn.cancel()
            await asyncio.gather(*self._turns, return_exceptions=True)

    async def _done(self, command: Command) -> Report:
        report = Report(did=command.do)
        match command.do:
            case "create":
                self._session = await self._replica.create(self._start.session)
            case "count":
                counts = self._replica.fs.requests.snapshot()
                report.requests = Requests.of(counts - self._counts)
                self._counts = counts
            case "open second volume":
                await self._replica.runtime.wait()
                await self._replica.settle()
                report.status = self._replica.runtime.status
                volume = self._replica.fs.volume(self._start.session)
                self._second = await self._closing.enter_async_context(volume)
            case _:
                assert self._replica.provider is not None
                assert self._second is not None
                append = self._replica.provider.append_file(f"{self._state_path}/events.jsonl", GHOST_LINE)
                write = self._second.write_file(GHOST_PATH, GHOST_LINE)
                report.text = " ".join([await _outcome(append), await _outcome(write)])
        return report

    async def _ask(self, prompt: str) -> None:
        assert self._session is not None
        report = Report(did="ask")
        try:
            report.text = await ask(self._session, prompt)
        except Exception as error:  # noqa: BLE001 - the SDK raises Exception itself
            report.error = f"{type(error).__name__}: {error}"
        send(report)

    @property
    def _state_path(self) -> str:
        return self._replica.fs.config["session_state_path"]


async def _outcome(write: Awaitable[None]) -> str:
    try:
        await write
    except SessionFsError as error:
        return type(error).__name__
    return "stored"


def _send_served(served: Served) -> None:
    send(Report(did="serve", served=served))


async def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("copilot").addHandler(logging.NullHandler())  # the story is told by the demo alone
    lines = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    start = Start.model_validate_json(await lines.readline())
    async with (
        SessionFs.open(start.store, tenant=start.tenant) as fs,
        start_replica(start.executable, fs, provider_at(start.model_url), on_served=_send_served) as replica,
    ):
        await fs.probe()
        send(Report(did="start", pid=replica.runtime.pid))
        await ReplicaA(start, replica).serve(lines)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SessionFsError as refusal:
        sys.exit(f"{type(refusal).__name__}: {refusal}")
