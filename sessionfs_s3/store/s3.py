"""The store in a bucket: ``s3://bucket/prefix``, on Amazon S3 or any server that speaks its protocol.

One verb is one request (:mod:`~sessionfs_s3.store.s3_client` sees to it), one answer is one value or error
(:mod:`~sessionfs_s3.store.s3_answers`). Reaches the network; reads AWS's configuration files and environment.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import ClientError

from sessionfs_s3.errors import Closed, Denied, NoAnswer
from sessionfs_s3.store.arguments import check_key, check_keys, check_listing, check_span
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Condition, Entry, Fetched, IfAbsent, IfMatches, Page
from sessionfs_s3.store.s3_answers import Asked, answers, from_code
from sessionfs_s3.store.s3_client import open_client
from sessionfs_s3.store.s3_settings import ClientSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DIRECTORY_BUCKET_SUFFIX: Final = "--x-s3"
"""Names of directory buckets (S3 Express) end so; only they list unsorted."""


class S3Store:
    """The objects of one bucket whose keys start with a prefix; :meth:`open` makes one."""

    def __init__(
        self, client: S3Client, exits: AsyncExitStack, *, bucket: str, prefix: str, url: str, timeout_s: float
    ) -> None:
        """Take over *client*, which *exits* closes; use :meth:`open`."""
        self._client = client
        self._exits = exits
        self._bucket = bucket
        self._prefix = prefix
        self._url = url
        self._timeout_s = timeout_s
        self._closed = False

    @classmethod
    async def open(
        cls,
        bucket: str,
        prefix: str = "",
        *,
        url: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        addressing_style: str | None = None,
        settings: ClientSettings | None = None,
    ) -> S3Store:
        """Open *bucket*; makes no request to it.

        Args:
            bucket: its name.
            prefix: what is put before every key, with the slash at its end; "" for the whole bucket.
            url: where this is, for messages; ``s3://bucket/prefix`` when empty.
            endpoint_url: the server, where it is not AWS.
            region: the bucket's region; the AWS chain's own without it.
            addressing_style: ``path``, ``virtual`` or ``auto``.
            settings: connections and timeouts.

        Raises:
            Denied: there are no credentials, or the AWS configuration is not usable.
            NoAnswer: whoever issues the credentials did not answer.
        """
        url = url or f"s3://{bucket}/{prefix}"
        settings = settings or ClientSettings()
        async with AsyncExitStack() as exits:
            client = await exits.enter_async_context(
                open_client(
                    url,
                    endpoint_url=endpoint_url,
                    region=region,
                    addressing_style=addressing_style,
                    settings=settings,
                )
            )
            return cls(
                client,
                exits.pop_all(),
                bucket=bucket,
                prefix=prefix,
                url=url,
                timeout_s=settings.request_timeout_s,
            )

    @property
    def url(self) -> str:
        """Where this store is, for messages."""
        return self._url

    @property
    def lists_sorted(self) -> bool:
        """Whether listings are sorted: in all buckets but directory buckets."""
        return not self._bucket.endswith(_DIRECTORY_BUCKET_SUFFIX)

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """Fetch an object or a span of it (:meth:`sessionfs_s3.store.protocol.Store.get`)."""
        self._require_open()
        check_key(key, before=self._prefix)
        check_span(span)
        async with self._asking(key, Asked.GET):
            try:
                if span is None:
                    answer = await self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                else:
                    wanted = f"bytes={span[0]}-{span[1] - 1}"
                    answer = await self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=wanted)
            except ClientError as error:
                if span is not None and error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 416:
                    return Fetched(b"", "")
                raise
            async with answer["Body"] as body:
                data = await body.read()
        if span is not None and not answer.get("ContentRange"):
            data = data[span[0] : span[1]]  # The server passed over the Range header and sent everything.
        return Fetched(data, _etag(key, answer.get("ETag")))

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """Store an object (:meth:`sessionfs_s3.store.protocol.Store.put`)."""
        self._require_open()
        check_key(key, before=self._prefix)
        asked = Asked.PUT_IF_MATCHES if isinstance(condition, IfMatches) else Asked.PUT
        where, checksum = self._prefix + key, _crc32(data)
        async with self._asking(key, asked):
            if isinstance(condition, IfAbsent):
                answer = await self._client.put_object(
                    Bucket=self._bucket, Key=where, Body=data, ChecksumCRC32=checksum, IfNoneMatch="*"
                )
            elif isinstance(condition, IfMatches):
                answer = await self._client.put_object(
                    Bucket=self._bucket, Key=where, Body=data, ChecksumCRC32=checksum, IfMatch=condition.etag
                )
            else:
                answer = await self._client.put_object(
                    Bucket=self._bucket, Key=where, Body=data, ChecksumCRC32=checksum
                )
        return _etag(key, answer.get("ETag"))

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """List one page (:meth:`sessionfs_s3.store.protocol.Store.list`); the cursor is the server's own token."""
        self._require_open()
        check_listing(prefix, limit, before=self._prefix)
        async with self._asking(prefix, Asked.LIST):
            if cursor is None:
                answer = await self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=limit
                )
            else:
                answer = await self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=limit, ContinuationToken=cursor
                )
        # botocore reads an empty body, or XML of any other kind, as a listing with nothing in it: not one of ours.
        if "IsTruncated" not in answer:
            raise NoAnswer(prefix, "the answer is not a listing")
        try:
            entries = tuple(self._entry(cast("Mapping[str, Any]", found)) for found in answer.get("Contents", ()))
        except (KeyError, ValueError) as error:
            raise NoAnswer(prefix, f"the listing cannot be read: {error!r}") from error
        return Page(entries, _next_cursor(prefix, answer["IsTruncated"], answer.get("NextContinuationToken")))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects (:meth:`sessionfs_s3.store.protocol.Store.delete`); each key's own error is raised."""
        self._require_open()
        check_keys(keys, before=self._prefix)
        if not keys:
            return
        async with self._asking(keys[0], Asked.DELETE):
            answer = await self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": self._prefix + key} for key in keys]}
            )
        failures = [
            from_code(error.get("Code", ""), error.get("Message", ""), error.get("Key", "").removeprefix(self._prefix))
            for error in answer.get("Errors", ())
        ]
        for failure in sorted(failures, key=lambda failure: not isinstance(failure, Denied)):
            raise failure
        deleted = {found.get("Key", "") for found in answer.get("Deleted", ())}
        for key in keys:
            if self._prefix + key not in deleted:
                raise NoAnswer(key, "the answer does not say that it was deleted")

    async def aclose(self) -> None:
        """Close the connections; requests under way end with NoAnswer."""
        self._closed = True
        await self._exits.aclose()

    @asynccontextmanager
    async def _asking(self, key: str, asked: Asked) -> AsyncGenerator[None]:
        with answers(key, asked, bucket=self._bucket):
            async with asyncio.timeout(self._timeout_s):
                yield

    def _entry(self, found: Mapping[str, Any]) -> Entry:
        # As text, which the client leaves unread: 2026-11-21T10:59:08Z, with or without a fraction.
        modified = datetime.fromisoformat(str(found["LastModified"]))
        return Entry(
            key=found["Key"].removeprefix(self._prefix),
            size=found["Size"],
            etag=found["ETag"],
            modified_ms=(modified - _EPOCH) // _MILLISECOND,
        )

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self._url} is closed")


def _crc32(data: bytes) -> str:
    """Return the checksum that goes ahead of *data*, by which a server tells an upload that broke off from a whole one.

    SeaweedFS 4.48 needs it: without one it stores an empty object when the connection ends before the contents come.
    """
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _etag(key: str, etag: str | None) -> str:
    if not etag:
        raise NoAnswer(key, "the answer has no ETag: it is not S3's")
    return etag


def _next_cursor(prefix: str, truncated: bool, token: str | None) -> str | None:
    if truncated and not token:
        raise NoAnswer(prefix, "the listing goes on, but does not say where")
    return token if truncated else None
