"""Deletion on stores that are real: a directory, and S3 servers that decide races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sessionfs_s3.errors import Fenced
from sessionfs_s3.format import TOMBSTONE_BYTES, SessionKeys
from sessionfs_s3.store import Store, open_store
from sessionfs_s3.testing.servers import S3Server
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.deletion import Deleted, delete_session
from sessionfs_s3.volume.environment import system_environment
from sessionfs_s3.volume.session import Session
from tests.volume.stored import entries

STORES = [
    pytest.param("directory"),
    *(
        pytest.param(name, marks=[pytest.mark.servers, pytest.mark.xdist_group(name)])
        for name in ("ministack", "seaweedfs", "minio")
    ),
]
KEYS = SessionKeys.of("acme", "deleted")
SECRET = "words of the user"
OPTIONS = VolumeOptions(snapshot_commits=4, inline_bytes_max=1, seal_bytes_min=1)


@pytest.fixture
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, enter: Callable[[S3Server], str]
) -> AsyncIterator[Store]:
    if request.param == "directory":
        url = tmp_path.as_uri()
    else:
        server = request.getfixturevalue(request.param)
        assert isinstance(server, S3Server)
        url = enter(server)
    store = await open_store(url)
    yield store
    await store.aclose()


async def _open(store: Store, *, read_only: bool = False) -> Volume:
    return await Volume.open(store, KEYS, read_only=read_only, environment=system_environment(), options=OPTIONS)


async def _delete(store: Store) -> Deleted:
    return await delete_session(Session(store, KEYS, system_environment(), OPTIONS))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("store", STORES, indirect=True)
async def test_a_session_is_deleted_and_begun_anew_while_others_want_it(store: Store) -> None:
    assert await _delete(store) == Deleted(existed=False)
    first = await _open(store)
    await first.write_file("/secret", SECRET * 6000)
    await first.sqlite_query("exec", f"CREATE TABLE t AS SELECT '{SECRET}' AS words")
    for _ in range(12):
        await first.append_file("/log", SECRET)
    owner = await _open(store)

    async def write() -> None:
        with suppress(Fenced):
            while True:
                await owner.append_file("/log", SECRET)

    writing = asyncio.create_task(write())
    one, other = await asyncio.gather(_delete(store), _delete(store))
    await writing
    assert one.existed or other.existed
    assert (one.unfinished, other.unfinished) == (None, None)
    await owner.aclose()
    with pytest.raises(Fenced):
        await first.append_file("/log", "late")
    await first.aclose()

    # A snapshot of the last owner may have come after the last look.
    assert (await _delete(store)).unfinished is None
    stored = {entry.key: (await store.get(entry.key)).data for entry in await entries(store, KEYS.prefix)}
    assert sorted(map(len, stored.values()))[-2:] == [0, TOMBSTONE_BYTES]
    assert await _delete(store) == Deleted(existed=False)
    new = await _open(store)
    assert await new.readdir("/") == []
    await new.sqlite_query("exec", "CREATE TABLE t AS SELECT 'other words' AS words")
    reader = await _open(store, read_only=True)
    result = await reader.sqlite_query("query", "SELECT words FROM t")
    assert result is not None
    assert list(result.rows[0].values()) == ["other words"]
    await reader.aclose()
    await new.aclose()
    assert (await _delete(store)).existed
