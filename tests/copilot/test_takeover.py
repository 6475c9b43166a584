"""Settings that decide whether a session is opened at all: takeover, deadlines, and the probe of the store."""

from __future__ import annotations

import asyncio
import errno
import itertools
import re
from pathlib import Path

import pytest

from sessionfs_s3 import InvalidInput, Refused, SessionFs, Settings
from sessionfs_s3.copilot import session_fs
from sessionfs_s3.errors import InUse, Unavailable
from sessionfs_s3.store import UNCONDITIONAL, Condition, MemoryStore
from sessionfs_s3.testing.faults import Fate, Fault, FaultyStore
from sessionfs_s3.volume.retry import Patience

_numbers = itertools.count()


@pytest.fixture
def url() -> str:
    """Return a store of its own, also for the probe, which remembers what has passed."""
    return f"memory://takeover-{next(_numbers)}"


async def test_a_session_in_use_is_refused_while_its_owner_writes(url: str) -> None:
    async with SessionFs.open(url, tenant="acme") as fs, fs.volume("s") as owner:
        await owner.write_file("/a", "x")
        async with SessionFs.open(url, tenant="acme", takeover="if-idle:60") as other:
            with pytest.raises(InUse, match="in use: commit 1 was stored") as caught:
                async with other.volume("s"):
                    pass
            assert caught.value.errno == errno.EBUSY
            provider = other.provider("s")
            for call in (provider.read_file("/a"), provider.write_file("/a", "y"), provider.ready()):
                with pytest.raises(InUse):
                    await call
            async with other.volume("new") as volume:
                await volume.write_file("/a", "x")
            async with other.volume("s", read_only=True) as reader:
                assert await reader.read_file("/a") == "x"
        await owner.write_file("/a", "still mine")
        async with SessionFs.open(url, tenant="acme", takeover="if-idle:0") as other, other.volume("s") as volume:
            assert await volume.read_file("/a") == "still mine"


@pytest.mark.parametrize("takeover", ["always", "if-idle:0", "if-idle:60", "if-idle:0.5", "if-idle:86400"])
def test_takeover_reaches_the_engine(takeover: str) -> None:
    seconds = None if takeover == "always" else float(takeover.partition(":")[2])
    assert Settings.load(takeover=takeover).volume_options().takeover_idle_s == seconds


@pytest.mark.parametrize(
    "takeover",
    ["", "never", "ALWAYS", "always ", "if-idle", "if-idle:", "if-idle:-1", "if-idle:1s", "if-idle:inf", "if-idle:nan",
     "if-idle:1e3", "if-idle: 1", "if-idle:1\n", "if-idle:.5", "if-idle:٣", "if-idle:9999999999"],
)  # fmt: skip
def test_a_bad_takeover_is_refused_by_name_and_rule(takeover: str) -> None:
    rule = r"^setting takeover .*must be 'always' or 'if-idle:SECONDS'"
    with pytest.raises(InvalidInput, match=f"(?s){rule}") as caught:
        SessionFs.open("memory://", tenant="acme", takeover=takeover)
    assert repr(takeover) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": 601}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"backoff_s_min": 0}, "backoff_s_min"),
        ({"backoff_s_max": 61}, "backoff_s_max"),
        ({"backoff_s_min": 3, "backoff_s_max": 2}, "backoff_s_min must not be over backoff_s_max"),
        ({"retention_s": -1}, "retention_s"),
        ({"retention_s": float("inf")}, "retention_s"),
        ({"idle_s": 0}, "idle_s"),
        ({"idle_s": float("nan")}, "idle_s"),
        ({"cache_bytes": -1}, "cache_bytes"),
        ({"probe": "perhaps"}, "probe"),
    ],
)
def test_bad_numbers_are_refused_by_name(settings: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s)^setting.*{re.escape(name)}"):
        SessionFs.open("memory://", tenant="acme", **settings)


def test_deadline_and_backoff_reach_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings.load(deadline_s=7, backoff_s_min=0.25, backoff_s_max=0.5, idle_s=None, retention_s=60)
    options = settings.volume_options()
    assert options.patience == Patience(7, 0.25, 0.5)
    assert options.idle_s is None
    assert options.retention_s == 60
    file = tmp_path / "sessionfs.toml"
    file.write_text('takeover = "if-idle:5"\nbackoff_s_max = 9.0\n')
    monkeypatch.setenv("SESSIONFS_CONFIG", str(file))
    monkeypatch.setenv("SESSIONFS_DEADLINE_S", "3")
    options = Settings.load().volume_options()
    assert options.patience == Patience(3, 0.05, 9)
    assert options.takeover_idle_s == 5


