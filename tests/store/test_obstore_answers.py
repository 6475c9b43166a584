"""What the obstore adapter makes of each answer: the tables of the other S3 adapter, and where the two differ."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pytest

from sessionfs_s3.errors import Conflict, Denied, InvalidInput, KeyNotFound, NoAnswer, PreconditionFailed, StoreAnswer
from sessionfs_s3.store import (
    IF_ABSENT,
    UNCONDITIONAL,
    ClientSettings,
    Entry,
    Fetched,
    IfMatches,
    Page,
    Store,
    open_store,
)
from sessionfs_s3.store.obstore_answers import Asked
from sessionfs_s3.store.obstore_answers import answer as read_answer
from tests.store.scripted import Act, Scripted, answer, refusal
from tests.store.test_s3_answers import EVERY, REFUSALS, ask
from tests.store.test_s3_once import CALLS

pytest.importorskip("obstore")

OK = answer(200, ETag='"e"')
SECRET = "hunter2"


@contextlib.asynccontextmanager
async def store_at(script: Scripted, settings: ClientSettings | None = None) -> AsyncIterator[Store]:
    async with contextlib.aclosing(await open_store(f"{script.url()}&client=obstore", settings=settings)) as store:
        yield store


@pytest.mark.parametrize("verb", EVERY)
async def test_refusals(script: Scripted, verb: str) -> None:
    """The same as of the other adapter, 409 and 412 told apart among them."""
    async with store_at(script) as store:
        for said, expected, message in REFUSALS:
            wanted = expected[verb] if isinstance(expected, dict) else expected
            script.says = [said]
            with pytest.raises(StoreAnswer) as caught:
                await ask(store, verb)
            assert type(caught.value) is wanted, f"{said!r} became {caught.value!r}"
            assert caught.value.key == "a/key"
            assert message in str(caught.value).replace("an object store's endpoint", "an S3 endpoint")
            assert "://" not in str(caught.value), "a URL may hold a signature"
    assert len(script.came) == len(REFUSALS), "a refusal was answered with another request"


@pytest.mark.parametrize("lost", [Act.CLOSE, Act.RESET, Act.STALL, refusal(500, "InternalError"), answer(503)])
@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("verb", CALLS)
async def test_a_lost_answer_is_not_asked_for_again(
    script: Scripted, verb: str, used_before: bool, lost: Act | bytes
) -> None:
    async with store_at(script, ClientSettings(read_timeout_s=0.3)) as store:
        if used_before:
            script.says = [OK]
            await store.put("first", b"contents", condition=IF_ABSENT)
        script.says = [lost, OK, OK]
        with pytest.raises(NoAnswer):
            await CALLS[verb](store)
        await asyncio.sleep(0.05)
    assert len(script.came) == 1 + used_before


@pytest.mark.parametrize(
    "redirect",
    [
        refusal(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
        refusal(400, "AuthorizationHeaderMalformed", extra="<Region>eu-west-1</Region>"),
    ],
)
@pytest.mark.parametrize("verb", CALLS)
async def test_a_wrong_region_is_refused(script: Scripted, verb: str, redirect: bytes) -> None:
    script.says = [redirect, OK, OK]
    async with store_at(script) as store:
        with pytest.raises(Denied, match="region"):
            await CALLS[verb](store)
    assert len(script.came) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_of_a_put_is_not_followed(script: Scripted, status: int) -> None:
    script.says = [answer(status, Location=f"http://127.0.0.1:{script.port}/elsewhere"), OK]
    async with store_at(script) as store:
        with pytest.raises(Denied, match=f"HTTP {status}"):
            await store.put("key", b"contents", condition=IF_ABSENT)
    assert len(script.came) == 1


async def test_known_weakness_a_put_takes_the_answer_to_a_303_for_its_own(script: Scripted) -> None:
    """Acknowledged, though nothing is stored. Once this fails, obstore has mended it: as below."""
    script.says = [answer(303, Location=f"http://127.0.0.1:{script.port}/elsewhere"), answer(200, "hello", ETag='"e"')]
    async with store_at(script) as store:
        assert await store.put("key", b"contents", condition=IF_ABSENT) == '"e"'
    assert [(came.method, came.target) for came in script.came] == [("PUT", "/bucket/p/key"), ("GET", "/elsewhere")]


@pytest.mark.parametrize("verb", ["get", "list", "delete"])
async def test_known_weakness_other_redirects_are_followed(script: Scripted, verb: str) -> None:
    """What the other adapter refuses. Once this fails, obstore has mended it: then say so in the decision record."""
    script.says = [answer(307, Location=f"http://127.0.0.1:{script.port}/elsewhere"), refusal(403, "AccessDenied")]
    async with store_at(script) as store:
        with pytest.raises(Denied):
            await CALLS[verb](store)
    assert [came.target for came in script.came][1:] == ["/elsewhere"]


async def test_known_weakness_a_short_page_is_not_the_pages_end(script: Scripted) -> None:
    """Where a server does not fill a page, one call is more than one request; what it returns is right."""
    found = (
        "<Contents><Key>p/log/{}</Key><LastModified>2026-11-21T10:59:08.123Z</LastModified><ETag>e</ETag>"
        "<Size>7</Size></Contents>"
    )
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    script.says = [
        answer(200, f"<ListBucketResult>{more}{found.format('a%25')}</ListBucketResult>"),
        answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found.format('b')}</ListBucketResult>"),
    ]
    async with store_at(script) as store:
        page = await store.list("log/", limit=10)
    assert page == Page((Entry("log/a%25", 7, "e", 1795258748123), Entry("log/b", 7, "e", 1795258748123)), None)
    assert ["start-after" in came.target for came in script.came] == [False, False]
    assert "continuation-token=t" in script.came[1].target


async def test_pages_are_asked_for_by_key(script: Scripted) -> None:
    """From the last key on; a prefix that ends within a name from just before it on, in its folder."""
    script.says = [answer(200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")] * 5
    async with store_at(script) as store:
        await store.list("log/", cursor="log/00")
        for prefix in ("log/1", "log/0", "log/a0", "log"):
            await store.list(prefix)
    asked = [dict(parse_qsl(urlsplit(came.target).query)) for came in script.came]
    assert [(each["prefix"], each["start-after"]) for each in asked] == [
        ("p/log/", "p/log/00"),
        ("p/log/", "p/log/0~"),
        ("p/log/", "p/log/.~"),
        ("p/log/", "p/log/a/~"),
        ("p/", "p/lof~"),
    ]


@pytest.mark.parametrize("verb", EVERY)
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: e\r\nConnection: close\r\n\r\n<ListBucketResult>",
        b"HTTP/1.1 403 No\r\nContent-Length: 100\r\nConnection: close\r\n\r\n<Error>",
        b"220 mail.example ESMTP\r\nConnection: close\r\n\r\n",
        b"Connection: close",
    ],
)
async def test_an_answer_that_is_cut_is_none(script: Scripted, verb: str, said: bytes) -> None:
    # A put has its whole answer with the head, and what comes after it is not read.
    answered = verb in ("put", "replace") and said.startswith(b"HTTP/1.1 200")
    script.says = [said]
    async with store_at(script, ClientSettings(read_timeout_s=0.3)) as store:
        with contextlib.nullcontext() if answered else pytest.raises(NoAnswer):
            await ask(store, verb)
    assert len(script.came) == 1


async def test_a_server_that_does_not_read_is_given_up(script: Scripted) -> None:
    script.says = [Act.DEAF]
    async with store_at(script, ClientSettings(request_timeout_s=0.5)) as store:
        with pytest.raises(NoAnswer):
            await store.put("key", bytes(50_000_000), condition=IF_ABSENT)
    assert len(script.came) == 1


async def test_what_is_put_brings_its_checksum_in_one_request(script: Scripted) -> None:
    """Also over 5 MiB, from where on obstore would upload in parts by default."""
    script.says = [OK, OK, OK]
    async with store_at(script) as store:
        await store.put("key", b"123456789", condition=IF_ABSENT)
        await store.put("key", bytes(6_000_000), condition=UNCONDITIONAL)
        await store.put("key", b"x", condition=IfMatches('"e"'))
    first, large, replaced = script.came
    digest = hashlib.sha256(b"123456789").digest()
    assert first.headers["x-amz-checksum-sha256"] == base64.b64encode(digest).decode()
    assert first.headers["if-none-match"] == "*"
    assert first.body == b"123456789"
    assert len(large.body) == 6_000_000
    assert "if-none-match" not in large.headers
    assert replaced.headers["if-match"] == '"e"'
    assert all("expect" not in came.headers for came in script.came)


async def test_spans(script: Scripted) -> None:
    async with store_at(script) as store:
        script.says = [
            answer(206, b"234", ETag='"e"', Content_Range="bytes 2-4/10"),
            refusal(416, "InvalidRange"),
            answer(200, b"0123456789", ETag='"e"'),
        ]
        assert await store.get("key", span=(2, 5)) == Fetched(b"234", '"e"')
        assert await store.get("key", span=(10, 12)) == Fetched(b"", "")
        with pytest.raises(Denied, match="with the whole object"):
            await store.get("key", span=(8, 12))
    assert [came.headers["range"] for came in script.came] == ["bytes=2-4", "bytes=10-11", "bytes=8-11"]


@pytest.mark.parametrize(
    "page",
    [
        answer(200, "<html><body>Welcome to the hotel's network</body></html>"),
        answer(200, "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
    ],
)
async def test_known_weakness_what_is_not_a_listing_may_pass_for_an_empty_one(script: Scripted, page: bytes) -> None:
    """What the other adapter refuses. Once this fails, obstore has mended it: then say so in the decision record."""
    script.says = [page]
    async with store_at(script) as store:
        assert await store.list("log/") == Page((), None)


@pytest.mark.parametrize("page", [answer(200), answer(200, '{"keys": []}'), answer(204), answer(200, "<html><body>")])
async def test_what_cannot_be_read_is_no_listing(script: Scripted, page: bytes) -> None:
    script.says = [page]
    async with store_at(script) as store:
        with pytest.raises(NoAnswer):
            await store.list("log/")


async def test_a_delete_names_the_keys_error(script: Scripted) -> None:
    def result(*parts: str) -> bytes:
        return answer(200, f"<DeleteResult>{''.join(parts)}</DeleteResult>")

    def error(key: str, code: str) -> str:
        return f"<Error><Key>p/{key}</Key><Code>{code}</Code><Message>as scripted</Message></Error>"

    async with store_at(script) as store:
        deleted = "".join(f"<Deleted><Key>p/{key}</Key></Deleted>" for key in "abc")
        script.says = [result(deleted), result(error("c", "AccessDenied")), result(error("b", "SlowDown"))]
        await store.delete(["a", "b", "c"])
        with pytest.raises(Denied, match="AccessDenied: as scripted"):
            await store.delete(["a", "b", "c"])
        with pytest.raises(NoAnswer):
            await store.delete(["a", "b", "c"])
        await store.delete([])
    assert len(script.came) == 3


async def test_a_panic_is_no_answer(script: Scripted, capfd: pytest.CaptureFixture[str]) -> None:
    """A delete that is told of a key for which it did not ask makes object_store panic."""
    error = "<Error><Key>p/other</Key><Code>AccessDenied</Code><Message>as scripted</Message></Error>"
    script.says = [answer(200, f"<DeleteResult>{error}</DeleteResult>")]
    async with store_at(script) as store:
        with pytest.raises(NoAnswer, match="panicked"):
            await store.delete(["a"])
    assert "panicked at" in capfd.readouterr().err


async def test_closing_ends_what_waits_for_a_connection(script: Scripted) -> None:
    script.says = [Act.STALL]
    async with store_at(script, ClientSettings(connections_max=1)) as store:
        calls = [asyncio.create_task(store.get(f"{number}")) for number in range(3)]
        await script.stalled.wait()
        await store.aclose()
        assert [type(each) for each in await asyncio.gather(*calls, return_exceptions=True)] == [NoAnswer] * 3
    assert len(script.came) == 1


@pytest.mark.parametrize(
    ("text", "exists", "expected"),
    [
        ("S3 was met by an object (in other words, of a later release)", True, PreconditionFailed),
        ("the connection has gone (in other words, of a later release)", False, NoAnswer),
        ("Server returned non-2xx status code: 409 Conflict: <Code>BlobAlreadyExists</Code>", True, PreconditionFailed),
        ("Server returned non-2xx status code: 409 Conflict: <Code>LeaseAlreadyPresent</Code>", True, Conflict),
        ("Server returned non-2xx status code: 404 Not Found: <Code>ContainerNotFound</Code>", False, Denied),
        ("Server returned non-2xx status code: 404 Not Found: <Code>BlobNotFound</Code>", False, Denied),
        ("Bulk delete request failed for key a: gone (code: 404)", False, KeyNotFound),
        ("Bulk delete request failed for key a: busy (code: 503)", False, NoAnswer),
        ("Bulk delete request failed for key a: no (code: 403)", False, Denied),
        (f"GET https://host/?sig={SECRET} failed\n\nDebug source:\n{SECRET}", False, NoAnswer),
    ],
)
def test_what_a_text_means_to_a_put(text: str, exists: bool, expected: type[StoreAnswer]) -> None:
    read = read_answer(Exception(text), "a", Asked.PUT, bucket="b", exists=exists)
    assert type(read) is expected
    assert SECRET not in str(read)


async def test_without_credentials_opening_is_refused(no_aws_settings: None) -> None:
    with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
        await open_store("s3://bucket/prefix?region=us-east-1&client=obstore")


async def test_an_unusable_profile_is_refused(no_aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(Denied, match="no-such-profile"):
        await open_store("s3://bucket/prefix?region=us-east-1&client=obstore")


async def test_credentials_region_and_server_come_from_the_aws_configuration(
    script: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's chain, which obstore's own is not: here a profile whose credentials another program issues."""
    expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    issued = {
        "Version": 1,
        "AccessKeyId": "ISSUED",
        "SecretAccessKey": SECRET,
        "SessionToken": "t",
        "Expiration": expires,
    }
    (tmp_path / "issued.json").write_text(json.dumps(issued))
    (tmp_path / "config").write_text(
        f"[profile issued]\ncredential_process = cat {tmp_path}/issued.json\nregion = eu-west-3\n"
        f"endpoint_url = http://127.0.0.1:{script.port}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "issued")
    script.says = [OK]
    async with contextlib.aclosing(await open_store("s3://bucket/p?client=obstore")) as store:
        await store.put("key", b"contents", condition=IF_ABSENT)
    (came,) = script.came
    assert "Credential=ISSUED/" in came.headers["authorization"]
    assert "/eu-west-3/s3/aws4_request" in came.headers["authorization"]
    assert came.headers["x-amz-security-token"] == "t"


@pytest.mark.parametrize(
    ("given", "endpoint", "virtual"),
    [
        ("", None, True),
        ("&addressing_style=path", None, False),
        ("&endpoint_url=http://host:9000", "http://host:9000", False),
        ("&endpoint_url=http://host:9000&addressing_style=virtual", "http://bucket.host:9000", True),
    ],
)
async def test_where_the_buckets_name_stands(script: Scripted, given: str, endpoint: str | None, virtual: bool) -> None:
    """As with the other client: in the host name where the host is Amazon's, or when asked to."""
    store = await open_store(f"s3://bucket/p?region=eu-west-1{given}&client=obstore")
    async with contextlib.aclosing(store):
        config = cast("Any", store)._client.config
        assert config.get("endpoint") == endpoint
        assert config["virtual_hosted_style_request"] in (virtual, str(virtual).lower())


async def test_a_directory_bucket_is_refused() -> None:
    with pytest.raises(InvalidInput, match="directory bucket"):
        await open_store("s3://b-1--use1-az4--x-s3/p?client=obstore")


async def test_azure_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Denied, match="Account must be specified"):
        await open_store("az://container/prefix")


async def test_closing_ends_what_is_under_way(script: Scripted) -> None:
    script.says = [Act.STALL]
    async with store_at(script) as store:
        call = asyncio.create_task(store.put("key", b"contents", condition=UNCONDITIONAL))
        await script.stalled.wait()
        await store.aclose()
        with pytest.raises(NoAnswer):
            await call


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "az://container/prefix", "s3://bucket/prefix?client=obstore"])
def test_the_missing_extra_is_named(url: str) -> None:
    code = (
        "import sys, asyncio; sys.modules['obstore'] = None\n"
        "from sessionfs_s3.store import open_store\n"
        f"asyncio.run(open_store({url!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "InvalidInput" in done.stderr
    assert "pip install 'sessionfs-s3[obstore]'" in done.stderr
