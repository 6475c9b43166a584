"""The conformance suite, run against every store that ships and every S3 server that a package brings, and MinIO."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store import (
    IF_ABSENT,
    Fetched,
    IfMatches,
    LocalStore,
    MemoryStore,
    MeteredStore,
    RequestLog,
    S3Store,
    Store,
    open_store,
)
from sessionfs_s3.store.url import S3Location, parse_store_url
from sessionfs_s3.testing.cloud_servers import AzureServer, azurite_server
from sessionfs_s3.testing.servers import S3Server
from sessionfs_s3.testing.store import StoreConformance, entries
from tests.conftest import available
from tests.store.google_model import TOKEN, google_model

Enter = Callable[[S3Server], str]

CONTAINER = "sessions"

_numbers = itertools.count()
_Class = TypeVar("_Class", bound=type[StoreConformance])


def without(*tests: Callable[..., object]) -> Callable[[_Class], _Class]:
    """Leave *tests* out of a class: ones that take seconds, and whose claim others here make."""

    def leave_out(cls: _Class) -> _Class:
        for test in tests:
            assert getattr(cls, test.__name__) is test
            setattr(cls, test.__name__, None)
        return cls

    return leave_out


# A thousand puts. What the adapters make of a full page is seen on ministack, what SeaweedFS does with obstore's puts,
# which cost a quarter; moto's listing is a model's.
FULL_PAGE = StoreConformance.test_a_full_page_has_a_thousand_entries


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzureServer]:
    with available(azurite_server()) as server:
        server.create_container(CONTAINER)
        yield server


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with contextlib.aclosing(MemoryStore()) as store:
            yield store


class TestMeteredStore(StoreConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with contextlib.aclosing(MeteredStore(MemoryStore(), RequestLog())) as store:
            yield store


class TestLocalStore(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        self.root = tmp_path / "new" / "a store"
        store = await open_store(f"file://{quote(str(self.root))}")
        assert isinstance(store, LocalStore)
        async with contextlib.aclosing(store):
            yield store

    async def raw_get(self, store: Store, key: str) -> bytes | None:
        path = self.root / key
        return path.read_bytes() if path.is_file() else None


class S3Conformance(StoreConformance):
    """Reads what is stored past the adapter, with botocore's own blocking client."""

    server: S3Server
    location: S3Location

    async def opened(self, server: S3Server, enter: Enter) -> Store:
        url = enter(server)
        location = parse_store_url(url)
        assert isinstance(location, S3Location)
        self.location = location
        self.client: Any = server.client
        store = await open_store(url)
        assert isinstance(store, S3Store)
        return store

    async def raw_get(self, store: Store, key: str) -> bytes | None:
        try:
            answer = self.client.get_object(Bucket=self.location.bucket, Key=self.location.prefix + key)
        except self.client.exceptions.NoSuchKey:
            return None
        with contextlib.closing(answer["Body"]) as body:
            return bytes(body.read())


@pytest.mark.servers
@pytest.mark.xdist_group("moto")
@without(FULL_PAGE)
class TestS3OnMoto(S3Conformance):
    races_are_fair = False  # It checks the condition, then writes, with no lock.
    race_rounds = 2

    @pytest.fixture
    async def store(self, moto: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(moto, enter)) as store:
            yield store


@pytest.mark.servers
@pytest.mark.xdist_group("ministack")
class TestS3OnMinistack(S3Conformance):
    @pytest.fixture
    async def store(self, ministack: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(ministack, enter)) as store:
            yield store


@pytest.mark.servers
@pytest.mark.xdist_group("seaweedfs")
@without(FULL_PAGE)
class TestS3OnSeaweedFS(S3Conformance):
    races_are_fair = True
    race_rounds = 1  # Those who want a key that is contended wait for it in steps of a second.
    sorts_by_whole_key = False  # Directory by directory.

    @pytest.fixture
    async def store(self, seaweedfs: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(seaweedfs, enter)) as store:
            yield store


@pytest.mark.servers
@pytest.mark.xdist_group("minio")
class TestS3OnMinIO(S3Conformance):
    race_rounds = 4

    @pytest.fixture
    async def store(self, minio: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(minio, enter)) as store:
            yield store


