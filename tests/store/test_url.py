"""Store URLs: what each scheme takes, and what is refused, naming value and rule, before anything is opened."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store import IF_ABSENT, LocalStore, MemoryStore, open_store, parse_store_url
from sessionfs_s3.store.url import (
    AzureLocation,
    GoogleLocation,
    LocalLocation,
    Location,
    MemoryLocation,
    S3Location,
)

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("s3://my.bucket-1/a/b%20c/", S3Location("my.bucket-1", "a/b%20c/")),
        ("s3://bucket/a?region=eu-west-1", S3Location("bucket", "a/", region="eu-west-1")),
        (
            "s3://bucket/a?endpoint_url=http%3A%2F%2F127.0.0.1%3A8333&addressing_style=virtual",
            S3Location("bucket", "a/", endpoint_url="http://127.0.0.1:8333", addressing_style="virtual"),
        ),
        ("s3://b-1--use1-az4--x-s3/p", S3Location("b-1--use1-az4--x-s3", "p/")),
        ("s3://bucket?endpoint_url=https://[::1]:9000", S3Location("bucket", "", endpoint_url="https://[::1]:9000")),
        ("S3://bucket/p", S3Location("bucket", "p/")),
        ("s3://bucket/p?client=obstore", S3Location("bucket", "p/", client="obstore")),
        ("s3://bucket/p?client=aiobotocore", S3Location("bucket", "p/", client="aiobotocore")),
        ("gs://bucket", GoogleLocation("bucket", "")),
        ("gs://my_bucket.example/a/b", GoogleLocation("my_bucket.example", "a/b/")),
        (
            "gs://bucket/a?endpoint_url=http://127.0.0.1:4443",
            GoogleLocation("bucket", "a/", endpoint_url="http://127.0.0.1:4443"),
        ),
        ("az://container/a/b", AzureLocation("container", "a/b/")),
        (
            "az://my-container/a?account=acme01&endpoint_url=https://acme01.blob.core.chinacloudapi.cn",
            AzureLocation("my-container", "a/", "acme01", "https://acme01.blob.core.chinacloudapi.cn"),
        ),
        ("file:///var/lib/sessions", LocalLocation(Path("/var/lib/sessions"))),
        ("file:///with%20space/%C3%BC", LocalLocation(Path("/with space/ü"))),
        ("memory://", MemoryLocation("")),
        ("memory://Name-1", MemoryLocation("Name-1")),
    ],
)
def test_what_is_accepted(url: str, location: Location) -> None:
    assert parse_store_url(url) == location
    assert parse_store_url(location.url) == location, "the canonical form must mean the same"


@pytest.mark.parametrize(
    ("url", "value", "rule"),
    [
        ("", "''", "must start with s3://"),
        ("bucket/prefix", "bucket/prefix", "must start with s3://"),
        ("/var/lib/sessions", "/var/lib/sessions", "must start with s3://"),
        ("gcs://bucket/prefix", "gcs://bucket/prefix", "must start with s3://, gs://, az://"),
        ("gs:bucket", "gs:bucket", "must start with s3://"),
        ("gs://", "gs://", "must name a bucket"),
        ("gs://My-Bucket/p", "'My-Bucket'", "lower-case"),
        ("gs://bucket:4443/p", "bucket", "3 to 63"),
        ("gs://bucket/a//b", "'a//b'", "none of them empty"),
        ("gs://bucket/p?region=eu-west-1", "'region'", "must be one of endpoint_url"),
        ("gs://bucket/p?endpoint_url=ftp://host", "'ftp://host'", "must be http://host"),
        ("az://", "az://", "must name a container"),
        ("az://ab/p", "'ab'", "3 to 63"),
        (f"az://{'c' * 64}/p", "ccc", "3 to 63"),
        ("az://con--tainer/p", "'con--tainer'", "single '-'"),
        ("az://con.tainer/p", "'con.tainer'", "single '-'"),
        (f"az://container/{'p' * 200}/{'q' * 100}", "ppp", "at most 256"),
        ("az://container/p?account=Acme", "'Acme'", "lower-case letters and digits"),
        ("az://container/p?sas=x", "'sas'", "must be one of account, endpoint_url"),
        ("s3://bucket/p?client=boto3", "'boto3'", "must be one of aiobotocore, obstore"),
        ("s3://bucket/p?client=", "''", "must be one of aiobotocore, obstore"),
        ("https://bucket.s3.amazonaws.com", "https://bucket.s3.amazonaws.com", "must start with s3://"),
        ("s3:bucket", "s3:bucket", "must start with s3://"),
        ("s3:/bucket", "s3:/bucket", "must start with s3://"),
        ("file:/tmp/x", "file:/tmp/x", "must start with"),
        ("s3://", "s3://", "must name a bucket"),
        ("s3:///prefix", "s3:///prefix", "must name a bucket"),
        ("s3://ab/p", "'ab'", "3 to 63"),
        (f"s3://{'b' * 64}", "bbb", "3 to 63"),
        ("s3://My-Bucket/p", "'My-Bucket'", "lower-case"),
        ("s3://my_bucket/p", "'my_bucket'", "lower-case"),
        ("s3://-bucket/p", "'-bucket'", "start and end"),
        ("s3://bucket./p", "'bucket.'", "start and end"),
        ("s3://a..b/p", "'a..b'", "hold no '..'"),
        ("s3://192.168.0.1/p", "'192.168.0.1'", "IP address"),
        ("s3://bucket:8333/p", "bucket", "3 to 63"),
        ("s3://büro/p", "'büro'", "lower-case"),
        ("s3://bucket//p", "'/p'", "none of them empty"),
        ("s3://bucket/a//b", "'a//b'", "none of them empty"),
        ("s3://bucket/p//", "'p/'", "none of them empty"),
        ("s3://bucket//", "''", "none of them empty"),
        ("s3://bucket/./p", "'./p'", "'.'"),
        ("s3://bucket/a/../b", "'a/../b'", "'..'"),
        ("s3://bucket/ü", "'ü'", "[A-Za-z0-9._%-]"),
        ("s3://bucket/a~b", "'a~b'", "[A-Za-z0-9._%-]"),
        ("s3://bucket/a\\b", "a\\\\b", "[A-Za-z0-9._%-]"),
        (f"s3://bucket/{'p' * 256}", "ppp", "over 255 bytes"),
        (f"s3://bucket/{'p' * 200}/{'q' * 100}", "ppp", "at most 256"),
        ("s3://bucket/p#frag", "s3://bucket/p", "fragment"),
        ("s3://bucket/p#", "s3://bucket/p", "fragment"),
        ("s3://bucket/p?", None, None),
        ("s3://bucket/p?region", "s3://bucket/p", "name=value"),
        ("s3://bucket/p?endpoint=http://x", "'endpoint'", "must be one of endpoint_url, region, addressing_style"),
        ("s3://bucket/p?Region=eu-west-1", "'Region'", "must be one of"),
        ("s3://bucket/p?region=eu-west-1&region=us-east-1", "'region'", "must be given once"),
        ("s3://bucket/p?region=", "''", "lower-case letters and digits"),
        ("s3://bucket/p?region=eu_west", "'eu_west'", "lower-case letters and digits"),
        ("s3://bucket/p?region=evil.example/", "'evil.example/'", "lower-case letters and digits"),
        ("s3://bucket/p?addressing_style=Path", "'Path'", "must be one of path, virtual, auto"),
        ("s3://bucket/p?endpoint_url=", "''", "must be http://host"),
        ("s3://bucket/p?endpoint_url=127.0.0.1:9000", "'127.0.0.1:9000'", "must be http://host"),
        ("s3://bucket/p?endpoint_url=ftp://host", "'ftp://host'", "must be http://host"),
        ("s3://bucket/p?endpoint_url=http://host:notaport", "'http://host:notaport'", "must be http://host"),
        ("s3://bucket/p?endpoint_url=http://host:99999", "'http://host:99999'", "must be http://host"),
        ("s3://bucket/p?endpoint_url=http://host/%3Fa=b", "'http://host/'", "must be http://host"),
        ("s3://bucket/p?endpoint_url=http://ho%0Ast", "'http://ho\\nst'", "control characters"),
        ("s3://bucket/a b", "'s3://bucket/a b'", "spaces or control characters"),
        ("s3://bucket/a\nb", "a\\nb", "spaces or control characters"),
        ("s3://bucket/a\0b", "a\\x00b", "spaces or control characters"),
        (" s3://bucket/a", "' s3://bucket/a'", "spaces or control characters"),
        ("s3://[bucket/a", "'s3://[bucket/a'", "cannot be read"),
        ("file://host/dir", "'file://host/dir'", "no host"),
        ("file://localhost/dir", "'file://localhost/dir'", "no host"),
        ("file://relative", "'file://relative'", "no host"),
        ("file://", "'file://'", "absolute path"),
        ("file:///dir?mode=1", "'file:///dir'", "takes no parameters"),
        ("file:///dir#x", "'file:///dir'", "fragment"),
        ("file:///dir/../etc", "'file:///dir/../etc'", "'..'"),
        ("file:///dir/%2e%2E/etc", "'file:///dir/%2e%2E/etc'", "'..'"),
        ("file:///dir/%00", "'file:///dir/%00'", "NUL"),
        ("memory://a/b", "'memory://a/b'", "memory://NAME"),
        ("memory:///", "'memory:///'", "memory://NAME"),
        ("memory://a b", "'memory://a b'", "spaces"),
        ("memory://a?b=c", "'memory://a'", "takes no parameters"),
        ("memory://ä", "'memory://ä'", "memory://NAME"),
    ],
)
async def test_what_is_refused(url: str, value: str | None, rule: str | None) -> None:
    if value is None or rule is None:
        parse_store_url(url)
        return
    with pytest.raises(InvalidInput) as caught:
        await open_store(url)
    assert value in str(caught.value)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIAEXAMPLE:{SECRET}@bucket/prefix",
        f"s3://{SECRET}@bucket",
        f"s3://AKIA:{SECRET}/x@bucket/prefix",
        f"s3://AKIA:{SECRET}?x@bucket/prefix",
        f"s3://AKIA:{SECRET}#x@bucket/prefix",
        f"s3://AKIA:{SECRET} x@bucket/prefix",
        f"s3://AKIA:{SECRET}%40bucket/prefix",
        f"s3://AKIA:{SECRET}",
        f"gs://user:{SECRET}@bucket",
        f"gs://user:{SECRET}",
        f"az://user:{SECRET}@container",
        f"az://user:{SECRET}",
        f"az://container/p?account=acme&sig={SECRET}",
        f"file://user:{SECRET}@host/dir",
        f"memory://user:{SECRET}@name",
        f"s3://bucket/prefix?aws_secret_access_key={SECRET}",
        f"s3://bucket/prefix?secret={SECRET}&region=eu-west-1",
        f"s3://bucket/prefix?region=eu-west-1&{SECRET}",
        f"s3://bucket/prefix?region=eu-west-1#{SECRET}",
        f"s3://bucket/prefix?endpoint_url=http://user:{SECRET}@host:9000",
        f"s3://bucket/prefix?endpoint_url=http://user:{SECRET}%40host:9000",
        f"s3://bucket/prefix?endpoint_url=http%3A%2F%2Fuser%3A{SECRET}%40host",
        f"s3://bucket/prefix?endpoint_url=http://host/%3Ftoken={SECRET}",
        f"s3://user:{SECRET}@[bucket/prefix",
    ],
)
async def test_no_message_repeats_a_secret(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await open_store(url)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert SECRET not in str(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


async def test_opening_makes_what_the_url_names(tmp_path: Path) -> None:
    local = await open_store(f"file://{tmp_path}/a/b")
    async with contextlib.aclosing(local):
        assert isinstance(local, LocalStore)
        assert local.url == f"file://{tmp_path}/a/b"
        assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    assert isinstance(await open_store("memory://"), MemoryStore)


async def test_a_name_in_memory_is_shared_and_no_name_is_not() -> None:
    first, second = await open_store("memory://test-url-shared"), await open_store("memory://test-url-shared")
    await first.put("key", b"x", condition=IF_ABSENT)
    assert (await second.get("key")).data == b"x"
    await first.aclose()
    await second.aclose()
    third = await open_store("memory://test-url-shared")
    assert (await third.get("key")).data == b"x", "a named store outlives those who opened it"
    private, other = await open_store("memory://"), await open_store("memory://")
    await private.put("key", b"x", condition=IF_ABSENT)
    assert (await other.list("")).entries == ()


async def test_the_url_of_a_store_says_where_it_is(no_aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for url, sorted_ in (
        ("s3://bucket/p/?endpoint_url=http://127.0.0.1:1&region=eu-west-1", True),
        ("s3://bucket--use1-az4--x-s3/p/?region=us-east-1", False),
    ):
        async with contextlib.aclosing(await open_store(url)) as store:
            assert store.url == url
            assert store.lists_sorted is sorted_
