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

from sessionfs_s3.testing.runtime import cache_directory
from sessionfs_s3.testing.server_process import ServerNotHere, ServerUnavailable

MINIO_MODULE: Final = "github.com/minio/minio"
MINIO_VERSION: Final = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""What ``@latest`` meant on 2026-11-21: the last commit of the repository, whose releases Go's versions do not name."""

NPM_DEADLINE_S: Final = 240.0
GO_ASK_DEADLINE_S: Final = 120.0
GO_BUILD_DEADLINE_S: Final = 1500.0
"""A cold build took 3 minutes on 2 cores, of which 20 s went into fetching 1.2 GB of modules."""

_PARTIAL: Final = "installing-"
_OUTPUT_CHARS_MAX: Final = 2_000
_GO_SETTINGS: Final = {"CGO_ENABLED": "0", "GOFLAGS": "-p=2 -buildvcs=false -trimpath"}


def npm_package(name: str, version: str) -> Path:
    """Return the directory of the npm package *name*, installing it with what it needs where it is missing. Blocks.

    Raises:
        ServerUnavailable: npm is missing, fails or takes longer than four minutes.
    """
    home = cache_directory() / "npm" / f"{name}-{version}"
    place = home / "node_modules" / name
    if not place.is_dir():
        with _locked(home), _partial(home) as partial:
            if not place.is_dir():
                _npm_install(f"{name}@{version}", partial)
                shutil.rmtree(home, ignore_errors=True)
                partial.rename(home)
    if not place.is_dir():
        raise ServerUnavailable(f"npm installed {name}@{version}, but not into {place}")
    return place


def _npm_install(package: str, into: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise ServerUnavailable(f"{package} comes from npm: install Node.js with npm")
    command = [npm, "install", "--prefix", str(into), "--no-save", "--no-audit", "--no-fund", "--no-package-lock"]
    command += ["--ignore-scripts", "--loglevel=error", package]
    complaint = _run(command, into, {}, NPM_DEADLINE_S)
    if complaint:
        raise ServerUnavailable(f"npm install {package} {complaint}")


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
    with _locked(home):
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
def _locked(home: Path) -> Generator[None]:
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel drops it with the process, however that ends
        yield
