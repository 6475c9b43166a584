"""What npm and Go bring: fetched once, whole or not at all, and told apart: not to be had here, or failed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionfs_s3.testing.fetched import (
    MINIO_VERSION,
    ServerNotHere,
    ServerUnavailable,
    build_minio,
    find_minio,
    npm_program,
)

ROOT = Path(__file__).parent.parent.parent

Install = Callable[[str, str], Path]

THING = ("thing", "1.2.3", "bin/thing.js")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SESSIONFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "cache"


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Put a program on the path, which is otherwise empty; it notes how it was called in the file that is returned."""

    def put(name: str, script: str) -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        calls = tmp_path / f"{name}.calls"
        text = f'#!/bin/sh\necho "$@" >>{calls}\nPATH=/usr/bin:/bin\n{textwrap.dedent(script)}\n'
        program.write_text(text, "utf-8")
        program.chmod(0o755)
        return calls

    return put


def test_minio_is_built_once(install: Install, cache: Path) -> None:
    calls = install("go", 'if [ "$1" = install ]; then echo built >"$GOBIN/minio"; fi')
    (cache / "minio" / f"installing-{MINIO_VERSION}-killed").mkdir(parents=True)
    with pytest.raises(ServerNotHere, match="make minio"):
        find_minio()
    assert build_minio().read_text() == "built\n"
    assert find_minio() == build_minio()
    assert calls.read_text().splitlines() == [
        "list -m github.com/minio/minio@latest",
        f"install -ldflags=-s -w github.com/minio/minio@{MINIO_VERSION}",
    ]
    assert not list((cache / "minio").glob("installing-*"))


def test_without_go_or_its_proxy_minio_is_not_here(install: Install, cache: Path) -> None:
    with pytest.raises(ServerNotHere, match="Go, which is not on PATH"):
        build_minio()
    install("go", "echo connection refused >&2; exit 1")
    with pytest.raises(ServerNotHere, match=r"(?s)proxy cannot be asked.*status 1.*connection refused"):
        build_minio()
    with pytest.raises(ServerNotHere, match="make minio"):
        find_minio()


@pytest.mark.parametrize(
    ("script", "told"), [("echo does not compile >&2; exit 2", "status 2.*not compile"), ("", "left no executable")]
)
def test_a_build_that_fails_is_remembered_until_one_succeeds(install: Install, script: str, told: str) -> None:
    install("go", f'if [ "$1" = install ]; then\n{script}\ntrue\nfi')
    for attempt in (build_minio, find_minio):
        with pytest.raises(ServerUnavailable, match=f"(?s)go install .*{told}") as caught:
            attempt()
        assert not isinstance(caught.value, ServerNotHere)
    install("go", 'if [ "$1" = install ]; then echo built >"$GOBIN/minio"; fi')
    assert build_minio() == find_minio()


def test_a_package_is_installed_once_and_whole(install: Install, cache: Path, tmp_path: Path) -> None:
    install("node", "")
    npm = """
        while [ "$1" != --prefix ]; do shift; done
        mkdir -p "$2/node_modules/thing/bin"
    """
    npm = textwrap.dedent(npm)
    calls = install("npm", f"{npm}\ntouch $2/node_modules/thing/bin/thing.js\necho no space left >&2; exit 1")
    with pytest.raises(ServerUnavailable, match=r"(?s)npm install thing@1\.2\.3 failed with status 1.*no space left"):
        npm_program(*THING)
    assert [path.name for path in (cache / "npm").iterdir()] == ["thing-1.2.3.lock"]
    install("npm", npm)
    with pytest.raises(ServerUnavailable, match=r"npm installed thing@1\.2\.3, but it lacks bin/thing\.js"):
        npm_program(*THING)
    install("npm", f"{npm}\ntouch $2/node_modules/thing/bin/thing.js")
    node, script = npm_program(*THING)
    assert node == str(tmp_path / "bin" / "node")
    assert Path(script).is_file()
    assert npm_program(*THING) == [node, script]
    assert len(calls.read_text().splitlines()) == 3
    assert all("--ignore-scripts" in call for call in calls.read_text().splitlines())


def test_without_node_or_npm_a_package_is_not_there(install: Install) -> None:
    with pytest.raises(ServerUnavailable, match=r"thing@1\.2\.3 runs on Node\.js, which is not on PATH"):
        npm_program(*THING)
    install("node", "")
    with pytest.raises(ServerUnavailable, match=r"thing@1\.2\.3 comes from npm, which is not on PATH") as caught:
        npm_program(*THING)
    assert not isinstance(caught.value, ServerNotHere)


@pytest.mark.parametrize(
    ("go", "status", "told"),
    [
        (None, 0, "no MinIO, its tests will skip: MinIO is built by Go, which is not on PATH"),
        ('[ "$1" = list ]', 1, "no MinIO: MinIO: go install"),
        ('[ "$1" = list ] || touch "$GOBIN/minio"', 0, "/minio ("),
    ],
)
def test_make_minio_fails_only_where_go_is_there(install: Install, go: str | None, status: int, told: str) -> None:
    if go is not None:
        install("go", go)
    made = subprocess.run(
        [sys.executable, ROOT / ".make" / "minio.py"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert made.returncode == status
    assert told in made.stdout + made.stderr