class ObstoreConformance(S3Conformance):
    """The other client of S3."""

    async def opened(self, server: S3Server, enter: Enter) -> Store:
        pytest.importorskip("obstore")
        from sessionfs_s3.store import ObstoreStore

        url = f"{enter(server)}&client=obstore"
        location = parse_store_url(url)
        assert isinstance(location, S3Location)
        self.location = location
        self.client = server.client
        store = await open_store(url)
        assert isinstance(store, ObstoreStore)
        return store


@pytest.mark.servers
@pytest.mark.xdist_group("moto")
@without(FULL_PAGE)
class TestObstoreOnMoto(ObstoreConformance):
    races_are_fair = False  # As above.
    race_rounds = 2

    @pytest.fixture
    async def store(self, moto: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(moto, enter)) as store:
            yield store


@pytest.mark.servers
@pytest.mark.xdist_group("ministack")
class TestObstoreOnMinistack(ObstoreConformance):
    race_rounds = 2  # The server's own races are those above: here the question is what the client makes of them.

    @pytest.fixture
    async def store(self, ministack: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(ministack, enter)) as store:
            yield store


@pytest.mark.servers
@pytest.mark.xdist_group("seaweedfs")
class TestObstoreOnSeaweedFS(ObstoreConformance):
    races_are_fair = True
    race_rounds = 1  # As above; this client's puts arrive so much at once that each waits for all before it.
    racers = 8
    sorts_by_whole_key = False  # As above.

    @pytest.fixture
    async def store(self, seaweedfs: S3Server, enter: Enter) -> AsyncIterator[Store]:
        async with contextlib.aclosing(await self.opened(seaweedfs, enter)) as store:
            yield store


@pytest.mark.servers
@pytest.mark.xdist_group("azurite")
class TestObstoreOnAzurite(StoreConformance):
    """Azure's protocol; one process that decides one request after the other, so a race of 50 takes it a while."""

    race_rounds = 2

    @pytest.fixture
    async def store(self, azurite: AzureServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
        pytest.importorskip("obstore")
        for name, value in azurite.environment().items():
            monkeypatch.setenv(name, value)
        self.server = azurite
        self.prefix = f"test-{os.getpid()}-{next(_numbers)}"
        async with contextlib.aclosing(await open_store(f"az://{CONTAINER}/{self.prefix}")) as store:
            yield store

    async def raw_get(self, store: Store, key: str) -> bytes | None:
        path = f"{CONTAINER}/{self.prefix}/{quote(key)}"
        status, body = await asyncio.to_thread(self.server.request, "GET", path, {})
        assert status in (200, 404), body
        return body if status == 200 else None


class TestObstoreOnGoogleModel(StoreConformance):
    """No emulator speaks Google's XML interface: this is a model of it, so it proves the adapter, not Google."""

    race_rounds = 2

    @pytest.fixture
    async def store(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
        pytest.importorskip("obstore")
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", TOKEN)
        async with google_model("sessions") as (self.model, endpoint_url):
            url = f"gs://sessions/prefix?endpoint_url={endpoint_url}"
            async with contextlib.aclosing(await open_store(url)) as store:
                yield store

    async def raw_get(self, store: Store, key: str) -> bytes | None:
        found = self.model.objects.get(f"prefix/{key}")
        return found.data if found else None

    async def test_what_is_put_is_what_is_got(self, store: Store) -> None:
        """As everywhere, but for the entity tags in listings, which obstore does not pass on there: they are empty."""
        for number, data in enumerate((b"", b"x", bytes(range(256)) * 20_480)):
            etag = await store.put(f"objects/{number}", data, condition=IF_ABSENT)
            assert etag.isdigit(), "the generation, which a conditional replace takes"
            assert await store.get(f"objects/{number}") == Fetched(data, etag)
            assert await self.raw_get(store, f"objects/{number}") == data
            (entry,) = await entries(store, f"objects/{number}")
            assert (entry.key, entry.size, entry.etag) == (f"objects/{number}", len(data), "")
        with pytest.raises(InvalidInput, match="one that put or get returned"):
            await store.put("objects/0", b"x", condition=IfMatches(""))
