"""What a plain client of the Copilot SDK is asked to do, the same in every language: see ``sdk_clients`` for two."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

DEADLINE_S: Final = 30.0
"""How long one operation may take: a turn on a scripted model takes well under a second."""

TOOLS: Final = ("create", "view", "edit", "ask_user")
"""The built-in tools that a session gets unless a test says otherwise, beside the clients' own ``lookup``."""

Record: TypeAlias = dict[str, Any]
"""A JSON object in the SDK's own form: an event, a list's row, what a client was asked."""


class SdkFailure(RuntimeError):
    """The SDK raised; or it did not answer in time, or the process that runs it ended. The message says which.

    Attributes:
        code: the JSON-RPC error code, where an error answer was the reason.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        """Carry what the SDK said."""
        super().__init__(message)
        self.code = code


class SdkClient(abc.ABC):
    """One client and its connection. Every method raises SdkFailure, and takes at most :data:`DEADLINE_S`.

    Its sessions have the tool ``lookup``, which answers ``"<language> knows <key>"``; it approves every permission and
    answers every question of ``ask_user`` with ``"<language> says: <question>"``.

    Attributes:
        language: ``python`` or ``node``.
    """

    language: str

    @abc.abstractmethod
    async def call(self, operation: str, **arguments: object) -> Any:  # noqa: ANN401  # each operation has its own
        """Run the operation of that name, with arguments and a result that JSON can hold."""

    @abc.abstractmethod
    async def drop(self) -> None:
        """Vanish: the connection breaks, and no session is told. Doing so again does nothing."""

    async def start(self) -> None:
        """Connect."""
        await self.call("start")

    async def create(self, session_id: str, *, tools: Sequence[str] = TOOLS) -> None:
        """Create a session with those built-in tools."""
        await self.call("create", sessionId=session_id, tools=list(tools))

    async def resume(self, session_id: str, *, tools: Sequence[str] = TOOLS) -> None:
        """Resume a session with those built-in tools."""
        await self.call("resume", sessionId=session_id, tools=list(tools))

    async def send(self, session_id: str, prompt: str) -> str:
        """Hold a turn and return the assistant's last message; a ``session.error`` raises."""
        said: str = await self.call("send", sessionId=session_id, prompt=prompt)
        return said

    async def events(self, session_id: str) -> list[Record]:
        """Return the session's events since this client created or resumed it last, oldest first."""
        return await self._records("events", sessionId=session_id)

    async def history(self, session_id: str) -> list[Record]:
        """Return all the session's events, as the server tells them."""
        return await self._records("history", sessionId=session_id)

    async def disconnect(self, session_id: str) -> None:
        """Let go of a session."""
        await self.call("disconnect", sessionId=session_id)

    async def list_sessions(self) -> list[Record]:
        """Return a row per session: ``sessionId``, ``startTime``, ``modifiedTime``, ``isRemote``, ``summary``, more."""
        return await self._records("list")

    async def last_id(self) -> str | None:
        """Return the id of the session that was changed last."""
        last: str | None = await self.call("lastId")
        return last

    async def metadata(self, session_id: str) -> Record | None:
        """Return a session's row, as of the list; None where there is no such session."""
        row: Record | None = await self.call("metadata", sessionId=session_id)
        return row

    async def delete(self, session_id: str) -> None:
        """Delete a session."""
        await self.call("delete", sessionId=session_id)

    async def fork(self, session_id: str, *, to_event_id: str | None = None, name: str | None = None) -> str:
        """Fork a session, at its end or before an event, and return the new one's id; it is not connected."""
        forked: str = await self.call("fork", sessionId=session_id, toEventId=to_event_id, name=name)
        return forked

    async def lifecycle(self) -> list[Record]:
        """Return the lifecycle notifications so far: ``type`` and ``sessionId``, oldest first."""
        return await self._records("lifecycle")

    async def asked(self) -> list[Record]:
        """Return what the client was asked, oldest first.

        Each has a ``sessionId``, a ``kind`` (``permission``, ``tool`` or ``user input``) and a ``detail``: the kind of
        the permission, the key looked up, the question.
        """
        return await self._records("asked")

    async def stop(self) -> None:
        """Disconnect every session, then the client."""
        await self.call("stop")

    async def _records(self, operation: str, **arguments: object) -> list[Record]:
        records: list[Record] = await self.call(operation, **arguments)
        return records
