"""The tenants file: who may connect, with which tokens, to which sessions, and how much each may do.

TOML, checked in full before any of it counts; reads files, and nothing else. No message repeats what stands in the
place of a secret.

::

    [limits]                      # for whoever has none of its own: see TenantLimits
    connections_max = 50

    [[tenants]]
    id = "acme"
    limits = { open_sessions_max = 500 }

    [[tenants.tokens]]
    label = "build server"
    hash = "sha256:…"                    # sessionfs-s3 gateway-token
    expires = 2027-06-30T00:00:00Z       # optional
    sessions = ["nightly", "build-*"]    # optional: all of the tenant's

    [jwt]                         # optional
    keys_url = "https://login.example.com/.well-known/jwks.json"    # or: keys_file = "keys.pem"
    algorithms = ["RS256"]
    issuer = "https://login.example.com/"
    audience = "sessionfs"
    claims = { tenant = "org", sessions = "sessions" }
"""

from __future__ import annotations

import logging
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.format.keys import encode_id
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tokens import TOKEN_CHARS_MIN, parse_hash

_log = logging.getLogger(__name__)

LABEL_CHARS_MAX: Final = 255

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""The signatures that a JSON Web Token may have (RFC 7518, RFC 8037). Neither ``none`` nor HMAC can be allowed at all:
a public key then never serves as the secret of a forged token."""


@dataclass(frozen=True, slots=True)
class SessionRule:
    """Which session ids a connection may touch; made by :meth:`of`.

    Attributes:
        ids: these, each.
        prefixes: and all that start with one of these.
    """

    ids: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Self:
        """Return the rule of *patterns*: each a session id, or the start of one followed by ``*``.

        Raises:
            InvalidInput: a pattern is no session id and no start of one, or has a ``*`` elsewhere.
        """
        ids: set[str] = set()
        prefixes: set[str] = set()
        for pattern in patterns:
            name = pattern.removesuffix("*")
            if "*" in name:
                raise InvalidInput("allowed session", pattern, "must have '*' only at its end")
            if name or name == pattern:
                # Whether an id may start so: "." and ".." are no ids, and yet starts of some.
                encode_id("allowed session", name if name == pattern else f"{name}x")
            (ids if name == pattern else prefixes).add(name)
        return cls(frozenset(ids), tuple(sorted(prefixes)))

    def allows(self, session_id: str) -> bool:
        """Return whether *session_id* may be touched."""
        return session_id in self.ids or session_id.startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection is.

    Attributes:
        tenant: whose sessions it works with.
        subject: for logs: the label of its token, or the subject of its JSON Web Token.
        sessions: which session ids it may touch; None: all of the tenant's.
        expires_s: when it has to be closed, in seconds since 1970; None: never.
        limits: how much its tenant may do, all connections together.
    """

    tenant: str
    subject: str
    sessions: SessionRule | None
    expires_s: float | None
    limits: TenantLimits

    def allows(self, session_id: str) -> bool:
        """Return whether the connection may touch *session_id*."""
        return self.sessions is None or self.sessions.allows(session_id)


def label(value: str) -> str:
    """Return *value* if it can stand in a log as it is.

    Raises:
        ValueError: it is empty, longer than 255 characters, or holds characters that do not print.
    """
    if not value or len(value) > LABEL_CHARS_MAX or not value.isprintable():
        raise ValueError(f"must have 1 to {LABEL_CHARS_MAX} characters that print")
    return value


def _tenant_id(value: str) -> str:
    encode_id("tenant", value)
    return value


def _hash(value: str) -> str:
    parse_hash(value)
    return value


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    SessionRule.of(value)
    return value


def _keys_url(value: str) -> str:
    parts = urlsplit(value)
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must be a URL with a host, without user, password or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("must start with https://, or with http:// on loopback")
    _ = parts.port  # a ValueError unless it is a port
    return value


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine's own: ``localhost``, or an address of the loopback."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


