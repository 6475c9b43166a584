"""An issuer of JSON Web Tokens for tests: keys, tokens, and a server of keys on loopback that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sessionfs_s3.gateway.auth.authenticator import Authenticator
from tests.gateway.tenants_files import write

ISSUER = "https://issuer.example/"
AUDIENCE = "sessionfs"

KEY = generate_private_key(65537, 2048)
STRANGER = generate_private_key(65537, 2048)

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


def settings(**values: object) -> dict[str, object]:
    """Return the table ``[jwt]`` with *values* before the usual ones."""
    return {"algorithms": ["RS256"], "issuer": ISSUER, "audience": AUDIENCE, "leeway_s": 5, **values}


def claims(**values: object) -> dict[str, object]:
    """Return the claims of a good token of ``acme`` with *values* before the usual ones; None leaves one out."""
    now_s = int(time.time())
    usual: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "tenant": "acme",
        "iat": now_s,
        "exp": now_s + 600,
    }
    return {name: value for name, value in {**usual, **values}.items() if value is not None}


def sign(
    key: PrivateKey | bytes | None,
    values: Mapping[str, object] | None = None,
    *,
    algorithm: str = "RS256",
    headers: Mapping[str, object] | None = None,
) -> str:
    """Return a token with the claims *values*."""
    payload = dict(claims() if values is None else values)
    return jwt.encode(payload, key, algorithm=algorithm, headers=None if headers is None else dict(headers))  # type: ignore[arg-type]


def pem(key: PrivateKey) -> str:
    """Return the public half of *key*."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: PrivateKey) -> str:
    """Return *key* itself, as nobody should put it anywhere."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(key: PrivateKey, **values: object) -> dict[str, object]:
    """Return the public half of *key* as a JWK with *values* added."""
    match key:
        case RSAPrivateKey():
            made = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case EllipticCurvePrivateKey():
            made = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            made = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # PyJWT adds what the key may be used for; issuers mostly do not.
    return {**{name: value for name, value in made.items() if name != "key_ops"}, **values}


@dataclass
class KeyServer:
    """What the server answers, and how often it was asked."""

    keys: list[dict[str, object]] = field(default_factory=list)
    body: bytes | None = None
    status: int = 200
    delay_s: float = 0.0
    location: str | None = None
    asked: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for the keys."""
        self.asked += 1
        self.arrived.set()
        await asyncio.sleep(self.delay_s)
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        headers = {} if self.location is None else {"Location": self.location}
        return web.Response(status=self.status, body=body, content_type="application/json", headers=headers)


@asynccontextmanager
async def key_server(*keys: dict[str, object]) -> AsyncIterator[KeyServer]:
    """Run a server of *keys* on loopback."""
    server = KeyServer(list(keys))
    application = web.Application()
    application.router.add_get("/keys", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{port}/keys"
        yield server
    finally:
        await runner.cleanup()


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def load(
    folder: Path, *, clock: Callable[[], float] = time.monotonic, keys: str | None = None, **values: object
) -> Authenticator:
    """Return an authenticator that takes tokens of *keys* (by default, of KEY in a PEM file)."""
    if "keys_url" not in values:
        (folder / "keys.pem").write_text(pem(KEY) if keys is None else keys)
        (folder / "keys.pem").chmod(0o600)
        values["keys_file"] = "keys.pem"
    tenants = [{"id": "acme", "limits": {"burst": 7}}, {"id": "other"}]
    path = write(folder / "tenants.toml", {"limits": {"burst": 3}, "tenants": tenants, "jwt": settings(**values)})
    return Authenticator.load(path, clock=clock)
