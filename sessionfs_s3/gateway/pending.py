"""The requests of one client that are not answered yet: each is answered once, by whoever is first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from sessionfs_s3.gateway import messages
from sessionfs_s3.gateway.auth.limits import LimitExceeded
from sessionfs_s3.gateway.errors import RpcError, as_answer
from sessionfs_s3.gateway.messages import Id, Json, Malformed, Request, Response, is_id_of_runtimes

if TYPE_CHECKING:
    from sessionfs_s3.gateway.relay import Relay
    from sessionfs_s3.gateway.sessions import OpenSession

PENDING_MAX: Final = 256
"""Requests of one client that wait for their answers; the SDKs have a handful. More are refused."""


@dataclass(slots=True, eq=False)
class Pending:
    """A request that is not answered yet.

    Attributes:
        request: what was asked.
        number: the id under which runtimes know it: the client's own, unless they do not take that for one.
        lane: where its order is kept, "" for what is about no session.
        step: the task that passes it on.
        lookup: the task that answers it from the store.
        relay: where its answer comes from.
        session: the session that it is about.
        attached_before: whether the client was attached to that before.
        busy_before: whether a turn of that was running before.
        answer: for a request of the gateway's own, its answer.
        came_s: when it came, by ``time.perf_counter``.
    """

    request: Request
    number: Id
    lane: str = ""
    step: asyncio.Task[None] | None = None
    lookup: asyncio.Task[None] | None = None
    relay: Relay | None = None
    session: OpenSession | None = None
    attached_before: bool = False
    busy_before: bool = False
    answer: asyncio.Future[Response] | None = None
    came_s: float = field(default_factory=time.perf_counter)


class PendingRequests:
    """The requests that wait, by id."""

    def __init__(self, post: Callable[[bytes], None]) -> None:
        """Send answers with *post*."""
        self._post = post
        self._waiting: dict[Id, Pending] = {}
        self._by_number: dict[Id, Pending] = {}

    def __iter__(self) -> Iterator[Pending]:
        """Return those that wait now."""
        return iter(list(self._waiting.values()))

    def __contains__(self, pending: Pending) -> bool:
        """Whether *pending* still waits."""
        return self._waiting.get(pending.request.id) is pending

    def get(self, number: Json) -> Pending | None:
        """Return the request of this id, None where none waits."""
        return self._waiting.get(number) if isinstance(number, (str, int, float)) else None

    def answered_by(self, number: Id) -> Pending | None:
        """Return the request that runtimes know by *number*, None where none waits."""
        return self._by_number.get(number)

    def add(self, request: Request) -> Pending:
        """Let a request of the client wait. Raises RpcError when there are too many."""
        if len(self._waiting) >= PENDING_MAX:
            raise RpcError(LimitExceeded.code, f"limit exceeded: {PENDING_MAX} requests wait for their answers already")
        number = request.id if is_id_of_runtimes(request.id) else f"gateway-{uuid4()}"
        return self._add(Pending(request, number))

    def add_own(self, request: Request) -> tuple[Pending, asyncio.Future[Response]]:
        """Let a request of the gateway's own wait; return it and its answer to come, which raises RpcError."""
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        # It may fail when nobody waits for it any more.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._add(Pending(request, request.id, answer=answer)), answer

    def settle(self, pending: Pending) -> bool:
        """Let *pending* wait no more; return whether it did: whoever is told so sends the answer."""
        if pending not in self:
            return False
        del self._waiting[pending.request.id], self._by_number[pending.number]
        return True

    def reply(self, pending: Pending, value: Json) -> None:
        """Answer *pending* with *value*, unless it has been answered; with an error where no JSON can be made of it."""
        try:
            body = messages.result(pending.request.id, value)
        except Malformed as problem:
            self.fail(pending, as_answer(problem))
            return
        if self.settle(pending):
            self._post(body)

    def fail(self, pending: Pending, problem: RpcError) -> None:
        """Answer *pending* with *problem*, unless it has been answered."""
        if not self.settle(pending):
            return
        if pending.answer is None:
            self._post(messages.error(pending.request.id, problem))
        elif not pending.answer.done():
            pending.answer.set_exception(problem)

    def _add(self, pending: Pending) -> Pending:
        self._waiting[pending.request.id] = self._by_number[pending.number] = pending
        return pending
