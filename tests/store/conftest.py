"""A scripted server, and credentials with which to sign what goes there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.store.scripted import Scripted, scripted_server


@pytest.fixture
async def script(no_aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scripted]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "scripted")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "scripted")
    async with scripted_server() as script:
        yield script
