"""The names of a session's objects, and the ids that may stand in them.

::

    tenants/<tenant>/sessions/<session>/log/<slot>.c    a commit
    tenants/<tenant>/sessions/<session>/log/<slot>.s    the snapshot after that commit
    tenants/<tenant>/sessions/<session>/blob/<epoch>-<id>   contents of files

``<slot>`` is the complement of the sequence number in 16 hexadecimal digits, so that a listing starts with the newest;
``<epoch>`` is the epoch that wrote the blob in 16 hexadecimal digits, ``<id>`` its id in 32.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.format.limits import ID_BYTES, SEQUENCE_MAX
from sessionfs_s3.fs.chunk import Blob

ID_BYTES_MAX: Final = 255
"""Longest id, encoded: some stores refuse longer path segments."""

_LOG_NAME: Final = re.compile(r"([0-9a-f]{16})\.([cs])")
_BLOB_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{32})")
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


class Kind(Enum):
    """What an object of the log is; the value is its suffix."""

    COMMIT = "c"
    SNAPSHOT = "s"


@dataclass(frozen=True, slots=True)
class LogName:
    """The name of an object of the log: its *sequence* number and *kind*."""

    sequence: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys of one session's objects. Ids are checked and encoded by :meth:`of`, the only way to make one."""

    prefix: str

    @classmethod
    def of(cls, tenant: str, session: str) -> SessionKeys:
        """Return the keys of *session* of *tenant*.

        Raises:
            InvalidInput: an id breaks a rule (:func:`encode_id`).
        """
        return cls(f"{tenant_prefix(tenant)}sessions/{encode_id('session id', session)}/")

    @property
    def log(self) -> str:
        """What the keys of all commits and snapshots start with."""
        return f"{self.prefix}log/"

    @property
    def blobs(self) -> str:
        """What the keys of all blobs start with."""
        return f"{self.prefix}blob/"

    def blob(self, blob: Blob) -> str:
        """Return the key of *blob*.

        Raises:
            ValueError: no blob has its epoch or id.
        """
        if not 1 <= blob.epoch <= SEQUENCE_MAX or len(blob.id) != ID_BYTES:
            raise ValueError(f"no blob has epoch {blob.epoch} and an id of {len(blob.id)} bytes")
        return f"{self.blobs}{blob.epoch:016x}-{blob.id.hex()}"

    def commit(self, sequence: int) -> str:
        """Return the key of the commit numbered *sequence*."""
        return f"{self.log}{_slot(sequence)}.{Kind.COMMIT.value}"

    def snapshot(self, sequence: int) -> str:
        """Return the key of the snapshot after the commit numbered *sequence*."""
        return f"{self.log}{_slot(sequence)}.{Kind.SNAPSHOT.value}"


def tenant_prefix(tenant: str) -> str:
    """Return what every key of *tenant* starts with: one rule for this prefix is a wall around the tenant.

    Raises:
        InvalidInput: the id breaks a rule (:func:`encode_id`).
    """
    return f"tenants/{encode_id('tenant', tenant)}/"


def parse_log_name(name: str) -> LogName | None:
    """Return what the log's object *name* (without the prefix) is, or None when no release of this project wrote it."""
    found = _LOG_NAME.fullmatch(name)
    if found is None:
        return None
    sequence = SEQUENCE_MAX - int(found[1], 16)
    return LogName(sequence, Kind(found[2])) if sequence else None


def parse_blob_name(name: str) -> tuple[int, bytes] | None:
    """Return epoch and id of the blob *name* (without the prefix), or None when no release of this project wrote it."""
    found = _BLOB_NAME.fullmatch(name)
    if found is None:
        return None
    epoch = int(found[1], 16)
    return (epoch, bytes.fromhex(found[2])) if epoch else None


def encode_id(what: str, value: str) -> str:
    """Return the id *value* as a key segment: UTF-8, percent-encoded outside ``[A-Za-z0-9._-]``.

    Raises:
        InvalidInput: naming *what* it is and the rule: not empty, not ``.`` or ``..``, no control characters, no lone
            surrogates, at most 255 bytes encoded.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # it comes from outside
        raise InvalidInput(what, value, "must be a string")
    if not value:
        raise InvalidInput(what, value, "must not be empty")
    if len(value) > ID_BYTES_MAX:
        raise InvalidInput(what, value, f"must be at most {ID_BYTES_MAX} bytes when percent-encoded")
    if value in {".", ".."}:
        raise InvalidInput(what, value, "must not be '.' or '..'")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidInput(what, value, "must not hold control characters")
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(what, value, "must not hold lone surrogates") from None
    encoded = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    if len(encoded) > ID_BYTES_MAX:
        raise InvalidInput(what, value, f"must be at most {ID_BYTES_MAX} bytes when percent-encoded")
    return encoded


def _slot(sequence: int) -> str:
    if not 1 <= sequence <= SEQUENCE_MAX:
        raise ValueError(f"no slot has sequence number {sequence}: they go from 1 to {SEQUENCE_MAX}")
    return f"{SEQUENCE_MAX - sequence:016x}"
