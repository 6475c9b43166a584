"""One server as a process on loopback: starting it on free ports, waiting for it, ending it whatever happens.

Makes a temporary directory for each, and sockets and files only in it and where the server's command says. A guard
process (:mod:`sessionfs_s3.testing.guard`) ends the server when the process that started it dies.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import botocore.session
from botocore.config import Config

from sessionfs_s3.testing.fetched import ServerUnavailable
from sessionfs_s3.testing.guard import OUTPUT_NAME, STOP_GRACE_S

REGION: Final = "us-east-1"
ACCESS_KEY: Final = "sessionfs"
SECRET_KEY: Final = "sessionfs-loopback-only"  # noqa: S105  # of servers that live for one test run, on loopback
START_DEADLINE_S: Final = 60.0
START_ATTEMPTS_MAX: Final = 3
"""A free port may be taken between looking for it and the server's start: then with other ports."""

_LEFT_OUT: Final = ("AWS_", "AZURE_", "AZURITE_", "MINIO_", "RCLONE_")
_LOG_TAIL_BYTES: Final = 4_000
_GUARD: Final = "sessionfs_s3.testing.guard"
_ROOT: Final = str(Path(__file__).parent.parent.parent)


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


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, with which additional environment, on which port it answers, and files it makes elsewhere.

    Attributes:
        arguments: the program and its arguments.
        environment: variables beside those of this process, of which those for other servers are left out.
        port: where it listens on 127.0.0.1.
        leaves: files outside its directory, removed after its end.
        access_key: what it takes for a user's name.
        secret_key: what it takes for that user's secret.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    port: int
    leaves: Sequence[Path] = ()
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY


@contextmanager
def started(name: str, command_in: Callable[[Path], Command], health_path: str) -> Generator[S3Server]:
    """Run an S3 server for as long as the block lasts; see :func:`running`.

    Raises:
        ServerUnavailable: it did not start; the message holds the end of its log.
    """
    with running(name, command_in, health_path) as (command, pid):
        yield S3Server(name, f"http://127.0.0.1:{command.port}", command.access_key, command.secret_key, pid)


@contextmanager
def running(
    name: str, command_in: Callable[[Path], Command], health_path: str, health_status: int = 200
) -> Generator[tuple[Command, int]]:
    """Run a server for as long as the block lasts; yield the command that runs, and its process id.

    Args:
        name: for messages and the temporary directory's name.
        command_in: makes the command, given the directory that is its own.
        health_path: a path of its URL.
        health_status: the HTTP status with which it answers a GET of that path once it is ready.

    Raises:
        ServerUnavailable: it did not start; the message holds the end of its log.
    """
    complaint = ""
    for _ in range(START_ATTEMPTS_MAX):
        directory = Path(tempfile.mkdtemp(prefix=f"sessionfs-{name.lower()}-"))
        with _removed(directory), _guarded(command := command_in(directory), directory) as (guard, pid):
            complaint = _wait_until_ready(guard, f"http://127.0.0.1:{command.port}{health_path}", health_status)
            if not complaint:
                yield command, pid
                return
            complaint += f"; the end of its log:\n{_tail(directory / OUTPUT_NAME)}"
    raise ServerUnavailable(f"{name} {complaint}")


@contextmanager
def _guarded(command: Command, directory: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command under a guard, which ends it when this process dies; yield the guard and the command's id."""
    # Nothing of this machine's own settings for stores reaches a server.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
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


@contextmanager
def _removed(directory: Path) -> Generator[None]:
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, status: int) -> str:
    """Return what is wrong, or "" when the server answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            return f"ended with exit status {process.returncode} instead of starting"
        if _status(direct, url) == status:
            return ""
        time.sleep(0.05)
    return f"did not answer {status} at {url} within {START_DEADLINE_S:g} s"


def _status(direct: urllib.request.OpenerDirector, url: str) -> int | None:
    try:
        with direct.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


def free_ports(count: int) -> list[int]:
    """Return *count* ports of 127.0.0.1 that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
