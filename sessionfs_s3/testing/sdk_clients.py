"""Plain clients of the Copilot SDK, in Python and in Node, driven alike: what a user has who knows of no session store.

The Python client runs here; the Node client is a child process (``node_client.mjs``) spoken to in JSON lines, with the
npm package of the SDK fetched into the cache directory. Both connect by TCP to whatever speaks the runtime's protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from copilot import (
    CopilotClient,
    CopilotSession,
    PermissionHandler,
    PermissionRequestResult,
    ProviderConfig,
    RuntimeConnection,
    SessionEvent,
    Tool,
    ToolInvocation,
    ToolResult,
    ToolSet,
    UserInputRequest,
)
from copilot.rpc import SessionsForkRequest
from copilot.session import PermissionInvocation, UserInputResponse
from copilot.session_events import AssistantMessageData, PermissionRequest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.testing.fetched import npm_program
from sessionfs_s3.testing.model import MODEL_NAME
from sessionfs_s3.testing.sdk_client import DEADLINE_S, Record, SdkClient, SdkFailure

NODE_SDK: Final = ("@github/copilot-sdk", "1.0.14", "dist/index.js")
"""The npm package, its version and its module: the newest release on npm on 2026-11-21, tried with runtime 1.0.102."""

_LOOKUP_PARAMETERS: Final = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
_LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_STDERR_LINES_MAX: Final = 50
_SCRIPT: Final = Path(__file__).with_name("node_client.mjs")


class PythonClient(SdkClient):
    """A client of the Python SDK, in this process."""

    language = "python"

    def __init__(self, host: str, port: int, token: str | None, provider: ProviderConfig) -> None:
        """Arguments as for :func:`python_client`; connects nothing yet."""
        connection = RuntimeConnection.for_uri(f"{host}:{port}", connection_token=token)
        self._client = CopilotClient(mode="empty", connection=connection)
        self._provider = provider
        self._sessions: dict[str, CopilotSession] = {}
        self._events: dict[str, list[SessionEvent]] = {}
        self._lifecycle: list[Record] = []
        self._asked: list[Record] = []
        self._client.on_lifecycle(
            lambda event: self._lifecycle.append({"type": event.type, "sessionId": event.session_id})
        )

    async def call(self, operation: str, **arguments: Any) -> Any:  # noqa: ANN401  # see SdkClient
        """Run an operation; see :class:`SdkClient`."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._run(operation, arguments)
        except TimeoutError:
            raise SdkFailure(f"python: {operation} took longer than {DEADLINE_S:g} s") from None
        except Exception as error:
            raise SdkFailure(str(error), getattr(error, "code", None)) from error

    async def drop(self) -> None:
        """Break the connection."""
        await self._client.force_stop()
        self._sessions.clear()

    async def _run(self, operation: str, arguments: Record) -> object:
        match operation, arguments:
            case "start", _:
                await self._client.start()
            case "create", {"sessionId": session_id, "tools": tools}:
                options = self._options(session_id, tools)
                self._sessions[session_id] = await self._client.create_session(session_id=session_id, **options)
            case "resume", {"sessionId": session_id, "tools": tools}:
                options = self._options(session_id, tools)
                self._sessions[session_id] = await self._client.resume_session(session_id, **options)
            case "send", {"sessionId": session_id, "prompt": prompt}:
                return _text(await self._session(session_id).send_and_wait(prompt, timeout=DEADLINE_S))
            case "events", {"sessionId": session_id}:
                return [_record(event) for event in self._events.get(session_id, [])]
            case "history", {"sessionId": session_id}:
                return [_record(event) for event in await self._session(session_id).get_events()]
            case "disconnect", {"sessionId": session_id}:
                await self._session(session_id).disconnect()
                del self._sessions[session_id]
            case "delete", {"sessionId": session_id}:
                await self._client.delete_session(session_id)
                self._sessions.pop(session_id, None)
            case "stop", _:
                self._sessions.clear()
                await self._client.stop()
            case _:
                return await self._told(operation, arguments)
        return None

    async def _told(self, operation: str, arguments: Record) -> object:
        """Run one of the operations that only ask."""
        match operation, arguments:
            case "list", _:
                return [_record(row) for row in await self._client.list_sessions()]
            case "lastId", _:
                return await self._client.get_last_session_id()
            case "metadata", {"sessionId": session_id}:
                row = await self._client.get_session_metadata(session_id)
                return _record(row) if row is not None else None
            case "fork", {"sessionId": session_id, "toEventId": to_event_id, "name": name}:
                request = SessionsForkRequest(session_id=session_id, to_event_id=to_event_id, name=name)
                return (await self._client.rpc.sessions.fork(request)).session_id
            case "lifecycle", _:
                return list(self._lifecycle)
            case "asked", _:
                return list(self._asked)
            case _:
                raise InvalidInput("operation", operation, f"there is none of that name with {sorted(arguments)}")

    def _session(self, session_id: str) -> CopilotSession:
        if session_id not in self._sessions:
            raise InvalidInput("session", session_id, "it is not connected on this client")
        return self._sessions[session_id]

    def _options(self, session_id: str, tools: Sequence[str]) -> Record:
        events = self._events[session_id] = list[SessionEvent]()
        return {
            "model": MODEL_NAME,
            "provider": self._provider,
            "available_tools": ToolSet().add_builtin(tools).add_custom("*"),
            "tools": [Tool("lookup", "Looks up the value of a key.", self._look_up, _LOOKUP_PARAMETERS)],
            "on_permission_request": self._permit,
            "on_user_input_request": self._say,
            "on_event": events.append,
        }

    def _look_up(self, call: ToolInvocation) -> ToolResult:
        key = call.arguments["key"]
        self._asked.append({"sessionId": call.session_id, "kind": "tool", "detail": key})
        return ToolResult(f"python knows {key}")

    def _permit(self, request: PermissionRequest, invocation: PermissionInvocation) -> PermissionRequestResult:
        self._asked.append({"sessionId": invocation["session_id"], "kind": "permission", "detail": request.kind})
        return PermissionHandler.approve_all(request, invocation)

    def _say(self, request: UserInputRequest, invocation: dict[str, str]) -> UserInputResponse:
        question = request.get("question", "")
        self._asked.append({"sessionId": invocation["session_id"], "kind": "user input", "detail": question})
        return {"answer": f"python says: {question}", "wasFreeform": True}


