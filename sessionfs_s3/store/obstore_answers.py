"""What obstore's errors mean: from the text of one to an answer of the store. Pure; imports nothing of obstore.

obstore (0.12) tells an error's class and a text, never the HTTP status or the body by themselves. Its classes are too
coarse: a put's 412 and 409 are one class, so are 404 of an object, of a bucket and of a proxy in between. The text
always goes "Error performing PUT URL in TIME - Server returned non-2xx status code: 409 Conflict: BODY" (``RetryError``
and ``RequestError`` in object_store's ``client/retry.rs``), and no key or URL of ours can hold that phrase, which has
spaces: so its first occurrence is the client's own, and status and body are read from there.

**Where the status cannot be read**, as after an upgrade that words it differently, an answer to a conditional put that
obstore calls "already exists" is taken for a 412. That is the safe side: on a 412 the engine looks at the slot and
compares nonces, and when nothing stands there it tries again, which is also right after a 409. The reverse, a 412 taken
for a 409, would only make it try again until its deadline.
"""

from __future__ import annotations

import html
import re
from enum import Enum
from typing import Final

from sessionfs_s3.errors import Conflict, Denied, KeyNotFound, NoAnswer, PreconditionFailed, StoreAnswer


class Asked(Enum):
    """What was asked: an answer can mean different things to different verbs."""

    GET = "get"
    PUT = "put"
    PUT_IF_MATCHES = "put if matches"
    LIST = "list"
    DELETE = "delete"
    DELETE_ONE = "delete a single key"


_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})[^:]*:(.*)", re.DOTALL)
_CODE: Final = re.compile(r"<Code>([^<]{1,200})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,500})")
_REGION: Final = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>")
_ENDPOINT: Final = re.compile(r"<Endpoint>([A-Za-z0-9.:-]{1,255})</Endpoint>")
_DELETE_FAILED: Final = re.compile(
    r"(?:DeleteObjects|Bulk delete) request failed for key \S+: (.*) \(code: (\w+)\)", re.DOTALL
)
"""One key of a bulk delete: with S3's error code, or with the HTTP status of Azure's batch."""

_DEBUG: Final = "\n\nDebug source:"
_URL: Final = re.compile(r"\b[a-z]+://\S+")
_DETAIL_CHARS_MAX: Final = 500

_TRANSIENT_CODES: Final = frozenset(
    {
        # Amazon S3, as in s3_answers.py.
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
        "KMS.ThrottlingException",
        # Azure ("Common REST API error codes").
        "Md5Mismatch",
        "OperationTimedOut",
        "ServerBusy",
    }
)
_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})
_TRANSIENT_CODES_OF_BATCHES: Final = frozenset({"408", "409", "425", "429"})
_CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
_MISSING_OBJECT: Final = frozenset({"NoSuchKey", "BlobNotFound"})
_MISSING_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_EXISTS: Final = frozenset({"BlobAlreadyExists"})
"""Azure answers ``If-None-Match: *`` on a blob that is there with 409 and this code: a precondition that fails."""

_NOT_S3S: Final = "(is this an object store's endpoint?)"
_STARTS_PAST_THE_END: Final = "Wanted range starting at"
_NO_RANGES: Final = "Received non-partial response when range requested"
_BARE_REDIRECT: Final = "Received redirect without LOCATION"


def is_past_the_end(error: Exception) -> bool:
    """Return whether *error* says that the span asked for starts at or past the object's end.

    HTTP 416, or object_store's own ``InvalidGetRange`` where the server sent an answer nevertheless, as Azurite does.
    """
    said = _said(error)
    return _status(said)[0] == 416 or _STARTS_PAST_THE_END in said


def answer(error: Exception, key: str, asked: Asked, *, bucket: str, exists: bool) -> StoreAnswer:
    """Return the store's answer about *key* that an error of obstore stands for.

    Args:
        error: what obstore raised.
        key: whom it is about.
        asked: what was asked.
        bucket: the bucket or container, for messages.
        exists: whether obstore called it "already exists" or "precondition failed".
    """
    said = _said(error)
    failed = _DELETE_FAILED.search(said)
    if failed is not None:
        return _from_bulk_delete(failed[2], _shown(failed[1]), key)
    status, body = _status(said)
    if status is None:
        return _without_status(error, said, key, exists=exists)
    code = _found(_CODE, body)
    detail = f"HTTP {status} {code}: {_found(_MESSAGE, body)}".rstrip(": ")
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUSES or (status >= 500 and status != 501):
        return NoAnswer(key, detail)
    if code in _MISSING_BUCKET:
        return Denied(key, f"the bucket {bucket!r} does not exist ({detail})")
    if status == 404:
        return _from_missing(key, asked, code, detail)
    if status == 412 or code in _EXISTS:
        return PreconditionFailed(key, detail)
    if status == 409:
        putting = asked in (Asked.PUT, Asked.PUT_IF_MATCHES)
        return Conflict(key, detail) if putting else NoAnswer(key, detail)
    return Denied(key, _redirected(body, bucket, detail))


def _from_bulk_delete(code: str, message: str, key: str) -> StoreAnswer:
    detail = f"{code}: {message}"
    if code == "404":
        return KeyNotFound(key)
    may_pass = code in _TRANSIENT_CODES or code in _CONFLICT_CODES or code in _TRANSIENT_CODES_OF_BATCHES
    return NoAnswer(key, detail) if may_pass or code.startswith("5") else Denied(key, detail)


def _without_status(error: Exception, said: str, key: str, *, exists: bool) -> StoreAnswer:
    detail = f"{type(error).__name__}: {_shown(said)}"
    if exists:
        return PreconditionFailed(key, detail)
    if _NO_RANGES in said:
        return Denied(key, f"the server answered a ranged get with the whole object {_NOT_S3S}")
    if _BARE_REDIRECT in said:
        return Denied(key, "the bucket is elsewhere: set region or endpoint_url (a redirect that does not say where)")
    if "certificate" in said and "invalid peer" in said:
        # A certificate that is not accepted stays so; nothing was sent.
        return Denied(key, detail)
    return NoAnswer(key, detail)


def _from_missing(key: str, asked: Asked, code: str, detail: str) -> StoreAnswer:
    """Read a 404. One that does not come from the store, say a proxy's, must not pass for an object that is missing."""
    if code in _MISSING_OBJECT and asked in (Asked.GET, Asked.DELETE_ONE):
        return KeyNotFound(key)
    if code in _MISSING_OBJECT and asked is Asked.PUT_IF_MATCHES:
        return PreconditionFailed(key, f"no object stands there ({detail})")
    return Denied(key, f"{detail} {_NOT_S3S}")


def _redirected(body: str, bucket: str, detail: str) -> str:
    region, endpoint = _found(_REGION, body), _found(_ENDPOINT, body)
    if region:
        return f"the bucket {bucket!r} is in the region {region}: set region={region} ({detail})"
    return f"the bucket {bucket!r} is elsewhere, at {endpoint} ({detail})" if endpoint else detail


def _status(said: str) -> tuple[int | None, str]:
    found = _STATUS.search(said)
    return (int(found[1]), found[2]) if found else (None, "")


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return html.unescape(found[1]) if found else ""


def _said(error: Exception) -> str:
    """Return the error's text without the debug form that obstore appends: it says everything twice, and more."""
    return str(error).partition(_DEBUG)[0]


def _shown(said: str) -> str:
    """Return as much of *said* as may stand in a message. A URL may hold a signature, so none does."""
    return " ".join(_URL.sub("…", said).split())[:_DETAIL_CHARS_MAX]
