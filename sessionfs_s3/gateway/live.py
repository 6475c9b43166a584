"""What the catalogue's answers have to know of the sessions that are open right now."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.messages import Request, encode
from sessionfs_s3.gateway.rules.to_clients import deleted_notice
from sessionfs_s3.gateway.sessions import Sessions, Tenant


class LiveView:
    """One client's view of its tenant's open sessions."""

    def __init__(self, sessions: Sessions, tenant: Tenant, permits: Callable[[str], bool]) -> None:
        """Show of *tenant* what *permits* allows."""
        self._sessions = sessions
        self._tenant = tenant
        self._permits = permits

    def open_here(self) -> Collection[str]:
        """Return the ids of the sessions that are open on this gateway."""
        opened = self._tenant.sessions.items()
        return [session_id for session_id, session in opened if session.exists and self._permits(session_id)]

    def epoch(self, session_id: str) -> int:
        """Return the epoch in which this gateway wrote last to a session that was open here; 0 where none is known."""
        return self._tenant.epochs.get(session_id, 0)

    async def close(self, session_id: str) -> None:
        """Make the runtime drop a session, store everything, and let no client resume it unasked."""
        session = self._tenant.sessions.get(session_id)
        if session is not None:
            problem = RpcError(FAILED, f"session {session_id} was closed")
            for client in list(session.attached):
                client.lose(session, problem, for_good=True)
            await self._sessions.close(session)

    def deleted(self, session_id: str) -> None:
        """Tell the tenant's clients that a session is no more."""
        for client in list(self._tenant.clients):
            client.forget(session_id)
        notice = Request("session.lifecycle", deleted_notice(session_id), is_notification=True)
        self._tenant.tell(encode(notice), session_id)

    def permits(self, session_id: str) -> bool:
        """Whether the client may know of the session."""
        return self._permits(session_id)
