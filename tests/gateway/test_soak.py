"""A soak: many clients on one gateway, a third of them hostile or slow; the others hold their conversations to the end.

The gateway is a process of its own, measured from outside; behind it are impostor runtimes, which cost so little that
what is measured is the gateway. ``SESSIONFS_SOAK_CLIENTS`` and ``SESSIONFS_SOAK_S`` make it larger and longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessionfs_s3.testing.fake_runtime import FakeRuntime, fake_runtime
from sessionfs_s3.testing.gateway import GatewayProcess
from sessionfs_s3.testing.raw_client import RawClient, framed, raw_client
from tests.gateway.fakes import HOST, contents, until
from tests.gateway.soak_gateway import FRAME_S, HANDSHAKE_S, STALL_S

CLIENTS = int(os.environ.get("SESSIONFS_SOAK_CLIENTS", "200"))
SOAK_S = float(os.environ.get("SESSIONFS_SOAK_S", "3"))
SEED = int(os.environ.get("SESSIONFS_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)

ANSWER_S_MAX = 30.0
GROWTH_MIB_MAX = 100.0 + CLIENTS * 0.75
"""A hostile client may have 64 KiB of header or frame unread, twice that buffered by asyncio, as much again on its way
out, and up to 512 requests waiting; a good one holds a session of some 100 KiB."""

pytestmark = [
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="memory and time are read from /proc, as on Linux"
    ),
    pytest.mark.timeout(120 + SOAK_S * 4),
]

Hostile = Callable[[int, random.Random, asyncio.Event], Coroutine[None, None, None]]


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def cpu_s(pid: int) -> float:
    """How long the process has run on a processor: proc(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def soaked(*runtimes: FakeRuntime) -> AsyncIterator[GatewayProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.gateway.soak_gateway", "memory://soak", *(str(runtime.port) for runtime in runtimes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    gateway = GatewayProcess(process)
    try:
        await gateway.listen()
        yield gateway
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(60):
            assert await gateway.wait() == 0, gateway.output[-3000:]
    finally:
        gateway.signal(signal.SIGKILL)
        await gateway.wait()


async def converse(port: int, name: str, rng: random.Random) -> int:
    """Hold a conversation for as long as the soak lasts; return its turns: all were answered, once, in order."""
    turns = 0
    until_s = asyncio.get_running_loop().time() + SOAK_S
    async with raw_client(HOST, port) as client:
        await client.request("connect", deadline_s=ANSWER_S_MAX)
        await client.request("session.create", {"sessionId": name}, deadline_s=ANSWER_S_MAX)
        while turns < 2 or asyncio.get_running_loop().time() < until_s:
            turns += 1
            said = {"sessionId": name, "prompt": f"{name}-{turns}"}
            await client.request("session.send", said, deadline_s=ANSWER_S_MAX)
            await asyncio.sleep(rng.uniform(0.5, 1.5))
        stored = await client.request("session.getMessages", {"sessionId": name}, deadline_s=ANSWER_S_MAX)
        wanted = [f"{name}-{turn}" for turn in range(1, turns + 1)]
        assert [each["prompt"] for each in stored["events"]] == wanted
        heard = [text for message in client.received if (text := contents(message)) is not None]
        assert heard == [f"{turn}: {prompt}" for turn, prompt in enumerate(wanted, 1)]
    return turns


PING = framed({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"message": "x" * 3000}})


async def send_for_ever(client: RawClient) -> None:
    while True:
        await client.send_bytes(PING * 20)
        await asyncio.sleep(0.02)


async def never_reads(port: int, rng: random.Random, over: asyncio.Event) -> None:
    async with raw_client(HOST, port) as client:
        await client.request("connect", deadline_s=ANSWER_S_MAX)
        client.stop_reading()
        # Once all buffers between here and there are full, the gateway waits, and closes the connection.
        async with asyncio.timeout(STALL_S + ANSWER_S_MAX):
            with pytest.raises(ConnectionError):
                await send_for_ever(client)


async def reads_a_byte_now_and_then(port: int, rng: random.Random, over: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection(HOST, port, limit=256)
    writer.write(framed({"jsonrpc": "2.0", "id": 0, "method": "connect", "params": {}}) + PING * 400)
    with contextlib.suppress(OSError):
        while await reader.read(1):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 1.0)
                break
    writer.transport.abort()


async def drips(port: int, rng: random.Random, over: asyncio.Event) -> None:
    async with raw_client(HOST, port) as client:
        await client.request("connect", deadline_s=ANSWER_S_MAX)
        with contextlib.suppress(OSError):
            for byte in PING:
                if client.ended or over.is_set():
                    break
                await client.send_bytes(bytes([byte]))
                await asyncio.sleep(0.2)
        assert over.is_set() or await client.wait_ended(deadline_s=FRAME_S + ANSWER_S_MAX)


async def says_nothing(port: int, rng: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        async with raw_client(HOST, port) as client:
            await client.send_bytes(PING[: rng.randrange(len(PING))])
            assert await client.wait_ended(deadline_s=HANDSHAKE_S + FRAME_S + ANSWER_S_MAX)


async def floods(port: int, rng: random.Random, over: asyncio.Event) -> None:
    """Ask without a pause, and read: what is too much is refused."""
    async with raw_client(HOST, port) as client:
        await client.request("connect", deadline_s=ANSWER_S_MAX)
        with contextlib.suppress(OSError):
            while not over.is_set() and not client.ended:
                for _ in range(20):
                    await client.begin("session.list")
                    await client.begin("session.resume", {"sessionId": f"none-{rng.randrange(50)}"})
                await asyncio.sleep(0.3)
                client.received.clear()


async def talks_garbage(port: int, rng: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        async with raw_client(HOST, port) as client:
            await client.request("connect", deadline_s=ANSWER_S_MAX)
            with contextlib.suppress(OSError):
                await client.send(
                    {"id": 5, "method": "session.create", "params": {"sessionId": f"g-{rng.random()}"[:9]}}
                )
                await client.send_bytes(rng.randbytes(2000))
                await client.wait_ended(deadline_s=FRAME_S + ANSWER_S_MAX)
        await asyncio.sleep(0.5)


async def vanishes(port: int, rng: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        async with raw_client(HOST, port) as client:
            with contextlib.suppress(OSError):
                await client.begin("connect")
                await client.begin("session.create", {"sessionId": f"v-{rng.randrange(1000)}"})
                await asyncio.sleep(rng.random() * 0.1)
                client.drop()
        await asyncio.sleep(0.5)


HOSTILE: list[Hostile] = [
    never_reads,
    reads_a_byte_now_and_then,
    drips,
    says_nothing,
    floods,
    talks_garbage,
    vanishes,
]


async def test_good_clients_hold_their_conversations_while_a_third_is_hostile_or_slow() -> None:
    print(f"SESSIONFS_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    async with fake_runtime() as one, fake_runtime() as other, soaked(one, other) as gateway:
        before_mib = peak_mib = rss_mib(gateway.pid)
        over = asyncio.Event()
        hostile = [
            asyncio.create_task(HOSTILE[at % len(HOSTILE)](gateway.port, random.Random(rng.random()), over))
            for at in range(CLIENTS // 3)
        ]
        good = [
            asyncio.create_task(converse(gateway.port, f"good-{at}", random.Random(rng.random())))
            for at in range(CLIENTS - CLIENTS // 3)
        ]
        while not all(task.done() for task in good):
            peak_mib = max(peak_mib, rss_mib(gateway.pid))
            await asyncio.sleep(0.2)
        turns = [await task for task in good]
        over.set()
        await asyncio.gather(*hostile)
        # Sessions linger for some seconds, and are closed.
        await until(lambda: not one.sessions and not other.sessions, deadline_s=60)
        await until(lambda: len(one.peers) == len(other.peers) == 1, deadline_s=60)
        begun_s = cpu_s(gateway.pid)
        await asyncio.sleep(1.0)
        idle_s = cpu_s(gateway.pid) - begun_s
        print(
            f"{sum(turns)} turns of {len(good)} clients beside {len(hostile)}; memory {before_mib:.0f} MiB before, "
            f"{peak_mib:.0f} at the most, {rss_mib(gateway.pid):.0f} after; {begun_s:.1f} s of CPU, {idle_s:.2f} s idle"
        )
        assert min(turns) >= 2
        assert peak_mib - before_mib < GROWTH_MIB_MAX
        assert idle_s < 0.5, "it spins with nobody connected"
        assert " ERROR " not in gateway.output
        assert "Traceback" not in gateway.output, gateway.output[-3000:]
