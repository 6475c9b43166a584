"""Connection tokens: long random secrets, of which the tenants file holds only a hash.

The hash is plain SHA-256. A token has 256 random bits, so there is nothing to guess: a slow hash (scrypt) would protect
passwords, and here only give every stranger 50 ms of this process for one frame; a salt would do nothing against tables
that cannot exist, and make each attempt cost one hash per token of the file; a keyed hash (BLAKE2) would need a second
secret beside the file. :func:`hash_token` therefore refuses what is too short to be random.

A token is found by its digest, not by comparing it with all of them. Whoever sends tokens chooses the input of the
hash, not its output: time spent in the lookup tells at most something about a stored *digest*, from which no token
follows. The work is the same for any token, known or not: one hash, one lookup, one comparison of 32 bytes in constant
time (with a random stand-in when nothing was found), and it does not grow with the tenants.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from sessionfs_s3.errors import InvalidInput

TOKEN_CHARS_MIN: Final = 32
"""Shortest token: 128 bits in hexadecimal."""

TOKEN_CHARS_MAX: Final = 16 * 1024
"""Longest token that is looked at: JSON Web Tokens with many claims reach some kilobytes."""

_PREFIX: Final = "sfs3_"
_RANDOM_BYTES: Final = 32
_LINE: Final = re.compile(r"sha256:[0-9a-f]{64}")

_Found = TypeVar("_Found")


def new_token() -> tuple[str, str]:
    """Return a new random token of 256 bits, and its line for the tenants file.

    Tokens start with ``sfs3_``, by which a scanner of leaked secrets can know them.
    """
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return token, hash_token(token)


def hash_token(token: str) -> str:
    """Return the line ``sha256:…`` that stands for *token* in the tenants file.

    Raises:
        InvalidInput: it is shorter than 32 characters, or longer than 16384; the message does not hold it.
    """
    if not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX:
        rule = f"must be random and have {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters"
        raise InvalidInput("length of the token", len(token), rule)
    return f"sha256:{digest_of(token).hex()}"


def parse_hash(line: str) -> bytes:
    """Return the digest in the *line* of a tenants file.

    Raises:
        ValueError: it is not ``sha256:`` and 64 lower-case hexadecimal digits; the message does not hold the line,
            which may be a token that somebody wrote there.
    """
    if _LINE.fullmatch(line) is None:
        raise ValueError(
            "must be 'sha256:' and 64 hexadecimal digits, as made from a token by `sessionfs-s3 gateway-token`; "
            "a token itself must not stand here"
        )
    return bytes.fromhex(line.removeprefix("sha256:"))


def digest_of(token: str) -> bytes:
    """Return the SHA-256 of *token* as UTF-8; one that no UTF-8 can be has a digest too, equal to no other's."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class _Entry(Generic[_Found]):
    digest: bytes
    found: _Found | None


class TokenTable(Generic[_Found]):
    """What each known token stands for, found by its digest."""

    def __init__(self, found: Mapping[bytes, _Found]) -> None:
        """Keep *found* by the digests of the tokens."""
        self._entries = MappingProxyType({digest: _Entry(digest, value) for digest, value in found.items()})
        self._stranger: _Entry[_Found] = _Entry(secrets.token_bytes(hashlib.sha256().digest_size), None)

    def find(self, digest: bytes) -> _Found | None:
        """Return what the token of *digest* stands for, or None."""
        entry = self._entries.get(digest, self._stranger)
        return entry.found if hmac.compare_digest(entry.digest, digest) else None
