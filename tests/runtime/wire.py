"""The other end of the SDK's wire, for calls that the real runtime never makes: JSON-RPC 2.0 over TCP, protocol 3."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from copilot import CopilotClient, RuntimeConnection, ToolSet

from sessionfs_s3 import SessionFs

_ANSWERS: dict[str, dict[str, Any]] = {
    "connect": {"ok": True, "protocolVersion": 3, "version": "test"},
    "session.create": {"sessionId": "s1", "workspacePath": "/session-state", "capabilities": {}},
    "session.options.update": {"success": True},
    "session.detach": {"success": True},
}


class Wire:
    """One connection of an SDK client; makes the calls that a runtime would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def call(self, method: str, **params: Any) -> Any:
        """Call ``sessionFs.<method>`` of the session and return its result."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        params["sessionId"] = "s1"
        self._send({"jsonrpc": "2.0", "id": number, "method": f"sessionFs.{method}", "params": params})
        return await asyncio.wait_for(answer, 60)

    async def serve(self) -> None:
        """Answer the client, and take in its answers, until it goes."""
        while header := await self._reader.readline():
            await self._reader.readline()
            message = json.loads(await self._reader.readexactly(int(header.removeprefix(b"Content-Length: "))))
            if "method" in message:
                answer = _ANSWERS.get(message["method"], {})
                self._send({"jsonrpc": "2.0", "id": message.get("id"), "result": answer})
            elif "error" in message:
                self._waiting.pop(message["id"]).set_exception(RuntimeError(message["error"]["message"]))
            else:
                self._waiting.pop(message["id"]).set_result(message.get("result"))

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


@asynccontextmanager
async def open_wire(fs: SessionFs) -> AsyncIterator[Wire]:
    """Connect an SDK client that serves session ``s1`` from *fs*, and give the runtime's end of its wire."""
    connected: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        connected.set_result(wire)
        try:
            await wire.serve()
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=2**26)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = RuntimeConnection.for_uri(f"127.0.0.1:{port}")
        client = CopilotClient(mode="empty", session_fs=fs.config, connection=connection)
        try:
            await client.create_session(
                session_id="s1", create_session_fs_handler=fs.handler, available_tools=ToolSet().add_builtin("view")
            )
            yield await connected
        finally:
            await client.force_stop()
