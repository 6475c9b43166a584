"""The demo as a user runs it: the last line, the exit status, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from sessionfs_s3 import SessionProvider
from sessionfs_s3.demo.stage import run


async def _demo(*arguments: str, directory: Path, interrupt_at: str = "") -> tuple[int, list[str]]:
    """Run the demo and return its exit status and lines; interrupt it at the first line that holds *interrupt_at*."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sessionfs_s3.demo", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    lines = []
    assert process.stdout is not None
    async for line in process.stdout:
        lines.append(line.decode().rstrip())
        print(lines[-1])
        if interrupt_at and interrupt_at in lines[-1]:
            process.send_signal(signal.SIGINT)
            interrupt_at = ""
    return await process.wait(), lines


@pytest.mark.parametrize("store", ["a directory", pytest.param("moto", marks=pytest.mark.servers)])
async def test_the_demo_is_ok(executable: Path, tmp_path: Path, store: str) -> None:
    temporary, kept = tmp_path / "tmp", tmp_path / "kept"
    temporary.mkdir()

    status, lines = await _demo("--store", store if store == "moto" else kept.as_uri(), directory=temporary)

    assert status == 0
    assert lines[-1].startswith("demo: ok: ")
    assert sum(line.startswith("demo: ") for line in lines) == 1
    assert any(line.endswith("ok: both of the ghost's writes raise Fenced") for line in lines)
    table = lines[lines.index("Requests to the store:") + 1 :]
    assert table[0].split() == ["step", "LIST", "GET", "PUT", "DELETE", "bytes", "up", "bytes", "down"]
    assert not _left(temporary, lines)
    if store != "moto":
        assert len(list((kept / "tenants" / "demo" / "sessions").iterdir())) == 1, "the user's own store is kept"


async def test_an_interrupted_demo_says_so_and_leaves_nothing(executable: Path, tmp_path: Path) -> None:
    status, lines = await _demo(directory=tmp_path, interrupt_at="replica A is up")

    assert (status, lines[-1]) == (1, "demo: FAILED: interrupted")
    assert not _left(tmp_path, lines)


async def test_a_demo_whose_store_does_not_open_says_why(executable: Path, tmp_path: Path) -> None:
    status, lines = await _demo("--store", "file:///dev/null/x", directory=tmp_path)

    assert status == 1
    assert re.match("demo: FAILED: .*Refused", lines[-1])
    assert not _left(tmp_path, lines)


def test_the_demo_finds_out_that_an_acknowledged_event_is_lost(
    executable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider on B's side that acknowledges its last appends without storing them."""
    append = SessionProvider.append_file

    async def lose(self: SessionProvider, path: str, content: str, mode: int | None = None) -> None:
        if '"session.shutdown"' not in content:
            await append(self, path, content, mode)

    monkeypatch.setattr(SessionProvider, "append_file", lose)

    last_line = run(["--store", tmp_path.as_uri()])

    assert last_line.startswith("demo: FAILED: DemoFailed: not so: every acknowledged event is stored once, in order")


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("memory://x", "must be shared by two processes"),
        ("s3://UPPER", "bucket 'UPPER'"),
        ("ftp://x", "must start with s3://"),
    ],
)
def test_a_demo_that_cannot_run_says_why(store: str, words: str) -> None:
    last_line = run(["--store", store])

    assert last_line.startswith("demo: FAILED: InvalidInput: ")
    assert words in last_line


def test_a_demo_without_a_runtime_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPILOT_CLI_PATH", "/nowhere/copilot")

    assert run([]).startswith("demo: FAILED: RuntimeUnavailable: COPILOT_CLI_PATH '/nowhere/copilot'")


def _left(directory: Path, lines: list[str]) -> list[str]:
    """Return what a demo has left: files in its *directory* for temporary ones, and processes that it spoke of."""
    pids = [pid for line in lines for pid in re.findall(r"pid (\d+)", line)]
    assert pids or "FAILED" in lines[-1]
    return [str(path) for path in directory.iterdir()] + [pid for pid in pids if _alive(int(pid))]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
