"""One client's connection: who it is, where each of its messages goes, and what comes back to it.

Messages about one session are passed on in order; those about another are not held up by them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

from sessionfs_s3.gateway import messages
from sessionfs_s3.gateway.attachments import Attachments
from sessionfs_s3.gateway.auth.limits import LimitExceeded
from sessionfs_s3.gateway.errors import FAILED, RpcError, as_answer, failed, not_open, unhandled
from sessionfs_s3.gateway.frames import LARGE_BYTES, FrameError, FrameStream
from sessionfs_s3.gateway.lanes import Lanes
from sessionfs_s3.gateway.messages import (
    INVALID_REQUEST,
    PARSE_ERROR,
    REQUEST_CANCELLED,
    Json,
    Malformed,
    Request,
    Response,
    encode,
    parse_of_client,
)
from sessionfs_s3.gateway.pending import Pending, PendingRequests
from sessionfs_s3.gateway.relay import Relay, Relays
from sessionfs_s3.gateway.rules.methods import (
    OPENING,
    Treatment,
    is_of_session,
    other_sessions,
    refusal,
    required_session,
    treatment,
    with_session_id,
)
from sessionfs_s3.gateway.rules.sharing import shared_params
from sessionfs_s3.gateway.runtimes import Runtime
from sessionfs_s3.volume.idle import IdleTimer

if TYPE_CHECKING:
    from sessionfs_s3.gateway.auth.tenants import Identity
    from sessionfs_s3.gateway.server import Gateway
    from sessionfs_s3.gateway.sessions import OpenSession, Tenant

_logger = logging.getLogger(__name__)

PROTOCOL_VERSION: Final = 3
"""Of the SDKs' protocol, which a runtime answers in ``ping``."""

BEHIND_BYTES_MAX: Final = 4 * 1024 * 1024
"""A client that has left so much unread is not told what it did not ask for."""


