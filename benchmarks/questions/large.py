"""A session whose conversation log has grown to 200 MB: memory and requests of opening, appending and reading."""

from __future__ import annotations

import asyncio

from benchmarks.harness.child import in_child
from benchmarks.harness.lab import Lab, Sizes, say
from benchmarks.harness.report import Row

NAME = "large"
_CHUNK_BYTES = 1_000_000


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Build the file by appends, then look at it from a fresh process; both straight at the server."""
    url = lab.direct(lab.prefix())
    size = sizes.large_mb * 1_000_000
    built = await asyncio.to_thread(in_child, "build", url=url, size=size, chunk=_CHUNK_BYTES, settings=sizes.settings)
    say(f"large: built with {built['requests']}, {built['bytes_up'] / 1e6:.0f} MB up")
    found = await asyncio.to_thread(in_child, "reopen", url=url, size=size, settings=sizes.settings)
    start_mb = found["rss_start"] / 1e6
    rows = [
        Row(NAME, "PUTs of one append", found["append"]["requests"].get("PUT", 0), "", 1, "=="),
        Row(NAME, "other requests of one append", _others(found["append"]["requests"], "PUT"), "", 0, "=="),
        Row(NAME, "bytes PUT / bytes appended, building", built["bytes_up"] / size, "x", note=f"{built['requests']}"),
        Row(NAME, "peak memory while building", built["peak"] / 1e6, "MB"),
        Row(NAME, "time to open", found["opened_s"], "s", note="no delay but the server's"),
    ]
    for step in ("open", "append", "read"):
        part = found[step]
        note = f"{part['requests']}, {part['bytes_down'] / 1e6:.1f} MB down; {start_mb:.0f} MB before anything"
        rows.append(Row(NAME, f"peak memory after {step}", part["peak"] / 1e6, "MB", note=note))
    return rows


def _others(requests: dict[str, int], verb: str) -> int:
    return sum(count for name, count in requests.items() if name != verb)