# TOML has lists only; everything inside one is checked as strictly as the rest.
_TUPLE = Field(strict=False)
_Text = Annotated[str, AfterValidator(label)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TokenEntry(_Strict):
    """One token of a tenant, by its hash."""

    label: _Text
    hash: Annotated[str, AfterValidator(_hash)]
    expires: AwareDatetime | None = None
    sessions: Annotated[tuple[str, ...], _TUPLE, AfterValidator(_patterns)] | None = None


class TenantEntry(_Strict):
    """One tenant: its tokens, and what differs from the limits of all."""

    id: Annotated[str, AfterValidator(_tenant_id)]
    limits: TenantLimits = TenantLimits()
    tokens: Annotated[tuple[TokenEntry, ...], _TUPLE] = ()


class JwtClaims(_Strict):
    """The names of the claims that say who a JSON Web Token is for."""

    tenant: _Text = "tenant"
    subject: _Text = "sub"
    sessions: _Text | None = None
    """A list of session ids, as in the file. A token must have the claim once it is named here: forgetting it must not
    open everything. ``["*"]`` does."""


class JwtSettings(_Strict):
    """Which JSON Web Tokens are taken for a tenant's."""

    keys_file: _Text | None = None
    keys_url: Annotated[str, AfterValidator(_keys_url)] | None = None
    algorithms: Annotated[tuple[Algorithm, ...], _TUPLE, Field(min_length=1)]
    issuer: _Text
    audience: Annotated[tuple[_Text, ...], _TUPLE, Field(min_length=1)] | _Text
    leeway_s: float = Field(default=30.0, ge=0, le=600)
    lifetime_s_max: float = Field(default=86_400.0, gt=0, le=31_622_400)
    claims: JwtClaims = JwtClaims()
    any_tenant: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.keys_file is None) == (self.keys_url is None):
            raise ValueError("must have either keys_file or keys_url")
        return self


class TenantsFile(_Strict):
    """The whole file."""

    limits: TenantLimits = TenantLimits()
    tenants: Annotated[tuple[TenantEntry, ...], _TUPLE] = ()
    jwt: JwtSettings | None = None

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        _once("tenant", [tenant.id for tenant in self.tenants])
        for tenant in self.tenants:
            _once(f"label of a token of tenant {tenant.id!r},", [token.label for token in tenant.tokens])
        owners: dict[str, str] = {}
        for tenant in self.tenants:
            for token in tenant.tokens:
                name = f"{token.label!r} of tenant {tenant.id!r}"
                if token.hash in owners:
                    raise ValueError(f"tokens {owners[token.hash]} and {name} must not be the same")
                owners[token.hash] = name
        if not owners and self.jwt is None:
            raise ValueError("must have a token or [jwt]: nobody could connect")
        return self

    def limits_by_tenant(self) -> Mapping[str, TenantLimits]:
        """Return the limits in force for each tenant that is listed."""
        return {tenant.id: self.limits.overridden(tenant.limits) for tenant in self.tenants}

    def identities(self) -> Mapping[bytes, Identity]:
        """Return who the holder of each token is, by the token's digest."""
        limits = self.limits_by_tenant()
        return {
            parse_hash(token.hash): Identity(
                tenant.id,
                token.label,
                None if token.sessions is None else SessionRule.of(token.sessions),
                None if token.expires is None else token.expires.timestamp(),
                limits[tenant.id],
            )
            for tenant in self.tenants
            for token in tenant.tokens
        }


def read_tenants(path: Path) -> TenantsFile:
    """Return the tenants file at *path*; a file that others may read or change is warned of.

    Raises:
        InvalidInput: it cannot be read, is not TOML, or breaks a rule, which is named with its place in the file.
    """
    try:
        text = path.read_bytes().decode()
        warn_if_exposed(path, secret=True)
    except OSError as error:
        raise InvalidInput("tenants file", str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput("tenants file", str(path), f"must be UTF-8, byte {error.start} is not") from None
    try:
        return parse_tenants(text)
    except ValueError as error:
        raise InvalidInput("tenants file", str(path), str(error)) from None


def parse_tenants(text: str) -> TenantsFile:
    """Return the tenants file with the contents *text*.

    Raises:
        ValueError: it is not TOML or breaks a rule; the message holds no text in the place of a secret.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"must be TOML: {error}") from None
    except ValueError:  # a date such as 2027-02-31, or digits without end
        raise ValueError("must be TOML: a number or date is not possible") from None
    try:
        return TenantsFile.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # A token in the wrong place, as a name or as text, must not end up in a log; numbers and dates are none.
        place = ".".join("…" if len(str(part)) >= TOKEN_CHARS_MIN else str(part) for part in first["loc"]) or "file"
        given = first["input"]
        value = f" {given}" if isinstance(given, int | float | datetime) and "tokens" not in first["loc"] else ""
        raise ValueError(f"{place}{value}: {first['msg'].removeprefix('Value error, ')}") from None


def warn_if_exposed(path: Path, *, secret: bool) -> None:
    """Warn when others than its owner may change *path*, or, if it is *secret*, when every user may read it.

    Raises:
        OSError: it is not there.
    """
    mode = path.stat().st_mode
    if secret and mode & stat.S_IROTH:
        _log.warning("%s is readable by every user of this machine: chmod o= it", path)
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        _log.warning("%s can be changed by others than its owner, who decides who may connect: chmod go-w it", path)


def _once(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} must not stand there twice")
        seen.add(name)
