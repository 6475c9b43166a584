"""Which session is open where: the table that decides whose store answers a runtime, and who hears what.

A session is open while a client is attached to it, on the one runtime that is its home. When the last one has left, the
runtime writes what it still has; then the store is flushed and the session let go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from sessionfs_s3.copilot import SessionFs
from sessionfs_s3.errors import Fenced, SessionFsError
from sessionfs_s3.gateway.auth.limits import TenantUsage
from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.link import ANSWER_DEADLINE_S
from sessionfs_s3.gateway.messages import Json, Request, encode
from sessionfs_s3.gateway.metrics import Metrics
from sessionfs_s3.gateway.provider import handlers_for
from sessionfs_s3.gateway.runtimes import Runtime
from sessionfs_s3.volume.gate import ByteGate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

LINGER_S: Final = 3.0
"""How long a session stays open after its last client has left: a runtime whose client went without a word writes its
last events 50 ms later, and a client that comes back finds it as it was."""

LARGE_FRAMES_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much the large frames of one tenant's clients may hold side by side: as much as the largest one."""

LOOKUPS_MAX: Final = 8
"""Catalogue calls of one tenant that are answered side by side: its own turns and others' go to the same store."""

REMEMBERED_MAX: Final = 10_000
"""Of how many sessions of a tenant that are not open any more something is remembered."""


class Attached(Protocol):
    """A client, as a session sees it."""

    def permits(self, session_id: str) -> bool:
        """Whether it may know of the session."""
        ...

    def forget(self, session_id: str) -> None:
        """Do not resume the session unasked."""
        ...

    def hears(self, runtime: Runtime) -> bool:
        """Whether it has a connection of its own to *runtime*, and is told on that what the runtime tells everybody."""
        ...

    def tell(self, body: bytes) -> None:
        """Send a message, unless the client is too far behind."""
        ...

    def lose(self, session: OpenSession, problem: RpcError, *, for_good: bool) -> None:
        """Answer what waits for *session*, which is not open any more; *for_good*: it is not to be resumed unasked."""
        ...


