"""JSON Web Tokens: what forges, stretches or swaps them fails, always with the same words."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.gateway.attempts import ADDRESS_BURST
from sessionfs_s3.gateway.authenticator import AuthenticationFailed, Authenticator, TooManyAttempts
from sessionfs_s3.gateway.jwt_keys import (
    COOLDOWN_S,
    KEYS_MAX,
    LIFETIME_S,
    NAMELESS_KEYS_MAX,
    SET_BYTES_MAX,
    STALE_S,
    NoKeys,
    UnusableKey,
    UrlKeys,
    parse_set,
)
from sessionfs_s3.gateway.limits import TenantLimits
from sessionfs_s3.gateway.tokens import new_token
from tests.gateway.issuer import AUDIENCE, PrivateKey, claims, jwk, key_server, pem, private_pem, settings, sign
from tests.gateway.tenants_files import write

PEER = "192.0.2.1"
KEY = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
EDWARDS = Ed25519PrivateKey.generate()


class Clock:
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


async def fails(authenticator: Authenticator, token: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Show that *token* fails like any other, for *reason*, and that nothing of it is logged."""
    caplog.clear()
    # Each from an address of its own: how often one may fail is shown elsewhere.
    failures = authenticator.attempts.failures
    with pytest.raises(AuthenticationFailed) as caught:
        await authenticator.authenticate(token, peer=f"192.0.2.{failures % 250}")
    assert str(caught.value) == "authentication failed"
    assert caught.value.__cause__ is None
    assert reason in caplog.text
    for part in token.split("."):
        assert len(part) < 8 or part not in caplog.text
    assert max(map(len, caplog.messages)) < 200


async def test_a_good_token_tells_tenant_subject_expiry_and_limits(tmp_path: Path) -> None:
    values = claims(sub="ada@example.com")
    identity = await load(tmp_path).authenticate(sign(KEY, values), peer=PEER)
    assert (identity.tenant, identity.subject, identity.sessions) == ("acme", "ada@example.com", None)
    assert identity.limits == TenantLimits(burst=7)
    expires = values["exp"]
    assert isinstance(expires, int)
    assert identity.expires_s == expires + 5


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(KEY, "RS256"), (KEY, "PS512"), (CURVE, "ES256"), (EDWARDS, "EdDSA")],
)
async def test_each_kind_of_key_works_from_pem_and_from_a_set(tmp_path: Path, key: PrivateKey, algorithm: str) -> None:
    token = sign(key, algorithm=algorithm, headers={"kid": "one"})
    files = [pem(STRANGER) + pem(key), json.dumps({"keys": [jwk(STRANGER, kid="two"), jwk(key, kid="one")]})]
    for keys in files:
        authenticator = load(tmp_path, keys=keys, algorithms=["RS256", algorithm])
        assert (await authenticator.authenticate(token, peer=PEER)).tenant == "acme"


