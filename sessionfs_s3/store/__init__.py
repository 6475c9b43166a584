"""Object stores: the protocol of five verbs, its adapters, and opening one by URL."""

from sessionfs_s3.store.local import LocalStore
from sessionfs_s3.store.memory import MemoryStore
from sessionfs_s3.store.metered import MeteredStore, Request, RequestCounts, RequestLog, Tally, Verb
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
from sessionfs_s3.store.s3 import S3Store
from sessionfs_s3.store.s3_client import ClientSettings
from sessionfs_s3.store.url import open_store, parse_store_url

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
]