def _record(told: Any) -> Record:  # noqa: ANN401  # the SDK says of none of its to_dict what the dict holds
    record: Record = told.to_dict()
    return record


def _text(event: SessionEvent | None) -> str:
    return event.data.content if event is not None and isinstance(event.data, AssistantMessageData) else ""


class NodeClient(SdkClient):
    """A client of the Node SDK, in a process of its own."""

    language = "node"

    def __init__(self, process: asyncio.subprocess.Process, settings: Record) -> None:
        """Use :func:`node_client`."""
        self._process = process
        self._settings = settings
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES_MAX)
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The process id, for a test that stops or kills it."""
        return self._process.pid

    async def call(self, operation: str, **arguments: Any) -> Any:  # noqa: ANN401  # see SdkClient
        """Run an operation; see :class:`SdkClient`."""
        if self._reading.done():
            raise SdkFailure(self._ended())
        number = next(self._ids)
        given = self._settings if operation == "start" else arguments
        request = {"id": number, "op": operation, "args": given, "deadline_s": DEADLINE_S}
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        try:
            async with asyncio.timeout(DEADLINE_S):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                with contextlib.suppress(ConnectionError):  # it has ended: the reader will say so
                    await self._process.stdin.drain()
                return await answer
        except TimeoutError:
            raise SdkFailure(f"node: {operation} took longer than {DEADLINE_S:g} s; it said: {self._said()}") from None
        finally:
            del self._waiting[number]

    async def drop(self) -> None:
        """Kill the process, and wait until it is gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._reading

    async def _read(self) -> None:
        """Take in the answers until the process has ended, then fail whoever still waits."""
        assert self._process.stdout is not None
        complaining = asyncio.create_task(self._read_stderr())
        try:
            async for line in self._process.stdout:
                self._answered(json.loads(line))
        except ValueError as error:  # no JSON, or a line without end
            self._stderr.append(f"on stdout, what is no answer: {error}")
            self._process.kill()
        await complaining
        await self._process.wait()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SdkFailure(self._ended()))

    def _answered(self, message: Record) -> None:
        answer = self._waiting.get(message["id"])
        if answer is None or answer.done():
            return  # nobody waits any more
        if "error" in message:
            answer.set_exception(SdkFailure(message["error"]["message"], message["error"]["code"]))
        else:
            answer.set_result(message["result"])

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._stderr.append(line.decode(errors="replace"))

    def _ended(self) -> str:
        return f"node ended with status {self._process.returncode}; it said: {self._said()}"

    def _said(self) -> str:
        return "".join(self._stderr) or "nothing"


class ClientOf(Protocol):
    """How to get a client of either language: :func:`python_client` and :func:`node_client`."""

    def __call__(
        self, host: str, port: int, token: str | None, provider: ProviderConfig
    ) -> AbstractAsyncContextManager[SdkClient]:
        """Connect a client for as long as the block lasts."""
        ...


@asynccontextmanager
async def python_client(
    host: str, port: int, token: str | None, provider: ProviderConfig
) -> AsyncGenerator[PythonClient]:
    """Connect a client of the Python SDK, in this process; at the end its connection is broken, if it still stands.

    Args:
        host: where the server listens.
        port: its port.
        token: the connection token, None to send none.
        provider: the provider of the language model for its sessions.
    """
    client = PythonClient(host, port, token, provider)
    try:
        await client.start()
        yield client
    finally:
        await client.drop()


@asynccontextmanager
async def node_client(host: str, port: int, token: str | None, provider: ProviderConfig) -> AsyncGenerator[NodeClient]:
    """Connect a client of the Node SDK, in a process of its own; at the end it is killed, if it still runs, and reaped.

    Arguments as for :func:`python_client`. Blocks for some seconds where the SDK has not been fetched yet.

    Raises:
        ServerUnavailable: there is no Node.js here, or npm cannot bring the SDK.
    """
    node, module = fetch_node_sdk()
    process = await asyncio.create_subprocess_exec(
        node,
        str(_SCRIPT),
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        limit=_LINE_BYTES_MAX,
    )
    in_node = {re.sub("_(.)", lambda match: match[1].upper(), key): value for key, value in provider.items()}
    settings = {"url": f"{host}:{port}", "token": token, "provider": in_node, "model": MODEL_NAME}
    client = NodeClient(process, settings)
    try:
        await client.start()
        yield client
    finally:
        await asyncio.shield(client.drop())


CLIENTS: Final[Mapping[str, ClientOf]] = {"python": python_client, "node": node_client}
"""How to get a client, by language."""


def fetch_node_sdk() -> list[str]:
    """Return the paths of Node.js and of the Node SDK's module, fetching the SDK by npm where it is missing. Blocks.

    Raises:
        ServerUnavailable: there is no Node.js here, or npm cannot bring the SDK.
    """
    return npm_program(*NODE_SDK)
