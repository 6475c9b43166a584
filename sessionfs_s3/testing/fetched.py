"""Programs for tests that no Python package brings: fetched by npm or built by Go, once, into the cache directory.

Touches the cache directory (``SESSIONFS_CACHE_DIR``, else ``.cache`` where the program runs), and whatever npm and Go
keep for themselves. Whoever comes while another process fetches the same waits for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "SESSIONFS_CACHE_DIR"

MINIO_MODULE: Final = "github.com/minio/minio"
MINIO_VERSION: Final = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""What ``@latest`` meant on 2026-11-21: the last commit of the repository, whose releases Go's versions do not name."""

NPM_DEADLINE_S: Final = 480.0
"""The largest of them, 190 MB, took half a minute."""

GO_ASK_DEADLINE_S: Final = 120.0
GO_BUILD_DEADLINE_S: Final = 1500.0
"""A cold build took 3 minutes on 2 cores, of which 20 s went into fetching 1.2 GB of modules."""

_PARTIAL: Final = "installing-"
_OUTPUT_CHARS_MAX: Final = 2_000
_GO_SETTINGS: Final = {"CGO_ENABLED": "0", "GOFLAGS": "-p=2 -buildvcs=false -trimpath"}


class ServerUnavailable(RuntimeError):
    """The server's package is not installed, or it did not start; the message says which, with the end of its log."""


class ServerNotHere(ServerUnavailable):
    """The server cannot be had on this machine as it is: what would bring it is missing; the message says what."""


def cache_directory() -> Path:
    """Return where what was fetched is kept: ``SESSIONFS_CACHE_DIR``, else ``.cache`` under the current directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or ".cache").absolute()


def npm_program(name: str, version: str, script: str) -> list[str]:
    """Return the command that runs *script* of the npm package *name*, installing the package where it is missing.

    Blocks, for half a minute or so when it installs.

    Raises:
        ServerUnavailable: Node.js or npm is missing, or npm fails, takes too long, or brings no such script.
    """
    node = shutil.which("node")
    if node is None:
        raise ServerUnavailable(f"{name}@{version} runs on Node.js, which is not on PATH: install it, with npm")
    home = cache_directory() / "npm" / f"{name}-{version}"
    program = home / "node_modules" / name / script
    if not program.is_file():
        with locked(_lock_of(home)):
            complaint = "" if program.is_file() else npm_install(f"{name}@{version}", home)
        if complaint:
            raise ServerUnavailable(complaint)
        if not program.is_file():
            raise ServerUnavailable(f"npm installed {name}@{version}, but it lacks {script}")
    return [node, str(program)]


def npm_install(package: str, home: Path) -> str:
    """Install an npm package with what it needs into *home*, in place of what is there, whole or not at all. Blocks.

    No script of a package runs. Only one process at a time may do so for one *home*: see :func:`locked`.

    Args:
        package: its name and version, ``name@version``.
        home: becomes the directory that holds its ``node_modules``.

    Returns:
        what went wrong, or "".
    """
    npm = shutil.which("npm")
    if npm is None:
        return f"{package} comes from npm, which is not on PATH: install Node.js with npm"
    with _partial(home) as partial:
        # Programs for one platform come as optional packages: they are wanted, whatever npm's own settings say.
        command = [npm, "install", "--prefix", str(partial), "--no-save", "--include=optional", "--omit=dev"]
        command += ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error", package]
        complaint = _run(command, partial, {}, NPM_DEADLINE_S)
        if complaint:
            return f"npm install {package} {complaint}"
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    return ""


def find_minio() -> Path:
    """Return MinIO's executable, if it has been built here; builds nothing.

    Raises:
        ServerNotHere: there is no Go here, or nobody has asked for a build.
        ServerUnavailable: Go is here, and the build failed.
    """
    binary = _minio_home() / "minio"
    if binary.is_file():
        return binary
    failed = _failed_build(_minio_home())
    if failed.is_file():
        raise ServerUnavailable(f"MinIO: {failed.read_text('utf-8')}")
    raise ServerNotHere("MinIO is not here: `make minio` builds it, which needs Go and its module proxy")


def build_minio() -> Path:
    """Return MinIO's executable, building it where it is missing: about 3 minutes on 2 cores. Blocks.

    A build that fails is remembered, so that :func:`find_minio` fails rather than skips; the next build starts anew.

    Raises:
        ServerNotHere: there is no Go here, or its module proxy cannot be reached.
        ServerUnavailable: Go and its proxy are here, and the build failed.
    """
    home = _minio_home()
    binary = home / "minio"
    with locked(_lock_of(home)):
        if binary.is_file():
            return binary
        _failed_build(home).unlink(missing_ok=True)
        go = shutil.which("go")
        if go is None:
            raise ServerNotHere("MinIO is built by Go, which is not on PATH")
        with _partial(home) as partial:
            _ask_for_minio(go, partial)
            complaint = _run_go([go, "install", "-ldflags=-s -w", _minio()], partial, GO_BUILD_DEADLINE_S)
            if not complaint and not (partial / "minio").is_file():
                complaint = "left no executable"
            if complaint:
                _failed_build(home).write_text(f"go install {_minio()} {complaint}", "utf-8")
                raise ServerUnavailable(f"MinIO: go install {_minio()} {complaint}")
            shutil.rmtree(home, ignore_errors=True)
            partial.rename(home)
    return binary


def _ask_for_minio(go: str, where: Path) -> None:
    # A small question, and one that Go never answers from its own cache.
    complaint = _run_go([go, "list", "-m", f"{MINIO_MODULE}@latest"], where, GO_ASK_DEADLINE_S)
    if complaint:
        raise ServerNotHere(f"MinIO is not here, and Go's module proxy cannot be asked for it: go list -m {complaint}")


def _minio() -> str:
    return f"{MINIO_MODULE}@{MINIO_VERSION}"


def _minio_home() -> Path:
    return cache_directory() / "minio" / MINIO_VERSION


def _failed_build(home: Path) -> Path:
    return home.with_name(f"{home.name}.failed")


def _run_go(command: Sequence[str], where: Path, deadline_s: float) -> str:
    return _run(command, where, {**_GO_SETTINGS, "GOBIN": str(where)}, deadline_s)


def _run(command: Sequence[str], where: Path, settings: Mapping[str, str], deadline_s: float) -> str:
    """Return what went wrong, or ""."""
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=where,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {deadline_s:g} s"
    if done.returncode == 0:
        return ""
    told = (done.stderr or done.stdout)[-_OUTPUT_CHARS_MAX:]
    return f"failed with status {done.returncode} after {time.monotonic() - started_s:.0f} s: {told}"


@contextmanager
def _partial(home: Path) -> Generator[Path]:
    """Yield a directory beside *home*, to be renamed to it: a run that is killed leaves nothing that looks complete.

    Called under the lock: what such a run left is taken away, for nobody else fetches now.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    started = f"{_PARTIAL}{home.name}-"
    for abandoned in home.parent.glob(f"{started}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=started, dir=home.parent))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(file: Path) -> Generator[None]:
    """Hold the lock that *file*, made where it is missing, stands for; wait for it, however long."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # The kernel drops it with the process, however that ends.
        yield


def _lock_of(home: Path) -> Path:
    return home.with_name(f"{home.name}.lock")
