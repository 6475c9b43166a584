"""What becomes of each answer that an S3 server may give."""

from __future__ import annotations

import asyncio

import pytest

from sessionfs_s3.errors import Conflict, Denied, KeyNotFound, NoAnswer, PreconditionFailed, StoreAnswer
from sessionfs_s3.store import IF_ABSENT, UNCONDITIONAL, ClientSettings, Fetched, IfMatches, Page, Store, open_store
from tests.store.scripted import Act, Scripted, answer, refusal, store_at

EVERY = ("get", "put", "replace", "list", "delete")

# What the server says; what becomes of it, by verb where it matters; what the message must hold.
REFUSALS: list[tuple[bytes, type[StoreAnswer] | dict[str, type[StoreAnswer]], str]] = [
    (
        refusal(404, "NoSuchKey"),
        {"get": KeyNotFound, "put": Denied, "replace": PreconditionFailed, "list": Denied, "delete": Denied},
        "",
    ),
    (refusal(404, "NoSuchBucket"), Denied, "the bucket 'bucket' does not exist"),
    (answer(404, "<html>no such page</html>"), Denied, "is this an S3 endpoint?"),
    (answer(404), Denied, "is this an S3 endpoint?"),
    (refusal(412, "PreconditionFailed"), PreconditionFailed, "as scripted"),
    (
        refusal(409, "ConditionalRequestConflict"),
        {"get": NoAnswer, "put": Conflict, "replace": Conflict, "list": NoAnswer, "delete": NoAnswer},
        "ConditionalRequestConflict",
    ),
    (
        refusal(409, "OperationAborted"),
        {"get": NoAnswer, "put": Conflict, "replace": Conflict, "list": NoAnswer, "delete": NoAnswer},
        "OperationAborted",
    ),
    (refusal(400, "InvalidRequest"), Denied, "HTTP 400 InvalidRequest: as scripted"),
    (refusal(400, "ExpiredToken"), Denied, "ExpiredToken"),
    (refusal(401, "Unauthorized"), Denied, "HTTP 401"),
    (refusal(403, "AccessDenied", "not yours"), Denied, "HTTP 403 AccessDenied: not yours"),
    (refusal(403, "SignatureDoesNotMatch"), Denied, "SignatureDoesNotMatch"),
    (refusal(403, "RequestTimeTooSkewed"), Denied, "RequestTimeTooSkewed"),
    (refusal(405, "MethodNotAllowed"), Denied, "HTTP 405"),
    (refusal(411, "MissingContentLength"), Denied, "HTTP 411"),
    (refusal(501, "NotImplemented"), Denied, "HTTP 501"),
    (refusal(400, "RequestTimeout"), NoAnswer, "RequestTimeout"),
    (refusal(400, "BadDigest"), NoAnswer, "BadDigest"),
    (refusal(400, "XAmzContentSHA256Mismatch"), NoAnswer, "XAmzContentSHA256Mismatch"),
    (refusal(400, "IncompleteBody"), NoAnswer, "IncompleteBody"),
    (refusal(429, "TooManyRequests"), NoAnswer, "HTTP 429"),
    (answer(429), NoAnswer, "HTTP 429"),
    (answer(408), NoAnswer, "HTTP 408"),
    (refusal(500, "InternalError"), NoAnswer, "HTTP 500"),
    (answer(502, "<html>Bad Gateway</html>"), NoAnswer, "HTTP 502"),
    (refusal(503, "SlowDown"), NoAnswer, "SlowDown"),
    (answer(504), NoAnswer, "HTTP 504"),
    (refusal(507, "XMinioStorageFull"), NoAnswer, "XMinioStorageFull"),
]


async def ask(store: Store, verb: str) -> None:
    if verb == "get":
        await store.get("a/key")
    if verb == "put":
        await store.put("a/key", b"contents", condition=IF_ABSENT)
    if verb == "replace":
        await store.put("a/key", b"contents", condition=IfMatches('"e"'))
    if verb == "list":
        await store.list("a/key")
    if verb == "delete":
        await store.delete(["a/key"])


@pytest.mark.parametrize("verb", EVERY)
async def test_refusals(script: Scripted, verb: str) -> None:
    async with store_at(script) as store:
        for said, expected, message in REFUSALS:
            wanted = expected[verb] if isinstance(expected, dict) else expected
            script.says = [said]
            with pytest.raises(StoreAnswer) as caught:
                await ask(store, verb)
            assert type(caught.value) is wanted, f"{said!r} became {caught.value!r}"
            assert caught.value.key == "a/key"
            assert message in str(caught.value)
    assert len(script.came) == len(REFUSALS), "a refusal was answered with another request"


@pytest.mark.parametrize("verb", EVERY)
@pytest.mark.parametrize(
    "said",
    [
        Act.CLOSE,
        Act.RESET,
        Act.STALL,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: e\r\nConnection: close\r\n\r\n<ListBucketResult>",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: e\r\nConnection: close\r\n\r\n5\r\n<List\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: 100\r\nConnection: close\r\n\r\n<Error>",
        b"220 mail.example ESMTP\r\nConnection: close\r\n\r\n",
        b"Connection: close",
    ],
)
async def test_an_answer_that_is_cut_or_never_comes_is_none(script: Scripted, verb: str, said: Act | bytes) -> None:
    script.says = [said]
    async with store_at(script, ClientSettings(read_timeout_s=0.5)) as store:
        with pytest.raises(NoAnswer) as caught:
            await ask(store, verb)
    assert caught.value.key == "a/key"
    assert len(script.came) == 1


