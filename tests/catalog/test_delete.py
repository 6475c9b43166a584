"""Deleting a session through the catalogue; the deletion itself is the engine's."""

from __future__ import annotations

import pytest

from sessionfs_s3 import Fenced
from sessionfs_s3.catalog import Catalog
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import UNCONDITIONAL
from tests.volume.stored import RecordingStore, entries

from .conftest import EVENTS, MakeCatalog, opened, write


async def test_a_session_is_gone_for_everybody(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1", name="old", files={"/workspace/large": bytes(3_000_000)})
    await write(store, "s2")
    catalog, other = make_catalog(), make_catalog()
    info = await catalog.info("s1")
    assert info is not None
    assert len(await other.list()) == 2
    assert await catalog.delete("s1") == info.bytes
    for each in (catalog, other, make_catalog()):
        assert await each.ids() == ["s2"]
        assert await each.info("s1") is None
        assert await each.delete("s1") is None
    assert await catalog.delete("never") is None
    left = await entries(store.inner, "tenants/acme/catalog/")
    assert [entry.key.rpartition("/")[2] for entry in left] == ["s2"]
    assert sum(entry.size for entry in await entries(store.inner, SessionKeys.of("acme", "s1").prefix)) < 10_000


async def test_a_new_life_shows_nothing_of_the_old_one(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1", name="old", files={"/workspace/x": b"x"})
    catalog = make_catalog()
    await catalog.list()
    hint = (await store.inner.get("tenants/acme/catalog/s1")).data
    await catalog.delete("s1")
    await write(store, "s1", name="new")
    await store.inner.put("tenants/acme/catalog/s1", hint, condition=UNCONDITIONAL)
    for each in (catalog, make_catalog()):
        assert [(info.name, info.files) for info in await each.list()] == [("new", 2)]
    await write(store, "s3")
    await catalog.delete("s1")
    await catalog.fork("s3", "s1")
    assert await catalog.ids() == ["s1", "s3"]


async def test_whoever_has_it_open_is_fenced(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1")
    volume = await opened(store, "s1")
    assert await catalog.delete("s1")
    with pytest.raises(Fenced):
        await volume.append_file(EVENTS, "{}\n")
    await volume.aclose()
    assert await catalog.ids() == []


async def test_a_damaged_session_can_be_deleted(store: RecordingStore, catalog: Catalog) -> None:
    async with await opened(store, "s1", snapshot_commits=1, snapshot_bytes_min=1) as volume:
        await volume.write_file_bytes(EVENTS, b"{}\n")
    key = SessionKeys.of("acme", "s1").commit(1)
    await store.inner.put(key, b"damage", condition=UNCONDITIONAL)
    await catalog.delete("s1")
    assert await catalog.info("s1") is None
