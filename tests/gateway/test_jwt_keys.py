"""The keys of an issuer at a URL: asked for rarely, whoever asks for what, and kept while it is in trouble."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sessionfs_s3.gateway.auth.attempts import ADDRESS_BURST
from sessionfs_s3.gateway.auth.authenticator import AuthenticationFailed, TooManyAttempts
from sessionfs_s3.gateway.auth.jwt_keys import (
    COOLDOWN_S,
    LIFETIME_S,
    SET_BYTES_MAX,
    STALE_S,
    NoKeys,
    UnusableKey,
    UrlKeys,
    parse_set,
)
from tests.gateway.issuer import (
    KEY,
    STRANGER,
    Clock,
    jwk,
    key_server,
    load,
    sign,
)

PEER = "192.0.2.1"
CURVE = ec.generate_private_key(ec.SECP256R1())


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
        await server.arrived.wait()
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
        server.arrived.clear()
        waiting = asyncio.create_task(keys.candidates("forged", "RS256"))
        await server.arrived.wait()
        assert len(await keys.candidates("one", "RS256")) == 1
        assert not waiting.done()
        await keys.close()
        assert await waiting == []


async def test_closing_ends_a_request_under_way() -> None:
    async with key_server(jwk(KEY, kid="one")) as server:
        server.delay_s = 60
        keys = UrlKeys(server.url)
        waiting = asyncio.create_task(keys.candidates("one", "RS256"))
        await server.arrived.wait()
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
