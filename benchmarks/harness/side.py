"""The two sides that the gateway's benchmark compares, each a process with runtimes of its own.

``python -m benchmarks.harness.side gateway`` is the gateway; ``… provider`` holds the provider slots of its runtimes
with the gateway's own code and passes nothing on: clients connect to the runtimes themselves. Takes JSON on the first
line of standard input, says on standard output where clients connect, and then answers one command a line until its
input ends.
Starts runtimes, which end with it; reaches the store that its input names.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.harness.child import trim
from benchmarks.harness.lab import TENANT, cpu_s
from sessionfs_s3 import SessionFs
from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.messages import Json, Request
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.provider import SessionFsMethods, handlers_for
from sessionfs_s3.gateway.runtimes import Launched, Runtime
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.gateway import runtime_environment
from sessionfs_s3.testing.runtime import unpacked

Kind = Literal["gateway", "provider"]
Door = tuple[int, str]
"""A port of loopback, and the token that is demanded there."""

TOKEN: Final = "benchmark-client-benchmark-client"  # noqa: S105  # of a gateway that lives for minutes, on loopback
HOST: Final = "127.0.0.1"

_LIMITS: Final = TenantLimits(connections_max=10_000, open_sessions_max=10_000, requests_per_s=1e6, burst=10**6)
"""No limit is to be measured."""

_ROOT: Final = Path(__file__).parent.parent.parent
_DEADLINE_S: Final = 120.0
_READY_STEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds: resident bytes, and its share of those that are no file's (``Pss_Anon``).

    A share of a file's pages, as of Python's own libraries, changes whenever another process comes or goes.
    """

    rss_bytes: int
    pss_bytes: int

    def __sub__(self, other: Memory) -> Memory:
        """Return what it holds beyond *other*."""
        return Memory(self.rss_bytes - other.rss_bytes, self.pss_bytes - other.pss_bytes)