class OpenSession:
    """One tenant's session on one runtime.

    Attributes:
        id: its id.
        tenant: whose it is.
        runtime: its home.
        attached: the clients that created or resumed it, in the order in which they came.
        provider: what answers its runtime.
        handlers: the SDK's handlers over that.
        busy: whether a turn is running.
        exists: whether the runtime has opened it: nobody is told of one that could not be resumed.
        quiet: set while none of the runtime's file requests is being answered.
        gone: done when the session has been let go.
    """

    def __init__(self, session_id: str, tenant: Tenant, runtime: Runtime) -> None:
        """Open the session in the store, too: in the background, so that it is loaded when the runtime asks."""
        self.id = session_id
        self.tenant = tenant
        self.runtime = runtime
        self.attached: dict[Attached, None] = {}
        self.busy = False
        self.exists = False
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._asked = 0
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.provider = tenant.fs.provider(session_id)
        self.handlers = handlers_for(self.provider)
        self._lingering: asyncio.TimerHandle | None = None

    def is_watched_by(self, client: Attached) -> bool:
        """Whether it is what *client* hears that tells whether a turn is running: others hear it sooner or later."""
        return next(iter(self.attached), None) is client

    @contextmanager
    def answering(self) -> Generator[None]:
        """Count a file request of the runtime for as long as it is being answered."""
        self._asked += 1
        self.quiet.clear()
        try:
            yield
        finally:
            self._asked -= 1
            if not self._asked:
                self.quiet.set()

    def linger(self, after_s: float, then: Callable[[], None]) -> None:
        """Call *then* in *after_s* seconds."""
        self.stay()
        self._lingering = asyncio.get_running_loop().call_later(after_s, then)

    @property
    def lingers(self) -> bool:
        """Whether it is about to be closed."""
        return self._lingering is not None

    def stay(self) -> None:
        """Linger no more."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None


@dataclass(eq=False)
class Tenant:
    """What is open of one tenant.

    Attributes:
        name: the tenant.
        fs: its sessions in the store.
        usage: what it uses up.
        sessions: those that are open here, by id.
        leaving: those that are being let go, by id.
        clients: its connections.
        moved: why sessions that were taken over are not open here any more.
        epochs: in which epoch this gateway wrote last to sessions that were open here.
        gate: what the large frames of its clients share.
        lookups: what its catalogue calls share: each may be thousands of requests to the store.
        remembered_bytes: what is kept to resume its sessions unasked.
    """

    name: str
    fs: SessionFs
    usage: TenantUsage
    sessions: dict[str, OpenSession] = field(default_factory=dict[str, OpenSession])
    leaving: dict[str, OpenSession] = field(default_factory=dict[str, OpenSession])
    clients: set[Attached] = field(default_factory=set[Attached])
    moved: OrderedDict[str, str] = field(default_factory=OrderedDict[str, str])
    epochs: OrderedDict[str, int] = field(default_factory=OrderedDict[str, int])
    gate: ByteGate = field(default_factory=lambda: ByteGate(LARGE_FRAMES_BYTES_MAX))
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKUPS_MAX))
    remembered_bytes: int = 0

    @property
    def idle(self) -> bool:
        """Whether nothing of it is in use."""
        return not (self.sessions or self.leaving or self.clients)

    def tell(self, body: bytes, session_id: str, *, heard_from: Runtime | None = None) -> None:
        """Send *body*, about *session_id*, to all of its clients that may know of it and do not hear *heard_from*."""
        for client in list(self.clients):
            if client.permits(session_id) and (heard_from is None or not client.hears(heard_from)):
                client.tell(body)


class Sessions:
    """Every session that is open on this gateway."""

    def __init__(self, place: Callable[[Tenant, str], Awaitable[Runtime]], metrics: Metrics | None = None) -> None:
        """Open sessions where *place* says, and count them in *metrics*."""
        self._place = place
        self._metrics = metrics or Metrics()
        self._tasks: set[asyncio.Task[None]] = set()
        self._placing: WeakValueDictionary[tuple[Tenant, str], asyncio.Lock] = WeakValueDictionary()

    async def open(self, tenant: Tenant, session_id: str, client: Attached) -> OpenSession:
        """Return the session, open for *client*: at its home, or on a runtime that is chosen now.

        Raises:
            RpcError: there is no runtime for it.
            LimitExceeded: the tenant has as many open as it may.
            InvalidInput: no session can have this id.
        """
        # Two clients may ask at once, and one runtime is its home.
        async with self._placing.setdefault((tenant, session_id), asyncio.Lock()):
            session = await self._at_home(tenant, session_id, client)
            if session is None:
                with tenant.usage.opening(session_id):
                    runtime = await self._place(tenant, session_id)
                    session = OpenSession(session_id, tenant, runtime)
                runtime.sessions[session_id] = tenant.sessions[session_id] = session
                tenant.moved.pop(session_id, None)
                self._metrics.opened(tenant.name)
                _logger.info("a session is opened", extra=_extra(session))
            session.attached[client] = None
            return session

    async def _at_home(self, tenant: Tenant, session_id: str, client: Attached) -> OpenSession | None:
        """Return the session if it is open and may be used as it is, with *client* attached; None: none is open."""
        while True:
            while leaving := tenant.leaving.get(session_id):
                await asyncio.shield(leaving.gone)
            session = tenant.sessions.get(session_id)
            if session is None:
                return None
            lingered = session.lingers
            if lingered:
                tenant.usage.open_session(session_id)
            session.stay()
            session.attached[client] = None
            if not session.runtime.alive or (lingered and not await session.provider.still_owned()):
                # Its runtime may still be at what it began before somebody else went on with the session. If that
                # is ended first, a claim that is made now cannot vouch for what it read then.
                await self.close(session)
            # It may have been closed, or lost, while the store was asked.
            if tenant.sessions.get(session_id) is session:
                return session

    def detach(self, session: OpenSession, client: Attached) -> None:
        """Let *client* go; when it was the last one, the session lingers, and is closed."""
        session.attached.pop(client, None)
        if not session.attached and session.tenant.sessions.get(session.id) is session:
            session.tenant.usage.close_session(session.id)
            session.linger(LINGER_S, lambda: self._spawn(self._close_if_left(session)))

    def close_soon(self, session: OpenSession) -> None:
        """Close *session* in the background."""
        self._spawn(self.close(session))

    def cut(self, session: OpenSession, client: Attached) -> None:
        """Let *client* go, whose own connection to the runtime is lost; it hears of a turn that goes on without it."""
        if session.busy:
            client.tell(session_error(session.id, _ended(session)))
        self.detach(session, client)

    async def _close_if_left(self, session: OpenSession) -> None:
        # Whoever comes back at this very moment comes before this task begins.
        if not session.attached:
            await self.close(session)

    async def close(self, session: OpenSession) -> None:
        """Make the runtime write what it still has and drop the session; store everything and let it go."""
        if session.tenant.sessions.get(session.id) is session:
            session.stay()
            del session.tenant.sessions[session.id]
            session.tenant.leaving[session.id] = session
            # Of its own: whoever waits here may be given up, and a session that is half let go would stay so for ever.
            self._spawn(self._leave(session))
        if session.tenant.leaving.get(session.id) is session:
            await asyncio.shield(session.gone)

    def lost(self, session: OpenSession, failure: SessionFsError) -> None:
        """Drop a session that this gateway cannot write to any more, and tell its clients why."""
        tenant = session.tenant
        if tenant.sessions.get(session.id) is not session:
            return
        session.stay()
        del tenant.sessions[session.id]
        tenant.leaving[session.id] = session
        moved = isinstance(failure, Fenced)
        told = (
            f"session {session.id} was taken over by another replica and is not open here any more; resume it to bring "
            f"it back ({failure.strerror})"
            if moved
            else f"session {session.id} cannot be stored any more; resume it to go on with what is stored"
        )
        _logger.warning("%s: %s", told, failure.strerror, extra=_extra(session))
        self._metrics.lost(failure)
        _remember(tenant.moved, session.id, told)
        self._tell_error(session, told)
        for client in list(session.attached):
            client.lose(session, RpcError(FAILED, told), for_good=True)
        self._spawn(self._leave(session))

    def runtime_ended(self, runtime: Runtime) -> None:
        """Let go of the sessions of a runtime that is no more; they are resumed elsewhere when they are used."""
        for session in list(runtime.sessions.values()):
            tenant = session.tenant
            if tenant.sessions.get(session.id) is not session:
                continue
            session.stay()
            del tenant.sessions[session.id]
            tenant.leaving[session.id] = session
            told = _ended(session)
            self._metrics.lost(None)
            _logger.warning("its runtime ended", extra=_extra(session))
            if session.busy:
                self._metrics.turns_lost.inc()
                self._tell_error(session, told)
            for client in list(session.attached):
                client.lose(session, RpcError(FAILED, told), for_good=False)
            self._spawn(self._leave(session))

    async def aclose(self) -> None:
        """Wait until everything that is being let go is gone."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _leave(self, session: OpenSession) -> None:
        session.tenant.usage.close_session(session.id)
        _remember(session.tenant.epochs, session.id, session.provider.epoch)
        dropped = await self._dropped(session)
        try:
            await session.quiet.wait()
            await session.tenant.fs.release(session.id)
        except SessionFsError as problem:
            # Nobody is left to be told: what was acknowledged as stored is stored.
            _logger.warning("letting session %s go: %s", session.id, problem, extra=_extra(session))
        finally:
            if dropped or not session.runtime.alive:
                # Otherwise the runtime may still write what it holds of the session: nobody's comes to lie there again.
                session.runtime.sessions.pop(session.id, None)
            session.tenant.leaving.pop(session.id, None)
            session.gone.set_result(None)
            _logger.info("a session is closed", extra=_extra(session))

    async def _dropped(self, session: OpenSession) -> bool:
        """Make the runtime write what it still has and drop the session; return whether it said that it has."""
        if not session.runtime.alive:
            return False
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                await session.runtime.request("sessions.close", {"sessionId": session.id})
        except (RpcError, OSError, TimeoutError) as problem:
            _logger.warning("closing session %s: %s", session.id, problem, extra=_extra(session))
            return False
        return True

    def _tell_error(self, session: OpenSession, message: str) -> None:
        event = session_error(session.id, message)
        for client in list(session.attached):
            client.tell(event)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def session_error(session_id: str, message: str) -> bytes:
    """Return the notification by which a client hears that *session_id* failed, an event as the runtime makes them."""
    event: Mapping[str, Json] = {
        "type": "session.error",
        "data": {"errorType": "persistence", "message": message},
        "id": str(uuid4()),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "parentId": None,
        "ephemeral": True,
    }
    return encode(Request("session.event", {"sessionId": session_id, "event": event}, is_notification=True))


def _remember(kept: OrderedDict[str, _T], session_id: str, what: _T) -> None:
    kept[session_id] = what
    while len(kept) > REMEMBERED_MAX:
        kept.popitem(last=False)


def _ended(session: OpenSession) -> str:
    turn = ", and its running turn is lost" if session.busy else ""
    return f"the runtime of session {session.id} ended; the session goes on from what is stored{turn}"


def _extra(session: OpenSession) -> dict[str, str]:
    return {"tenant": session.tenant.name, "session": session.id, "runtime": session.runtime.name}
