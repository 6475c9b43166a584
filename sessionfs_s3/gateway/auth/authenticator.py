"""Who a connection is: the one place where a token is looked at.

For one event loop. Reads the tenants file and the file of its keys; :mod:`~sessionfs_s3.gateway.auth.jwt_keys` may send
requests. No log line and no error holds a token, or a part of one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.format.keys import encode_id
from sessionfs_s3.gateway.auth.attempts import FailedAttempts
from sessionfs_s3.gateway.auth.jwt_keys import FileKeys, KeySource, UrlKeys
from sessionfs_s3.gateway.auth.jwts import JwtVerifier, Rejected
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tenants import Identity, JwtSettings, read_tenants
from sessionfs_s3.gateway.auth.tokens import TOKEN_CHARS_MAX, TokenTable, digest_of

_log = logging.getLogger(__name__)


class NotAuthenticated(Exception):
    """Base of the ways not to be let in; ``code`` is the JSON-RPC error code, as the Copilot runtime has it."""

    code = -32002


class AuthenticationRequired(NotAuthenticated):
    """The client sent no token, and needs one."""

    code = -32001

    def __init__(self) -> None:
        """Say so."""
        super().__init__("authentication required: connect with a token")


class AuthenticationFailed(NotAuthenticated):
    """The client's token does not hold. Why is in the log, and in no answer: the text is always the same."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("authentication failed")


class TooManyAttempts(NotAuthenticated):
    """Too many attempts failed, from this address or from all together; the token was not looked at.

    Attributes:
        retry_s: after how many seconds an attempt is looked at again.
    """

    def __init__(self, retry_s: float) -> None:
        """Say for how long."""
        super().__init__(f"too many failed attempts: try again in {retry_s:.1f} s")
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class _Rules:
    """All that one reading of the tenants file comes to; replaced as a whole."""

    anybody: Identity | None
    tokens: TokenTable[Identity]
    jwts: JwtVerifier | None


_FileState = tuple[int, int, int, int] | None


