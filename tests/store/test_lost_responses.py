"""A conditional PUT whose answer is lost: stored by a real server, and then the client hears nothing of it.

The table of what each client does, with the proxy of :mod:`sessionfs_s3.testing.lossy` in front of ministack.
"412-self" is what must never happen: the client silently sends the request again and reports 412, as if somebody else
had been faster, for what it has itself stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sessionfs_s3.errors import Fenced, NoAnswer, PreconditionFailed
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store import IF_ABSENT, ClientSettings, Store, open_store
from sessionfs_s3.testing.lossy import Loss, LossyProxy, lossy_proxy
from sessionfs_s3.testing.server_process import REGION, S3Server
from sessionfs_s3.volume import Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment
from sessionfs_s3.volume.retry import Patience

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("ministack")]

Enter = Callable[[S3Server], str]
KEYS = SessionKeys.of("acme", "task-7")
OPTIONS = VolumeOptions(patience=Patience(deadline_s=30.0, backoff_s_min=0.001, backoff_s_max=0.01))
SETTINGS = ClientSettings(read_timeout_s=0.3)
ADAPTERS = ["aiobotocore", "obstore"]


class Lossy:
    """A bucket's prefix, by way of the proxy and directly."""

    def __init__(self, url: str, server: S3Server, proxy: LossyProxy) -> None:
        self.url, self.server, self.proxy = url, server, proxy
        parts = urlsplit(url)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")

    async def store(self, client: str) -> Store:
        if client == "obstore":
            pytest.importorskip("obstore")
        through = f"s3://{self.bucket}/{self.prefix}?endpoint_url={self.proxy.endpoint_url}&region={REGION}"
        return await open_store(f"{through}&client={client}", settings=SETTINGS)

    def stored(self, key: str) -> bytes:
        answer: Any = self.server.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
        with contextlib.closing(answer["Body"]) as body:
            return bytes(body.read())


@pytest.fixture
async def lossy(ministack: S3Server, enter: Enter) -> AsyncIterator[Lossy]:
    async with lossy_proxy(ministack.endpoint_url) as proxy:
        yield Lossy(enter(ministack), ministack, proxy)


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("client", ADAPTERS)
async def test_the_adapters_say_that_they_do_not_know(client: str, loss: Loss, used_before: bool, lossy: Lossy) -> None:
    """And send one request; also on a connection that was used before, which some clients treat otherwise."""
    async with contextlib.aclosing(await lossy.store(client)) as store:
        if used_before:
            await store.put("earlier", b"x", condition=IF_ABSENT)
            lossy.proxy.puts.clear()
        lossy.proxy.losses = [loss]
        with pytest.raises(NoAnswer):
            await store.put("slot", b"mine", condition=IF_ABSENT)
        await asyncio.sleep(0.05)
        assert lossy.proxy.puts == [200], "exactly one request reached the server"
        assert await asyncio.to_thread(lossy.stored, "slot") == b"mine"
        with pytest.raises(PreconditionFailed):
            await store.put("slot", b"mine", condition=IF_ABSENT)
        assert lossy.proxy.puts == [200, 412]


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("client", ADAPTERS)
async def test_an_own_write_is_no_loss(client: str, loss: Loss, lost: int, lossy: Lossy) -> None:
    """The engine finds what it has itself stored, and goes on behind it, whether it creates, claims or appends."""
    async with contextlib.aclosing(await lossy.store(client)) as store:
        lossy.proxy.losses = [loss] * lost
        async with await opened(store) as volume:
            await volume.append_file("/log", "a,")
            assert lossy.proxy.puts == [200] + [412] * lost, "the first commit, and the tries that found it there"
            lossy.proxy.losses = [loss] * lost
            await volume.append_file("/log", "b,")
            await volume.append_file("/log", "c,")
        lossy.proxy.losses = [loss] * lost
        async with await opened(store) as volume:
            await volume.append_file("/log", "d,")
        assert not lossy.proxy.losses
        assert sorted(lossy.proxy.puts) == [200] * 5 + [412] * 3 * lost
        async with await opened(store, read_only=True) as reader:
            assert await reader.read_file("/log") == "a,b,c,d,"
            assert reader.head.sequence == 5, "three commits, a claim and a commit: each is there once"


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("client", ADAPTERS)
async def test_a_strangers_write_is_no_success(client: str, loss: Loss, lossy: Lossy) -> None:
    """The answer that is lost says 412, for somebody has claimed the session: no later try may pass for a success."""
    async with (
        contextlib.aclosing(await lossy.store(client)) as store,
        contextlib.aclosing(await open_store(lossy.url)) as direct,
        await opened(store) as volume,
    ):
        await volume.append_file("/log", "a,")
        async with await opened(direct) as stranger:
            lossy.proxy.puts.clear()
            lossy.proxy.losses = [loss, loss]
            with pytest.raises(Fenced):
                await volume.append_file("/log", "never,")
            assert lossy.proxy.puts == [412, 412, 412]
            await stranger.append_file("/log", "b,")
        async with await opened(direct, read_only=True) as reader:
            assert await reader.read_file("/log") == "a,b,"


