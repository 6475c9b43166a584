"""Log lines tell what happens to whom, in text or JSON, and nothing that anybody said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionfs_s3.gateway import logs
from sessionfs_s3.gateway.auth.tokens import new_token
from sessionfs_s3.gateway.logs import know
from sessionfs_s3.testing.gateway import start_gateway
from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.raw_client import RpcError, raw_client
from sessionfs_s3.testing.sdk_client import SdkFailure
from sessionfs_s3.testing.sdk_clients import python_client
from tests.gateway.captured import captured
from tests.gateway.tenants_files import one_tenant, write

SECRET = "s3cr3t"
own = logging.getLogger("sessionfs_s3.gateway.test")


@pytest.fixture
def text() -> Iterator[io.StringIO]:
    with captured("text") as stream:
        yield stream


@pytest.fixture
def lines() -> Iterator[Any]:
    """Returns the JSON lines so far."""
    with captured("json") as stream:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(kind: type[Exception] = ValueError) -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise kind(f"input {SECRET}") from error
    except kind:
        own.exception("it failed")


def test_a_line_of_text_tells_what_is_known(text: io.StringIO) -> None:
    own.info("opened %s", "it", extra={"tenant": "acme", "session": "s1", "client": 7, "contents": SECRET})
    line = text.getvalue()
    assert line[:4].isdigit()
    assert line[24:] == " INFO sessionfs_s3.gateway.test: opened it [tenant=acme session=s1 client=7]\n"


def test_a_line_of_json_tells_what_is_known_and_nothing_else(lines: Any) -> None:
    own.warning("opened %s", "it", extra={"tenant": "acme", "runtime": "runtime-1", "contents": SECRET})
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "sessionfs_s3.gateway.test",
        "message": "opened it",
        "tenant": "acme",
        "runtime": "runtime-1",
    }


async def test_what_a_task_knows_stands_in_its_lines_and_in_those_of_its_tasks(lines: Any) -> None:
    async def inner() -> None:
        know(session="s1")
        own.info("inner")

    async def outer(number: str) -> None:
        know(client=number, subject=None)
        await asyncio.create_task(inner())
        own.info("outer", extra={"client": "mine"})

    await asyncio.gather(outer("1"), outer("2"))
    own.info("neither")
    told = [{name: line[name] for name in logs.FIELDS if name in line} for line in lines()]
    inner_lines = [{"session": "s1", "client": "1"}, {"session": "s1", "client": "2"}]
    assert sorted(told, key=str) == sorted([*inner_lines, {"client": "mine"}, {"client": "mine"}, {}], key=str)


@pytest.mark.parametrize("message", ["a\nINFO forged", "a\r\x1b[2Jb", "a\u2028b"])
def test_a_message_cannot_make_another_line(text: io.StringIO, message: str) -> None:
    own.info("%s", message)
    assert len(text.getvalue().splitlines()) == 1
    assert text.getvalue()[:-1].isprintable()


def test_an_exception_is_told_by_its_class_and_place(text: io.StringIO) -> None:
    fail()
    told = text.getvalue()
    assert SECRET not in told
    assert "ValueError" in told
    assert "caused by builtins.KeyError" in told
    assert "test_logs.py" in told
    assert "fail" in told


def test_an_exception_in_json_stays_in_its_line(lines: Any) -> None:
    fail(RuntimeError)
    (line,) = lines()
    assert SECRET not in json.dumps(line)
    assert line["exception"][0] == "builtins.RuntimeError"


def test_a_group_and_a_circle_of_causes_are_told(lines: Any) -> None:
    first, second = ValueError(SECRET), OSError(SECRET)
    first.__cause__, second.__cause__ = second, first
    own.error("a circle", exc_info=first)
    own.error("a group", exc_info=ExceptionGroup(SECRET, [first]))
    circle, group = (line["exception"] for line in lines())
    assert circle == ["builtins.ValueError", "caused by builtins.OSError"]
    assert group == ["builtins.ExceptionGroup", "  holds builtins.ValueError"]


def test_the_event_loop_tells_no_more_than_what_went_wrong(lines: Any) -> None:
    loop = asyncio.new_event_loop()
    loop.call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": ValueError(SECRET), "future": SECRET}
    )
    loop.close()
    (line,) = lines()
    assert SECRET not in json.dumps(line)
    assert line["message"] == "Task exception was never retrieved"
    assert line["exception"] == ["builtins.ValueError"]


def test_libraries_are_heard_from_warnings_on(lines: Any) -> None:
    for name in ("botocore.endpoint", "aiobotocore", "aiohttp.client", "copilot.client", "asyncio", "urllib3"):
        library = logging.getLogger(name)
        library.debug("headers: %s", SECRET)
        library.info("parameters: %s", SECRET)
        library.warning("something is wrong")
    assert [line["message"] for line in lines()] == ["something is wrong"] * 6


def test_the_level_holds_for_the_gateway() -> None:
    with captured("text", logging.ERROR) as stream:
        own.warning("no")
        own.error("yes")
        logging.getLogger("other").warning("no")
    assert stream.getvalue().count("\n") == 1


async def test_nothing_that_is_said_in_a_conversation_is_logged(
    executable: Path, model: ScriptedModel, tmp_path: Path
) -> None:
    token, hashed = new_token()
    write(tmp_path / "tenants.toml", one_tenant(hashed))
    wrong_token, _ = new_token()
    prompt, answer, argument, content, key, params = (f"{SECRET}-{each}" for each in range(6))
    model.add(prompt, Call("create", {"path": "/workspace/x", "file_text": content}), Say(answer))
    model.add("look it up", Call("lookup", {"key": argument}), Say("done"))
    said = [token, wrong_token, SECRET]
    arguments = ("--log-level", "debug", "--log-format", "json", "--tenants", str(tmp_path / "tenants.toml"))
    async with start_gateway(executable, (tmp_path / "store").as_uri(), *arguments) as gateway:
        with pytest.raises(SdkFailure):
            async with python_client("127.0.0.1", gateway.port, wrong_token, model.provider) as client:
                await client.start()
        provider = {**model.provider, "api_key": key}
        async with python_client("127.0.0.1", gateway.port, token, provider) as client:  # type: ignore[arg-type]
            await client.start()
            await client.create("s1", tools=["create"])
            assert await client.send("s1", prompt) == answer
            assert await client.send("s1", "look it up") == "done"
            await _misbehave(gateway.port, token, params)
        assert await gateway.stop() == 0
    told = [json.loads(line) for line in gateway.output.splitlines() if line.startswith("{")]
    assert not [line for line in gateway.output.splitlines() for each in said if each in line]
    assert {line["level"] for line in told} >= {"DEBUG", "INFO", "WARNING"}
    _check_lives(told)


async def _misbehave(port: int, token: str, params: str) -> None:
    """Say what goes wrong, with a secret in it."""
    async with raw_client("127.0.0.1", port) as raw:
        await raw.request("connect", {"token": token})
        for method in ("session.send", "session.create", "sessions.fork", f"unknown.{params}"):
            with pytest.raises(RpcError):
                await raw.request(method, {"sessionId": "../none", "prompt": params, "toEventId": params})
        await raw.notify(f"note.{params}", {"sessionId": "s1", "text": params})
        await raw.send_bytes(b"Content-Length: 40\r\n\r\n" + f'{{"{params}"'.ljust(40).encode())
        await raw.send_bytes(f"{params}: {params}\r\n\r\n".encode())
        await raw.wait_ended()


def _check_lives(told: list[dict[str, str]]) -> None:
    """The life of the connection, of the session and of the runtime stand there, each with whom it is about."""
    by_message = {line["message"]: line for line in told}
    let_in = by_message["a client is let in"]
    assert (let_in["tenant"], let_in["subject"]) == ("acme", "build")
    assert let_in["client"].isdigit()
    for message in ("a session is opened", "a session is closed"):
        line = next(line for line in told if line["message"] == message and line.get("session") == "s1")
        assert (line["tenant"], line["runtime"]) == ("acme", "runtime-1")
    assert by_message["runtime-1 serves"]["runtime"] == "runtime-1"
    assert "client" not in by_message["runtime-1 serves"]
    for message in ("a connection is accepted", "a client has left", "the gateway drains"):
        assert message in by_message
