"""The public keys that JSON Web Tokens are verified with: from a file, or from a URL that an issuer publishes them at.

Reads a file once, or sends requests over HTTP. A URL is asked for at most every ten seconds, whoever sends tokens with
whatever key ids, and whether or not it answers. (PyJWT's own client bounds that only after a success, has no deadline
for the whole answer, no limit on its size, and holds a lock meanwhile; the parsing of keys is PyJWT's.)
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import aiohttp
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.gateway.auth.tenants import is_loopback, warn_if_exposed

_log = logging.getLogger(__name__)

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

RSA_BITS_MIN: Final = 2048
"""RFC 7518, section 3.3."""

KEYS_MAX: Final = 100
NAMELESS_KEYS_MAX: Final = 8
"""Keys in a set, and those without an id among them: each of these is tried for every token."""

SET_BYTES_MAX: Final = 1024 * 1024
"""Largest answer of a URL: a key has under 3 KB."""

LIFETIME_S: Final = 300.0
"""How long the keys of a URL are used without asking again: what an issuer withdraws is gone after that."""

STALE_S: Final = 3600.0
"""How long they are used while the URL does not answer."""

COOLDOWN_S: Final = 10.0
TIMEOUT_S: Final = 5.0
"""From one request to the next, and for all of one."""

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_PEM_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


class UnusableKey(ValueError):
    """A key cannot be used; the message says why and does not hold it."""


class NoKeys(Exception):
    """There are no keys at the moment; the message says why."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key, its *name* (``kid``) if it has one, and the *algorithms* that it may be used with."""

    name: str | None
    algorithms: frozenset[str]
    public: PublicKey


