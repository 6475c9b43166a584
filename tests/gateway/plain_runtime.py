"""The real runtime on its own disk, asked in plain JSON-RPC, and the schema that it ships."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from sessionfs_s3.testing.fetched import cache_directory
from sessionfs_s3.testing.model import MODEL_NAME
from sessionfs_s3.testing.runtime import (
    INSTALL_DEADLINE_S,
    VERSION,
    RuntimeProcess,
    RuntimeUnavailable,
    find_runtime,
    start_runtime,
)

# jsonschema has no types, and the two type checkers want opposite remarks about that.
validators: Any = importlib.import_module("jsonschema")

TIMEOUT_S = INSTALL_DEADLINE_S + 120
"""The first test that needs the runtime may have to wait until npm has fetched it."""


def located() -> Path:
    """Return the runtime's executable; without one skip the test, or fail it under SESSIONFS_REQUIRE_RUNTIME=1."""
    try:
        return find_runtime()
    except RuntimeUnavailable as error:
        if os.environ.get("SESSIONFS_REQUIRE_RUNTIME") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


class Peer:
    """A client's connection, below any SDK: requests, their answers as they came, and everything else that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._came = asyncio.Event()
        self.received: list[dict[str, Any]] = []

    async def ask(self, method: str, params: object = None) -> Any:
        """Return the result, or ``{"error": {…}}``; *params* None stands for a request without any."""
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method} | ({} if params is None else {"params": params})
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(message)
        answered = await asyncio.wait_for(answer, 60)
        return {"error": answered["error"]} if "error" in answered else answered["result"]

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until something has come that is *wanted*."""
        async with asyncio.timeout(60):
            while not any(map(wanted, self.received)):
                self._came.clear()
                await self._came.wait()

    async def serve(self) -> None:
        while header := await self._reader.readline():
            await self._reader.readline()
            message = json.loads(await self._reader.readexactly(int(header.removeprefix(b"Content-Length: "))))
            if "method" in message:
                self.received.append(message)
                self._came.set()
            else:
                self._waiting.pop(message["id"]).set_result(message)

    def _send(self, message: Mapping[str, object]) -> None:
        body = json.dumps(message).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


@asynccontextmanager
async def connected(runtime: RuntimeProcess, *, handshake: bool = True) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", runtime.port, limit=2**26)
    peer = Peer(reader, writer)
    serving = asyncio.create_task(peer.serve())
    try:
        if handshake:
            assert (await peer.ask("connect", {"token": runtime.token}))["ok"]
        yield peer
    finally:
        writer.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            await serving


def options(session_id: str, model_url: str, **more: object) -> dict[str, object]:
    """Return the parameters of ``session.create`` for a session that talks to the scripted model."""
    provider = {"type": "openai", "baseUrl": model_url, "apiKey": "none"}
    return {"sessionId": session_id, "model": MODEL_NAME, "provider": provider, "availableTools": [], **more}


class Schema:
    """The runtime's ``api.schema.json``."""

    def __init__(self, folder: Path) -> None:
        self.document = json.loads((folder / "api.schema.json").read_text("utf-8"))
        events = json.loads((folder / "session-events.schema.json").read_text("utf-8"))
        pair = [
            ("file:///schemas/api.schema.json", self.document),
            ("file:///schemas/session-events.schema.json", events),
        ]
        resources = [(uri, DRAFT202012.create_resource(each)) for uri, each in pair]
        self._registry: Registry[Any] = Registry().with_resources(resources)
        self.methods = {
            section: dict(self._leaves(self.document[section], f"/{section}"))
            for section in ("server", "session", "clientSession", "clientGlobal")
        }

    def method(self, name: str) -> dict[str, Any]:
        section = next(section for section, methods in self.methods.items() if name in methods)
        return self._at(self.methods[section][name])

    def check_result(self, method: str, result: object) -> None:
        """Raise unless *result* is what the schema says that *method* returns."""
        pointer = next(methods[method] for methods in self.methods.values() if method in methods)
        assert "result" in self._at(pointer), method
        reference = {"$ref": f"file:///schemas/api.schema.json#{pointer}/result"}
        validators.Draft202012Validator(reference, registry=self._registry).validate(result)

    def parameters(self, method: str) -> set[tuple[str, ...]]:
        """Return the path of every parameter of *method*, however deep; ``*`` stands for an element or a key."""
        return set(self._properties(self.method(method).get("params") or {}, (), frozenset()))

    def _leaves(self, node: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, str]]:
        for key, value in node.items():
            if isinstance(value, dict):
                if "rpcMethod" in value:
                    yield value["rpcMethod"], f"{pointer}/{key}"
                else:
                    yield from self._leaves(value, f"{pointer}/{key}")

    def _at(self, pointer: str) -> dict[str, Any]:
        node = self.document
        for key in pointer.split("/")[1:]:
            node = node[key]
        return dict(node)

    def _properties(
        self, schema: Mapping[str, Any], path: tuple[str, ...], seen: frozenset[str]
    ) -> Iterator[tuple[str, ...]]:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in seen:
                yield from self._properties(self.document["definitions"].get(name, {}), path, seen | {name})
            return
        for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
            yield from self._properties(each, path, seen)
        for key, value in schema.get("properties", {}).items():
            yield (*path, key)
            yield from self._properties(value, (*path, key), seen)
        for nested in (schema.get("items"), schema.get("additionalProperties")):
            if isinstance(nested, dict):
                yield from self._properties(nested, (*path, "*"), seen)


def _schemas() -> list[Path]:
    # The executable unpacks its own code, and the schema with it, when it starts for the first time.
    return sorted(cache_directory().glob(f"runtime-unpacked/copilot/pkg/*/{VERSION}/schemas"))


def read_schema() -> Schema:
    """Return the schema of the runtime, which is started once where it has not unpacked itself yet."""
    executable = located()
    if not _schemas():

        async def unpack() -> None:
            async with start_runtime(executable):
                pass

        asyncio.run(unpack())
    if not _schemas():
        pytest.skip(f"the runtime here is not {VERSION}, whose schema the gateway's tables were written for")
    return Schema(_schemas()[0])
