"""Opening a session file system: what is refused, by name, before anything is written; and what is walled off."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from sessionfs_s3 import Closed, Fenced, InvalidInput, SessionFs, Settings, Unavailable

BAD_IDS = ["", ".", "..", "a\0b", "a\nb", "a\x85b", "x" * 256, "ü" * 86, "\ud800"]


@pytest.mark.parametrize("tenant", BAD_IDS)
def test_a_bad_tenant_is_refused_by_name(tenant: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"(?s)^tenant .*: must "):
        SessionFs.open((tmp_path / "store").as_uri(), tenant=tenant)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("session_id", BAD_IDS)
async def test_a_bad_session_id_is_refused_by_name(session_id: str, tmp_path: Path) -> None:
    async with SessionFs.open(tmp_path.as_uri(), tenant="acme") as fs:
        with pytest.raises(InvalidInput, match=r"(?s)^session id .*: must "):
            fs.provider(session_id)
        with pytest.raises(InvalidInput, match=r"(?s)^session id .*: must "):
            async with fs.volume(session_id):
                pass
        assert fs.requests.snapshot().requests() == 0


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("deadline_s", -1, "greater than 0"),
        ("deadline_s", "soon", "valid number"),
        ("durability", "sometimes", "'born' or 'strict'"),
        ("working_directory", "relative", "absolute POSIX path"),
        ("working_directory", "/", "must not be the root"),
        ("session_state_path", "/a\0b", "NUL"),
        ("snapshot_commits", 0, "greater than or equal to 1"),
        ("colour", "red", "not permitted"),
    ],
)
def test_a_bad_setting_is_refused_by_name(setting: str, value: object, rule: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s)^setting {setting} .*{rule}"):
        SessionFs.open("memory://", tenant="acme", **{setting: value})


def test_settings_come_from_arguments_then_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sessionfs.toml"
    file.write_text('working_directory = "/from-file"\nsession_state_path = "/from-file-too"\nlinger_s = 1.0\n')
    monkeypatch.setenv("SESSIONFS_CONFIG", str(file))
    monkeypatch.setenv("SESSIONFS_SESSION_STATE_PATH", "/from-environment")
    fs = SessionFs.open("memory://", tenant="acme")
    assert fs.config["initial_working_directory"] == "/from-file"
    assert fs.config["session_state_path"] == "/from-environment"
    fs = SessionFs.open("memory://", tenant="acme", session_state_path="/from/./argument/")
    assert fs.config["session_state_path"] == "/from/argument"
    for bad in ("not = [toml", "colour = 'red'\n"):
        file.write_text(bad)
        with pytest.raises(InvalidInput):
            SessionFs.open("memory://", tenant="acme")
    monkeypatch.setenv("SESSIONFS_CONFIG", str(tmp_path / "nothing.toml"))
    with pytest.raises(InvalidInput, match="must name a readable TOML file"):
        SessionFs.open("memory://", tenant="acme")


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://x/y", "s3"),
        ("s3://", "bucket"),
        ("s3://key:secret@bucket/prefix", "credentials"),
        ("s3://bucket?colour=red", "colour"),
        ("file://host/dir", "host"),
        ("", ""),
    ],
)
def test_a_bad_url_is_refused_before_anything_is_opened(url: str, rule: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?i){rule}") as caught:
        SessionFs.open(url, tenant="acme")
    assert "secret" not in str(caught.value)


async def test_tenants_and_sessions_are_walled_off(tmp_path: Path) -> None:
    """Whatever a path says, it names a place in its own session."""
    victim = "../../../b/sessions/s"
    async with SessionFs.open(tmp_path.as_uri(), tenant="a") as a, SessionFs.open(tmp_path.as_uri(), tenant="b") as b:
        async with b.volume("s") as volume:
            await volume.write_file("/secret", "of b")
        async with a.volume("other") as volume:
            await volume.write_file("/secret", "of a's other session")
        async with a.volume("s") as volume:
            for path in (
                "/secret",
                f"/{victim}/secret",
                "/../secret",
                "/../../other/secret",
                "/%2e%2e/%2e%2e/other/secret",
                "/\uff0e\uff0e/secret",
                "/proc/self/environ",
                str(Path(__file__)),
            ):
                assert not await volume.exists(path)
            await volume.write_file("/etc/passwd", "mine")
            await volume.write_file("/../../../../tmp/escaped-by-sessionfs", "mine")
        async with a.volume(victim) as volume:
            assert not await volume.exists("/secret")
            await volume.write_file("/secret", "of an odd id")
        async with b.volume("s", read_only=True) as volume:
            assert await volume.read_file("/secret") == "of b"
    _check_nothing_escaped(tmp_path)


def _check_nothing_escaped(directory: Path) -> None:
    assert not Path("/tmp/escaped-by-sessionfs").exists()
    assert {each.name for each in directory.iterdir()} <= {"tenants", ".tmp", "~sessionfs"}


@pytest.mark.parametrize(
    "path",
    ["", "/a\0b", "/" + "a" * 256, "/" + "a" * (1 << 20), "/a" * 10_000, "/" + "ü" * 128, "/\ud800"],
    ids=["empty", "nul", "256", "1MiB", "10000-levels", "256-utf8", "surrogate"],
)
async def test_a_bad_path_gets_an_error_and_nothing_is_written(path: str) -> None:
    async with SessionFs.open("memory://", tenant="acme") as fs:
        provider = fs.provider("s")
        await provider.ready()
        requests = fs.requests.snapshot().requests()
        for call in (
            provider.write_file(path, "x"),
            provider.append_file(path, "x"),
            provider.mkdir(path, True),
            provider.read_file(path),
            provider.rename("/workspace", path),
        ):
            with pytest.raises(OSError, match=r"^\[Errno") as caught:
                await call
            assert caught.value.errno
            assert len(str(caught.value)) < 300
        assert fs.requests.snapshot().requests() == requests


async def test_a_store_that_is_down_fails_the_first_call_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with socket.socket() as refusing:  # bound, but nobody listens: every connection is refused
        refusing.bind(("127.0.0.1", 0))
        await _check_down(
            f"s3://bucket/prefix?endpoint_url=http://127.0.0.1:{refusing.getsockname()[1]}&region=us-east-1"
        )


async def _check_down(url: str) -> None:
    async with SessionFs.open(url, tenant="acme", deadline_s=1) as fs:
        provider = fs.provider("s")
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in 1 s"):
            await provider.read_file("/session-state/events.jsonl")
        assert time.monotonic() - started_s < 20
        for call in (provider.mkdir("/x", True), provider.ready()):
            with pytest.raises(Unavailable):
                await call
        # The SDK would turn an exception into "no such file", and the runtime that into "no such session".
        assert await provider.exists("/session-state/events.jsonl") is True
        assert await provider.sqlite_exists() is True


async def test_a_closed_one_says_so() -> None:
    fs = SessionFs.open("memory://", tenant="acme")
    with pytest.raises(Closed, match="async with"):
        fs.provider("s")
    async with fs:
        provider = fs.provider("s")
        await provider.write_file("/a", "x")
    with pytest.raises((Closed, Fenced)):
        await provider.read_file("/a")
    with pytest.raises(Closed):
        fs.provider("s")
    await fs.aclose()


def test_the_readme_has_every_setting_and_its_default() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", readme, re.MULTILINE))
    fields = {name: field.default for name, field in Settings.model_fields.items()}
    assert {name: type(fields[name])(value) for name, value in documented.items()} == fields