class Authenticator:
    """Tells who a connection is from the token that it brings; made by :meth:`load`.

    Attributes:
        path: the tenants file; None: there is one tenant.
        attempts: the failures so far, for metrics.
    """

    def __init__(
        self,
        path: Path | None,
        rules: _Rules | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Use :meth:`load`."""
        self.path = path
        self.attempts = FailedAttempts(clock=clock)
        self._clock = clock
        self._wall_clock = wall_clock
        self._seen: dict[Path, _FileState] = {}
        self._url_keys: list[UrlKeys] = []
        self._rules = self._read() if rules is None else rules

    @classmethod
    def load(
        cls,
        path: Path | None,
        *,
        default_tenant: str = "default",
        token: str | None = None,
        limits: TenantLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> Self:
        """Return the authenticator of the tenants file at *path*, or of one tenant when that is None.

        Args:
            path: the tenants file.
            default_tenant: without a file: the tenant that everybody is.
            token: without a file: the token that everybody needs; None: none.
            limits: without a file: how much the tenant may do.
            clock: seconds; does not go back.
            wall_clock: seconds since 1970.

        Raises:
            InvalidInput: the file or the tenant breaks a rule; or there is a file, and a *token* beside it.
        """
        if path is not None:
            if token is not None:
                raise InvalidInput("tenants file", str(path), "must not go with a token for everybody")
            return cls(path, None, clock=clock, wall_clock=wall_clock)
        encode_id("tenant", default_tenant)
        if token is not None and not 1 <= len(token) <= TOKEN_CHARS_MAX:
            raise InvalidInput("length of the token", len(token), f"must be 1 to {TOKEN_CHARS_MAX}")
        everybody = Identity(default_tenant, "default", None, None, limits or TenantLimits())
        rules = _Rules(
            everybody if token is None else None,
            TokenTable({} if token is None else {digest_of(token): everybody}),
            None,
        )
        return cls(None, rules, clock=clock, wall_clock=wall_clock)

    @property
    def single_tenant(self) -> bool:
        """Whether there is no tenants file: then nobody beyond loopback may be let in."""
        return self.path is None

    @property
    def open_to_all(self) -> bool:
        """Whether nobody needs a token."""
        return self._rules.anybody is not None

    async def authenticate(self, token: object, *, peer: str) -> Identity:
        """Return who the client at *peer* is, which brought *token*.

        Args:
            token: as it came; anything but a string fails.
            peer: the client's address, without a port.

        Raises:
            AuthenticationRequired: there is no token, and one is needed.
            AuthenticationFailed: it does not hold, for whatever reason.
            TooManyAttempts: too many did not; this one was not looked at.
        """
        rules = self._rules
        if rules.anybody is not None:
            return rules.anybody
        if token is None or token == "":
            raise AuthenticationRequired
        text = token if isinstance(token, str) and len(token) <= TOKEN_CHARS_MAX else ""
        digest = digest_of(text)
        self._admit(peer, digest)
        try:
            identity = await self._identify(rules, text, digest, peer)
        except Rejected as reason:
            last = self.attempts.failed(peer, digest)
            _log.warning("authentication of %s failed: %s", peer, reason)
            if last:
                _log.warning("%s fails too often: it is refused for some seconds, unless its token is known", peer)
            raise AuthenticationFailed from None
        self.attempts.succeeded(digest)
        return identity

    def reload(self, *, force: bool = False) -> bool:
        """Read the tenants file again if it, or its file of keys, has changed; return whether it now counts.

        Connections that are there are not looked at. A file that breaks a rule is logged, and what was before stays.

        Args:
            force: read it even though it looks unchanged (``SIGHUP``).
        """
        if self.path is None or not (force or self._changed()):
            return False
        try:
            self._rules = self._read()
        except InvalidInput as error:
            _log.error("the tenants file stays as it was: %s", error)
            return False
        _log.info("the tenants file was read again")
        return True

    async def close(self) -> None:
        """Give up every request for keys that is under way."""
        for keys in self._url_keys:
            await keys.close()

    def _admit(self, peer: str, digest: bytes) -> None:
        wait_s = self.attempts.wait_s(peer, digest)
        if wait_s > 0:
            raise TooManyAttempts(wait_s)

    async def _identify(self, rules: _Rules, token: str, digest: bytes, peer: str) -> Identity:
        identity = rules.tokens.find(digest)
        if not token:
            raise Rejected("no string, or one that is too long")
        if identity is None:
            if rules.jwts is None or token.count(".") != 2:
                raise Rejected("unknown token")
            keys = await rules.jwts.keys(token)
            # Others failed while this one waited for keys: the check and the count must not lie apart.
            self._admit(peer, digest)
            return rules.jwts.verify(token, keys)
        if identity.expires_s is not None and identity.expires_s <= self._wall_clock():
            raise Rejected(f"token {identity.subject!r} of tenant {identity.tenant!r} has expired")
        return identity

    def _read(self) -> _Rules:
        """Return what the tenants file says.

        Raises:
            InvalidInput: it breaks a rule.
        """
        assert self.path is not None
        # Looked at before it is read: a change meanwhile is then seen the next time.
        self._seen = {self.path: _file_state(self.path)}
        file = read_tenants(self.path)
        verifier = None
        if file.jwt is not None:
            verifier = JwtVerifier(file.jwt, self._keys(self.path, file.jwt), file, clock=self._wall_clock)
        return _Rules(None, TokenTable(file.identities()), verifier)

    def _keys(self, tenants: Path, settings: JwtSettings) -> KeySource:
        if settings.keys_file is not None:
            path = tenants.parent / settings.keys_file
            self._seen[path] = _file_state(path)
            return FileKeys(path)
        assert settings.keys_url is not None
        for keys in self._url_keys:
            if keys.url == settings.keys_url:
                return keys
        self._url_keys.append(UrlKeys(settings.keys_url, clock=self._clock))
        return self._url_keys[-1]

    def _changed(self) -> bool:
        return any(_file_state(path) != seen for path, seen in self._seen.items())


def _file_state(path: Path) -> _FileState:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
