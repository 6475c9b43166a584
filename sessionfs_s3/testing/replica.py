"""One replica of an application, for tests and the demo: a real runtime, the SDK client on it, the session file system.

Also :class:`RecordingProvider`, which stands between the SDK and the provider and tells what was acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from copilot import (
    CopilotClient,
    CopilotSession,
    PermissionHandler,
    ProviderConfig,
    SessionEvent,
    SessionFsFileInfo,
    SessionFsProvider,
    SessionFsSqliteProvider,
    SessionFsSqliteQueryResult,
    ToolSet,
)
from copilot.rpc import (
    SessionFSReaddirWithTypesEntry,
    SessionFSSqliteQueryType,
    SessionFSSqliteTransactionStatement,
)
from copilot.session_events import AssistantMessageData, ToolExecutionCompleteData, UserMessageData

from sessionfs_s3.copilot import SessionFs, SessionProvider
from sessionfs_s3.gateway.process import RuntimeProcess
from sessionfs_s3.testing.model import MODEL_NAME
from sessionfs_s3.testing.runtime import connect_client, start_runtime

TOOLS: Final = ("create", "view", "edit", "sql")
"""The built-in tools that work in the session file system; the others would see the host's disk."""

TURN_DEADLINE_S: Final = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Served:
    """One call of the runtime that the provider has answered.

    Attributes:
        operation: the provider's method.
        path: the file, "" for SQLite; of a rename the target.
        text: what was written or appended, the SQL of a query; else "".
        error: the class of the exception that it raised, "" when it was acknowledged.
    """

    operation: str
    path: str
    text: str = ""
    error: str = ""


class RecordingProvider(SessionFsProvider, SessionFsSqliteProvider):
    """Passes every call on to the real provider, and reports each once it has been answered.

    Attributes:
        pending: how many calls have not been answered yet.
    """

    def __init__(self, inner: SessionProvider, report: Callable[[Served], None]) -> None:
        """Stand in front of *inner*."""
        self._inner = inner
        self._report = report
        self.pending = 0

    async def read_file(self, path: str) -> str:
        """See the inner provider, as for every method here."""
        return await self._passed("read_file", path, self._inner.read_file(path))

    async def read_file_bytes(self, path: str) -> bytes:
        """Exact bytes."""
        return await self._passed("read_file_bytes", path, self._inner.read_file_bytes(path))

    async def write_file(self, path: str, content: str, mode: int | None = None) -> None:
        """Text; reported with it."""
        await self._passed("write_file", path, self._inner.write_file(path, content, mode), content)

    async def write_file_bytes(self, path: str, content: bytes, mode: int | None = None) -> None:
        """Exact bytes."""
        await self._passed("write_file_bytes", path, self._inner.write_file_bytes(path, content, mode))

    async def append_file(self, path: str, content: str, mode: int | None = None) -> None:
        """Text; reported with it."""
        await self._passed("append_file", path, self._inner.append_file(path, content, mode), content)

    async def exists(self, path: str) -> bool:
        """Whether it is there."""
        return await self._passed("exists", path, self._inner.exists(path))

    async def stat(self, path: str) -> SessionFsFileInfo:
        """What is known of it."""
        return await self._passed("stat", path, self._inner.stat(path))

    async def mkdir(self, path: str, recursive: bool, mode: int | None = None) -> None:
        """A directory."""
        await self._passed("mkdir", path, self._inner.mkdir(path, recursive, mode))

    async def readdir(self, path: str) -> list[str]:
        """Names."""
        return await self._passed("readdir", path, self._inner.readdir(path))

    async def readdir_with_types(self, path: str) -> Sequence[SessionFSReaddirWithTypesEntry]:
        """Names with types."""
        return await self._passed("readdir_with_types", path, self._inner.readdir_with_types(path))

    async def rm(self, path: str, recursive: bool, force: bool) -> None:
        """Remove."""
        await self._passed("rm", path, self._inner.rm(path, recursive, force))

    async def rename(self, src: str, dest: str) -> None:
        """Move."""
        await self._passed("rename", dest, self._inner.rename(src, dest))

    async def sqlite_query(
        self,
        query_type: SessionFSSqliteQueryType,
        query: str,
        params: dict[str, float | str | None] | None = None,
    ) -> SessionFsSqliteQueryResult | None:
        """SQL; reported with it."""
        return await self._passed("sqlite_query", "", self._inner.sqlite_query(query_type, query, params), query)

    async def sqlite_transaction(
        self, statements: list[SessionFSSqliteTransactionStatement]
    ) -> list[SessionFsSqliteQueryResult]:
        """SQL statements; reported with them."""
        sql = ";\n".join(statement.query for statement in statements)
        return await self._passed("sqlite_transaction", "", self._inner.sqlite_transaction(statements), sql)

    async def sqlite_exists(self) -> bool:
        """Whether there is a database."""
        return await self._passed("sqlite_exists", "", self._inner.sqlite_exists())

    async def _passed(self, operation: str, path: str, call: Awaitable[_T], text: str = "") -> _T:
        self.pending += 1
        try:
            answer = await call
        except Exception as error:
            self.pending -= 1
            self._report(Served(operation, path, text, type(error).__name__))
            raise
        self.pending -= 1
        self._report(Served(operation, path, text))
        return answer


