"""The rules for what a store may be asked: one set for all adapters, checked before any request is made.

The alphabet is the one in which a key reads the same in a URL, in an XML listing and on every file system.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX

KEY_BYTES_MAX: Final = 1024
"""Longest key, the store's own prefix included: the limit of S3."""

SEGMENT_BYTES_MAX: Final = 255
"""Longest part of a key between slashes: what file systems, and stores that lie on one, accept."""

DELETE_KEYS_MAX: Final = 1000
"""Keys in one delete: the limit of S3's DeleteObjects."""

_SEGMENTS: Final = re.compile(r"[A-Za-z0-9._%-]+(?:/[A-Za-z0-9._%-]+)*")
_SEGMENT_RULE: Final = (
    f"must be segments of [A-Za-z0-9._%-] joined by '/', none of them empty, '.', '..' "
    f"or over {SEGMENT_BYTES_MAX} bytes"
)


def check_segments(what: str, value: str) -> None:
    """Raise InvalidInput, calling *value* a *what*, unless it is made of segments that may stand in a key."""
    segments = value.split("/")
    if (
        _SEGMENTS.fullmatch(value) is None
        or not {".", ".."}.isdisjoint(segments)
        or max(map(len, segments)) > SEGMENT_BYTES_MAX
    ):
        raise InvalidInput(what, value, _SEGMENT_RULE)


def check_key(key: str, *, before: str = "") -> None:
    """Raise InvalidInput unless *key* may name an object of a store that puts *before* in front of every key."""
    if len(before) + len(key) > KEY_BYTES_MAX:
        raise InvalidInput("key", key, f"must be at most {KEY_BYTES_MAX} bytes with the store's prefix {before!r}")
    check_segments("key", key)


def check_keys(keys: Sequence[str], *, before: str = "") -> None:
    """Raise InvalidInput unless *keys* may be deleted in one request."""
    if len(keys) > DELETE_KEYS_MAX:
        raise InvalidInput("number of keys", len(keys), f"must be at most {DELETE_KEYS_MAX} in one delete")
    for key in keys:
        check_key(key, before=before)


def check_listing(prefix: str, limit: int, *, before: str = "") -> None:
    """Raise InvalidInput unless a page of *limit* keys that start with *prefix* may be asked for.

    A prefix may end anywhere, in the middle of a name and after a slash; what stands before its last slash must be
    segments that may stand in a key.
    """
    if not 1 <= limit <= PAGE_ENTRIES_MAX:
        raise InvalidInput("page limit", limit, f"must be 1 to {PAGE_ENTRIES_MAX} entries")
    if len(before) + len(prefix) > KEY_BYTES_MAX:
        raise InvalidInput("prefix", prefix, f"must be at most {KEY_BYTES_MAX} bytes with the store's own {before!r}")
    folder, slash, start = prefix.rpartition("/")
    if slash:
        check_segments("prefix", folder)
    if start and _SEGMENTS.fullmatch(start) is None:
        raise InvalidInput("prefix", prefix, _SEGMENT_RULE)


def check_span(span: tuple[int, int] | None) -> None:
    """Raise InvalidInput unless *span* is absent or asks for at least one byte."""
    if span is not None and not 0 <= span[0] < span[1]:
        raise InvalidInput("span", span, "must be (start, end) with 0 <= start < end")
