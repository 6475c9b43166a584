"""Every call of the provider through the SDK's own adapter and wire, those included that the runtime never makes."""

from __future__ import annotations

import base64
import random
from pathlib import Path

from sessionfs_s3 import SessionFs

from .conftest import EVENTS
from .wire import Wire, open_wire


async def test_bytes_are_written_and_read_exactly(fs: SessionFs, url: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    contents = [b"", b"\0\xff\xfe", bytes(range(256)), random.Random(seed).randbytes(3_000_000)]
    async with open_wire(fs) as wire:
        # The session's birth: from here on, what is acknowledged is stored.
        assert await wire.call("appendFile", path=EVENTS, content="{}\n") is None
        for number, content in enumerate(contents):
            path = f"/workspace/new/{number}.bin"
            written = await wire.call("writeFileBytes", path=path, content=base64.b64encode(content).decode(), mode=384)
            assert written is None
            assert await _read_bytes(wire, path) == content
        refused = await wire.call("writeFileBytes", path="/workspace/bad.bin", content="not base64!")
        assert refused["code"] == "UNKNOWN"
        missing = await wire.call("readFileBytes", path="/workspace/bad.bin")
        assert missing["error"]["code"] == "ENOENT"
    async with SessionFs.open(url, tenant="acme") as other, other.volume("s1", read_only=True) as volume:
        for number, content in enumerate(contents):
            assert await volume.read_file_bytes(f"/workspace/new/{number}.bin") == content
        assert not await volume.exists("/workspace/bad.bin")


async def test_every_file_call(fs: SessionFs) -> None:
    async with open_wire(fs) as wire:
        assert await wire.call("mkdir", path="/workspace/a/b", recursive=True, mode=448) is None
        assert await wire.call("writeFile", path="/workspace/a/b/t.txt", content="naïve ☕", mode=384) is None
        assert await wire.call("appendFile", path="/workspace/a/b/t.txt", content=" 𝄞", mode=384) is None
        assert (await wire.call("readFile", path="/workspace/a/b/t.txt"))["content"] == "naïve ☕ 𝄞"
        stat = await wire.call("stat", path="/workspace/a/b/t.txt")
        assert (stat["isFile"], stat["isDirectory"], stat["size"]) == (True, False, len("naïve ☕ 𝄞".encode()))
        assert stat["mtime"] >= stat["birthtime"]
        assert (await wire.call("exists", path="/workspace/a/b"))["exists"] is True
        assert await wire.call("rename", src="/workspace/a/b/t.txt", dest="/workspace/t.txt") is None
        assert (await wire.call("readdir", path="/workspace"))["entries"] == ["a", "t.txt"]
        typed = (await wire.call("readdirWithTypes", path="/workspace"))["entries"]
        assert typed == [{"name": "a", "type": "directory"}, {"name": "t.txt", "type": "file"}]
        assert await wire.call("rm", path="/workspace/a", recursive=True, force=False) is None
        assert (await wire.call("exists", path="/workspace/a/b"))["exists"] is False
        assert (await wire.call("readFile", path="/workspace/a/b/t.txt"))["error"]["code"] == "ENOENT"
        assert (await wire.call("rm", path="/workspace/a", recursive=False, force=False))["code"] == "ENOENT"
        assert await wire.call("rm", path="/workspace/a", recursive=False, force=True) is None


async def test_sqlite_calls(fs: SessionFs) -> None:
    async with open_wire(fs) as wire:
        assert (await wire.call("sqliteExists"))["exists"] is False
        await wire.call("sqliteQuery", queryType="exec", query="CREATE TABLE t (a, b); CREATE TABLE u (c);")
        run = await wire.call(
            "sqliteQuery", queryType="run", query="INSERT INTO t VALUES (:a, :b)", params={"a": 1, "b": "x"}
        )
        assert (run["rowsAffected"], run["lastInsertRowid"]) == (1, 1)
        read = await wire.call("sqliteQuery", queryType="query", query="SELECT a, b FROM t")
        assert (read["columns"], read["rows"]) == (["a", "b"], [{"a": 1, "b": "x"}])
        statements = [
            {"queryType": "exec", "query": "CREATE TABLE v (d); INSERT INTO v VALUES (1)"},
            {"queryType": "run", "query": "INSERT INTO nowhere VALUES (1)"},
        ]
        failed = await wire.call("sqliteTransaction", statements=statements)
        assert failed["error"]["errorClass"] == "fatal"
        done = await wire.call("sqliteTransaction", statements=statements[:1])
        assert done.get("error") is None
        counted = await wire.call("sqliteQuery", queryType="query", query="SELECT count(*) AS n FROM v")
        assert counted["rows"] == [{"n": 1}], "the failed transaction left nothing, the other took effect once"
        assert (await wire.call("sqliteExists"))["exists"] is True


async def test_no_path_reaches_the_hosts_disk(fs: SessionFs, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("on the host's disk")
    paths = [str(secret), f"/workspace/../../..{secret}", f"/..{secret}", f"//{secret}", f"/workspace/%2e%2e{secret}"]
    async with open_wire(fs) as wire:
        for path in paths:
            assert (await wire.call("readFile", path=path))["error"]["code"] == "ENOENT"
            assert (await wire.call("exists", path=path))["exists"] is False
        assert await wire.call("writeFile", path=str(secret), content="of the session") is None
        for path in ("/a\0b", "/" + "n" * 2**20, "/d" * 10_000):
            assert (await wire.call("writeFile", path=path, content="x"))["code"] == "UNKNOWN"
    assert secret.read_text() == "on the host's disk"


async def _read_bytes(wire: Wire, path: str) -> bytes:
    return base64.b64decode((await wire.call("readFileBytes", path=path))["content"], validate=True)
