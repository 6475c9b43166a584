"""The store over obstore: S3, Google Cloud Storage (``gs://``) and Azure Blob (``az://``). The extra ``obstore``.

One verb is one request (:mod:`~sessionfs_s3.store.obstore_clients` sees to it), one answer is one value or error
(:mod:`~sessionfs_s3.store.obstore_answers`). Reaches the network, on threads of obstore's own.

What obstore 0.12 cannot do as the protocol asks:

* **Listings.** It takes neither a page size nor a continuation token: a page is asked for by the key to start after,
  and the server sends up to 1000 entries (Azure 5000) whatever the limit. A page is one request as long as the server
  fills its pages; where one is short and yet not the last, obstore asks on by itself. A prefix always ends in a slash:
  for one that ends within a name, its folder is listed from there on. The answer's root element is not checked, nor
  ``IsTruncated``: a web page sent with status 200 in the server's place **passes for an empty listing**. Directory
  buckets, which list unsorted, cannot be paged so, and are refused.
* **Redirects** are followed, up to ten, by GET, LIST and DELETE. A PUT meets 301, 302, 307 and 308 with Denied, but
  follows **303** with a GET, and takes that one's answer, if it is 200 with an ETag, **for its own**. No object store
  answers 303; a proxy in between could.
* **Deletes.** On S3 one request for all keys. Azure takes one for 256 keys; its answer is not told key by key, so where
  some key is missing there follows one for each. Google takes one for each key, 16 at once.
* **Google's entity tags.** A conditional replace takes the object's generation, which is therefore the entity tag that
  put and get return. obstore does not pass on the generations in a listing: entries have the entity tag "" there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from sessionfs_s3.errors import Closed, InvalidInput, KeyNotFound, NoAnswer, StoreAnswer
from sessionfs_s3.store.arguments import check_key, check_keys, check_listing, check_segments, check_span
from sessionfs_s3.store.obstore_answers import Asked, answer, is_past_the_end
from sessionfs_s3.store.obstore_clients import azure_client, gcs_client, s3_client
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Condition, Entry, Fetched, IfAbsent, IfMatches, Page
from sessionfs_s3.store.s3_settings import ClientSettings

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import AzureStore, GCSStore, S3Store

    Client = S3Store | GCSStore | AzureStore

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DELETES_AT_ONCE: Final = 16
_ERRORS: Final = (BaseError, OSError, ValueError, RuntimeError)
_PANIC: Final = "RustPanic"
"""A class that obstore does not name: some odd answers of a server make its code panic instead of raising an error."""

_SETTLE_S: Final = 0.02
"""How long closing waits: four times the interval in which threads take turns (``sys.getswitchinterval``)."""

_AFTER_ALL_KEYS: Final = "~"
"""Sorts after every character that a key may have."""


class Cloud(Enum):
    """Whose protocol is spoken."""

    S3 = "s3"
    GOOGLE = "gs"
    AZURE = "az"


class ObstoreStore:
    """The objects of one bucket or container whose keys start with a prefix; one of the ``open_`` methods makes one."""

    def __init__(
        self, client: Client, cloud: Cloud, *, bucket: str, prefix: str, url: str, settings: ClientSettings
    ) -> None:
        """Take over *client*; use one of the ``open_`` methods."""
        self._client: Client | None = client
        self._cloud = cloud
        self._bucket = bucket
        self._prefix = prefix
        self._url = url or f"{cloud.value}://{bucket}/{prefix}"
        self._timeout_s = settings.request_timeout_s
        # obstore opens as many connections as there are requests.
        self._connections = asyncio.Semaphore(settings.connections_max)
        self._asked: set[asyncio.Timeout] = set()

    @classmethod
    async def open_s3(
        cls,
        bucket: str,
        prefix: str = "",
        *,
        url: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        addressing_style: str | None = None,
        settings: ClientSettings | None = None,
    ) -> ObstoreStore:
        """Open *bucket* on Amazon S3 or a server that speaks its protocol; makes no request to it.

        Args:
            bucket: its name.
            prefix: what is put before every key, with the slash at its end; "" for the whole bucket.
            url: where this is, for messages; made from the others when empty.
            endpoint_url: the server, where it is not AWS.
            region: the bucket's region; the AWS chain's own without it.
            addressing_style: ``path``, ``virtual`` or ``auto``.
            settings: connections and timeouts.

        Raises:
            InvalidInput: a directory bucket.
            Denied: there are no credentials, or the AWS configuration is not usable.
            NoAnswer: whoever issues the credentials did not answer.
        """
        if bucket.endswith("--x-s3"):
            raise InvalidInput("bucket", bucket, "must not be a directory bucket, which client=obstore cannot list")
        settings = settings or ClientSettings()
        client = await s3_client(
            url or bucket,
            bucket,
            endpoint_url=endpoint_url,
            region=region,
            addressing_style=addressing_style,
            settings=settings,
        )
        return cls(client, Cloud.S3, bucket=bucket, prefix=prefix, url=url, settings=settings)

    @classmethod
    async def open_google(
        cls,
        bucket: str,
        prefix: str = "",
        *,
        url: str = "",
        endpoint_url: str | None = None,
        settings: ClientSettings | None = None,
    ) -> ObstoreStore:
        """Open *bucket* on Google Cloud Storage; makes no request to it. Arguments as for :meth:`open_s3`.

        Raises:
            Denied: the configuration is not usable.
        """
        settings = settings or ClientSettings()
        client = await asyncio.to_thread(
            gcs_client, url or bucket, bucket, endpoint_url=endpoint_url, settings=settings
        )
        return cls(client, Cloud.GOOGLE, bucket=bucket, prefix=prefix, url=url, settings=settings)

    @classmethod
    async def open_azure(
        cls,
        container: str,
        prefix: str = "",
        *,
        url: str = "",
        account: str | None = None,
        endpoint_url: str | None = None,
        settings: ClientSettings | None = None,
    ) -> ObstoreStore:
        """Open *container* on Azure Blob; makes no request to it. Other arguments as for :meth:`open_s3`.

        Args:
            container: its name.
            prefix: what is put before every key, with the slash at its end; "" for the whole container.
            url: where this is, for messages; made from the others when empty.
            account: the storage account; ``AZURE_STORAGE_ACCOUNT_NAME`` without it.
            endpoint_url: the server, where it is not the account's own.
            settings: connections and timeouts.

        Raises:
            Denied: the configuration is not usable, as without an account.
        """
        settings = settings or ClientSettings()
        client = await asyncio.to_thread(
            azure_client, url or container, container, account=account, endpoint_url=endpoint_url, settings=settings
        )
        return cls(client, Cloud.AZURE, bucket=container, prefix=prefix, url=url, settings=settings)

    @property
    def url(self) -> str:
        """Where this store is, for messages."""
        return self._url

    @property
    def lists_sorted(self) -> bool:
        """Whether listings are sorted: always; buckets that list otherwise are refused."""
        return True

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        """Fetch an object or a span of it (:meth:`sessionfs_s3.store.protocol.Store.get`)."""
        client = self._require_open()
        check_key(key, before=self._prefix)
        check_span(span)
        async with self._asking(key, Asked.GET):
            try:
                result = await obstore.get_async(
                    client, self._prefix + key, options=None if span is None else {"range": span}
                )
            except BaseError as error:
                if span is not None and is_past_the_end(error):
                    return Fetched(b"", "")
                raise
            data = (await result.bytes_async()).to_bytes()
        return Fetched(data, self._etag(key, result.meta["e_tag"], result.meta["version"]))

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        """Store an object (:meth:`sessionfs_s3.store.protocol.Store.put`)."""
        client = self._require_open()
        check_key(key, before=self._prefix)
        asked = Asked.PUT_IF_MATCHES if isinstance(condition, IfMatches) else Asked.PUT
        mode = self._mode(condition)
        async with self._asking(key, asked):
            # Never in parts, which would be many requests.
            result = await obstore.put_async(client, self._prefix + key, data, mode=mode, use_multipart=False)
        return self._etag(key, result["e_tag"], result["version"])

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        """List one page (:meth:`sessionfs_s3.store.protocol.Store.list`); the cursor is the last key."""
        client = self._require_open()
        check_listing(prefix, limit, before=self._prefix)
        if cursor is not None:
            check_segments("cursor", cursor)
        wanted = self._prefix + prefix
        folder, _, start = wanted.rpartition("/")
        offset = self._prefix + cursor if cursor is not None else _just_before(wanted) if start else None
        # One more than asked for tells whether there are more; from the page that the server fills anyway.
        count = min(limit + 1, PAGE_ENTRIES_MAX)
        async with self._asking(prefix, Asked.LIST):
            # Its other form returns a class of an optional package, which has no types here.
            stream = obstore.list(client, folder or None, offset=offset, chunk_size=count)  # pyright: ignore[reportUnknownMemberType]
            none: list[ObjectMeta] = []
            found = await anext(stream, none)
        entries = [self._entry(each) for each in found if each["path"].startswith(wanted)]
        # The first one past the prefix ends the listing.
        goes_on = len(entries) == count
        entries = entries[:limit]
        return Page(tuple(entries), entries[-1].key if goes_on else None)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects (:meth:`sessionfs_s3.store.protocol.Store.delete`); on S3 in one request.

        Raises:
            Denied: some key was refused; others may be deleted.
            NoAnswer: of some key it is not known whether it was deleted.
        """
        client = self._require_open()
        check_keys(keys, before=self._prefix)
        if not keys:
            return
        if self._cloud is not Cloud.GOOGLE:
            asked = Asked.DELETE if self._cloud is Cloud.S3 else Asked.DELETE_ONE
            try:
                async with self._asking(keys[0], asked):
                    await obstore.delete_async(client, [self._prefix + key for key in keys])
            except KeyNotFound:
                pass  # Azure's, of whichever key: what became of the others is not told.
            else:
                return
        await self._delete_one_by_one(client, keys)

    async def _delete_one_by_one(self, client: Client, keys: Sequence[str]) -> None:
        at_once = asyncio.Semaphore(_DELETES_AT_ONCE)

        async def delete_one(key: str) -> None:
            try:
                async with at_once, self._asking(key, Asked.DELETE_ONE):
                    await obstore.delete_async(client, self._prefix + key)
            except KeyNotFound:
                pass

        outcomes = await asyncio.gather(*map(delete_one, keys), return_exceptions=True)
        failures = [outcome for outcome in outcomes if outcome is not None]
        # One that is refused for good says more than one that is not known.
        for failure in sorted(failures, key=lambda failure: isinstance(failure, NoAnswer)):
            raise failure

    async def aclose(self) -> None:
        """Give the connections back; requests under way end with NoAnswer."""
        if self._client is None:
            return
        self._client = None
        for timeout in self._asked:
            timeout.reschedule(0.0)
        # A thread of obstore's lets go of Python objects just after its answer is here. An interpreter that ends in
        # that instant is aborted (seen with 0.12.1 on Python 3.11: exit status 134).
        await asyncio.sleep(_SETTLE_S)

    @asynccontextmanager
    async def _asking(self, key: str, asked: Asked) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._timeout_s) as timeout:
                self._asked.add(timeout)
                try:
                    async with self._connections:
                        yield
                finally:
                    self._asked.discard(timeout)
        except StoreAnswer:
            raise
        except TimeoutError as error:
            raise NoAnswer(key, "no answer in time, or the store was closed meanwhile") from error
        except Exception as error:
            if not isinstance(error, _ERRORS) and type(error).__name__ != _PANIC:
                raise
            # Without the cause: its text may hold a URL with a signature.
            exists = isinstance(error, (AlreadyExistsError, PreconditionError))
            raise answer(error, key, asked, bucket=self._bucket, exists=exists) from None

    def _mode(self, condition: Condition) -> PutMode:
        if isinstance(condition, IfAbsent):
            return "create"
        if not isinstance(condition, IfMatches):
            return "overwrite"
        if self._cloud is not Cloud.GOOGLE:
            return {"e_tag": condition.etag}
        if not condition.etag.isdigit():
            raise InvalidInput("entity tag", condition.etag, "must be one that put or get returned, on Google's store")
        return {"version": condition.etag}

    def _etag(self, key: str, etag: str | None, version: str | None) -> str:
        if not etag:
            raise NoAnswer(key, "the answer has no ETag: it is not an object store's")
        if self._cloud is not Cloud.GOOGLE:
            return etag
        if not version:
            raise NoAnswer(key, "the answer has no x-goog-generation: it is not Google's")
        return version

    def _entry(self, found: ObjectMeta) -> Entry:
        return Entry(
            key=found["path"].removeprefix(self._prefix),
            size=found["size"],
            etag=self._listed_etag(found["e_tag"] or ""),
            modified_ms=(found["last_modified"] - _EPOCH) // _MILLISECOND,
        )

    def _listed_etag(self, etag: str) -> str:
        if self._cloud is Cloud.GOOGLE:
            return ""  # What is listed is a digest of the contents, not the generation.
        if self._cloud is Cloud.AZURE and not etag.startswith('"'):
            return f'"{etag}"'  # In listings Azure leaves out the quotes that its headers have.
        return etag

    def _require_open(self) -> Client:
        if self._client is None:
            raise Closed(f"the store {self._url} is closed")
        return self._client


def _just_before(prefix: str) -> str:
    """Return a key to start a listing after: below every key that starts with *prefix*, and above all that come before.

    Made of the last character's predecessor and one that no key has. A "0" has the slash before it: where that would
    make an empty segment, it is passed over, since no key has one.
    """
    before, last = prefix[:-1], ord(prefix[-1]) - 1
    if last == ord("/") and (not before or before.endswith("/")):
        last -= 1
    return f"{before}{chr(last)}{_AFTER_ALL_KEYS}"
