"""Hints: what was found out about a session, kept beside the sessions so that the next process need not find it out.

``tenants/<tenant>/catalog/<session>`` is a small JSON object. It counts only for the very commit that it names, by
number and entity tag; whatever else it is (old, damaged, of an earlier life of the session, somebody else's), it is
passed over and written anew. So nothing depends on hints: they may be removed at any time.

A hint of an earlier commit is not used, not even for what never changes in the life of a session: that no deletion lies
between the two cannot be told from a listing, since a process may have died between the tombstone and the removal of
what was there before it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sessionfs_s3.catalog.info import SessionInfo
from sessionfs_s3.catalog.listing import Head
from sessionfs_s3.format.limits import SEQUENCE_MAX, TIME_MS_MAX

HINT_BYTES_MAX: Final = 256 * 1024
"""A larger hint is none of ours: names have at most 100 characters, and the rest is bounded by this too."""

_Count = Annotated[int, Field(ge=0, le=SEQUENCE_MAX)]


class _Hint(BaseModel):
    """The stored form; an unknown version is refused, unknown fields are passed over."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    version: Literal[1]
    sequence: Annotated[int, Field(ge=1, le=SEQUENCE_MAX)]
    etag: str
    epoch: _Count
    created_ms: Annotated[int, Field(ge=0, le=TIME_MS_MAX)]
    bytes: _Count
    files: _Count
    summary: str | None
    name: str | None
    client_name: str | None
    context: dict[str, str] | None
    detached: bool


def encode(info: SessionInfo, head: Head) -> bytes | None:
    """Return the hint that tells *info*, which was found at *head*; None where that would be too large for one."""
    hint = _Hint(
        version=1,
        sequence=head.sequence,
        etag=head.etag,
        epoch=info.epoch,
        created_ms=info.created_ms,
        bytes=info.bytes,
        files=info.files,
        summary=info.summary,
        name=info.name,
        client_name=info.client_name,
        context=None if info.context is None else dict(info.context),
        detached=info.detached,
    )
    data = hint.model_dump_json().encode()
    return data if len(data) <= HINT_BYTES_MAX else None


def decode(session_id: str, head: Head, data: bytes) -> SessionInfo | None:
    """Return what the hint *data* tells of the session at *head*; None if it is not one for that."""
    try:
        hint = _Hint.model_validate_json(data)
    except ValidationError:
        return None
    if not head.is_at(hint.sequence, hint.etag):
        return None
    return SessionInfo(
        id=session_id,
        created_ms=hint.created_ms,
        modified_ms=head.modified_ms,
        bytes=hint.bytes,
        files=hint.files,
        sequence=hint.sequence,
        epoch=hint.epoch,
        summary=hint.summary,
        name=hint.name,
        client_name=hint.client_name,
        context=None if hint.context is None else MappingProxyType(hint.context),
        detached=hint.detached,
    )
