"""What S3's answers mean: from an error of the client to one of the store's. Pure.

The lists are of Amazon's error codes ("Error responses", S3 API reference) and of what MinIO, SeaweedFS, moto and
ministack were seen to answer. What is not known here goes by its HTTP status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError

from sessionfs_s3.errors import Conflict, Denied, KeyNotFound, NoAnswer, PreconditionFailed, StoreAnswer
from sessionfs_s3.store.s3_client import NO_CREDENTIALS


class Asked(Enum):
    """What was asked: an answer can mean different things to different verbs."""

    GET = "get"
    PUT = "put"
    PUT_IF_MATCHES = "put if matches"
    LIST = "list"
    DELETE = "delete"


_TRANSIENT_CODES: Final = frozenset(
    {
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
    }
)
"""Codes that may pass, whatever their status: S3 says 400 of a request that came in too slowly or damaged."""

_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})
_CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
_REGION_CODES: Final = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_NEVER_SENT: Final = (CredentialRetrievalError, MetadataRetrievalError, TokenRetrievalError)
_LOST: Final = (
    HTTPClientError,
    BotoConnectionError,
    IncompleteReadError,
    ResponseParserError,
    aiohttp.ClientError,
    HttpProcessingError,
    asyncio.TimeoutError,
    OSError,
    RuntimeError,
)
"""A lost connection, a timeout, an answer that is cut or not S3's; RuntimeError is of a session closed meanwhile."""


@contextmanager
def answers(key: str, asked: Asked, *, bucket: str) -> Generator[None]:
    """Turn every error that a call of the client raises into the store's answer about *key*."""
    try:
        yield
    except ClientError as error:
        raise _from_server(error, key, asked, bucket) from error
    except NoCredentialsError as error:
        raise Denied(key, NO_CREDENTIALS) from error
    except _NEVER_SENT as error:
        raise NoAnswer(key, f"nothing was sent for want of credentials: {error}") from error
    except SSLError as error:
        # A certificate that is not accepted stays so; nothing was sent.
        raise Denied(key, str(error)) from error
    except _LOST as error:
        raise NoAnswer(key, f"{type(error).__name__}: {error}") from error
    except BotoCoreError as error:
        raise Denied(key, f"{type(error).__name__}: {error}") from error


def from_code(code: str, message: str, key: str) -> StoreAnswer:
    """Return the answer that a delete's own list of errors gives for *key*."""
    detail = f"{code}: {message}"
    return NoAnswer(key, detail) if code in _TRANSIENT_CODES or code in _CONFLICT_CODES else Denied(key, detail)


def _from_server(error: ClientError, key: str, asked: Asked, bucket: str) -> StoreAnswer:
    said = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    code = str(said.get("Code", ""))
    detail = f"HTTP {status} {code}: {said.get('Message', '')}".rstrip(": ")
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUSES or (status >= 500 and status != 501):
        return NoAnswer(key, detail)
    if code == "NoSuchBucket":
        return Denied(key, f"the bucket {bucket!r} does not exist ({detail})")
    if status == 404:
        return _from_missing(key, asked, code, detail)
    if status == 412:
        return PreconditionFailed(key, detail)
    if status == 409:
        putting = asked in (Asked.PUT, Asked.PUT_IF_MATCHES)
        return Conflict(key, detail) if putting else NoAnswer(key, detail)
    if status < 400 or code in _REGION_CODES:
        return Denied(key, _redirected(error, bucket, detail))
    return Denied(key, detail)


def _from_missing(key: str, asked: Asked, code: str, detail: str) -> StoreAnswer:
    """Read a 404. One that does not come from S3, say a proxy's, must not pass for an object that is not there."""
    if code == "NoSuchKey" and asked is Asked.GET:
        return KeyNotFound(key)
    if code == "NoSuchKey" and asked is Asked.PUT_IF_MATCHES:
        return PreconditionFailed(key, f"no object stands there ({detail})")
    return Denied(key, f"{detail} (is this an S3 endpoint?)")


def _redirected(error: ClientError, bucket: str, detail: str) -> str:
    said = error.response.get("Error", {})
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or said.get("Region")
    if region:
        return f"the bucket {bucket!r} is in the region {region}: set region={region} ({detail})"
    elsewhere = said.get("Endpoint") or headers.get("location")
    return f"the bucket {bucket!r} is elsewhere, at {elsewhere} ({detail})" if elsewhere else detail
