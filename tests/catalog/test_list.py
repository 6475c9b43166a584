"""Lists are true, whoever wrote the sessions and whatever lies beside them; and what they cost."""

from __future__ import annotations

import json
import logging
import random
import string

import pytest

from sessionfs_s3 import Unavailable
from sessionfs_s3.catalog import Catalog
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault
from tests.volume.stored import RecordingStore, entries

from .conftest import EVENTS, MakeCatalog, opened, write

HOSTILE = [
    "plain",
    "with space",
    "a/b",
    "a%2Fb",
    "%",
    "..a",
    "naïve-☕-𝄞",
    "log",
    "catalog",
    "sessions",
    "x" * 255,
    "-",
    "_",
    "~",
    "A",
    "a",
    "a.c",
    "0000000000000000.c",
    '"quoted"',
    "'; DROP TABLE",
]


async def test_hostile_names(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    for session_id in HOSTILE:
        await write(store, session_id)
    catalog = make_catalog()
    for each in (catalog, catalog, make_catalog()):  # cold, from memory, from hints
        assert await each.ids() == sorted(HOSTILE)
        assert all([await each.info(session_id) for session_id in HOSTILE])


async def test_tenants_see_nothing_of_each_other(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    tenants = ["a", "a/b", "a%2Fb", "ab", "A", "sessions", "a/sessions/x", "b"]
    for tenant in tenants:
        await write(store, "same", tenant=tenant, name=f"of {tenant.replace('/', ' ')}")
        await write(store, f"own-{tenant}", tenant=tenant)
    for tenant in [*tenants, *tenants]:
        store.forget()
        catalog = make_catalog(tenant)
        infos = {info.id: info for info in await catalog.list()}
        assert sorted(infos) == sorted(["same", f"own-{tenant}"])
        assert infos["same"].name == f"of {tenant.replace('/', ' ')}"
        prefix = SessionKeys.of(tenant, "x").prefix.removesuffix("sessions/x/")
        assert all(key.startswith(prefix) for _, key in store.requests)
        for other in tenants:
            if other != tenant:
                assert await catalog.info(f"own-{other}") is None
    assert await make_catalog("nobody").list() == []


async def test_what_is_not_a_sessions_is_passed_over(store: RecordingStore, catalog: Catalog) -> None:
    await write(store, "s1")
    for key in (
        "tenants/acme/sessions/stray",
        "tenants/acme/sessions/noise/log/readme.txt",
        "tenants/acme/sessions/noise/blob/0000000000000001-00000000000000000000000000000000",
        "tenants/acme/sessions/a%2fb/log/fffffffffffffffe.c",
        "tenants/acme/sessions/%C3/log/fffffffffffffffe.c",
        "tenants/acme/sessions/plain%41/log/fffffffffffffffe.c",
        "tenants/acme/catalog/%zz",
        "tenants/acme/catalog/a/b",
    ):
        await store.inner.put(key, b"noise", condition=UNCONDITIONAL)
    assert await catalog.ids() == ["s1"]
    assert (await store.inner.get("tenants/acme/catalog/%zz")).data == b"noise"


async def test_newest_first(make_catalog: MakeCatalog) -> None:
    now = 1_000
    store = RecordingStore(MemoryStore(clock_ms=lambda: now))
    for session_id in ("b", "c", "a"):
        now += 1_000
        await write(store, session_id)
    catalog = make_catalog(store=store)
    assert [info.id for info in await catalog.list()] == ["a", "c", "b"]
    now += 1_000
    async with await opened(store, "c") as volume:
        await volume.append_file(EVENTS, "{}\n")
    infos = await catalog.list()
    assert [info.id for info in infos] == ["c", "a", "b"]
    assert infos[0].modified_ms == now
    assert infos == await make_catalog(store=store).list()


async def test_what_a_list_costs(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    count = 60
    for number in range(count):
        await write(store, f"s{number}")
    catalog = make_catalog()
    store.forget()
    first = await catalog.list()
    assert store.count("LIST") == 2 + count, "sessions, hints, and a load each"
    assert store.count("PUT") == count, "a hint each"
    store.forget()
    assert await catalog.list() == first
    assert [verb for verb, _ in store.requests] == ["LIST"]
    store.forget()
    assert await make_catalog().list() == first
    assert (store.count("LIST"), store.count("GET"), store.count("PUT")) == (2, count, 0), "a hint each"
    assert store.at_once_max["GET"] <= 64
    async with await opened(store, "s7") as volume:
        await volume.append_file(EVENTS, "{}\n")
    store.forget()
    await catalog.list()
    assert store.count("LIST") == 2
    assert store.count("PUT") == 1
    assert all("/s7/" in key for verb, key in store.requests if verb == "GET"), "only what has moved is read"


@pytest.mark.parametrize("is_sorted", [True, False])
async def test_many_objects_are_listed_in_ranges(
    make_catalog: MakeCatalog, is_sorted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    inner = MemoryStore()
    monkeypatch.setattr(MemoryStore, "lists_sorted", is_sorted)
    store = RecordingStore(inner)
    alphabet = string.ascii_letters + string.digits + "._-~é"
    names = {"".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(40)} - {".", ".."}
    names |= {f"é{number}" for number in range(25)}  # these come first, more than two pages of them
    for name in names:
        await write(store, name)
        prefix = SessionKeys.of("acme", name).prefix
        for number in range(100):  # blobs that nothing refers to
            await inner.put(f"{prefix}blob/{1:016x}-{number:032x}", b"", condition=UNCONDITIONAL)
    catalog = make_catalog(store=store)
    assert await catalog.ids() == sorted(names)
    store.forget()
    assert await catalog.ids() == sorted(names)
    assert {verb for verb, _ in store.requests} == {"LIST"}
    assert 5 <= store.count("LIST") <= 2 + 66 + 5


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": 2}',
        b"\xff" * 100,
        b"[" * 100_000,
        b" " * 300_000,
    ],
)
async def test_a_damaged_hint_is_ignored_and_written_anew(
    store: RecordingStore, make_catalog: MakeCatalog, damage: bytes
) -> None:
    await write(store, "s1")
    before = await make_catalog().list()
    key = "tenants/acme/catalog/s1"
    whole = (await store.inner.get(key)).data
    await store.inner.put(key, damage, condition=UNCONDITIONAL)
    assert await make_catalog().list() == before
    assert (await store.inner.get(key)).data == whole
    await store.inner.put(key, damage, condition=UNCONDITIONAL)
    assert await make_catalog().info("s1") == before[0]
    assert (await store.inner.get(key)).data == whole


WRONG: list[object] = [None, -1, 2**80, "x", [], {"cwd": 1}, True]


async def test_hints_with_one_value_out_of_place(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1")
    before = await make_catalog().list()
    key = "tenants/acme/catalog/s1"
    hint = json.loads((await store.inner.get(key)).data)
    for name in hint:
        for value in WRONG:
            if type(value) is type(hint[name]) or (value is None and name in ("summary", "name", "context")):
                continue  # a hint that says something else is believed, as any object of the tenant's is
            if name in ("summary", "name", "client_name", "etag") and isinstance(value, str):
                continue
            await store.inner.put(key, json.dumps({**hint, name: value}).encode(), condition=UNCONDITIONAL)
            found = await make_catalog().list()
            assert found == before or (name == "client_name" and value is None), (name, value)


async def test_another_sessions_hint_and_an_old_one_are_passed_over(
    store: RecordingStore, make_catalog: MakeCatalog
) -> None:
    await write(store, "s1", name="first")
    await write(store, "s2", name="second")
    await make_catalog().list()
    old = (await store.inner.get("tenants/acme/catalog/s1")).data
    await store.inner.put("tenants/acme/catalog/s2", old, condition=UNCONDITIONAL)
    assert {info.id: info.name for info in await make_catalog().list()} == {"s1": "first", "s2": "second"}
    async with await opened(store, "s1") as volume:
        await volume.write_file("/session-state/workspace.yaml", "name: renamed\n")
    await store.inner.put("tenants/acme/catalog/s1", old, condition=UNCONDITIONAL)
    assert {info.id: info.name for info in await make_catalog().list()} == {"s1": "renamed", "s2": "second"}


async def test_a_new_life_never_shows_the_old_ones_hint(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    """The same id, the same number of commits: only the entity tag tells."""
    await write(store, "s1", name="old")
    warm = make_catalog()
    old = (await warm.list())[0]
    hint = (await store.inner.get("tenants/acme/catalog/s1")).data
    prefix = SessionKeys.of("acme", "s1").prefix
    await store.inner.delete([entry.key for entry in await entries(store.inner, prefix)])
    await write(store, "s1", name="new")
    await store.inner.put("tenants/acme/catalog/s1", hint, condition=UNCONDITIONAL)
    for catalog in (make_catalog(), warm):
        info = (await catalog.list())[0]
        assert (info.sequence, info.name) == (old.sequence, "new")
        assert await catalog.info("s1") == info


async def test_the_hint_of_a_session_that_is_gone_is_removed(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1")
    await write(store, "s2")
    warm = make_catalog()
    await warm.list()
    hint = (await store.inner.get("tenants/acme/catalog/s1")).data
    keys = [entry.key for entry in await entries(store.inner, SessionKeys.of("acme", "s1").prefix)]
    await store.inner.delete(keys)
    for catalog in (warm, make_catalog()):
        await store.inner.put("tenants/acme/catalog/s1", hint, condition=UNCONDITIONAL)
        assert await catalog.ids() == ["s2"]
        left = [entry.key for entry in await entries(store.inner, "tenants/acme/catalog/")]
        assert left == ["tenants/acme/catalog/s2"]
        assert await catalog.info("s1") is None


async def test_a_damaged_session_is_listed_with_what_is_known(
    store: RecordingStore, make_catalog: MakeCatalog, caplog: pytest.LogCaptureFixture
) -> None:
    await write(store, "good")
    await write(store, "bad")
    key = SessionKeys.of("acme", "bad").commit(1)
    await store.inner.put(key, b"damage", condition=UNCONDITIONAL)
    catalog = make_catalog()
    with caplog.at_level(logging.ERROR):
        infos = {info.id: info for info in await catalog.list()}
        await catalog.list()
    assert infos.keys() == {"good", "bad"}
    assert infos["good"].name == "A name"
    assert (infos["bad"].name, infos["bad"].sequence, infos["bad"].epoch) == (None, infos["good"].sequence, 0)
    assert infos["bad"].modified_ms > 0
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "'bad'" in told[0]


async def test_a_store_that_does_not_answer_is_no_empty_list(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    await write(store, "s1")
    catalog = make_catalog()
    store.inject(Fault("LIST", Fate.LOST_REQUEST, "", times=10**6))
    with pytest.raises(Unavailable):
        await catalog.list()
    store.faults.clear()
    store.inject(Fault("GET", Fate.LOST_REQUEST, "/log/", times=3))
    assert await catalog.ids() == ["s1"]


@pytest.mark.parametrize("fate", [Fate.DENIED, Fate.LOST_REQUEST])
async def test_nothing_depends_on_hints(store: RecordingStore, make_catalog: MakeCatalog, fate: Fate) -> None:
    await write(store, "s1")
    expected = await make_catalog().list()
    for verb in ("LIST", "GET", "PUT", "DELETE"):
        store.inject(Fault(verb, fate, "/catalog/", times=10**6))
    catalog = make_catalog()
    assert await catalog.info("s1") == expected[0]
    assert await catalog.list() == expected
    assert await make_catalog().list() == expected


async def test_any_history_is_listed_as_it_is(store: RecordingStore, make_catalog: MakeCatalog) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    model: dict[str, tuple[str, int]] = {}
    names = [f"s{number}" for number in range(8)]
    catalogs = [make_catalog(), make_catalog()]
    for _ in range(60):
        name = rng.choice(names)
        match rng.randrange(5):
            case 0 | 1 if name not in model:
                title = f"title {rng.randrange(1000)}"
                await write(store, name, name=title)
                model[name] = (title, 0)
            case 2 if name in model:
                async with await opened(store, name, snapshot_commits=rng.choice((1, 16))) as volume:
                    for number in range(rng.randrange(5)):
                        await volume.write_file(f"/workspace/{number}", "x" * rng.randrange(100))
                model[name] = (model[name][0], 1)
            case 3 if name in model:
                prefix = SessionKeys.of("acme", name).prefix
                await store.inner.delete([entry.key for entry in await entries(store.inner, prefix)])
                del model[name]
            case _:
                catalogs[rng.randrange(2)] = make_catalog()
        catalog = rng.choice(catalogs)
        infos = {info.id: info for info in await catalog.list()}
        assert {key: info.name for key, info in infos.items()} == {key: each[0] for key, each in model.items()}
        if name in model:
            async with await opened(store, name, read_only=True) as volume:
                assert infos[name].sequence == volume.head.sequence
                assert infos[name].epoch == volume.head.epoch
            assert infos[name] == await catalog.info(name)
        hints = {entry.key.rpartition("/")[2] for entry in await entries(store.inner, "tenants/acme/catalog/")}
        assert hints >= set(model)
