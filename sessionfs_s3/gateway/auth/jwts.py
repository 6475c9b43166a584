"""JSON Web Tokens: whose they are, if they hold (RFC 7519, with the advice of RFC 8725).

The signature is PyJWT's work, the keys are :mod:`~sessionfs_s3.gateway.auth.jwt_keys`'. Two steps:
:meth:`JwtVerifier.keys` may wait for an issuer, :meth:`JwtVerifier.verify` never waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import jwt

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.format.keys import encode_id
from sessionfs_s3.gateway.auth.jwt_keys import KeySource, NoKeys, VerifyingKey
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tenants import Identity, JwtSettings, SessionRule, TenantsFile, label

# What PyJWT, and the libraries below it, raise for what cannot be read, next to its own errors.
_UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class Rejected(Exception):
    """A token does not hold; the message says why, for the log, and holds nothing of the token."""


class JwtVerifier:
    """The rules of the tenants file for JSON Web Tokens."""

    def __init__(
        self, settings: JwtSettings, keys: KeySource, file: TenantsFile, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Hold tokens against *settings* and *keys*; *clock* tells seconds since 1970."""
        self.source = keys
        self._settings = settings
        self._clock = clock
        self._limits: Mapping[str, TenantLimits] = file.limits_by_tenant()
        self._default = file.limits

    async def keys(self, token: str) -> Sequence[VerifyingKey]:
        """Return the keys that may have signed *token*.

        Raises:
            Rejected: it is no JSON Web Token, its algorithm is not allowed, or no key can have signed it.
        """
        algorithm, name = self._header(token)
        try:
            keys = await self.source.candidates(name, algorithm)
        except NoKeys as error:
            raise Rejected(str(error)) from None
        if not keys:
            raise Rejected("no key for the token's key id and algorithm")
        return keys

    def verify(self, token: str, keys: Sequence[VerifyingKey]) -> Identity:
        """Return whose *token* is, signed with one of *keys*.

        Raises:
            Rejected: its signature or one of its claims does not hold.
        """
        algorithm, _ = self._header(token)
        for key in keys:
            claims = self._claims(token, key, algorithm)
            if claims is not None:
                return self._identity(claims)
        raise Rejected("wrong signature")

    def _header(self, token: str) -> tuple[str, str | None]:
        """Return algorithm and key id of the *token*: not to be trusted, only to choose among what is allowed."""
        try:
            header = cast("dict[str, object]", jwt.get_unverified_header(token))
        except _UNREADABLE as error:
            raise Rejected(f"no JSON Web Token: {type(error).__name__}") from None
        algorithm, name = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._settings.algorithms:
            raise Rejected("algorithm not allowed")
        if "crit" in header or "b64" in header:
            raise Rejected("extension of the signature (crit, b64)")
        if name is not None and not isinstance(name, str):
            raise Rejected("key id is no string")
        return algorithm, name

    def _claims(self, token: str, key: VerifyingKey, algorithm: str) -> dict[str, object] | None:
        """Return what *token* says, or None when *key* has not signed it."""
        settings = self._settings
        audience = settings.audience
        try:
            return cast(
                "dict[str, object]",
                jwt.decode(
                    token,
                    key.public,
                    # One, which is allowed and goes with the kind of the key: nothing is left for the token to choose.
                    algorithms=[algorithm],
                    audience=audience if isinstance(audience, str) else list(audience),
                    issuer=settings.issuer,
                    leeway=settings.leeway_s,
                    options={"require": ["exp", "iss", "aud"]},
                ),
            )
        except jwt.InvalidSignatureError:
            return None
        except _UNREADABLE as error:
            raise Rejected(f"claims: {type(error).__name__}") from None

    def _identity(self, claims: Mapping[str, object]) -> Identity:
        settings = self._settings
        names = settings.claims
        expires_s = self._lifetime(claims)
        tenant, subject = claims.get(names.tenant), claims.get(names.subject)
        try:
            encode_id("tenant", cast("str", tenant))
            limits = self._limits.get(cast("str", tenant), self._default if settings.any_tenant else None)
            if limits is None:
                raise Rejected("tenant not listed")
            if not isinstance(subject, str):
                raise Rejected("no subject")
            sessions = None if names.sessions is None else _rule(claims.get(names.sessions))
            return Identity(cast("str", tenant), label(subject), sessions, expires_s, limits)
        except InvalidInput as error:
            raise Rejected(f"{error.what}: {error.rule}") from None
        except ValueError as error:
            raise Rejected(f"subject: {error}") from None

    def _lifetime(self, claims: Mapping[str, object]) -> float:
        """Return when the connection has to be closed.

        A token without ``iat`` counts as issued now: its whole life is ahead at the most.
        """
        now_s = self._clock()
        expires_s = _time(claims, "exp")
        issued_s = min(_time(claims, "iat"), now_s) if "iat" in claims else now_s
        if expires_s - issued_s > self._settings.lifetime_s_max + self._settings.leeway_s:
            raise Rejected("lives longer than lifetime_s_max")
        return expires_s + self._settings.leeway_s


def _time(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejected(f"{name} is no number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise Rejected(f"{name} is not finite")
    return seconds


def _rule(value: object) -> SessionRule:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        raise Rejected("allowed sessions are no list of strings")
    return SessionRule.of(cast("list[str]", value))
