"""Which sessions one client has created or resumed, and how they are resumed for it when their runtime ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

from sessionfs_s3.errors import InvalidInput, SessionFsError
from sessionfs_s3.gateway.errors import FAILED, RpcError, failed
from sessionfs_s3.gateway.messages import Json, Request, Response, dumps, params_of
from sessionfs_s3.gateway.pending import Pending, PendingRequests
from sessionfs_s3.gateway.rules.methods import OPENING
from sessionfs_s3.gateway.runtimes import Runtime

if TYPE_CHECKING:
    from sessionfs_s3.gateway.client import Client
    from sessionfs_s3.gateway.server import Gateway
    from sessionfs_s3.gateway.sessions import OpenSession

_LEAVING: Final = frozenset({"session.detach", "session.destroy"})
_TURNS: Final = frozenset({"session.send", "session.sendAndWait", "session.sendMessages"})
REMEMBERED_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much of their parameters is kept for one tenant's clients: those of the SDKs have some kilobytes."""

_REPEATABLE: Final = frozenset({"session.create", "session.resume"})
"""What opens a session with parameters that ``session.resume`` takes, too."""


@dataclass(slots=True)
class _Opened:
    """How a session was opened.

    Attributes:
        method: ``session.create`` or ``session.resume``.
        params: its parameters, as JSON.
        stored: whether something of the session may be stored.
    """

    method: str
    params: bytes
    stored: bool


class Attachments:
    """The sessions that a client has created or resumed, with the parameters that it did so with."""

    def __init__(
        self,
        client: Client,
        gateway: Gateway,
        pending: PendingRequests,
        forward: Callable[[Pending, Runtime], Awaitable[None]],
    ) -> None:
        """Attach *client* to sessions of *gateway*; *forward* passes a request on to a runtime."""
        self._client = client
        self._gateway = gateway
        self._sessions = gateway.sessions
        self._pending = pending
        self._forward = forward
        self._opened: dict[str, _Opened] = {}

    def is_cut_off(self, session_id: str) -> bool:
        """Whether the client has the session, and its runtime ended since."""
        if session_id not in self._opened:
            return False
        session = self._client.tenant.sessions.get(session_id)
        return session is None or self._client not in session.attached

    def forget(self, session_id: str) -> None:
        """Do not resume the session unasked."""
        opened = self._opened.pop(session_id, None)
        if opened is not None:
            self._client.tenant.remembered_bytes -= len(opened.params)

    def forget_all(self) -> None:
        """Forget every session: the client is gone."""
        for session_id in list(self._opened):
            self.forget(session_id)

    def _remember(self, session: OpenSession, request: Request) -> None:
        """Keep how *session* was opened, while there is room; else the client has to resume it itself."""
        self.forget(session.id)
        params = dumps(request.params)
        if self._client.tenant.remembered_bytes + len(params) <= REMEMBERED_BYTES_MAX:
            self._client.tenant.remembered_bytes += len(params)
            self._opened[session.id] = _Opened(request.method, params, stored=request.method != "session.create")

    async def open(self, session_id: str) -> OpenSession:
        """Return the session, open for the client. Raises RpcError, LimitExceeded."""
        self._check_may_begin()
        try:
            return await self._sessions.open(self._client.tenant, session_id, self._client)
        except InvalidInput as problem:
            raise RpcError(FAILED, str(problem)) from None

    async def resume(self, session_id: str) -> OpenSession:
        """Resume, on the client's behalf, a session that is cut off, as it was resumed or created before.

        Raises:
            RpcError, LimitExceeded, ConnectionError: it cannot be resumed.
        """
        opened = self._opened[session_id]
        method = "session.resume"
        if not opened.stored and await self._is_unborn(session_id):
            # No turn has ended, and nothing is there: it is as it was before it was created.
            method = opened.method
        session = await self.open(session_id)
        if session_id not in self._opened:
            # Closed, deleted or taken over meanwhile.
            self._sessions.detach(session, self._client)
            raise failed("session.resume", f"Session not found for sessionId: {session_id}")
        pending, answer = self._pending.add_own(Request(method, params_of(opened.params), f"gateway-{uuid4()}"))
        pending.session = session
        try:
            await self._forward(pending, session.runtime)
            response = await answer
        except BaseException:
            # The runtime has not been told, or has not answered: the next use begins anew.
            self._sessions.detach(session, self._client)
            raise
        finally:
            self._pending.settle(pending)
        problem = response.body.get("error")
        if problem is not None:
            told = cast("Mapping[str, Json]", problem).get("message") if isinstance(problem, Mapping) else None
            raise RpcError(FAILED, f"session {session_id} could not be resumed: {told}")
        return session

    async def _is_unborn(self, session_id: str) -> bool:
        try:
            return await self._client.tenant.fs.catalog.info(session_id) is None
        except SessionFsError:
            return False

    def turn_ended(self, session_id: str) -> None:
        """Note that a turn has ended, and is stored: the runtime waits for that."""
        if (opened := self._opened.get(session_id)) is not None:
            opened.stored = True

    def begin(self, pending: Pending) -> None:
        """Note that a turn begins, if *pending* asks for one. Raises RpcError, LimitExceeded when none may."""
        if pending.request.method in _TURNS and pending.session is not None:
            self._check_may_begin()
            pending.busy_before = pending.session.busy
            pending.session.busy = True

    def settle(self, pending: Pending, response: Response) -> None:
        """Note what a runtime's answer means for who is attached to which session."""
        session, method = pending.session, pending.request.method
        if session is None:
            return
        failed = "error" in response.body or _is_not_found(response.body.get("result"))
        if method in OPENING:
            self._settle_opening(pending, session, failed=failed)
        elif method in _TURNS:
            self._settle_turn(pending, session, failed=failed)
        elif failed:
            return
        elif method == "session.shutdown":
            # The runtime would keep a session that takes messages and does nothing.
            for client in list(session.attached):
                client.lose(session, RpcError(FAILED, f"session {session.id} was shut down"), for_good=True)
            self._sessions.close_soon(session)
        elif method in _LEAVING:
            self.forget(session.id)
            self._sessions.detach(session, self._client)

    def _settle_opening(self, pending: Pending, session: OpenSession, *, failed: bool) -> None:
        if not failed:
            session.exists = True
            if pending.request.method in _REPEATABLE and pending.answer is None:
                self._remember(session, pending.request)
        elif not pending.attached_before:
            self._sessions.detach(session, self._client)
            if not session.exists and not session.attached:
                self._sessions.close_soon(session)

    def _settle_turn(self, pending: Pending, session: OpenSession, *, failed: bool) -> None:
        if failed:
            session.busy = pending.busy_before
            return
        self._client.metrics.turns.inc()

    def _check_may_begin(self) -> None:
        """Raise RpcError when no session and no turn is to be begun now, LimitExceeded when none by this tenant."""
        if self._gateway.draining:
            raise RpcError(FAILED, "this gateway is going down: connect again, and resume the session")
        self._client.tenant.usage.check_stored()


def _is_not_found(answer: Json) -> bool:
    """Whether it is what ``sessions.open`` answers where there is no such session."""
    return isinstance(answer, Mapping) and cast("Mapping[str, Json]", answer).get("status") == "not_found"
