"""One call, one request: nothing under the adapter sends anything again, whatever becomes of the first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from aiobotocore.httpsession import AIOHTTPSession

from sessionfs_s3.errors import Denied, NoAnswer
from sessionfs_s3.store import IF_ABSENT, ClientSettings, Store, s3_client
from tests.store.scripted import Act, Scripted, answer, refusal, store_at

OK = answer(200, ETag='"e"')

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "get": lambda store: store.get("key"),
    "put": lambda store: store.put("key", b"contents", condition=IF_ABSENT),
    "list": lambda store: store.list("log/"),
    "delete": lambda store: store.delete(["key"]),
}


@pytest.mark.parametrize("lost", [Act.CLOSE, Act.RESET, Act.STALL, refusal(500, "InternalError"), answer(503)])
@pytest.mark.parametrize("verb", CALLS)
async def test_a_lost_answer_is_not_asked_for_again(script: Scripted, verb: str, lost: Act | bytes) -> None:
    script.says = [lost, OK, OK]
    async with store_at(script, ClientSettings(read_timeout_s=0.5)) as store:
        with pytest.raises(NoAnswer):
            await CALLS[verb](store)
        await asyncio.sleep(0.05)
    assert len(script.came) == 1


@pytest.mark.parametrize("lost", [Act.CLOSE, Act.RESET])
async def test_nor_on_a_connection_that_was_used_before(script: Scripted, lost: Act) -> None:
    script.says = [OK, lost, OK]
    async with store_at(script) as store:
        await store.put("first", b"contents", condition=IF_ABSENT)
        with pytest.raises(NoAnswer):
            await store.put("second", b"contents", condition=IF_ABSENT)
        await asyncio.sleep(0.05)
    assert [came.target for came in script.came] == ["/bucket/p/first", "/bucket/p/second"]


async def test_without_the_session_class_it_is_sent_twice(script: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that the tests above can fail. Once this one does, aiohttp has stopped repeating requests by itself."""
    monkeypatch.setattr(s3_client, "SingleRequestSession", AIOHTTPSession)
    script.says = [Act.CLOSE, refusal(412, "PreconditionFailed")]
    async with store_at(script) as store:
        with contextlib.suppress(Exception):
            await store.put("key", b"contents", condition=IF_ABSENT)
    assert len(script.came) == 2


@pytest.mark.parametrize(
    "redirect",
    [
        answer(307, Location="http://127.0.0.1:{port}/elsewhere"),
        answer(302, Location="http://127.0.0.1:{port}/elsewhere"),
        refusal(
            301, "PermanentRedirect", x_amz_bucket_region="eu-west-1", Location="http://127.0.0.1:{port}/elsewhere"
        ),
        refusal(301, "PermanentRedirect", extra="<Endpoint>bucket.elsewhere</Endpoint>"),
        refusal(400, "AuthorizationHeaderMalformed", extra="<Region>eu-west-1</Region>"),
        refusal(400, "IllegalLocationConstraintException", x_amz_bucket_region="eu-west-1"),
    ],
)
@pytest.mark.parametrize("verb", CALLS)
async def test_redirects_are_not_followed(script: Scripted, verb: str, redirect: bytes) -> None:
    script.says = [redirect.replace(b"{port}", str(script.port).encode()), OK, OK]
    async with store_at(script) as store:
        with pytest.raises(Denied) as caught:
            await CALLS[verb](store)
    assert len(script.came) == 1
    assert "elsewhere" in str(caught.value) or "eu-west-1" in str(caught.value)


async def test_a_server_that_does_not_read_is_given_up(script: Scripted) -> None:
    script.says = [Act.DEAF]
    async with store_at(script, ClientSettings(request_timeout_s=1.0)) as store:
        with pytest.raises(NoAnswer):
            await store.put("key", bytes(50_000_000), condition=IF_ABSENT)
    assert len(script.came) == 1


async def test_a_refused_connection_is_no_answer(script: Scripted) -> None:
    async with store_at(Scripted(port=1)) as store:
        for call in CALLS.values():
            with pytest.raises(NoAnswer):
                await call(store)


async def test_what_is_put_brings_its_checksum(script: Scripted) -> None:
    """By which a server can tell that an upload broke off; SeaweedFS stores an empty object without."""
    script.says = [OK]
    async with store_at(script) as store:
        await store.put("key", b"123456789", condition=IF_ABSENT)
    (came,) = script.came
    assert came.headers["x-amz-checksum-crc32"] == "y/Q5Jg=="  # CBF43926, the check value of CRC-32
    assert came.headers["if-none-match"] == "*"
    assert came.body == b"123456789"
    assert "expect" not in came.headers
