"""``SessionFs.catalog``: the catalogue of what is open."""

from __future__ import annotations

import pytest

from sessionfs_s3 import Closed, SessionFs
from sessionfs_s3.store import Verb


async def test_the_catalogue_of_an_open_session_file_system() -> None:
    fs = SessionFs.open("memory://catalog-of-an-open-one", tenant="acme", probe=False, session_state_path="/elsewhere")
    with pytest.raises(Closed, match="not open"):
        _ = fs.catalog
    async with fs:
        assert await fs.catalog.list() == []
        async with fs.volume("s1") as volume:
            await volume.write_file("/elsewhere/events.jsonl", "{}\n")
        async with fs.volume("s2") as volume:
            await volume.write_file("/session-state/events.jsonl", "{}\n")
        assert await fs.catalog.ids() == ["s1"]
        assert fs.catalog is fs.catalog
        assert fs.requests.snapshot().requests(Verb.PUT, kind="catalog") == 1, "its requests are counted"
        first = fs.catalog
    with pytest.raises(Closed):
        _ = fs.catalog
    async with fs:
        assert fs.catalog is not first
        assert await fs.catalog.ids() == ["s1"]