class Replica:
    """One runtime, the client connected to it, and the session file system that serves it.

    Attributes:
        runtime: the runtime's process.
        client: the SDK's client.
        fs: the session file system.
        served: what the provider has answered, oldest first.
        provider: the provider of the session that was created or resumed last.
        sessions: the SDK's sessions that are connected, oldest first.
    """

    def __init__(
        self,
        runtime: RuntimeProcess,
        client: CopilotClient,
        fs: SessionFs,
        model: ProviderConfig,
        on_served: Callable[[Served], None] | None,
    ) -> None:
        """Use :func:`start_replica`."""
        self.runtime = runtime
        self.client = client
        self.fs = fs
        self.served: list[Served] = []
        self.provider: RecordingProvider | None = None
        self._model = model
        self._on_served = on_served
        self.sessions: list[CopilotSession] = []
        self._providers: list[RecordingProvider] = []
        self._news = asyncio.Event()

    async def create(self, session_id: str, **options: Any) -> CopilotSession:  # noqa: ANN401  # some of the SDK's ninety
        """Create a session; *options* are the SDK's own."""
        return self._opened(await self.client.create_session(session_id=session_id, **(self._options() | options)))

    async def resume(self, session_id: str, **options: Any) -> CopilotSession:  # noqa: ANN401  # some of the SDK's ninety
        """Resume a session; *options* are the SDK's own."""
        return self._opened(await self.client.resume_session(session_id, **(self._options() | options)))

    async def until(self, seen: Callable[[list[Served]], bool], *, deadline_s: float = TURN_DEADLINE_S) -> None:
        """Wait until *seen* holds of what has been served. Raises TimeoutError when that takes too long."""
        async with asyncio.timeout(deadline_s):
            while not seen(self.served):
                self._news.clear()
                await self._news.wait()

    async def settle(self) -> None:
        """Wait until every call that has come in has been answered."""
        await self.until(lambda _: not any(provider.pending for provider in self._providers))

    async def disconnect(self) -> None:
        """Disconnect every session that is still connected: the runtime appends its end, and forgets it."""
        while self.sessions:
            await self.sessions.pop().disconnect()

    def _opened(self, session: CopilotSession) -> CopilotSession:
        self.sessions.append(session)
        return session

    def _handler(self, session: CopilotSession) -> RecordingProvider:
        self.provider = RecordingProvider(self.fs.handler(session), self._record)
        self._providers.append(self.provider)
        return self.provider

    def _record(self, served: Served) -> None:
        self.served.append(served)
        self._news.set()
        if self._on_served is not None:
            self._on_served(served)

    def _options(self) -> dict[str, Any]:
        return {
            "model": MODEL_NAME,
            "provider": self._model,
            "available_tools": ToolSet().add_builtin(TOOLS).add_custom("*"),
            "on_permission_request": PermissionHandler.approve_all,
            "create_session_fs_handler": self._handler,
        }


@asynccontextmanager
async def start_replica(
    executable: Path,
    fs: SessionFs,
    model: ProviderConfig,
    *,
    debounce_ms: int | None = None,
    on_served: Callable[[Served], None] | None = None,
) -> AsyncGenerator[Replica]:
    """Start a runtime with an empty home and connect *fs* to it.

    At the end the runtime is killed: disconnect a session before, if that is to be recorded in it.

    Args:
        executable: the runtime, from ``find_runtime``.
        fs: an open session file system.
        model: the provider of the language model for its sessions.
        debounce_ms: see ``start_runtime``.
        on_served: told of every call that the provider has answered.
    """
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(start_runtime(executable, debounce_ms=debounce_ms))
        client = await stack.enter_async_context(connect_client(runtime, fs.config))
        yield Replica(runtime, client, fs, model, on_served)


async def ask(session: CopilotSession, prompt: str, *, deadline_s: float = TURN_DEADLINE_S) -> str:
    """Hold one turn and return what the assistant says at its end.

    Raises:
        TimeoutError: the turn does not end.
        Exception: the runtime reports an error of the session; the SDK raises no class of its own.
    """
    event = await session.send_and_wait(prompt, timeout=deadline_s)
    return event.data.content if event is not None and isinstance(event.data, AssistantMessageData) else ""


def appended(served: Sequence[Served], path: str) -> str:
    """Return everything whose append to *path* was acknowledged, in order."""
    appends = (each for each in served if each.operation == "append_file" and each.path == path)
    return "".join(each.text for each in appends if not each.error)


def failed_tools(events: Sequence[SessionEvent]) -> list[str]:
    """Return what the tool calls in *events* that failed have said."""
    ends = (each.data for each in events if isinstance(each.data, ToolExecutionCompleteData))
    return [end.error.message if end.error is not None else "no reason" for end in ends if not end.success]


def said(events: Sequence[SessionEvent]) -> list[str]:
    """Return the words of the user and of the assistant in *events*, in order; tool calls say nothing."""
    words = [each.data.content for each in events if isinstance(each.data, UserMessageData | AssistantMessageData)]
    return [each for each in words if each]