@dataclass
class Side:
    """A running side.

    Attributes:
        pid: its process, the runtimes not included.
        doors: where clients connect: one for a gateway, one for each runtime of a provider.
        runtimes: where its runtimes themselves listen, whoever clients go through.
        runtime_pids: their processes.
    """

    pid: int
    doors: list[Door]
    runtimes: list[Door]
    runtime_pids: list[int]
    _process: asyncio.subprocess.Process = field(repr=False)

    def door(self, number: int) -> Door:
        """Return where client *number* connects: runtimes get equally many."""
        return self.doors[number % len(self.doors)]

    def cpu_s(self) -> float:
        """Return the processor seconds that it has used, its runtimes not included."""
        return cpu_s(self.pid)

    def runtimes_cpu_s(self) -> float:
        """Return the processor seconds that its runtimes have used."""
        return sum(map(cpu_s, self.runtime_pids))

    async def trim(self) -> None:
        """Have it give freed memory back to the system."""
        await self._ask("trim")

    async def profile(self, path: Path | None = None) -> None:
        """Begin to profile its event loop, or, with *path*, end that and write the figures there (``pstats``)."""
        await self._ask("profile" if path is None else f"profile {path}")

    async def _ask(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        await told(self._process)


@asynccontextmanager
async def start_side(
    kind: Kind, executable: Path, store: str, *, runtimes: int, settings: Mapping[str, object]
) -> AsyncGenerator[Side]:
    """Start one side; it and its runtimes are gone at the end.

    Args:
        kind: ``"gateway"`` or ``"provider"``.
        executable: the runtime's.
        store: the store's URL.
        runtimes: how many it starts.
        settings: of its session file system, by name.

    Raises:
        RuntimeError: it ended instead.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.harness.side", kind),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        given = {"executable": str(executable), "store": store, "runtimes": runtimes, "settings": dict(settings)}
        process.stdin.write(json.dumps(given).encode() + b"\n")
        said = await told(process)
        own = [(each["port"], each["token"]) for each in said["runtimes"]]
        doors = [(each["port"], each["token"]) for each in said["doors"]]
        yield Side(process.pid, doors, own, [each["pid"] for each in said["runtimes"]], process)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await asyncio.shield(process.wait())
        except TimeoutError:
            process.kill()
            await process.wait()


async def told(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the next thing that a side says. Raises RuntimeError when it has ended."""
    assert process.stdout is not None
    async with asyncio.timeout(_DEADLINE_S):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"a side of the benchmark ended with exit status {await process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def memory_of(pid: int) -> Memory:
    """Return what process *pid* holds.

    Raises:
        OSError: there is no such process, or no ``/proc``.
    """
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    return Memory(fields["Rss"], fields["Pss_Anon"])


class _Provider:
    """Serves the sessions of runtimes that clients reach without it: a session is whichever a runtime asks about.

    Of what else it hears of them it makes nothing.
    """

    def __init__(self, fs: SessionFs) -> None:
        self._fs = fs
        self._handlers: dict[str, Any] = {}
        self._methods = SessionFsMethods(self._handlers.__getitem__)

    async def serve(self, runtime: Runtime, request: Request) -> Json:
        del runtime
        named = request.session_id or ""
        if named not in self._handlers:
            self._handlers[named] = handlers_for(self._fs.provider(named))
        return await self._methods.answer(request.method, request.params)

    def began(self, runtime: Runtime) -> None:
        pass

    def notified(self, runtime: Runtime, message: Request) -> None:
        pass

    def tried(self, outcome: str) -> None:
        pass

    def lost(self, runtime: Runtime) -> None:
        pass

    def ended(self, runtime: Runtime) -> None:
        pass


async def _provider(given: Mapping[str, Any], launched: Launched, stack: AsyncExitStack) -> list[Door]:
    fs = await stack.enter_async_context(SessionFs.open(given["store"], tenant=TENANT, **given["settings"]))
    host = _Provider(fs)
    config = fs.config
    slot: dict[str, Json] = {
        "initialCwd": config["initial_working_directory"],
        "sessionStatePath": config["session_state_path"],
        "conventions": config["conventions"],
        "capabilities": config.get("capabilities"),
    }
    for number in range(given["runtimes"]):
        runtime = Runtime(f"runtime-{number}", None, await stack.enter_async_context(launched.open()))
        await runtime.hold(slot, host)
        stack.push_async_callback(runtime.aclose)
    return [(process.port, process.token) for process in launched.processes]


async def _gateway(given: Mapping[str, Any], launched: Launched, stack: AsyncExitStack) -> list[Door]:
    options = GatewayOptions(given["store"], tenant=TENANT)
    authenticator = Authenticator.load(None, default_tenant=TENANT, token=TOKEN, limits=_LIMITS)
    count: int = given["runtimes"]
    gateway = Gateway(options, authenticator, lambda: [launched] * count, may_grow=False, **given["settings"])
    await stack.enter_async_context(gateway)
    async with asyncio.timeout(_DEADLINE_S):
        while sum(len(pool.runtimes) for pool in gateway.pools) < count:  # noqa: ASYNC110  # it has no event for that
            await asyncio.sleep(_READY_STEP_S)
    return [(gateway.port, TOKEN)]


async def _run(kind: str) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    given: dict[str, Any] = json.loads(await reader.readline())
    launched = Launched(Path(given["executable"]), unpacked(), runtime_environment())
    profile = cProfile.Profile()
    async with AsyncExitStack() as stack:
        doors = await (_gateway if kind == "gateway" else _provider)(given, launched, stack)
        runtimes = [{"port": each.port, "token": each.token, "pid": each.pid} for each in launched.processes]
        _say({"doors": [{"port": port, "token": token} for port, token in doors], "runtimes": runtimes})
        while line := (await reader.readline()).decode().strip():
            command, _, argument = line.partition(" ")
            if command == "trim":
                trim()
            elif argument:
                profile.disable()
                profile.dump_stats(argument)
            else:
                profile.enable()
            _say({})


def _say(what: object) -> None:
    os.write(sys.stdout.fileno(), json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1]))
