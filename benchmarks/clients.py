"""Compare the two S3 clients, each through this project's own Store adapter, on one server on loopback.

``python benchmarks/clients.py [--server seaweedfs|ministack] [--rounds 3]`` prints a Markdown table. The server comes
from a PyPI package of the test dependencies. Each round measures each client in a process of its own, the clients
taking turns; what is shown is the median over the rounds. Client CPU is user and system time of that process
(getrusage), obstore's own threads included, divided by the number of operations.

Always the same operations in the same order: PUT (If-None-Match) and GET of objects of 1 KiB, and LIST of 100 keys, one
at a time and 32 at once. Read the ratios: server and client share this machine's cores, so a figure per second is bound
by the server as soon as the client is fast.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from sessionfs_s3.store.protocol import IfAbsent, Store

CLIENTS: Final = ("aiobotocore", "obstore")
SIZE: Final = 1024
LISTED_KEYS: Final = 100
WARM_UP: Final = 64
OPERATIONS: Final = {
    ("PUT", 1): 200,
    ("GET", 1): 200,
    ("LIST", 1): 50,
    ("PUT", 32): 960,
    ("GET", 32): 960,
    ("LIST", 32): 192,
}
"""How many of each, by verb and how many at once."""

Operation = Callable[[int], Awaitable[object]]


def cpu_s() -> float:
    """Return the user and system time that this process has spent, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def timed(operation: Operation, count: int, at_once: int) -> dict[str, float]:
    """Run *operation* for each number below *count*, *at_once* at a time; return rates, latencies and CPU."""
    latencies: list[float] = []
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            started = time.perf_counter()
            await operation(number)
            latencies.append(time.perf_counter() - started)

    cpu, started = cpu_s(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    elapsed, cpu = time.perf_counter() - started, cpu_s() - cpu
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "ops_per_s": count / elapsed,
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
        "cpu_ms": cpu / count * 1000,
    }


async def measure(url: str) -> dict[str, dict[str, float]]:
    """Measure one client in this process, which has imported no client yet."""
    cpu, started = cpu_s(), time.perf_counter()
    from sessionfs_s3.store import open_store

    async with contextlib.aclosing(await open_store(url)) as store:
        data = os.urandom(SIZE)
        await store.put("first", data, condition=IfAbsent())
        found: dict[str, dict[str, float]] = {
            "start": {"wall_ms": (time.perf_counter() - started) * 1000, "cpu_ms": (cpu_s() - cpu) * 1000}
        }
        await timed(lambda n: store.put(f"list/{n:04d}", data, condition=IfAbsent()), LISTED_KEYS, 32)
        await timed(lambda n: store.get(f"list/{n:04d}"), WARM_UP, 32)
        for (verb, at_once), count in OPERATIONS.items():
            found[f"{verb} {at_once}"] = await timed(operations_on(store, data, at_once)[verb], count, at_once)
    found["start"]["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def operations_on(store: Store, data: bytes, at_once: int) -> dict[str, Operation]:
    """Return what is measured, by verb: each takes the number of the operation."""
    return {
        "PUT": lambda n: store.put(f"put-{at_once}/{n:06d}", data, condition=IfAbsent()),
        "GET": lambda n: store.get(f"list/{n % LISTED_KEYS:04d}"),
        "LIST": lambda _: store.list("list/"),
    }


def measured(url: str) -> dict[str, dict[str, float]]:
    """Measure one client in a process of its own."""
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(  # noqa: S603  # this interpreter and this file
        [sys.executable, __file__, "--measure", url],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
    )
    result: dict[str, dict[str, float]] = json.loads(done.stdout)
    return result


def table(results: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Return the medians over the rounds as a Markdown table."""

    def median(client: str, row: str, figure: str) -> float:
        return statistics.median(found[row][figure] for found in results[client])

    lines = [
        "| operation, at once | "
        + " | ".join(f"{client}: ops/s, p50/p99 ms, CPU ms" for client in CLIENTS)
        + " | ops/s | CPU |",
        "| --- |" + " --- |" * (len(CLIENTS) + 2),
    ]
    for verb, at_once in OPERATIONS:
        row = f"{verb} {at_once}"
        cells = [
            f"{median(client, row, 'ops_per_s'):.0f}, {median(client, row, 'p50_ms'):.1f}/"
            f"{median(client, row, 'p99_ms'):.1f}, {median(client, row, 'cpu_ms'):.2f}"
            for client in CLIENTS
        ]
        faster, leaner = (
            median(CLIENTS[1], row, figure) / median(CLIENTS[0], row, figure) for figure in ("ops_per_s", "cpu_ms")
        )
        lines.append(f"| {verb}, {at_once} | {' | '.join(cells)} | {faster:.2f}x | {leaner:.2f}x |")
    starts = [
        f"{median(client, 'start', 'wall_ms'):.0f} ms, CPU {median(client, 'start', 'cpu_ms'):.0f} ms, "
        f"peak memory {median(client, 'start', 'peak_mb'):.0f} MB"
        for client in CLIENTS
    ]
    ratio = median(CLIENTS[1], "start", "cpu_ms") / median(CLIENTS[0], "start", "cpu_ms")
    lines.append(f"| import, open, first PUT | {' | '.join(starts)} | | {ratio:.2f}x |")
    return "\n".join(lines)


def main() -> None:
    """Run the comparison, or one measurement of it."""
    parser = argparse.ArgumentParser(description="Compare the S3 clients.")
    parser.add_argument("--server", choices=("seaweedfs", "ministack"), default="seaweedfs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(asyncio.run(measure(arguments.measure))))
        return
    from sessionfs_s3.testing.servers import SERVERS

    with SERVERS[arguments.server]() as server:
        server.create_bucket("clients")
        os.environ.update(server.environment())
        results: dict[str, list[dict[str, dict[str, float]]]] = {client: [] for client in CLIENTS}
        for number in range(arguments.rounds):
            for client in CLIENTS:
                results[client].append(measured(f"{server.store_url('clients', f'{client}-{number}')}&client={client}"))
    sys.stdout.write(
        f"{arguments.server}, {arguments.rounds} rounds, Python {platform.python_version()}, {os.cpu_count()} cores; "
        f"the last columns are obstore's figure by aiobotocore's.\n\n{table(results)}\n"
    )


if __name__ == "__main__":
    main()
