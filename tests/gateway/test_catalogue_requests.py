"""Requests that are answered from the store, as a client sends them that does not mean well."""

from __future__ import annotations

import asyncio

import pytest

from sessionfs_s3.gateway.catalogue.answers import CatalogueAnswers
from sessionfs_s3.gateway.frames import LARGE_BYTES
from sessionfs_s3.gateway.messages import Json
from sessionfs_s3.testing.fake_runtime import fake_runtime
from sessionfs_s3.testing.raw_client import RpcError, framed
from tests.gateway.fakes import client_of, gateway_before


async def test_what_is_read_but_cannot_be_written_is_answered() -> None:
    """1000 levels are read, and as many are not written: what was to be echoed is refused."""
    async with fake_runtime() as runtime, gateway_before(runtime) as gateway, client_of(gateway) as client:
        deep = b"[" * 1000 + b"]" * 1000
        body = framed({"jsonrpc": "2.0", "id": 7, "method": "sessions.enrichMetadata", "params": {"sessions": "HERE"}})
        text = body.partition(b"\r\n\r\n")[2].replace(b'"HERE"', b'[{"sessionId":"one","x":%b}]' % deep)
        await client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
        with pytest.raises(RpcError, match="nested too deep"):
            await client.answer_to(7, deadline_s=10)


async def test_a_large_one_counts_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    began, released = asyncio.Event(), asyncio.Event()

    async def slow(_self: CatalogueAnswers, _method: str, _params: object) -> Json:
        began.set()
        await released.wait()
        return {}

    monkeypatch.setattr(CatalogueAnswers, "answer", slow)
    async with fake_runtime() as runtime, gateway_before(runtime) as gateway, client_of(gateway) as client:
        large = await client.begin("sessions.enrichMetadata", {"sessions": [], "x": "x" * LARGE_BYTES})
        await began.wait()
        (served,) = gateway.clients
        assert served.tenant.gate._passing > LARGE_BYTES
        released.set()
        assert await client.answer_to(large) == {}
        assert await client.request("session.list") == {}
        assert served.tenant.gate._passing == 0
