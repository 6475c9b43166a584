"""Connection tokens: hashed, found with the same work whether known or not, reloaded; and failures bounded."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.gateway.auth import attempts as attempts_module
from sessionfs_s3.gateway.auth.attempts import (
    ADDRESS_BURST,
    ADDRESS_PER_S,
    GOOD_S,
    TOTAL_BURST,
    TOTAL_PER_S,
    FailedAttempts,
    address_group,
)
from sessionfs_s3.gateway.auth.authenticator import (
    AuthenticationFailed,
    AuthenticationRequired,
    Authenticator,
    TooManyAttempts,
)
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tokens import TOKEN_CHARS_MAX, TokenTable, digest_of, hash_token, new_token, parse_hash
from tests.gateway.tenants_files import one_tenant, write

PEER = "192.0.2.1"


class Clock:
    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


async def failure(authenticator: Authenticator, token: object, *, peer: str = PEER) -> AuthenticationFailed:
    with pytest.raises(AuthenticationFailed) as caught:
        await authenticator.authenticate(token, peer=peer)
    return caught.value


def test_a_new_token_is_long_random_and_matches_its_line() -> None:
    made = [new_token() for _ in range(50)]
    assert len({token for token, _ in made}) == 50
    for token, line in made:
        assert token.startswith("sfs3_")
        assert len(token) >= len("sfs3_") + 256 / 6
        assert hash_token(token) == line
        assert parse_hash(line) == digest_of(token)
        assert token not in line


def test_a_line_is_the_sha_256_of_the_token() -> None:
    # printf %s abcdefghijklmnopqrstuvwxyz012345 | sha256sum
    expected = "sha256:653bb1245e828fcda4fa53fcd5a3def5bd7654e651f54b4132b73d74e64435c4"
    assert hash_token("abcdefghijklmnopqrstuvwxyz012345") == expected


@pytest.mark.parametrize("token", ["", "short", "x" * 31, "x" * (TOKEN_CHARS_MAX + 1)])
def test_a_token_that_is_too_short_or_too_long_is_not_hashed(token: str) -> None:
    with pytest.raises(InvalidInput, match="length of the token") as caught:
        hash_token(token)
    assert not token or token not in str(caught.value)


def test_known_and_unknown_tokens_cost_the_same_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    compare: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for tenants in (1, 1000):
        table = TokenTable({digest_of(f"token {number}"): number for number in range(tenants)})
        for token, found in (("token 0", 0), (f"token {tenants - 1}", tenants - 1), ("no token", None), ("", None)):
            assert table.find(digest_of(token)) == found
            assert compared == [(32, 32)]
            compared.clear()


async def test_a_token_tells_tenant_label_sessions_and_expiry(tmp_path: Path) -> None:
    token, line = new_token()
    path = write(tmp_path / "tenants.toml", one_tenant(line, sessions=["a", "b-*"]))
    identity = await Authenticator.load(path).authenticate(token, peer=PEER)
    assert (identity.tenant, identity.subject, identity.expires_s) == ("acme", "build", None)
    assert [identity.allows(name) for name in ("a", "b-1", "c")] == [True, True, False]


@pytest.mark.parametrize("missing", [None, ""])
async def test_no_token_is_asked_for_and_counts_for_nothing(tmp_path: Path, missing: str | None) -> None:
    authenticator = Authenticator.load(write(tmp_path / "tenants.toml", one_tenant(new_token()[1])))
    for _ in range(3 * ADDRESS_BURST):
        with pytest.raises(AuthenticationRequired) as caught:
            await authenticator.authenticate(missing, peer=PEER)
        assert caught.value.code == -32001
    assert authenticator.attempts.failures == 0


async def test_every_wrong_token_fails_with_the_same_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token, line = new_token()
    clock = Clock()
    path = write(tmp_path / "tenants.toml", one_tenant(line))
    authenticator = Authenticator.load(path, clock=clock)
    wrong: list[object] = [
        new_token()[0],
        line,
        line.removeprefix("sha256:"),
        token[:-1],
        token + " ",
        token + "\x00",
        token.swapcase(),
        token.encode(),
        "x" * 1_000_000,
        "\u202e" + token,
        "\ud800",
        "🦜" * 40,
        "\x00",
        "a.b.c",
        5,
        True,
        [token],
        {"token": token},
        float("nan"),
    ]
    with caplog.at_level(logging.DEBUG):
        texts = {str(await failure(authenticator, value)) for value in wrong}
    assert texts == {"authentication failed"}
    assert AuthenticationFailed().code == -32002
    assert authenticator.attempts.failures == len(wrong)
    assert (await authenticator.authenticate(token, peer=PEER)).tenant == "acme"
    assert token not in caplog.text
    assert line.removeprefix("sha256:") not in caplog.text
    assert max(map(len, caplog.messages)) < 200


async def test_the_hash_of_nothing_opens_nothing(tmp_path: Path) -> None:
    line = f"sha256:{digest_of('').hex()}"
    authenticator = Authenticator.load(write(tmp_path / "tenants.toml", one_tenant(line)))
    for token in (5, "x" * (TOKEN_CHARS_MAX + 1), b""):
        await failure(authenticator, token)


async def test_a_token_ends_at_its_expiry(tmp_path: Path) -> None:
    token, line = new_token()
    path = tmp_path / "tenants.toml"
    path.write_text(
        f'[[tenants]]\nid = "acme"\n[[tenants.tokens]]\nlabel = "a"\nhash = "{line}"\nexpires = 2027-01-01T00:00:00Z\n'
    )
    wall = Clock(1_798_761_599.0)
    authenticator = Authenticator.load(path, wall_clock=wall)
    identity = await authenticator.authenticate(token, peer=PEER)
    assert identity.expires_s == 1_798_761_600.0
    wall.now_s += 1
    assert str(await failure(authenticator, token)) == "authentication failed"


async def test_without_a_file_there_is_one_tenant() -> None:
    anybody = Authenticator.load(None, limits=TenantLimits(burst=3))
    assert anybody.single_tenant
    for token in (None, "", "any", 5):
        identity = await anybody.authenticate(token, peer="127.0.0.1")
        assert (identity.tenant, identity.sessions, identity.limits.burst) == ("default", None, 3)
    assert not anybody.reload(force=True)
    guarded = Authenticator.load(None, default_tenant="acme", token="secret")
    assert (await guarded.authenticate("secret", peer="127.0.0.1")).tenant == "acme"
    await failure(guarded, "Secret")
    with pytest.raises(AuthenticationRequired):
        await guarded.authenticate(None, peer="127.0.0.1")


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="tenant"):
        Authenticator.load(None, default_tenant="..")
    with pytest.raises(InvalidInput, match="length of the token 0"):
        Authenticator.load(None, token="")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Authenticator.load(tmp_path / "missing.toml")
    with pytest.raises(InvalidInput, match="must not go with a token for everybody"):
        Authenticator.load(tmp_path / "missing.toml", token="secret")


async def test_a_changed_file_counts_after_a_reload_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first, first_line), (second, second_line) = new_token(), new_token()
    path = write(tmp_path / "tenants.toml", one_tenant(first_line))
    authenticator = Authenticator.load(path)
    assert not authenticator.reload()
    await authenticator.authenticate(first, peer=PEER)

    os.replace(write(tmp_path / "new.toml", one_tenant(second_line)), path)  # noqa: PTH105  # as a deployment does
    await failure(authenticator, second)
    assert authenticator.reload()
    assert not authenticator.reload()
    await failure(authenticator, first)
    await authenticator.authenticate(second, peer=PEER)

    write(path, one_tenant(first))
    caplog.clear()
    assert not authenticator.reload()
    assert not authenticator.reload()
    assert len(caplog.messages) == 1, "a broken file is named once, not at every look"
    assert "stays as it was" in caplog.text
    assert first not in caplog.text
    await authenticator.authenticate(second, peer=PEER)

    path.unlink()
    assert not authenticator.reload()
    await authenticator.authenticate(second, peer=PEER)
    write(path, one_tenant(first_line))
    assert authenticator.reload()
    assert authenticator.reload(force=True)
    await authenticator.authenticate(first, peer=PEER)


async def test_an_address_that_fails_often_is_refused_for_a_short_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token, line = new_token()
    clock = Clock()
    authenticator = Authenticator.load(write(tmp_path / "tenants.toml", one_tenant(line)), clock=clock)
    for _ in range(ADDRESS_BURST):
        await failure(authenticator, "wrong")
    logged = len(caplog.messages)
    for _ in range(50):
        with pytest.raises(TooManyAttempts) as caught:
            await authenticator.authenticate(token, peer=PEER)
        assert caught.value.code == -32002
        assert caught.value.retry_s == pytest.approx(1 / ADDRESS_PER_S)
    assert len(caplog.messages) == logged, "a flood must not become a flood of log lines"
    assert authenticator.attempts.refusals == 50
    assert (await authenticator.authenticate(token, peer="192.0.2.2")).tenant == "acme"
    clock.now_s += 1 / ADDRESS_PER_S
    await authenticator.authenticate(token, peer=PEER)


async def test_a_token_that_proved_good_is_not_refused_for_what_others_do(tmp_path: Path) -> None:
    token, line = new_token()
    clock = Clock()
    path = write(tmp_path / "tenants.toml", one_tenant(line))
    authenticator = Authenticator.load(path, clock=clock)
    await authenticator.authenticate(token, peer=PEER)
    for _ in range(ADDRESS_BURST):
        await failure(authenticator, "wrong")
        await authenticator.authenticate(token, peer=PEER)
    with pytest.raises(TooManyAttempts):
        await authenticator.authenticate("wrong", peer=PEER)
    await authenticator.authenticate(token, peer=PEER)

    write(path, one_tenant(new_token()[1]))
    assert authenticator.reload()
    await failure(authenticator, token)
    with pytest.raises(TooManyAttempts):
        await authenticator.authenticate(token, peer=PEER)


def test_a_success_takes_no_failure_back() -> None:
    attempts = FailedAttempts(clock=Clock())
    for number in range(ADDRESS_BURST):
        assert attempts.wait_s(PEER, b"wrong") == 0
        attempts.succeeded(b"good %d" % number)
        assert attempts.failed(PEER, b"wrong") == (number == ADDRESS_BURST - 1)
    assert attempts.wait_s(PEER, b"wrong") > 0
    assert attempts.wait_s(PEER, b"good 1") == 0


def test_a_good_credential_is_forgotten_after_an_hour() -> None:
    clock = Clock()
    attempts = FailedAttempts(clock=clock)
    attempts.succeeded(b"good")
    clock.now_s += GOOD_S + 1
    for _ in range(ADDRESS_BURST):
        attempts.failed(PEER, b"wrong")
    assert attempts.wait_s(PEER, b"good") > 0


def test_whoever_has_many_addresses_is_held_by_the_total_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts_module, "ADDRESSES_MAX", 100)
    monkeypatch.setattr(attempts_module, "GOOD_MAX", 100)
    clock = Clock()
    attempts = FailedAttempts(clock=clock)
    tried = 0
    for number in range(5_000):
        peer = f"2001:db8:{number:x}::1"
        clock.now_s += 0.001
        if attempts.wait_s(peer, b"wrong") == 0:
            attempts.failed(peer, b"wrong")
            tried += 1
        attempts.succeeded(b"%d" % number)
        assert len(attempts._addresses) <= 100
        assert len(attempts._good_until_s) <= 100
    assert tried == pytest.approx(TOTAL_BURST + 5 * TOTAL_PER_S, abs=2)
    assert attempts.failures == tried
    assert attempts.refusals == 5_000 - tried


def test_the_address_that_failed_last_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts_module, "ADDRESSES_MAX", 2)
    attempts = FailedAttempts(clock=Clock())
    for number in range(ADDRESS_BURST):
        attempts.failed(PEER, b"wrong")
        attempts.failed(f"198.51.100.{number}", b"wrong")
    assert attempts.wait_s(PEER, b"wrong") > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8:0:0:ffff::9", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "no address", True),
        ("", "192.0.2.1", False),
        ("/run/gateway.sock", "x" * 10_000, True),
    ],
)
def test_an_address_stands_for_who_has_it(one: str, other: str, same: bool) -> None:
    assert (address_group(one) == address_group(other)) is same
    assert len(address_group(other)) < 50
