"""Emulators of other clouds' stores on loopback, for tests: Azurite, which Microsoft maintains for Azure Blob.

``with azurite_server() as server:`` starts one and ends it. It comes from npm, pinned, into the cache directory
(``SESSIONFS_CACHE_DIR``, else ``.cache``), where the first call installs it (about 360 MB, half a minute).

What it gets wrong, or different: it does not know ``startFrom``, so obstore filters its listings itself, from the
beginning; it answers a failed ``If-None-Match: *`` with 409 ``BlobAlreadyExists``, as Azure does. One process decides
races one after the other. There is none for Google Cloud Storage: fake-gcs-server 1.56 and gcp-storage-emulator 2026.7
speak its JSON interface; of the XML one, which obstore uses, they know neither listings nor preconditions.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Final

from sessionfs_s3.testing.guard import OUTPUT_NAME, STOP_GRACE_S
from sessionfs_s3.testing.servers import START_ATTEMPTS_MAX, START_DEADLINE_S, ServerUnavailable

AZURITE_VERSION: Final = "3.37.0"
ACCOUNT: Final = "sessionfs"
ACCOUNT_KEY: Final = base64.b64encode(b"of servers that live for one test run, on loopback").decode()
INSTALL_DEADLINE_S: Final = 480.0

_API_VERSION: Final = "2023-11-03"
_GUARD: Final = "sessionfs_s3.testing.guard"
_ROOT: Final = str(Path(__file__).parent.parent.parent)
_LOG_TAIL_BYTES: Final = 4_000
_PARTIAL: Final = "installing-"


@dataclass(frozen=True)
class AzureServer:
    """A running Azurite: where it is and how to get in."""

    port: int
    pid: int

    def environment(self) -> dict[str, str]:
        """Return the variables that make obstore find this server and its account."""
        return {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{self.port}",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        }

    def create_container(self, container: str) -> None:
        """Make *container*, blocking."""
        status, body = self.request("PUT", container, {"restype": "container"})
        if status != 201:
            raise ServerUnavailable(f"Azurite: the container {container!r} was not made: HTTP {status} {body[:500]!r}")

    def request(self, method: str, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a request without contents, signed with the account's key; return the status and the body.

        A second opinion beside obstore. Signed as "Authorize with Shared Key" of Azure's REST reference says.
        """
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _API_VERSION, "Content-Length": "0"}
        named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()) if name.startswith("x-ms-"))
        # The account stands in the path, where Azure's own servers have it in the host: hence twice.
        resource = f"/{ACCOUNT}/{ACCOUNT}/{path}" + "".join(f"\n{name}:{query[name]}" for name in sorted(query))
        signed = f"{method}\n\n\n\n\n\n\n\n\n\n\n\n{named}{resource}"
        digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, f"/{ACCOUNT}/{path}" + (f"?{asked}" if asked else ""), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def azurite_server() -> Generator[AzureServer]:
    """Run Azurite's blob service, in memory.

    Raises:
        ServerUnavailable: it is not installed and npm cannot install it, or it did not start.
    """
    program = install_azurite(Path(os.environ.get("SESSIONFS_CACHE_DIR") or ".cache").absolute())
    complaint = ""
    for _ in range(START_ATTEMPTS_MAX):
        port = _free_port()
        directory = Path(tempfile.mkdtemp(prefix="sessionfs-azurite-"))
        with _guarded(program, port, directory) as (guard, pid):
            complaint = _wait_until_ready(guard, port)
            if not complaint:
                yield AzureServer(port, pid)
                return
            log = directory / OUTPUT_NAME
            complaint += f"; the end of its log:\n{log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors='replace')}"
    raise ServerUnavailable(f"Azurite {complaint}")


def install_azurite(cache: Path) -> Path:
    """Return Azurite's program under *cache*, installing the npm package first where it is missing.

    Raises:
        ServerUnavailable: node or npm is missing, or npm fails or takes longer than eight minutes.
    """
    home = cache / "azurite" / AZURITE_VERSION
    program = home / "node_modules/azurite/dist/src/blob/main.js"
    if program.is_file():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "azurite.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # The kernel drops it with the process, however that ends.
        if not program.is_file():
            _npm_install(home)
    if not program.is_file():
        raise ServerUnavailable(f"npm installed azurite@{AZURITE_VERSION}, but it lacks {program.relative_to(home)}")
    return program


def _npm_install(home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise ServerUnavailable("Azurite comes from npm: node and npm are not on PATH")
    home.parent.mkdir(parents=True, exist_ok=True)
    # Installed beside its place and renamed into it: a run that is killed leaves nothing that looks complete.
    for abandoned in home.parent.glob(f"{_PARTIAL}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=home.parent))
    command = [npm, "install", "--prefix", str(partial), "--no-save", "--omit=dev", "--no-audit", "--no-fund"]
    command += ["--no-package-lock", "--ignore-scripts", "--loglevel=error", f"azurite@{AZURITE_VERSION}"]
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=partial,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE_S,
        )
        if done.returncode != 0:
            complaint = (done.stderr or done.stdout)[-1000:]
            raise ServerUnavailable(f"npm install azurite@{AZURITE_VERSION} failed: {complaint}")
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    except subprocess.TimeoutExpired as error:
        raise ServerUnavailable(
            f"npm install azurite@{AZURITE_VERSION} took longer than {INSTALL_DEADLINE_S:.0f} s"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _guarded(program: Path, port: int, directory: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """Run Azurite under a guard, which ends it when this process dies; yield the guard and the server's id."""
    node = shutil.which("node")
    if node is None:
        raise ServerUnavailable("Azurite needs node, which is not on PATH")
    command = [node, str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AZUR"))}
    guard = subprocess.Popen(
        [sys.executable, "-m", _GUARD, str(directory), "--", *command],
        env={
            **inherited,
            "AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}",
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
            raise ServerUnavailable(f"Azurite's guard ended with exit status {guard.wait()}")
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


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> str:
    """Return what is wrong, or "" when the server answers."""
    deadline_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            return f"ended with exit status {process.returncode} instead of starting"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return ""
        time.sleep(0.05)
    return f"did not answer on port {port} within {START_DEADLINE_S:g} s"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