async def test_the_deadline_and_the_backoff_are_kept(url: str, broken: FaultyStore) -> None:
    broken.inject(Fault("LIST", Fate.LOST_REQUEST, times=10_000))
    async with SessionFs.open(
        url, tenant="acme", deadline_s=0.3, backoff_s_min=0.001, backoff_s_max=0.002, probe=False
    ) as fs:
        with pytest.raises(Unavailable, match=r"no answer in 0\.3 s and \d\d+ tries"):
            async with fs.volume("s"):
                pass
    assert broken.count("LIST") > 20


class _NoConditions(FaultyStore):
    """A server that passes over ``If-None-Match``."""

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        del condition
        return await super().put(key, data, condition=UNCONDITIONAL)


@pytest.fixture
def broken(url: str, monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    """Return the store that :class:`SessionFs` opens: one that fails on demand."""
    store = FaultyStore(MemoryStore(url.removeprefix("memory://")))
    _opens(monkeypatch, store)
    return store


def _opens(monkeypatch: pytest.MonkeyPatch, store: FaultyStore) -> None:
    async def open_store(_: str) -> FaultyStore:
        return store

    monkeypatch.setattr(session_fs, "open_store", open_store)


async def test_the_probe_runs_once_before_the_first_write_and_never_for_reading(url: str) -> None:
    async with SessionFs.open(url, tenant="acme") as fs:
        async with fs.volume("s", read_only=True) as reader:
            assert not await reader.exists("/a")
        assert fs.requests.snapshot().requests(kind="probe") == 0
        async with fs.volume("s") as volume:
            probed = fs.requests.snapshot().requests(kind="probe")
            assert probed >= 10
            await volume.write_file("/a", "x")
        async with fs.volume("t") as volume:
            await volume.write_file("/a", "x")
        await fs.provider("u").ready()
        assert fs.requests.snapshot().requests(kind="probe") == probed
        keys = {request.key for request in fs.requests.recent if request.kind == "probe"}
        assert all(key.startswith("tenants/acme/probe/") for key in keys), "within the tenant's own prefix"
    async with SessionFs.open(url, tenant="other") as fs, fs.volume("s") as volume:
        await volume.write_file("/a", "x")
        assert fs.requests.snapshot().requests(kind="probe") == 0, "it is the same store"


async def test_a_store_without_conditional_creates_is_refused_and_nothing_is_left(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _NoConditions(MemoryStore(url.removeprefix("memory://")))
    _opens(monkeypatch, store)
    for _ in range(2):  # only a store that passed is remembered
        async with SessionFs.open(url, tenant="acme") as fs:
            with pytest.raises(Refused, match="ignores If-None-Match"):
                async with fs.volume("s"):
                    pass
            with pytest.raises(Refused, match="ignores If-None-Match"):
                await fs.provider("s").write_file("/a", "x")
            async with fs.volume("s", read_only=True) as reader:
                assert await reader.readdir("/") == []
    assert (await store.inner.list("")).entries == ()
    async with SessionFs.open(url, tenant="acme", probe=False) as fs, fs.volume("s") as volume:
        await volume.write_file("/a", "at one's own risk")


async def test_a_probe_without_an_answer_is_made_again_by_the_next(url: str, broken: FaultyStore) -> None:
    broken.inject(Fault("PUT", Fate.LOST_REQUEST, key="probe/", times=10_000))
    async with SessionFs.open(url, tenant="acme", deadline_s=0.5) as fs:
        with pytest.raises(Unavailable, match="no answer in"):
            async with fs.volume("s"):
                pass
        broken.faults.clear()
        async with fs.volume("s") as volume:
            await volume.write_file("/a", "x")


async def test_the_probe_keeps_to_the_deadline_that_was_set(url: str, broken: FaultyStore) -> None:
    broken.inject(Fault("PUT", key="probe/", gate=asyncio.Event(), times=10_000))
    async with SessionFs.open(url, tenant="acme", deadline_s=0.3) as fs:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                async with fs.volume("s"):
                    pass
