"""One headless runtime process: started in an environment made for it, read while it lives, ended for certain.

Starts a process and keeps a private directory for it, which is removed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

START_DEADLINE_S: Final = 60.0
"""The runtime unpacks 235 MB where it runs for the first time; otherwise it listens within a second."""

_OUTPUT_LINES_MAX: Final = 200
_HOME: Final = re.compile(r"copilot-runtime-([0-9]{1,10})-[^/]+")
_LISTENING: Final = re.compile(r"listening on port (\d+)")
_ARGUMENTS: Final = ("--headless", "--no-auto-update", "--no-auto-login", "--log-level", "error")


_PR_SET_PDEATHSIG: Final = 1
"""``prctl``'s, from Linux' ``<sys/prctl.h>``."""


def _with_parent() -> Callable[[], None] | None:
    """Return what makes a child end when this process does, however that ends; None where there is no such thing.

    A gateway that is killed would leave runtimes behind which nobody can use: their provider slots are spent.
    """
    if sys.platform != "linux":
        return None
    # Looked up now: after the fork nothing may be imported or locked.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_END_WITH_PARENT: Final = _with_parent()


class RuntimeUnavailable(RuntimeError):
    """There is no Copilot runtime here, and none can be had; the message says why and what would help."""


class RuntimeProcess:
    """One headless runtime process, listening on loopback.

    Attributes:
        port: where it listens.
        home: its private directory: home, state and temporary files; empty when it started.
        token: what it demands of whoever connects.
    """

    def __init__(self, process: asyncio.subprocess.Process, home: Path, token: str) -> None:
        """Use :func:`start_process`."""
        self._process = process
        self._output: deque[str] = deque(maxlen=_OUTPUT_LINES_MAX)
        self._draining: asyncio.Task[None] | None = None
        self.port = 0
        self.home = home
        self.token = token

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


def find_executable() -> Path:
    """Return the runtime's executable: what the SDK has downloaded, else ``copilot`` on the path.

    Raises:
        RuntimeUnavailable: there is neither.
    """
    found = downloaded_by_sdk()
    if found is None and (on_path := shutil.which("copilot")):
        found = Path(on_path)
    if found is None:
        raise RuntimeUnavailable(
            "there is no Copilot runtime: install it with `npm install -g @github/copilot` or "
            "`python -m copilot download-runtime`, or name it (--runtime-path, COPILOT_CLI_PATH)"
        )
    return found


def downloaded_by_sdk() -> Path | None:
    """Return the executable that the Copilot SDK has downloaded, None where it has none."""
    try:
        from copilot._cli_download import get_cached_cli_path
    except ImportError:  # not a public name: an SDK without it has downloaded nothing that could be found
        return None
    path = get_cached_cli_path()
    return Path(path) if path else None


def default_cache() -> Path:
    """Return where runtimes unpack their code unless told otherwise: the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sessionfs-s3" / "runtime"


def remove_abandoned() -> None:
    """Remove the homes of runtimes whose gateway was killed: they hold no conversation, but logs, and take up room."""
    for home in Path(tempfile.gettempdir()).glob("copilot-runtime-*"):
        found = _HOME.fullmatch(home.name)
        with contextlib.suppress(OSError):
            if found and home.stat(follow_symlinks=False).st_uid == os.getuid() and not _lives(int(found[1])):
                shutil.rmtree(home, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@asynccontextmanager
async def start_process(
    executable: Path, *, cache: Path, extra: Mapping[str, str] | None = None
) -> AsyncGenerator[RuntimeProcess]:
    """Start a runtime with an empty home; it is killed, reaped and its home removed at the end.

    It gets no variable of this process but ``PATH``: what it is to know of proxies or accounts stands in *extra*.

    Args:
        executable: the runtime's binary, or its ``.js`` entry point, which node runs.
        cache: where the executable unpacks its own code, 235 MB, once for all runtimes that share it.
        extra: more environment variables for it.

    Raises:
        RuntimeUnavailable: it does not start.
    """
    remove_abandoned()
    home = Path(tempfile.mkdtemp(prefix=f"copilot-runtime-{os.getpid()}-"))
    token = secrets.token_hex(16)
    temporary = home / "tmp"
    temporary.mkdir()
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "COPILOT_HOME": str(home / "copilot"),
        "XDG_CACHE_HOME": str(cache),
        "COPILOT_CONNECTION_TOKEN": token,
        "COPILOT_AUTO_UPDATE": "false",
        "COPILOT_DISABLE_KEYTAR": "1",
        **(extra or {}),
    }
    script = ["node"] if executable.suffix == ".js" else []
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *script,
                str(executable),
                *_ARGUMENTS,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                cwd=home,
                preexec_fn=_END_WITH_PARENT,
            )
        except OSError as error:
            raise RuntimeUnavailable(f"the runtime {str(executable)!r} cannot be started: {error}") from None
        runtime = RuntimeProcess(process, home, token)
        try:
            await runtime.listen()
            yield runtime
        finally:
            await asyncio.shield(runtime.kill())
    finally:
        shutil.rmtree(home, ignore_errors=True)
