"""JSON Web Tokens: what forges, stretches or swaps them fails, always with the same words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.gateway.auth.authenticator import AuthenticationFailed, Authenticator
from sessionfs_s3.gateway.auth.jwt_keys import (
    KEYS_MAX,
    NAMELESS_KEYS_MAX,
)
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tokens import new_token
from tests.gateway.issuer import (
    AUDIENCE,
    KEY,
    STRANGER,
    PrivateKey,
    claims,
    jwk,
    load,
    pem,
    private_pem,
    settings,
    sign,
)
from tests.gateway.tenants_files import write

PEER = "192.0.2.1"
CURVE = ec.generate_private_key(ec.SECP256R1())
EDWARDS = Ed25519PrivateKey.generate()


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
