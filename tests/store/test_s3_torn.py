"""A put whose connection ends at any point stores the whole object or nothing, on real servers.

As when the process that sends it is killed. SeaweedFS 4.48 stores an empty object when the contents have not begun,
unless the request declares their checksum.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest

from sessionfs_s3.errors import KeyNotFound, NoAnswer, PreconditionFailed
from sessionfs_s3.store import IF_ABSENT, Store, open_store
from sessionfs_s3.testing.servers import S3Server

CONTENTS = bytes(range(256)) * 1024
HEAD = 0
ALL = len(CONTENTS)

Enter = Callable[[S3Server], str]


@contextlib.asynccontextmanager
async def cut_off_after(count: int, endpoint_url: str) -> AsyncIterator[str]:
    """Pass each request on to *endpoint_url*, but only the first *count* bytes of its contents; then hang up."""
    target = urlsplit(endpoint_url)
    passing: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, onward = await asyncio.open_connection(target.hostname, target.port)
        try:
            onward.write(await reader.readuntil(b"\r\n\r\n"))
            await onward.drain()
            await asyncio.sleep(0.05)  # The head arrives by itself, as it may.
            onward.write(await reader.readexactly(count))
            await onward.drain()
            await asyncio.sleep(0.05)
        finally:
            onward.close()
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(pass_on(reader, writer))
        passing.add(task)
        task.add_done_callback(passing.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*passing)


async def stored(store: Store) -> bytes | None:
    try:
        return (await store.get("slot")).data
    except KeyNotFound:
        return None


@pytest.mark.servers
@pytest.mark.parametrize("count", [HEAD, 1, ALL // 2, ALL - 1, ALL])
@pytest.mark.parametrize(
    ("name", "client"),
    [
        pytest.param(name, client, marks=pytest.mark.xdist_group(name))
        for name, client in (
            ("moto", "aiobotocore"),
            ("ministack", "aiobotocore"),
            ("seaweedfs", "aiobotocore"),
            ("seaweedfs", "obstore"),
        )
    ],
)
async def test_what_broke_off_is_not_stored(
    name: str, client: str, count: int, request: pytest.FixtureRequest, enter: Enter
) -> None:
    if client == "obstore":
        pytest.importorskip("obstore")
    server: S3Server = request.getfixturevalue(name)
    url = f"{enter(server)}&client={client}"
    location = url.partition("?")[0]
    async with contextlib.aclosing(await open_store(url)) as store:
        async with (
            cut_off_after(count, server.endpoint_url) as detour,
            contextlib.aclosing(
                await open_store(f"{location}?endpoint_url={detour}&region=us-east-1&client={client}")
            ) as cut,
        ):
            with pytest.raises(NoAnswer):
                await cut.put("slot", CONTENTS, condition=IF_ABSENT)
        for _ in range(10):
            assert await stored(store) in (None, CONTENTS)
            await asyncio.sleep(0.02)
        # What the engine does: the same bytes again, into the same slot.
        with contextlib.suppress(PreconditionFailed):
            await store.put("slot", CONTENTS, condition=IF_ABSENT)
        assert await stored(store) == CONTENTS