class KeySource(Protocol):
    """Where keys come from."""

    async def candidates(self, name: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """Return the keys that may have signed a token that names the key *name* and *algorithm*.

        A key with a name is used for tokens that name it, one without for any.

        Raises:
            NoKeys: there are none at all at the moment.
        """
        ...

    async def close(self) -> None:
        """Give up what is under way."""
        ...


class FileKeys:
    """The keys of a PEM or JWK set file."""

    def __init__(self, path: Path) -> None:
        """Read *path*.

        Raises:
            InvalidInput: it cannot be read, holds a private or secret key, or one that cannot be used.
        """
        try:
            text = path.read_bytes().decode()
            warn_if_exposed(path, secret=False)
            self._keys = _checked(parse_set(text, lenient=False) if text.lstrip().startswith("{") else parse_pem(text))
        except OSError as error:
            raise InvalidInput("keys_file", str(path), f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput("keys_file", str(path), "must be PEM or a JWK set") from None
        except UnusableKey as error:
            raise InvalidInput("keys_file", str(path), str(error)) from None

    async def candidates(self, name: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """Return the keys that may have signed a token that names the key *name* and *algorithm*."""
        return _candidates(self._keys, name, algorithm)

    async def close(self) -> None:
        """Give up nothing: nothing is ever under way."""


class UrlKeys:
    """The keys of a JWK set at a URL, kept for five minutes; for one event loop."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Ask *url* when the first token comes; *clock* tells seconds and does not go back."""
        self.url = url
        self._clock = clock
        self._timeout_s = timeout_s
        self._keys: Sequence[VerifyingKey] = ()
        self._fetched_s = -math.inf
        self._asked_s = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def candidates(self, name: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """Return the keys that may have signed a token that names the key *name* and *algorithm*.

        Asks the URL when the keys are old or none has this name, unless it was asked a moment ago.

        Raises:
            NoKeys: the URL has not answered for an hour, or never.
        """
        fresh = self._clock() - self._fetched_s < LIFETIME_S
        if not fresh or not _candidates(self._keys, name, algorithm):
            await self._ask()
        if self._clock() - self._fetched_s >= STALE_S:
            raise NoKeys("the URL of the keys does not answer")
        return _candidates(self._keys, name, algorithm)

    async def close(self) -> None:
        """Give up a request that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        """Wait for the request that is under way, or for a new one, or for nothing when the last was a moment ago."""
        if self._asking is None or self._asking.done():
            if self._clock() - self._asked_s < COOLDOWN_S:
                return
            self._asked_s = self._clock()
            self._asking = asyncio.create_task(self._fetch())
        # One client that goes away must not end what others wait for.
        await asyncio.wait([self._asking])

    async def _fetch(self) -> None:
        try:
            text = await self._get()
            # Off the loop: a set of many keys takes milliseconds.
            self._keys = await asyncio.to_thread(lambda: _checked(parse_set(text, lenient=True)))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.error("keys of JSON Web Tokens: %s does not answer as it should: %r", self.url, error)
            return
        self._fetched_s = self._clock()

    async def _get(self) -> str:
        # A proxy of the environment is for the world outside.
        proxied = not is_loopback(urlsplit(self.url).hostname or "")
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=proxied) as client,
            client.get(self.url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise UnusableKey(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > SET_BYTES_MAX:
                    raise UnusableKey(f"more than {SET_BYTES_MAX} bytes")
            return body.decode("utf-8", "replace")


def parse_pem(text: str) -> list[VerifyingKey]:
    """Return the public keys, and those of the certificates, in the PEM *text*; they have no names.

    Raises:
        UnusableKey: one is private, too short, or of another kind; or there is none.
    """
    keys: list[VerifyingKey] = []
    for block in _PEM_BLOCK.finditer(text):
        if "PRIVATE" in block[1]:
            raise UnusableKey("must not hold a private key: whoever can read it makes tokens")
        try:
            pem = block[0].encode()
            loaded = (
                load_pem_x509_certificate(pem).public_key() if block[1] == "CERTIFICATE" else load_pem_public_key(pem)
            )
        except (ValueError, UnsupportedAlgorithm):
            raise UnusableKey("must be PEM: a block of it cannot be read as a public key") from None
        keys.append(_usable(None, loaded, None))
    return keys


def parse_set(text: str, *, lenient: bool) -> list[VerifyingKey]:
    """Return the keys of the JWK set *text* (RFC 7517); *lenient*: leave out those that cannot be used.

    Raises:
        UnusableKey: it is no JWK set; or, unless *lenient*, one of the keys cannot be used.
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableKey("must be a JWK set") from None
    members = cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise UnusableKey("must be a JWK set, with a list 'keys'")
    keys: list[VerifyingKey] = []
    for member in cast("list[object]", members)[: KEYS_MAX + 1]:
        try:
            keys.append(_from_jwk(member))
        except UnusableKey as error:
            if not lenient:
                raise
            _log.info("keys of JSON Web Tokens: one is left out: %s", error)
    return keys


def _from_jwk(member: object) -> VerifyingKey:
    if not isinstance(member, dict):
        raise UnusableKey("a key must be an object")
    values = cast("dict[str, object]", member)
    name, use, operations, algorithm = (values.get(field) for field in ("kid", "use", "key_ops", "alg"))
    if name is not None and not isinstance(name, str):
        raise UnusableKey("'kid' must be a string")
    if use is not None and use != "sig":
        raise UnusableKey("'use' must be 'sig'")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise UnusableKey("'key_ops' must have 'verify'")
    if algorithm is not None and not isinstance(algorithm, str):
        raise UnusableKey("'alg' must be a string")
    if values.get("kty") == "oct" or "d" in values:
        raise UnusableKey("must not hold a private or secret key: whoever can read it makes tokens")
    try:
        loaded: object = jwt.PyJWK(values).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, UnsupportedAlgorithm):
        # The messages hold the key itself.
        raise UnusableKey("a key cannot be read") from None
    return _usable(name, loaded, algorithm)


def _usable(name: str | None, key: object, algorithm: str | None) -> VerifyingKey:
    match key:
        case RSAPublicKey():
            if key.key_size < RSA_BITS_MIN:
                raise UnusableKey(f"an RSA key must have at least {RSA_BITS_MIN} bits, not {key.key_size}")
            algorithms = _RSA
        case EllipticCurvePublicKey():
            if key.curve.name not in _CURVES:
                raise UnusableKey(f"the curve {key.curve.name} is none of {', '.join(_CURVES)}")
            algorithms = frozenset({_CURVES[key.curve.name]})
        case Ed25519PublicKey() | Ed448PublicKey():
            algorithms = frozenset({"EdDSA"})
        case _:
            raise UnusableKey("must be a public key: RSA, elliptic curve or Edwards curve")
    if algorithm is not None:
        algorithms &= {algorithm}
    if not algorithms:
        raise UnusableKey("the 'alg' of a key does not go with its kind")
    return VerifyingKey(name, algorithms, key)


def _checked(keys: Sequence[VerifyingKey]) -> Sequence[VerifyingKey]:
    if not keys:
        raise UnusableKey("must hold a public key")
    if len(keys) > KEYS_MAX:
        raise UnusableKey(f"must not hold more than {KEYS_MAX} keys")
    if sum(key.name is None for key in keys) > NAMELESS_KEYS_MAX:
        raise UnusableKey(f"must not hold more than {NAMELESS_KEYS_MAX} keys without an id")
    return tuple(keys)


def _candidates(keys: Iterable[VerifyingKey], name: str | None, algorithm: str) -> Sequence[VerifyingKey]:
    return [key for key in keys if key.name in {None, name} and algorithm in key.algorithms]