SELF_412 = "412-self"
ERROR = "error"


@pytest.mark.parametrize("loss", Loss)
async def test_boto3_by_default_takes_its_own_write_for_anothers(loss: Loss, lossy: Lossy) -> None:
    """So the tests above can fail: the proxy and the server give every client the chance."""
    boto3 = pytest.importorskip("boto3")
    client: Any = boto3.client(
        "s3",
        endpoint_url=lossy.proxy.endpoint_url,
        region_name=REGION,
        config=Config(read_timeout=0.5, s3={"addressing_style": "path"}),
    )

    async def put() -> None:
        await asyncio.to_thread(client.put_object, Bucket=lossy.bucket, Key=KEY, Body=b"mine", IfNoneMatch="*")

    try:
        assert await outcome(lossy, loss, put) == SELF_412
    finally:
        client.close()


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        ({}, dict.fromkeys(Loss, SELF_412)),
        (
            # aiohttp repeats an idempotent request by itself: why the adapter's session class turns that off.
            {"retries": {"total_max_attempts": 1}},
            {Loss.CLOSED: SELF_412, Loss.RESET: SELF_412, Loss.TIMEOUT: ERROR, Loss.ERROR: ERROR},
        ),
    ],
)
@pytest.mark.parametrize("loss", Loss)
async def test_so_does_aiobotocore(
    loss: Loss, retries: dict[str, Any], expected: dict[Loss, str], lossy: Lossy
) -> None:
    config = AioConfig(read_timeout=0.5, s3={"addressing_style": "path"}, **retries)
    creating: Any = get_session().create_client(
        "s3", endpoint_url=lossy.proxy.endpoint_url, region_name=REGION, config=config
    )
    async with creating as client:

        async def put() -> None:
            await client.put_object(Bucket=lossy.bucket, Key=KEY, Body=b"mine", IfNoneMatch="*")

        assert await outcome(lossy, loss, put) == expected[loss]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(Loss.CLOSED, SELF_412), (Loss.RESET, ERROR), (Loss.TIMEOUT, ERROR), (Loss.ERROR, SELF_412)],
)
async def test_so_does_obstore_of_some(loss: Loss, expected: str, lossy: Lossy) -> None:
    obstore = pytest.importorskip("obstore")
    store: Any = pytest.importorskip("obstore.store").S3Store(
        lossy.bucket,
        endpoint=lossy.proxy.endpoint_url,
        region=REGION,
        client_options={"allow_http": True, "read_timeout": "500ms"},
    )

    async def put() -> None:
        await obstore.put_async(store, KEY, b"mine", mode="create")

    assert await outcome(lossy, loss, put) == expected


KEY = "by-default"


async def outcome(lossy: Lossy, loss: Loss, put: Callable[[], Any]) -> str:
    """Return what a client makes of its own PUT when the answer is lost."""
    await asyncio.to_thread(lossy.server.client.delete_object, Bucket=lossy.bucket, Key=KEY)
    lossy.proxy.losses = [loss]
    try:
        await put()
    except ClientError as error:
        refused = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412
    except BotoCoreError:
        refused = False
    except Exception as error:  # noqa: BLE001  # obstore's classes, without which the others can be tested too
        refused = type(error).__name__ == "AlreadyExistsError"
    else:
        raise AssertionError("a lost answer was taken for a success")
    assert lossy.proxy.puts == ([200, 412] if refused else [200])
    return SELF_412 if refused else ERROR


async def opened(store: Store, *, read_only: bool = False) -> Volume:
    return await Volume.open(store, KEYS, read_only=read_only, environment=system_environment(), options=OPTIONS)
