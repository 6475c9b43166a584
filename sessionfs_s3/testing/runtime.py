"""The real Copilot runtime for tests and the demo: where it is, how to get it, and one headless process of it.

Touches the cache directory (``SESSIONFS_CACHE_DIR``, else ``.cache`` where the program runs), runs npm there when the
runtime is nowhere yet, and starts the runtime in an environment made for it: private home, loopback only, nothing of
the caller's variables but ``PATH``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sessionfs_s3.testing.fetched import NPM_DEADLINE_S, cache_directory, locked, npm_install

if TYPE_CHECKING:  # importing the SDK takes seconds, and finding the runtime needs nothing of it but a path
    from copilot import CopilotClient, SessionFsConfig

PACKAGE: Final = "@github/copilot"
VERSION: Final = "1.0.102"
"""The newest on npm that version 1.0.27 of the SDK was tried with. The SDK itself pins a release that npm may lack."""

CLI_PATH_VARIABLE: Final = "COPILOT_CLI_PATH"
DEBOUNCE_VARIABLE: Final = "COPILOT_SESSIONFS_FLUSH_DEBOUNCE_MS"
"""How long the runtime gathers events before it appends them; its default is 100. A turn's end never waits for it."""

INSTALL_DEADLINE_S: Final = NPM_DEADLINE_S
START_DEADLINE_S: Final = 60.0
_OUTPUT_LINES_MAX: Final = 200
_LISTENING: Final = re.compile(r"listening on port (\d+)")


class RuntimeUnavailable(RuntimeError):
    """There is no Copilot runtime here, and none can be had; the message says why and what would help."""


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
    return _downloaded_by_sdk() or install_runtime(cache_directory())


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


def _downloaded_by_sdk() -> Path | None:
    try:
        from copilot._cli_download import get_cached_cli_path
    except ImportError:  # not a public name: an SDK without it has downloaded nothing that could be found
        return None
    path = get_cached_cli_path()
    return Path(path) if path else None


def _installed(home: Path) -> Path | None:
    # npm installs only the package of this platform: which it is need not be worked out here.
    executables = sorted(home.glob(f"node_modules/{PACKAGE}-*/copilot"))
    return executables[0] if executables else None


class RuntimeProcess:
    """One headless runtime process, listening on loopback.

    Attributes:
        port: where it listens.
        home: its private directory: home, state and temporary files; empty when it started.
    """

    def __init__(self, process: asyncio.subprocess.Process, home: Path, token: str) -> None:
        """Use :func:`start_runtime`."""
        self._process = process
        self._token = token
        self._output: deque[str] = deque(maxlen=_OUTPUT_LINES_MAX)
        self._draining: asyncio.Task[None] | None = None
        self.port = 0
        self.home = home

    @property
    def pid(self) -> int:
        """Its process id; the runtime is one process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def status(self) -> int | None:
        """Its exit status, ``-9`` after SIGKILL; None while it runs."""
        return self._process.returncode

    @property
    def output(self) -> str:
        """The last lines that it printed."""
        return "".join(self._output)

    async def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        await self.wait()

    async def wait(self) -> None:
        """Wait until it has ended, whoever ends it."""
        await self._process.wait()
        if self._draining is not None:
            await self._draining

    @asynccontextmanager
    async def client(self, session_fs: SessionFsConfig) -> AsyncGenerator[CopilotClient]:
        """Connect an SDK client in "empty" mode, which serves *session_fs* to this runtime: one client per runtime.

        Disconnect sessions before leaving: the SDK forgets them first, and the runtime's last append would fail.
        """
        from copilot import CopilotClient, RuntimeConnection

        connection = RuntimeConnection.for_uri(f"127.0.0.1:{self.port}", connection_token=self._token)
        client = CopilotClient(mode="empty", session_fs=session_fs, connection=connection)
        try:
            await client.start()
            yield client
        finally:
            await client.force_stop()

    async def listen(self) -> None:
        """Wait until it says where it listens, then keep its output flowing.

        Raises:
            RuntimeUnavailable: it ended, or said nothing for a minute.
        """
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                while not self.port:
                    line = await self._line()
                    if line is None:
                        raise RuntimeUnavailable(f"the runtime ended before it listened: {self.output[-2000:]}")
                    if match := _LISTENING.search(line):
                        self.port = int(match[1])
        except TimeoutError:
            raise RuntimeUnavailable(
                f"the runtime did not listen within {START_DEADLINE_S:.0f} s: {self.output[-2000:]}"
            ) from None
        self._draining = asyncio.create_task(self._drain())

    async def _line(self) -> str | None:
        assert self._process.stdout is not None
        try:
            line = (await self._process.stdout.readline()).decode(errors="replace")
        except ValueError:  # a line longer than the reader's limit: of no interest
            line = "…\n"
        self._output.append(line)
        return line or None

    async def _drain(self) -> None:
        while await self._line() is not None:
            pass


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
    home = Path(tempfile.mkdtemp(prefix="copilot-runtime-"))
    token = secrets.token_hex(16)
    environment = _environment(home, token)
    if debounce_ms is not None:
        environment[DEBOUNCE_VARIABLE] = str(debounce_ms)
    environment |= extra or {}
    script = ["node"] if executable.suffix == ".js" else []
    arguments = ["--headless", "--no-auto-update", "--no-auto-login", "--log-level", "error"]
    try:
        process = await asyncio.create_subprocess_exec(
            *script,
            str(executable),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            cwd=home,
        )
        runtime = RuntimeProcess(process, home, token)
        try:
            await runtime.listen()
            yield runtime
        finally:
            await asyncio.shield(runtime.kill())
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path, token: str) -> dict[str, str]:
    """Return the variables of a runtime that keeps to itself: nothing of the caller's but ``PATH``."""
    temporary = home / "tmp"
    temporary.mkdir()
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "COPILOT_HOME": str(home / "copilot"),
        # The executable unpacks its own code here, 235 MB: once, not into every private home.
        "XDG_CACHE_HOME": str(cache_directory() / "runtime-unpacked"),
        "COPILOT_CONNECTION_TOKEN": token,
        "COPILOT_AUTO_UPDATE": "false",
        "COPILOT_DISABLE_KEYTAR": "1",
        # No network but the model of each session; this mode asks for a default model, which no session here uses.
        "COPILOT_OFFLINE": "true",
        "COPILOT_MODEL": "scripted",
        "COPILOT_PROVIDER_BASE_URL": "http://127.0.0.1:9/v1",
    }
