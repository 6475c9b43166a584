"""Object stores: the protocol of five verbs, its adapters, and opening one by URL."""

from typing import TYPE_CHECKING

from sessionfs_s3.store.local import LocalStore
from sessionfs_s3.store.memory import MemoryStore
from sessionfs_s3.store.metered import MeteredStore, Request, RequestCounts, RequestLog, Tally, Verb
from sessionfs_s3.store.probe import probe_once
from sessionfs_s3.store.protocol import (
    IF_ABSENT,
    PAGE_ENTRIES_MAX,
    UNCONDITIONAL,
    Condition,
    Entry,
    Fetched,
    IfAbsent,
    IfMatches,
    Page,
    Store,
    Unconditional,
)
from sessionfs_s3.store.s3_settings import ClientSettings
from sessionfs_s3.store.url import open_store, parse_store_url

if TYPE_CHECKING:
    from sessionfs_s3.store.obstore_store import ObstoreStore
    from sessionfs_s3.store.s3 import S3Store

__all__ = [
    "IF_ABSENT",
    "PAGE_ENTRIES_MAX",
    "UNCONDITIONAL",
    "ClientSettings",
    "Condition",
    "Entry",
    "Fetched",
    "IfAbsent",
    "IfMatches",
    "LocalStore",
    "MemoryStore",
    "MeteredStore",
    "ObstoreStore",
    "Page",
    "Request",
    "RequestCounts",
    "RequestLog",
    "S3Store",
    "Store",
    "Tally",
    "Unconditional",
    "Verb",
    "open_store",
    "parse_store_url",
    "probe_once",
]


def __getattr__(name: str) -> object:
    # An S3 client takes most of a second to import, and obstore is an extra: whoever opens a directory needs neither.
    if name == "S3Store":
        from sessionfs_s3.store.s3 import S3Store

        return S3Store
    if name == "ObstoreStore":
        from sessionfs_s3.store.obstore_store import ObstoreStore

        return ObstoreStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