async def test_a_token_with_wrong_claims_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = load(tmp_path, lifetime_s_max=3600)
    now_s = int(time.time())
    cases: list[tuple[dict[str, object], str]] = [
        ({"exp": now_s - 60, "iat": now_s - 120}, "ExpiredSignatureError"),
        ({"nbf": now_s + 60}, "ImmatureSignatureError"),
        ({"iat": now_s + 60}, "ImmatureSignatureError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"exp": "soon"}, "DecodeError"),
        ({"exp": True}, "ExpiredSignatureError"),
        ({"exp": str(now_s + 60)}, "exp is no number"),
        ({"exp": 10**400}, ""),
        ({"exp": float("inf")}, ""),
        ({"exp": float("nan")}, ""),
        ({"exp": [now_s]}, ""),
        ({"exp": now_s + 3700}, "lifetime_s_max"),
        ({"exp": now_s + 60, "iat": now_s - 4000}, "lifetime_s_max"),
        ({"exp": now_s + 3700, "iat": None}, "lifetime_s_max"),
        ({"aud": "another"}, "InvalidAudienceError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"aud": []}, "MissingRequiredClaimError"),
        ({"aud": {"sessionfs": 1}}, ""),
        ({"iss": "https://issuer.example"}, "InvalidIssuerError"),
        ({"iss": None}, "MissingRequiredClaimError"),
        ({"tenant": None}, "tenant: must be a string"),
        ({"tenant": ["acme"]}, "tenant: must be a string"),
        ({"tenant": ""}, "tenant: must not be empty"),
        ({"tenant": ".."}, "tenant: must not be '.' or '..'"),
        ({"tenant": "acme\n"}, "tenant: must not hold control characters"),
        ({"tenant": "ACME"}, "tenant not listed"),
        ({"tenant": "acme/../other"}, "tenant not listed"),
        ({"sub": None}, "no subject"),
        ({"sub": "a\nb"}, "characters that print"),
        ({"sub": "x" * 256}, "characters that print"),
    ]
    for values, reason in cases:
        await fails(authenticator, sign(KEY, claims(**values)), reason, caplog)
    assert (await authenticator.authenticate(sign(KEY, claims(aud=["x", AUDIENCE])), peer=PEER)).tenant == "acme"
    late = claims(exp=now_s - 1, iat=now_s - 100)
    assert (await authenticator.authenticate(sign(KEY, late), peer=PEER)).tenant == "acme", "within the leeway"


async def test_a_forged_token_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = load(tmp_path)
    good = sign(KEY)
    header, payload, signature = good.split(".")
    other_payload = sign(KEY, claims(tenant="other")).split(".")[1]
    cases = [
        (sign(STRANGER), "wrong signature"),
        (f"{header}.{other_payload}.{signature}", "wrong signature"),
        (f"{header}.{payload}.", "wrong signature"),
        (f"{header}.{payload}.{signature[:-4]}", ""),
        (f"{header}.{payload}.{signature[::-1]}", ""),
        (good[: len(good) // 2], ""),
        (f"{header}.{payload}", "unknown token"),
        (f"{good}.{signature}", "unknown token"),
        ("..", "no JSON Web Token"),
        (f"{header}..{signature}", ""),
        (f" {good}", "no JSON Web Token"),
        (good.replace(".", "\uff0e"), "unknown token"),
        (f"{header}.{'é' * 50}.{signature}", "no JSON Web Token"),
        (f"{header}.{payload}.\ud800", "no JSON Web Token"),
        (f"{header}.{payload}.{'A' * 1_000_000}", "too long"),
    ]
    for token, reason in cases:
        await fails(authenticator, token, reason, caplog)
    for cut in range(0, len(good), 29):
        await fails(authenticator, good[:cut] + ("B" if good[cut] != "B" else "C") + good[cut + 1 :], "", caplog)
    assert (await authenticator.authenticate(good, peer=PEER)).tenant == "acme"


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _hmac_with(key: bytes, values: dict[str, object]) -> str:
    """Return a token signed by HMAC with *key*, made by hand: PyJWT would not sign with a public key."""
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(values)}"
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_no_other_algorithm_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = load(tmp_path, keys=pem(KEY) + pem(CURVE), algorithms=["RS256"])
    public = pem(KEY)
    for secret in (public, public.strip(), public.replace("\n", "")):
        await fails(authenticator, _hmac_with(secret.encode(), claims()), "algorithm not allowed", caplog)
    payload = _part(claims())
    signature = sign(KEY).split(".")[2]
    for algorithm in ("none", "None", "NONE", "", "rs256", None, 5, ["RS256"], {"RS256": 1}):
        for ending in ("", signature):
            header = _part({"alg": algorithm, "typ": "JWT"})
            await fails(authenticator, f"{header}.{payload}.{ending}", "algorithm not allowed", caplog)
    await fails(authenticator, f"{_part({'typ': 'JWT'})}.{payload}.{signature}", "algorithm not allowed", caplog)
    await fails(authenticator, sign(CURVE, algorithm="ES256"), "algorithm not allowed", caplog)
    await fails(authenticator, sign(KEY, algorithm="RS384"), "algorithm not allowed", caplog)
    await fails(authenticator, sign(None, algorithm="none"), "algorithm not allowed", caplog)
    crossed = f"{_part({'alg': 'RS256'})}.{payload}.{sign(CURVE, algorithm='ES256').split('.')[2]}"
    await fails(authenticator, crossed, "wrong signature", caplog)


async def test_no_extension_and_no_odd_header_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = load(tmp_path)
    good = sign(KEY).split(".")
    odd: list[object] = [
        {"alg": "RS256", "crit": ["b64"], "b64": False},
        {"alg": "RS256", "crit": ["exp"]},
        {"alg": "RS256", "kid": 5},
        {"alg": "RS256", "kid": ["one"]},
        {"alg": "RS256", "jku": "http://127.0.0.1:1/", "jwk": jwk(STRANGER)},
        [],
        "RS256",
        None,
    ]
    for header in odd:
        await fails(authenticator, f"{_part(header)}.{good[1]}.{good[2]}", "", caplog)
    deep = base64.urlsafe_b64encode(b"[" * 9000).rstrip(b"=").decode()
    await fails(authenticator, f"{deep}.{good[1]}.{good[2]}", "no JSON Web Token", caplog)
    await fails(authenticator, sign(KEY, headers={"crit": ["exp"]}), "InvalidTokenError", caplog)
    await fails(authenticator, sign(KEY, headers={"b64": False}), "extension of the signature", caplog)
    own = {"jwk": jwk(STRANGER), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}
    await fails(authenticator, sign(STRANGER, headers=own), "wrong signature", caplog)


async def test_a_key_is_used_by_its_name_and_for_its_algorithm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = json.dumps(
        {"keys": [jwk(KEY, kid="one", alg="PS256"), jwk(STRANGER, kid="two", use="sig", key_ops=["verify"])]}
    )
    authenticator = load(tmp_path, keys=keys, algorithms=["RS256", "PS256"])
    ok = sign(KEY, algorithm="PS256", headers={"kid": "one"})
    assert (await authenticator.authenticate(ok, peer=PEER)).tenant == "acme"
    assert (await authenticator.authenticate(sign(STRANGER, headers={"kid": "two"}), peer=PEER)).tenant == "acme"
    await fails(authenticator, sign(KEY, headers={"kid": "one"}), "no key for", caplog)
    await fails(authenticator, sign(KEY, headers={"kid": "two"}), "wrong signature", caplog)
    await fails(authenticator, sign(STRANGER, headers={"kid": "three"}), "no key for", caplog)
    await fails(authenticator, sign(STRANGER), "no key for", caplog)


async def test_a_claim_limits_the_sessions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = load(tmp_path, claims={"tenant": "org", "subject": "email", "sessions": "allowed"})
    who = {"org": "other", "email": "ada@example.com", "tenant": "acme", "sub": None}

    async def allowed(value: object) -> list[str]:
        identity = await authenticator.authenticate(sign(KEY, claims(**who, allowed=value)), peer=PEER)
        assert (identity.tenant, identity.subject) == ("other", "ada@example.com")
        return [name for name in ("a", "b-1", "c") if identity.allows(name)]

    assert await allowed(["a", "b-*"]) == ["a", "b-1"]
    assert await allowed(["*"]) == ["a", "b-1", "c"]
    assert await allowed([]) == []
    for value in (None, "a", "*", {"a": 1}, [5], [None], ["a*b"], [""], [".."], 5):
        await fails(authenticator, sign(KEY, claims(**who, allowed=value)), "allowed session", caplog)


async def test_any_tenant_is_taken_only_if_the_file_says_so(tmp_path: Path) -> None:
    authenticator = load(tmp_path, any_tenant=True)
    identity = await authenticator.authenticate(sign(KEY, claims(tenant="new")), peer=PEER)
    assert (identity.tenant, identity.limits) == ("new", TenantLimits(burst=3))
    assert (await authenticator.authenticate(sign(KEY), peer=PEER)).limits == TenantLimits(burst=7)
    with pytest.raises(AuthenticationFailed):
        await authenticator.authenticate(sign(KEY, claims(tenant="..")), peer=PEER)


def test_a_file_of_keys_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    small = rsa.generate_private_key(65537, 1024)
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "one"}
    cases = [
        ("", "must hold a public key"),
        ("nonsense", "must hold a public key"),
        (private_pem(KEY), "must not hold a private key"),
        (pem(CURVE) + private_pem(KEY), "must not hold a private key"),
        (pem(small), "at least 2048 bits, not 1024"),
        (pem(KEY).replace("MII", "AAA"), "cannot be read"),
        (pem(KEY) * (NAMELESS_KEYS_MAX + 1), "without an id"),
        ("{}", "with a list 'keys'"),
        ("{", "must be a JWK set"),
        ('{"keys": []}', "must hold a public key"),
        ('{"keys": [5]}', "must be an object"),
        (json.dumps({"keys": [jwk(KEY, d="AQAB")]}), "private or secret"),
        (json.dumps({"keys": [secret]}), "private or secret"),
        (json.dumps({"keys": [jwk(KEY, use="enc")]}), "'use' must be 'sig'"),
        (json.dumps({"keys": [jwk(KEY, key_ops=["encrypt"])]}), "'key_ops'"),
        (json.dumps({"keys": [jwk(KEY, kid=5)]}), "'kid' must be a string"),
        (json.dumps({"keys": [jwk(KEY, alg="HS256")]}), ""),
        (json.dumps({"keys": [jwk(KEY, n="!")]}), ""),
        (json.dumps({"keys": [jwk(ec.generate_private_key(ec.SECP256K1()))]}), "secp256k1"),
        (json.dumps({"keys": [jwk(CURVE, kid=str(number)) for number in range(KEYS_MAX + 5)]}), "more than 100 keys"),
    ]
    for text, expected in cases:
        with pytest.raises(InvalidInput) as caught:
            load(tmp_path, keys=text)
        assert "keys_file" in str(caught.value)
        assert expected in str(caught.value)
        assert "c2VjcmV0" not in str(caught.value)
    (tmp_path / "keys.pem").unlink()
    with pytest.raises(InvalidInput, match=r"keys_file .*cannot be read: No such file"):
        Authenticator.load(tmp_path / "tenants.toml")


def test_a_file_of_public_keys_may_be_read_by_all_and_changed_by_its_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path)
    for mode, warned in ((0o644, 0), (0o664, 1), (0o646, 1)):
        caplog.clear()
        (tmp_path / "keys.pem").chmod(mode)
        Authenticator.load(tmp_path / "tenants.toml")
        assert ["can be changed by others" in message for message in caplog.messages] == [True] * warned


async def test_new_keys_in_the_file_count_after_a_reload(tmp_path: Path) -> None:
    authenticator = load(tmp_path)
    assert not authenticator.reload()
    (tmp_path / "keys.pem").write_text(private_pem(STRANGER))
    assert not authenticator.reload()
    assert (await authenticator.authenticate(sign(KEY), peer=PEER)).tenant == "acme"
    (tmp_path / "keys.pem").write_text(pem(STRANGER))
    assert authenticator.reload()
    assert (await authenticator.authenticate(sign(STRANGER), peer=PEER)).tenant == "acme"
    with pytest.raises(AuthenticationFailed):
        await authenticator.authenticate(sign(KEY), peer=PEER)


async def test_tokens_and_json_web_tokens_go_together(tmp_path: Path) -> None:
    token, line = new_token()
    (tmp_path / "keys.pem").write_text(pem(KEY))
    tenants = [{"id": "acme", "tokens": [{"label": "build", "hash": line}]}]
    path = write(tmp_path / "tenants.toml", {"tenants": tenants, "jwt": settings(keys_file="keys.pem")})
    authenticator = Authenticator.load(path)
    assert (await authenticator.authenticate(token, peer=PEER)).subject == "build"
    assert (await authenticator.authenticate(sign(KEY), peer=PEER)).subject == "ada"


async def test_keys_come_from_a_url_once(tmp_path: Path) -> None:
    async with key_server(jwk(KEY, kid="one")) as server:
        authenticator = load(tmp_path, keys_url=server.url)
        token = sign(KEY, headers={"kid": "one"})
        assert server.asked == 0
        found = await asyncio.gather(*(authenticator.authenticate(token, peer=PEER) for _ in range(50)))
        assert {identity.tenant for identity in found} == {"acme"}
        assert authenticator.reload(force=True)
        await authenticator.authenticate(token, peer=PEER)
        assert server.asked == 1
        await authenticator.close()


async def test_forged_key_ids_do_not_reach_the_issuer(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(jwk(KEY, kid="one")) as server:
        authenticator = load(tmp_path, clock=clock, keys_url=server.url)
        await authenticator.authenticate(sign(KEY, headers={"kid": "one"}), peer=PEER)
        for number in range(100):
            with pytest.raises(AuthenticationFailed):
                await authenticator.authenticate(
                    sign(CURVE, algorithm="ES256", headers={"kid": f"forged {number}"}), peer=f"192.0.2.{number}"
                )
        source = UrlKeys(server.url, clock=clock)
        server.asked = 0
        for _ in range(50):
            for number in range(20):
                assert await source.candidates(f"forged {number}", "RS256") == []
            clock.now_s += COOLDOWN_S / 10
        assert server.asked == 5
        await source.close()
        await authenticator.close()


async def test_a_key_that_is_new_at_the_issuer_is_found_and_an_old_one_goes(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(jwk(KEY, kid="one")) as server:
        authenticator = load(tmp_path, clock=clock, keys_url=server.url)
        old, new = sign(KEY, headers={"kid": "one"}), sign(STRANGER, headers={"kid": "two"})
        await authenticator.authenticate(old, peer=PEER)
        server.keys = [jwk(STRANGER, kid="two")]
        with pytest.raises(AuthenticationFailed):
            await authenticator.authenticate(new, peer=PEER)
        await authenticator.authenticate(old, peer=PEER)
        clock.now_s += COOLDOWN_S
        await authenticator.authenticate(new, peer=PEER)
        with pytest.raises(AuthenticationFailed):
            await authenticator.authenticate(old, peer=PEER)
        server.keys = []
        clock.now_s += LIFETIME_S
        await authenticator.authenticate(new, peer=PEER)
        server.keys = [jwk(KEY, kid="one")]
        clock.now_s += COOLDOWN_S
        with pytest.raises(AuthenticationFailed):
            await authenticator.authenticate(new, peer=PEER)
        await authenticator.close()


async def test_a_key_that_the_issuer_withdraws_is_gone_within_its_lifetime() -> None:
    clock = Clock()
    async with key_server(jwk(KEY, kid="one")) as server:
        keys = UrlKeys(server.url, clock=clock)
        assert len(await keys.candidates("one", "RS256")) == 1
        server.keys = [jwk(STRANGER, kid="two")]
        clock.now_s += LIFETIME_S - 1
        assert len(await keys.candidates("one", "RS256")) == 1
        assert server.asked == 1
        clock.now_s += 1
        assert await keys.candidates("one", "RS256") == []
        assert server.asked == 2


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        ("status", 500),
        ("status", 404),
        ("body", b""),
        ("body", b"<html>"),
        ("body", b"\xff\x00"),
        ("body", b"[]"),
        ("body", b"5"),
        ("body", b'{"keys": {}}'),
        ("body", b'{"keys": []}'),
        ("body", b'{"keys": [5, {}, {"kty": "RSA"}, {"kty": "oct", "k": "AAAA", "kid": "one"}, {"kty": 5}]}'),
        ("body", b"[" * 100_000),
        ("body", json.dumps({"keys": [jwk(KEY, kid="one")]}).encode().ljust(SET_BYTES_MAX + 1)),
        ("delay_s", 30.0),
    ],
)
async def test_an_issuer_in_trouble_costs_nobody_the_keys_that_are_there(
    fault: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with key_server(jwk(KEY, kid="one")) as server:
        keys = UrlKeys(server.url, clock=clock, timeout_s=0.2)
        good = getattr(server, fault)
        setattr(server, fault, value)
        with pytest.raises(NoKeys):
            await keys.candidates("one", "RS256")
        with pytest.raises(NoKeys):
            await keys.candidates("one", "RS256")
        assert server.asked == 1, "a failure is not tried again at once"
        setattr(server, fault, good)
        clock.now_s += COOLDOWN_S
        assert len(await keys.candidates("one", "RS256")) == 1
        setattr(server, fault, value)
        for _ in range(3):
            clock.now_s += LIFETIME_S
            assert len(await keys.candidates("one", "RS256")) == 1
        clock.now_s += STALE_S
        with pytest.raises(NoKeys):
            await keys.candidates("one", "RS256")
        assert "does not answer as it should" in caplog.text
        await keys.close()


async def test_an_issuer_that_is_down_or_sends_elsewhere_gives_no_keys() -> None:
    async with key_server(jwk(KEY, kid="one")) as elsewhere, key_server() as server:
        server.status, server.location = 302, elsewhere.url
        with pytest.raises(NoKeys):
            await UrlKeys(server.url).candidates("one", "RS256")
        assert elsewhere.asked == 0
        url = server.url
    with pytest.raises(NoKeys):
        await UrlKeys(url).candidates("one", "RS256")


async def test_a_client_that_leaves_does_not_end_what_others_wait_for() -> None:
    async with key_server(jwk(KEY, kid="one")) as server:
        server.delay_s = 0.2
        keys = UrlKeys(server.url)
        waiting = [asyncio.create_task(keys.candidates("one", "RS256")) for _ in range(3)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert [len(found) for found in results[1:] if isinstance(found, list)] == [1, 1]
        assert server.asked == 1


async def test_nobody_with_a_known_key_waits_for_the_key_ids_of_others() -> None:
    clock = Clock()
    async with key_server(jwk(KEY, kid="one")) as server:
        keys = UrlKeys(server.url, clock=clock)
        await keys.candidates("one", "RS256")
        clock.now_s += COOLDOWN_S
        server.delay_s = 60
        waiting = asyncio.create_task(keys.candidates("forged", "RS256"))
        while server.asked < 2:
            await asyncio.sleep(0.01)
        assert len(await keys.candidates("one", "RS256")) == 1
        assert not waiting.done()
        await keys.close()
        assert await waiting == []


async def test_closing_ends_a_request_under_way() -> None:
    async with key_server(jwk(KEY, kid="one")) as server:
        server.delay_s = 60
        keys = UrlKeys(server.url)
        waiting = asyncio.create_task(keys.candidates("one", "RS256"))
        await asyncio.sleep(0.05)
        await keys.close()
        with pytest.raises(NoKeys):
            await waiting


async def test_failures_while_waiting_for_keys_are_counted_before_the_next_look(tmp_path: Path) -> None:
    async with key_server(jwk(KEY, kid="one")) as server:
        server.delay_s = 0.1
        authenticator = load(tmp_path, keys_url=server.url)
        forged = sign(STRANGER, headers={"kid": "one"})
        results = await asyncio.gather(
            *(authenticator.authenticate(forged, peer=PEER) for _ in range(ADDRESS_BURST + 30)), return_exceptions=True
        )
        kinds = [type(result) for result in results]
        assert kinds.count(AuthenticationFailed) == ADDRESS_BURST
        assert kinds.count(TooManyAttempts) == 30
        await authenticator.close()


def test_a_set_is_read_leniently_from_a_url_only(caplog: pytest.LogCaptureFixture) -> None:
    text = json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, jwk(KEY, kid="one")]})
    with caplog.at_level(logging.INFO):
        assert [key.name for key in parse_set(text, lenient=True)] == ["one"]
    assert "c2VjcmV0" not in caplog.text
    with pytest.raises(UnusableKey):
        parse_set(text, lenient=False)