class Client:
    """A client that has been let in.

    Attributes:
        tenant: whose sessions it sees.
        identity: what its credential says.
        metrics: where what it does is counted.
    """

    def __init__(
        self,
        gateway: Gateway,
        stream: FrameStream,
        identity: Identity,
        tenant: Tenant,
        hello: Mapping[str, Json],
    ) -> None:
        """Serve the client at the other end of *stream*, which greeted with *hello*."""
        self.tenant = tenant
        self.identity = identity
        self.metrics = gateway.metrics
        self._gateway = gateway
        self._stream = stream
        self._relays = Relays(self, hello)
        self._pending = PendingRequests(self._post)
        self._attachments = Attachments(self, gateway, self._pending, self._forward)
        self._lanes = Lanes()
        self._frame_bytes = 0
        self._usage = tenant.usage
        limits = identity.limits
        stream.limit(frame_bytes_max=limits.frame_bytes_max, gate=tenant.gate)

    @property
    def confined(self) -> bool:
        """Whether it is kept from what concerns a whole runtime, where it could reach sessions that are not its own."""
        return self._gateway.shared or self.identity.sessions is not None

    def permits(self, session_id: str) -> bool:
        """Whether its credential allows it the session of this id."""
        return self.identity.allows(session_id)

    async def run(self, first: Request | None) -> None:
        """Serve it until it goes; *first* is what it has asked already."""
        idle = IdleTimer(self._gateway.options.idle_s, self._rest)
        try:
            idle.touch()
            if first is not None:
                await self.take(first)
            async for body in self._stream.bodies():
                idle.touch()
                self._frame_bytes = len(body)
                step = await self._read(body)
                if step is not None and len(body) >= LARGE_BYTES:
                    # What it takes up counts until it has been passed on, or answered.
                    await asyncio.wait([step])
                await self._lanes.settle()
        except FrameError as problem:
            _logger.info("a client is dropped: %s", problem, extra=self._extra)
        except OSError:
            pass
        finally:
            idle.cancel()
            await self._leave()

    def _rest(self) -> bool:
        """Close the connection of a client that says nothing and has nothing open; return whether that was so."""
        if any(self in session.attached for session in self.tenant.sessions.values()):
            return False
        self.drop()
        return True

    async def send(self, body: bytes) -> None:
        """Send the client a message, and wait while it is behind. Raises ConnectionError."""
        await self._stream.write(body)

    def tell(self, body: bytes) -> None:
        """Send it a message that it did not ask for, unless it is far behind."""
        if not self._stream.closed and self._stream.behind_bytes < BEHIND_BYTES_MAX:
            self._stream.post(body)
        else:
            self.metrics.unheard.inc()

    def forget(self, session_id: str) -> None:
        """Do not resume the session unasked."""
        self._attachments.forget(session_id)

    def turn_ended(self, session_id: str) -> None:
        """Hear that a turn of the session has ended."""
        self._attachments.turn_ended(session_id)

    def hears(self, runtime: Runtime) -> bool:
        """Whether it has a connection of its own to *runtime*, on which it is told what the runtime tells everybody."""
        return self._relays.are_open_to(runtime)

    def drop(self) -> None:
        """Close the connection."""
        self._stream.close()

    # What comes from runtimes.

    async def answered(self, relay: Relay, response: Response, body: bytes) -> None:
        """Pass on a runtime's answer."""
        pending = self._pending.answered_by(response.id)
        if pending is None or pending.relay is not relay:
            return  # Answered meanwhile by the gateway itself.
        if pending.number != pending.request.id:
            body = encode(Response(pending.request.id, response.body))
        self._attachments.settle(pending, response)
        if self._pending.settle(pending):
            if pending.answer is None:
                await self.send(body)
            elif not pending.answer.done():
                pending.answer.set_result(response)

    def relay_ended(self, relay: Relay) -> None:
        """Answer what waited for a connection that is lost."""
        problem = RpcError(FAILED, "the runtime ended before it answered")
        for pending in self._pending:
            if pending.relay is relay:
                self._pending.fail(pending, problem)
        for session in list(self.tenant.sessions.values()):
            if session.runtime is relay.runtime and self in session.attached:
                self._gateway.sessions.cut(session, self)

    def lose(self, session: OpenSession, problem: RpcError, *, for_good: bool) -> None:
        """Answer what waits for *session*, which is not open any more."""
        if for_good:
            self._attachments.forget(session.id)
        for pending in self._pending:
            if pending.session is session:
                self._pending.fail(pending, problem)

    # What comes from the client.

    async def _read(self, body: bytes) -> asyncio.Task[None] | None:
        try:
            message = parse_of_client(body)
        except Malformed as problem:
            self._count()
            await self.send(messages.error(problem.id, as_answer(problem)))
            return None
        if isinstance(message, Response):
            answer = self._relays.answer(message)
            if answer is None:
                self._count()
                return None
            relay, told = answer
            # In a lane of the runtime's own: one that does not read holds up its own sessions only.
            return self._lanes.enter(f"\0{relay.runtime.name}", lambda: relay.pass_on(told))
        return await self.take(message)

    async def take(self, message: Request) -> asyncio.Task[None] | None:
        """Begin to do what *message* asks; return the task that passes it on or answers it, if one does.

        Raises:
            ConnectionError: the client is gone.
        """
        self.metrics.asked(self.tenant.name, message, shared=self.confined)
        if message.method == "$/cancelRequest" and message.is_notification:
            self._count()
            self._cancel(message)
            return None
        if message.is_notification:
            self._count()
            return self._in_lane(message.session_id or "", None, lambda: self._note(message))
        if self._pending.get(message.id) is not None:
            self._count()
            problem = RpcError(INVALID_REQUEST, f"request id {message.id!r} is waiting for its answer already")
            await self.send(messages.error(None, problem))
            return None
        try:
            pending = self._pending.add(message)
        except RpcError as problem:
            self._count()
            await self.send(messages.error(message.id, problem))
            return None
        try:
            self._usage.request()
            self._route(pending)
        except (RpcError, LimitExceeded) as problem:
            self._pending.fail(pending, as_answer(problem))
        # The client is behind with its answers: it is not asked for more before it has taken them.
        await self._stream.drain()
        return pending.step or pending.lookup

    def _count(self) -> None:
        """Count a message that is not answered. Raises FrameError where there are too many: nobody can be told."""
        try:
            self._usage.request()
        except LimitExceeded as problem:
            raise FrameError(str(problem)) from None

    def _route(self, pending: Pending) -> None:
        """Begin to do what *pending* asks. Raises RpcError."""
        request = pending.request
        treated = treatment(request.method, request.params)
        if treated is Treatment.UNKNOWN:
            treated = Treatment.SESSION if request.session_id is not None else Treatment.PROCESS
        elif treated is Treatment.PROCESS and not self.confined and is_of_session(request.method, request.params):
            treated = Treatment.SESSION
        match treated:
            case Treatment.OWN:
                self._pending.reply(pending, self._own(request))
            case Treatment.ANSWER:
                pending.lookup = asyncio.create_task(self._look_up(pending))
            case Treatment.SESSION if request.method == "sessions.open":
                pending.step = self._in_lane("", pending, lambda: self._resolve(pending))
            case Treatment.SESSION:
                self._to_session(pending)
            case Treatment.PROCESS if self.confined:
                raise refusal(request.method, request.params)
            case _:
                pending.step = self._in_lane("", pending, lambda: self._to_any(pending))

    def _own(self, request: Request) -> Json:
        match request.method:
            case "ping":
                said = request.params.get("message")
                now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
                told = f"pong: {said}" if isinstance(said, str) else "pong"
                return {"message": told, "timestamp": now, "protocolVersion": PROTOCOL_VERSION}
            case "connect":
                raise RpcError(FAILED, "this connection has been let in already")
            case "sessionFs.setProvider":
                self._gateway.provider_refused(self.tenant.name)
                return {"success": True}
            case _:
                raise unhandled(request.method)

    async def _look_up(self, pending: Pending) -> None:
        request = pending.request
        try:
            async with self.tenant.lookups:
                answer = await self._gateway.catalogue(self).answer(request.method, request.params)
        except RpcError as problem:
            self._pending.fail(pending, problem)
        except Exception:
            _logger.exception("answering %s", request.method, extra=self._extra)
            self._pending.fail(pending, failed(request.method, "the gateway failed; its log says why"))
        else:
            self._pending.reply(pending, answer)

    async def _resolve(self, pending: Pending) -> None:
        """Find out which session ``sessions.open`` means, and go on with that."""
        request = pending.request
        params = await self._gateway.catalogue(self).resolved_open(request.params)
        if params is None:
            self._pending.reply(pending, {"status": "not_found"})
        else:
            pending.request = Request(request.method, params, request.id)
            self._to_session(pending)

    def _to_session(self, pending: Pending) -> None:
        params = with_session_id(pending.request.method, pending.request.params, new_id=lambda: str(uuid4()))
        pending.request = request = Request(pending.request.method, params, pending.request.id)
        named = required_session(request.method, request.params)
        for each in (named, *other_sessions(request.method, request.params)):
            if not self.permits(each):
                raise failed(request.method, f"Session not found for sessionId: {each}")
        if self.confined:
            params = cast("Mapping[str, Json]", shared_params(request.method, params))
            pending.request = Request(request.method, params, request.id)
        pending.lane = named
        pending.step = self._in_lane(named, pending, lambda: self._pass_on(pending, named))

    async def _pass_on(self, pending: Pending, session_id: str) -> None:
        """Pass *pending* on to the session's home, opening the session first where that is due."""
        request = pending.request
        session = self.tenant.sessions.get(session_id)
        if request.method in OPENING:
            pending.attached_before = session is not None and self in session.attached
            session = await self._attachments.open(session_id)
        elif self._attachments.is_cut_off(session_id):
            session = await self._attachments.resume(session_id)
        if session is None:
            if session_id in self.tenant.moved:
                raise RpcError(FAILED, self.tenant.moved[session_id])
            self._pending.reply(pending, not_open(request.method, session_id))
            return
        pending.session = session
        for other in other_sessions(request.method, request.params):
            if (found := self.tenant.sessions.get(other)) is None or found.runtime is not session.runtime:
                raise failed(request.method, f"Session not found for sessionId: {other}")
        self._attachments.begin(pending)
        await self._forward(pending, session.runtime)

    async def _to_any(self, pending: Pending) -> None:
        await self._forward(pending, self._relays.any or await self._gateway.any_runtime(self.tenant))

    async def _forward(self, pending: Pending, runtime: Runtime) -> None:
        if pending not in self._pending:
            return  # Cancelled or answered meanwhile.
        request = pending.request
        body = encode(Request(request.method, request.params, pending.number))
        if not messages.is_read_by_runtimes(body, request.params):
            raise RpcError(PARSE_ERROR, "half of a character, or nested too deep: no runtime reads it")
        pending.relay = relay = await self._relays.to(runtime)
        if request.method not in OPENING:
            # What it carries may be large, and is not needed while the answer is on its way.
            pending.request = Request(request.method, {}, request.id)
        await relay.send(body)
        self.metrics.to_runtime.observe(time.perf_counter() - pending.came_s)

    async def _note(self, notification: Request) -> None:
        """Pass on a notification about a session that is open; nobody waits for anything if it is not.

        What a request of its name could not reach as it is, it does not reach either. (1.0.102 heeds none of those.)
        """
        session = self.tenant.sessions.get(notification.session_id or "")
        treated = treatment(notification.method, notification.params)
        if treated not in (Treatment.SESSION, Treatment.UNKNOWN) or notification.method in OPENING:
            return
        try:
            if session is not None and self.permits(session.id):
                await (await self._relays.to(session.runtime)).send(encode(notification))
        except (RpcError, Malformed, OSError) as problem:
            _logger.info("a notification could not be passed on: %s", problem, extra=self._extra)

    def _cancel(self, notification: Request) -> None:
        pending = self._pending.get(notification.params.get("id"))
        if pending is None:
            return
        if pending.lookup is not None:
            # Answered here: a task that is cancelled before it has begun runs not at all.
            self._pending.fail(pending, RpcError(REQUEST_CANCELLED, "Request cancelled"))
            pending.lookup.cancel()
            return

        async def pass_on() -> None:
            if pending.relay is not None:
                params = {**notification.params, "id": pending.number}
                await pending.relay.send(encode(Request(notification.method, params, is_notification=True)))

        self._in_lane(pending.lane, None, pass_on)

    # Order, and the end.

    def _in_lane(self, lane: str, pending: Pending | None, step: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Take *step* after everything else of *lane*; if it fails, *pending* is answered with why.

        Raises:
            FrameError: too much waits that is not answered.
        """
        if pending is None and self._lanes.full:
            raise FrameError("too many messages wait to be passed on")

        async def guarded() -> None:
            try:
                await step()
            except (RpcError, LimitExceeded, Malformed) as problem:
                failure = as_answer(problem)
            except OSError:
                failure = RpcError(FAILED, "the runtime ended before it answered")
            except Exception:
                _logger.exception("passing on a message", extra=self._extra)
                failure = RpcError(FAILED, "the gateway failed; its log says why")
            else:
                return
            if pending is not None and pending in self._pending:
                self._attachments.settle(pending, Response(pending.request.id, {"error": {}}))
                self._pending.fail(pending, failure)

        return self._lanes.enter(lane, guarded, self._frame_bytes)

    def _post(self, body: bytes) -> None:
        """Send an answer of the gateway's own. It is bounded by what was asked: nobody waits for the client here."""
        if not self._stream.closed:
            self._stream.post(body)

    async def _leave(self) -> None:
        self._stream.close()
        lookups = [pending.lookup for pending in self._pending if pending.lookup is not None]
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(self._lanes.aclose(), *lookups, return_exceptions=True)
        await self._relays.aclose()
        self._attachments.forget_all()
        for session in list(self.tenant.sessions.values()):
            if self in session.attached:
                self._gateway.sessions.detach(session, self)

    @property
    def _extra(self) -> dict[str, str]:
        return {"tenant": self.tenant.name, "subject": self.identity.subject}
