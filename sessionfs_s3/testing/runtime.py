"""The real Copilot runtime for tests and the demo: where it is, how to get it, and one headless process of it.

Touches the cache directory (``SESSIONFS_CACHE_DIR``, else ``.cache`` where the program runs), runs npm there when the
runtime is nowhere yet, and starts the runtime in an environment made for it: private home, loopback only, nothing of
the caller's variables but ``PATH``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sessionfs_s3.gateway.process import RuntimeProcess, RuntimeUnavailable, downloaded_by_sdk, start_process
from sessionfs_s3.testing.fetched import NPM_DEADLINE_S, cache_directory, locked, npm_install

if TYPE_CHECKING:  # importing the SDK takes seconds, and finding the runtime needs nothing of it but a path
    from copilot import CopilotClient, SessionFsConfig

__all__ = [
    "CLI_PATH_VARIABLE",
    "DEBOUNCE_VARIABLE",
    "INSTALL_DEADLINE_S",
    "OFFLINE",
    "PACKAGE",
    "VERSION",
    "RuntimeProcess",
    "RuntimeUnavailable",
    "connect_client",
    "find_runtime",
    "install_runtime",
    "start_runtime",
    "unpacked",
]

PACKAGE: Final = "@github/copilot"
VERSION: Final = "1.0.102"
"""The newest on npm that version 1.0.27 of the SDK was tried with. The SDK itself pins a release that npm may lack."""

CLI_PATH_VARIABLE: Final = "COPILOT_CLI_PATH"
DEBOUNCE_VARIABLE: Final = "COPILOT_SESSIONFS_FLUSH_DEBOUNCE_MS"
"""How long the runtime gathers events before it appends them; its default is 100. A turn's end never waits for it."""

INSTALL_DEADLINE_S: Final = NPM_DEADLINE_S

OFFLINE: Final = {
    "COPILOT_OFFLINE": "true",
    "COPILOT_MODEL": "scripted",
    "COPILOT_PROVIDER_BASE_URL": "http://127.0.0.1:9/v1",
}
"""No network but the model of each session; this mode asks for a default model, which no session here uses."""


def find_runtime() -> Path:
    """Return the runtime's executable, installing it when need be. Blocks, for minutes if it has to be fetched.

    Looks at ``COPILOT_CLI_PATH``, then at what the SDK itself has downloaded, then installs the npm package into the
    cache directory. Processes that come at the same time wait for one installation.

    Raises:
        RuntimeUnavailable: none of them has it.
    """
    named = os.environ.get(CLI_PATH_VARIABLE)
    if named:
        path = Path(named)
        if not os.access(path, os.X_OK) or path.is_dir():
            raise RuntimeUnavailable(f"{CLI_PATH_VARIABLE} {named!r} is not an executable file")
        return path
    return downloaded_by_sdk() or install_runtime(cache_directory())


def install_runtime(cache: Path) -> Path:
    """Return the executable of the npm package under *cache*, installing it first where it is missing.

    Raises:
        RuntimeUnavailable: npm is missing, fails or takes longer than eight minutes.
    """
    home = cache / "runtime" / VERSION
    found = _installed(home)
    if found is not None:
        return found
    with locked(cache / "runtime.lock"):
        complaint = "" if _installed(home) else npm_install(f"{PACKAGE}@{VERSION}", home)
        found = _installed(home)
    if complaint:
        raise RuntimeUnavailable(f"without {CLI_PATH_VARIABLE}, the Copilot runtime comes from npm: {complaint}")
    if found is None:
        raise RuntimeUnavailable(f"npm installed {PACKAGE}@{VERSION}, but it has no executable for this platform")
    return found


def _installed(home: Path) -> Path | None:
    # npm installs only the package of this platform: which it is need not be worked out here.
    executables = sorted(home.glob(f"node_modules/{PACKAGE}-*/copilot"))
    return executables[0] if executables else None


@asynccontextmanager
async def start_runtime(
    executable: Path, *, debounce_ms: int | None = None, extra: Mapping[str, str] | None = None
) -> AsyncGenerator[RuntimeProcess]:
    """Start a runtime with an empty home; it is killed, reaped and its home removed at the end.

    Args:
        executable: from :func:`find_runtime`.
        debounce_ms: how long it gathers events before it appends them; None leaves its default of 100 ms.
        extra: more environment variables for it.

    Raises:
        RuntimeUnavailable: it does not start.
    """
    environment = dict(OFFLINE)
    if debounce_ms is not None:
        environment[DEBOUNCE_VARIABLE] = str(debounce_ms)
    async with start_process(executable, cache=unpacked(), extra={**environment, **(extra or {})}) as runtime:
        yield runtime


@asynccontextmanager
async def connect_client(runtime: RuntimeProcess, session_fs: SessionFsConfig) -> AsyncGenerator[CopilotClient]:
    """Connect an SDK client in "empty" mode, which serves *session_fs* to *runtime*: one client per runtime.

    Disconnect sessions before leaving: the SDK forgets them first, and the runtime's last append would fail.
    """
    from copilot import CopilotClient, RuntimeConnection

    connection = RuntimeConnection.for_uri(f"127.0.0.1:{runtime.port}", connection_token=runtime.token)
    client = CopilotClient(mode="empty", session_fs=session_fs, connection=connection)
    try:
        await client.start()
        yield client
    finally:
        await client.force_stop()


def unpacked() -> Path:
    """Return where the executable unpacks its own code, 235 MB: once, not into every private home."""
    return cache_directory() / "runtime-unpacked"
