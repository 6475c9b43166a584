"""Finding the runtime and getting it from npm, with a stand-in for npm that this test writes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from sessionfs_s3.gateway.process import RuntimeUnavailable
from sessionfs_s3.testing import runtime
from sessionfs_s3.testing.runtime import find_runtime, install_runtime, start_runtime

FAKE_NPM = """#!/bin/sh
echo "$@" >> "{calls}"
{behaviour}
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/node_modules/@github/copilot" "$2/node_modules/@github/copilot-any-platform"
printf '#!/bin/sh\\n' > "$2/node_modules/@github/copilot-any-platform/copilot"
chmod +x "$2/node_modules/@github/copilot-any-platform/copilot"
"""


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a path, nor a download of the SDK's, nor a cache."""
    monkeypatch.delenv("COPILOT_CLI_PATH", raising=False)
    monkeypatch.setenv("COPILOT_CLI_EXTRACT_DIR", str(tmp_path / "downloaded"))
    monkeypatch.setenv("SESSIONFS_CACHE_DIR", str(tmp_path / "cache"))


class Npm:
    """The stand-in: what it was called with, and what it does before it installs."""

    def __init__(self, directory: Path) -> None:
        self._script = directory / "npm"
        self._log = directory / "calls"
        self.does("")

    def does(self, behaviour: str) -> None:
        self._script.write_text(FAKE_NPM.format(calls=self._log, behaviour=behaviour))
        self._script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return Npm(directory)


def test_a_path_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch, npm: Npm) -> None:
    monkeypatch.setenv("COPILOT_CLI_PATH", sys.executable)
    assert find_runtime() == Path(sys.executable)
    assert npm.calls == []


@pytest.mark.parametrize("path", ["/nowhere/copilot", "/tmp", "/etc/passwd"])
def test_a_path_that_is_no_program_is_refused(monkeypatch: pytest.MonkeyPatch, npm: Npm, path: str) -> None:
    monkeypatch.setenv("COPILOT_CLI_PATH", path)
    with pytest.raises(RuntimeUnavailable, match=f"'{path}' is not an executable file"):
        find_runtime()
    assert npm.calls == []


def test_what_the_sdk_has_downloaded_is_taken(monkeypatch: pytest.MonkeyPatch, npm: Npm, tmp_path: Path) -> None:
    monkeypatch.setattr("copilot._cli_download.get_cached_cli_path", lambda: str(tmp_path / "sdk" / "copilot"))
    assert find_runtime() == tmp_path / "sdk" / "copilot"
    assert npm.calls == []


def test_it_is_installed_once_in_the_version_that_is_pinned(npm: Npm, tmp_path: Path) -> None:
    found = find_runtime()
    assert found == find_runtime()
    assert found.is_relative_to(tmp_path / "cache" / "runtime" / runtime.VERSION)
    assert os.access(found, os.X_OK)
    assert [call.split()[-1] for call in npm.calls] == [f"@github/copilot@{runtime.VERSION}"]
    assert "--ignore-scripts" in npm.calls[0]


async def test_processes_that_come_at_once_wait_for_one_installation(npm: Npm) -> None:
    npm.does("sleep 1")
    program = "from sessionfs_s3.testing.runtime import find_runtime; print(find_runtime())"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    printed = {(await process.communicate())[0] for process in processes}
    assert printed == {f"{find_runtime()}\n".encode()}
    assert len(npm.calls) == 1


def test_an_installation_that_fails_leaves_nothing(npm: Npm, tmp_path: Path) -> None:
    npm.does("echo 'no such version' >&2; exit 1")
    with pytest.raises(RuntimeUnavailable, match="no such version"):
        find_runtime()
    assert list((tmp_path / "cache" / "runtime").iterdir()) == []
    npm.does("")
    assert find_runtime().is_file()


def test_an_installation_without_this_platform_is_reported(npm: Npm) -> None:
    npm.does("exit 0")
    with pytest.raises(RuntimeUnavailable, match="no executable for this platform"):
        find_runtime()


def test_without_npm_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match="npm, which is not on PATH"):
        install_runtime(tmp_path / "cache")


async def test_a_runtime_that_does_not_start_is_reported_with_what_it_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(RuntimeUnavailable, match="ended before it listened: it is broken"):
        async with start_runtime(broken):
            pytest.fail("it has not started")


async def test_a_runtime_is_given_nothing_of_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    fake = tmp_path / "fake"
    fake.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\necho CLI server listening on port 1\nexec sleep 60\n")
    fake.chmod(0o755)
    async with start_runtime(fake, debounce_ms=7) as process:
        assert process.alive
        home = process.home
    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert "secret" not in environment.values()
    assert environment["COPILOT_SESSIONFS_FLUSH_DEBOUNCE_MS"] == "7"
    assert environment["HOME"] == str(home)
    assert process.status == -9
    assert not home.exists()
