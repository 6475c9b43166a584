"""Two gateways as processes behind a balancer, and who kills them, their runtimes, or stops them for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sessionfs_s3.testing.balancer import Balancer
from sessionfs_s3.testing.gateway import GatewayProcess, start_gateway

GATEWAYS: Final = 2
RUNTIMES: Final = 2
GONE_S: Final = 10.0
"""Within this what a killed gateway started is gone, too."""

_PAUSE_S: Final = (1.5, 6.0)
_STALL_S: Final = (0.5, 8.0)
_AWAY_S: Final = (0.0, 2.0)


@dataclass
class Cluster:
    """The gateways over *store*, and what became of each.

    Attributes:
        directory: for temporary files; its path in their environment tells their processes from all others.
        balancer: in front of them.
        over: set when they are to end.
        running: those that run, by place.
        done: how often what was done to them.
        lines: what was done, and what anybody noted, with the times.
        statuses: how those ended that were asked to.
        outputs: what each printed that is no more.
        problems: what was wrong.
    """

    executable: Path
    store: str
    directory: Path
    balancer: Balancer
    rng: random.Random
    over: asyncio.Event = field(default_factory=asyncio.Event)
    running: dict[int, GatewayProcess] = field(default_factory=dict[int, GatewayProcess])
    done: Counter[str] = field(default_factory=Counter[str])
    lines: list[str] = field(default_factory=list[str])
    statuses: list[int] = field(default_factory=list[int])
    outputs: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    _stopped: set[int] = field(default_factory=set[int])
    _calm_s: float = 0.0
    _calm_since_s: float | None = None

    def diary(self, line: str) -> None:
        """Note *line* with the time: that of the event loop, and that which stands in logs."""
        self.lines.append(f"{asyncio.get_running_loop().time():.1f} {datetime.now(UTC):%H:%M:%S.%f} {line}")

    def calm_s(self) -> float:
        """Return for how long, in all, no gateway was stopped."""
        now_s = asyncio.get_running_loop().time()
        return self._calm_s + (0 if self._calm_since_s is None else now_s - self._calm_since_s)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Keep the gateways running; at the end each is asked to end."""
        async with asyncio.TaskGroup() as group:
            for place in range(GATEWAYS):
                group.create_task(self._keep(place))
            while len(self.running) < GATEWAYS:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            self._settle()
            try:
                yield
            finally:
                self.over.set()

    async def _keep(self, place: int) -> None:
        """Start a gateway again whenever it is killed."""
        while not self.over.is_set():
            async with self.start() as gateway:
                self.balancer.ports.append(gateway.port)
                self.running[place] = gateway
                self.diary(f"gateway {place} ({gateway.pid}) listens on port {gateway.port}")
                while gateway.status is None and not self.over.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                self.balancer.ports.remove(gateway.port)
                del self.running[place]
                if gateway.status is None:
                    self.statuses.append(await gateway.stop())
                await self.gone(gateway)
                self.outputs.append(gateway.output)
            if not self.over.is_set():
                await asyncio.sleep(self.rng.uniform(*_AWAY_S))

    @asynccontextmanager
    async def start(self) -> AsyncIterator[GatewayProcess]:
        environment = {"TMPDIR": str(self.directory)}
        async with start_gateway(self.executable, self.store, runtimes=RUNTIMES, environment=environment) as gateway:
            yield gateway

    async def gone(self, gateway: GatewayProcess) -> None:
        """Wait until nothing that *gateway* started runs any more: not its runtimes, and no worker."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + GONE_S
        while left := [pid for pid in processes_under(self.directory) if _group(pid) == gateway.pid]:
            if loop.time() > until_s:
                self.problems.append(f"gateway {gateway.pid} ended, and {left} run on")
                return
            await asyncio.sleep(0.1)

    def _settle(self) -> None:
        """Count the time, or do not: after a gateway was stopped, or goes on."""
        self._calm_s = self.calm_s()
        self._calm_since_s = None if self._stopped else asyncio.get_running_loop().time()

    async def harm(self) -> None:
        """Kill and stop, again and again, until cancelled; then everything that is stopped goes on."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await asyncio.sleep(self.rng.uniform(*_PAUSE_S))
                    await self._harm_once(group)
        finally:
            for gateway in self.running.values():
                gateway.signal(signal.SIGCONT)
            self._stopped.clear()
            self._settle()

    async def _harm_once(self, group: asyncio.TaskGroup) -> None:
        what = self.rng.choices(("runtime", "gateway", "stall"), (5, 2, 3))[0]
        # Drawn always, so that one seed does the same things as far as it can.
        place, which, stall_s = self.rng.randrange(GATEWAYS), self.rng.random(), self.rng.uniform(*_STALL_S)
        gateway = self.running.get(place)
        if gateway is None or (what == "stall" and gateway.pid in self._stopped):
            return
        self.done[what] += 1
        self.diary(f"harm: {what} of gateway {place}")
        match what:
            case "gateway":
                gateway.signal(signal.SIGKILL)
            case "stall":
                group.create_task(self._stall(gateway, stall_s))
            case _:
                runtimes = runtimes_of(gateway.pid)
                if runtimes:
                    victim = runtimes[int(which * len(runtimes))]
                    self.diary(f"runtime {victim} of {len(runtimes)}")
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)

    async def _stall(self, gateway: GatewayProcess, stall_s: float) -> None:
        self._stopped.add(gateway.pid)
        self._settle()
        gateway.signal(signal.SIGSTOP)
        await asyncio.sleep(stall_s)
        gateway.signal(signal.SIGCONT)
        self._stopped.discard(gateway.pid)
        self._settle()
        self.diary(f"gateway {gateway.pid} goes on")


def runtimes_of(pid: int) -> list[int]:
    """Return the runtimes among the children of the process *pid*, by age."""
    children: list[int] = []
    for other in _pids():
        try:
            stat, command = Path(f"/proc/{other}/stat").read_text(), Path(f"/proc/{other}/cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if int(stat.rpartition(")")[2].split()[1]) == pid and b"--headless" in command.split(b"\0"):
            children.append(other)
    return sorted(children)


def processes_under(directory: Path) -> list[int]:
    """Return the processes that live, and whose environment names *directory*."""
    mark, found = str(directory).encode(), list[int]()
    for pid in _pids():
        try:
            # Of a process that has ended and is not reaped there is nothing to read.
            if pid != os.getpid() and mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