async def test_contents_that_stop_halfway_are_no_contents(script: Scripted) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: e\r\n\r\n" + bytes(500)
    async with store_at(script, ClientSettings(read_timeout_s=0.5)) as store:
        script.says = [half]  # And the connection stays open.
        with pytest.raises(NoAnswer):
            await store.get("key")


@pytest.mark.parametrize(
    "page",
    [
        answer(200),
        answer(200, "<html><body>Welcome to the hotel's network</body></html>"),
        answer(200, "<html><body>Welcome<br></body></html>"),
        answer(200, '{"keys": []}'),
        answer(204),
        answer(200, "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
        answer(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a</Key></Contents></ListBucketResult>",
        ),
    ],
)
async def test_what_is_not_a_listing_is_never_an_empty_one(script: Scripted, page: bytes) -> None:
    """A proxy that answers in the store's place must not make a session look new."""
    script.says = [page]
    async with store_at(script) as store:
        with pytest.raises(NoAnswer):
            await store.list("log/")


async def test_a_success_that_is_not_s3s_is_none(script: Scripted) -> None:
    async with store_at(script) as store:
        script.says = [answer(200, "<html>Welcome</html>")] * 3
        for verb in ("get", "put", "delete"):
            with pytest.raises(NoAnswer):
                await ask(store, verb)


async def test_a_listing(script: Scripted) -> None:
    contents = "".join(
        f"<Contents><Key>p/log/{name}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>7</Size></Contents>"
        for name, modified, etag in (
            ("a%2525", "2026-11-21T10:59:08.123Z", "&quot;1&quot;"),
            ("b", "2026-11-21T10:59:08Z", "&quot;2&quot;"),
        )
    )
    script.says = [
        answer(
            200,
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t/1=</NextContinuationToken>"
            f"<EncodingType>url</EncodingType>{contents}</ListBucketResult>",
        ),
        answer(200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"),
    ]
    async with store_at(script) as store:
        page = await store.list("log/", limit=2)
        assert await store.list("log/", cursor=page.cursor, limit=2) == Page((), None)
    assert [(entry.key, entry.size, entry.etag, entry.modified_ms) for entry in page.entries] == [
        ("log/a%25", 7, '"1"', 1795258748123),
        ("log/b", 7, '"2"', 1795258748000),
    ]
    assert page.cursor == "t/1="
    first, second = script.came
    assert "prefix=p%2Flog%2F" in first.target
    assert "max-keys=2" in first.target
    assert "continuation-token=t%2F1%3D" in second.target


async def test_spans(script: Scripted) -> None:
    async with store_at(script) as store:
        script.says = [
            answer(206, b"234", ETag='"e"', Content_Range="bytes 2-4/10"),
            refusal(416, "InvalidRange"),
            answer(200, b"0123456789", ETag='"e"'),
        ]
        assert await store.get("key", span=(2, 5)) == Fetched(b"234", '"e"')
        assert await store.get("key", span=(10, 12)) == Fetched(b"", "")
        assert await store.get("key", span=(8, 12)) == Fetched(b"89", '"e"'), "a server that knows no ranges"
    assert [came.headers["range"] for came in script.came] == ["bytes=2-4", "bytes=10-11", "bytes=8-11"]


async def test_a_delete_names_each_keys_error(script: Scripted) -> None:
    def result(*parts: str) -> bytes:
        return answer(200, f"<DeleteResult>{''.join(parts)}</DeleteResult>")

    def error(key: str, code: str) -> str:
        return f"<Error><Key>p/{key}</Key><Code>{code}</Code><Message>as scripted</Message></Error>"

    def deleted(key: str) -> str:
        return f"<Deleted><Key>p/{key}</Key></Deleted>"

    keys = ["a", "b", "c"]
    async with store_at(script) as store:
        script.says = [result(*map(deleted, keys))]
        await store.delete(keys)
        script.says = [result(deleted("a"), error("b", "InternalError"), error("c", "AccessDenied"))]
        with pytest.raises(Denied, match="c: AccessDenied: as scripted"):
            await store.delete(keys)
        script.says = [result(deleted("a"), error("b", "SlowDown"), deleted("c"))]
        with pytest.raises(NoAnswer, match="b: SlowDown: as scripted"):
            await store.delete(keys)
        script.says = [result(deleted("a"), deleted("c"))]
        with pytest.raises(NoAnswer, match="b: the answer does not say"):
            await store.delete(keys)
        await store.delete([])
    assert len(script.came) == 4
    assert all("content-md5" in came.headers or "x-amz-checksum-crc32" in came.headers for came in script.came)


async def test_without_credentials_opening_is_refused(no_aws_settings: None) -> None:
    with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
        await open_store("s3://bucket/prefix?region=us-east-1")


async def test_an_unusable_profile_is_refused(no_aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(Denied, match="no-such-profile"):
        await open_store("s3://bucket/prefix?region=us-east-1")


async def test_closing_ends_what_is_under_way(script: Scripted) -> None:
    script.says = [Act.STALL]
    async with store_at(script) as store:
        call = asyncio.create_task(store.put("key", b"contents", condition=UNCONDITIONAL))
        await script.stalled.wait()
        await store.aclose()
        with pytest.raises(NoAnswer):
            await call


async def test_without_a_region_it_is_signed_for_the_default(script: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    script.says = [answer(200, ETag='"e"')]
    store = await open_store(f"s3://bucket/p?endpoint_url=http://127.0.0.1:{script.port}")
    await store.put("key", b"contents", condition=IF_ABSENT)
    await store.aclose()
    assert "/us-east-1/s3/aws4_request" in script.came[0].headers["authorization"]
    assert script.came[0].target == "/bucket/p/key", "path style by default: an endpoint has no names for buckets"
