"""Emulators of other clouds' stores on loopback, for tests: Azurite, which Microsoft maintains for Azure Blob.

``with azurite_server() as server:`` starts one and ends it, as :mod:`sessionfs_s3.testing.servers` does. It comes from
npm, pinned, into the cache directory, where the first call installs it: 194 MB, which took 20 s.

What it gets wrong, or different: it does not know ``startFrom``, so obstore filters its listings itself, from the
beginning; it answers a failed ``If-None-Match: *`` with 409 ``BlobAlreadyExists``, as Azure does. One process decides
races one after the other. There is none for Google Cloud Storage: fake-gcs-server 1.56 and gcp-storage-emulator 2026.7
speak its JSON interface; of the XML one, which obstore uses, they know neither listings nor preconditions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Final

from sessionfs_s3.testing.fetched import ServerUnavailable, npm_program
from sessionfs_s3.testing.server_process import Command, free_ports, running

AZURITE: Final = ("azurite", "3.36.0", "dist/src/blob/main.js")
"""The npm package, its version and the program in it: 194 MB; 3.37.0 brings 365 MB, most of it for telemetry."""

ACCOUNT: Final = "sessionfs"
ACCOUNT_KEY: Final = base64.b64encode(b"of servers that live for one test run, on loopback").decode()

_API_VERSION: Final = "2023-11-03"


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
    """Run Azurite's blob service, in memory, which is installed from npm where it is missing.

    Raises:
        ServerUnavailable: Node.js or npm is missing, or it did not start.
    """
    program = npm_program(*AZURITE)

    def command(_directory: Path) -> Command:
        (port,) = free_ports(1)
        arguments = [*program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
        arguments += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        return Command(arguments, {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}, port)

    # It has no path that says whether it is well: a request that names no account is a bad one.
    with running("Azurite", command, "/", health_status=400) as (started, pid):
        yield AzureServer(started.port, pid)
