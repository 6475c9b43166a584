"""One client's own connection to one runtime: what the runtime sends on it is for that client, or for nobody.

A connection for each client and runtime keeps the runtime's own rules: who is attached to a session hears its events,
answers its requests, and lets it go by leaving. A client that does not read stops its own connections and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast
from weakref import WeakKeyDictionary

from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.frames import FrameError, FrameStream
from sessionfs_s3.gateway.messages import Id, Json, Malformed, Request, Response, encode, error, parse
from sessionfs_s3.gateway.rules.to_clients import Recipient, passage, session_named
from sessionfs_s3.gateway.runtimes import Runtime

if TYPE_CHECKING:
    from sessionfs_s3.gateway.client import Client

_logger = logging.getLogger(__name__)

_TURN: Final = {
    "assistant.turn_start": True,
    "session.idle": False,
    "session.error": False,
    "session.shutdown": False,
}
"""Events that say whether a turn is running."""


class Relay:
    """Passes messages between a client and a runtime.

    Attributes:
        runtime: the runtime.
    """

    def __init__(self, relays: Relays, client: Client, runtime: Runtime, stream: FrameStream) -> None:
        """Pass on what comes over *stream*, a greeted connection to *runtime*, until either side goes."""
        self.runtime = runtime
        self._relays = relays
        self._client = client
        self._stream = stream
        self._reading = asyncio.create_task(self._read())

    @property
    def open(self) -> bool:
        """Whether messages can be passed on."""
        return not self._stream.closed

    async def send(self, body: bytes) -> None:
        """Pass a message of the client's on to the runtime. Raises ConnectionError."""
        await self._stream.write(body)

    async def pass_on(self, body: bytes) -> None:
        """Send the runtime what it may be gone for: the reader finds that out, too."""
        with contextlib.suppress(OSError):
            await self.send(body)

    async def aclose(self) -> None:
        """Leave the runtime: it detaches the client from its sessions."""
        self._stream.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for body in self._stream.bodies():
                with self._client.metrics.to_client.time():
                    await self._take(body)
        except (FrameError, Malformed, OSError) as problem:
            _logger.info("%s: a client's connection to it ended: %s", self.runtime.name, problem)
        except Exception:
            _logger.exception("%s: passing on what it says", self.runtime.name)
        finally:
            self._stream.abort()
            self._relays.ended(self)
            self._client.relay_ended(self)

    async def _take(self, body: bytes) -> None:
        message = parse(body)
        if isinstance(message, Response):
            await self._client.answered(self, message, body)
        elif message.method == "$/cancelRequest":
            if (told := self._relays.cancelled(self, message)) is not None:
                await self._client.send(told)
        elif message.is_notification:
            if self._may_hear(message):
                self._watch(message)
                await self._client.send(body)
        elif self._may_hear(message):
            await self._client.send(self._relays.asked(self, message, body))
        else:
            await self.send(error(message.id, RpcError(FAILED, "no client answers this request")))

    def _may_hear(self, message: Request) -> bool:
        """Whether *message* concerns this client, and nobody else.

        The runtime sends it to this connection because the client is attached, or has registered for it; or because it
        tells everybody.
        """
        dedicated = self.runtime.owner is not None and not self._client.confined
        to = passage(message.method, own_runtime=dedicated)
        if to.recipient is Recipient.NOBODY:
            return False
        named = session_named(message.method, message.params, own_runtime=dedicated)
        if named is None:
            return dedicated and to.recipient is Recipient.TENANT
        session = self.runtime.sessions.get(named)
        return session is not None and session.tenant is self._client.tenant and self._client.permits(named)

    def _watch(self, message: Request) -> None:
        """Note when a turn begins and ends."""
        if message.method != "session.event" or not isinstance(event := message.params.get("event"), Mapping):
            return
        kind = cast("str", cast("Mapping[str, Json]", event).get("type"))
        if kind == "session.idle" and message.session_id is not None:
            self._client.turn_ended(message.session_id)
        running = _TURN.get(kind)
        session = None if running is None else self.runtime.sessions.get(message.session_id or "")
        if session is not None and running is not None and session.is_watched_by(self._client):
            session.busy = running


class Relays:
    """One client's connections to runtimes, and what runtimes have asked it over them."""

    def __init__(self, client: Client, hello: Mapping[str, Json]) -> None:
        """Connect on behalf of *client*, which greeted with *hello*."""
        self._client = client
        self._hello = hello
        self._relays: dict[Runtime, Relay] = {}
        self._connecting: WeakKeyDictionary[Runtime, asyncio.Lock] = WeakKeyDictionary()
        self._asked: dict[Id, tuple[Relay, Id]] = {}

    @property
    def any(self) -> Runtime | None:
        """A runtime to which there is a connection."""
        return next((runtime for runtime, relay in self._relays.items() if relay.open), None)

    def are_open_to(self, runtime: Runtime) -> bool:
        """Whether there is a connection to *runtime*."""
        relay = self._relays.get(runtime)
        return relay is not None and relay.open

    async def to(self, runtime: Runtime) -> Relay:
        """Return the connection to *runtime*. Raises RpcError when it cannot be reached."""
        async with self._connecting.setdefault(runtime, asyncio.Lock()):
            relay = self._relays.get(runtime)
            if relay is None or not relay.open:
                try:
                    stream, _ = await runtime.connect(self._hello)
                except OSError as problem:
                    _logger.warning("%s cannot be reached: %s", runtime.name, problem)
                    raise RpcError(FAILED, "the runtime cannot be reached") from None
                relay = self._relays[runtime] = Relay(self, self._client, runtime, stream)
            return relay

    def asked(self, relay: Relay, request: Request, body: bytes) -> bytes:
        """Note that a runtime waits for the client's answer to *request*; return the request as the client gets it.

        Its id stays, unless another runtime waits for an answer under the same one.
        """
        number = request.id
        if number in self._asked:
            number = 1 + max((each for each in self._asked if isinstance(each, int)), default=0)
            body = encode(Request(request.method, request.params, number))
        self._asked[number] = (relay, request.id)
        return body

    def cancelled(self, relay: Relay, notification: Request) -> bytes | None:
        """Return what tells the client that a runtime waits no more for what it has asked; None where it has not."""
        asked = (relay, notification.params.get("id"))
        number = next((number for number, each in self._asked.items() if each == asked), None)
        if number is None:
            return None
        params = {**notification.params, "id": number}
        return encode(Request(notification.method, params, is_notification=True))

    def answer(self, response: Response) -> tuple[Relay, bytes] | None:
        """Return where to pass an answer of the client on to, and as what; None where nobody waits for it."""
        asked = self._asked.pop(response.id, None)
        if asked is None:
            return None
        relay, number = asked
        try:
            return relay, encode(Response(number, response.body))
        except Malformed as problem:
            return relay, error(number, RpcError(FAILED, f"the client's answer: {problem}"))

    def ended(self, relay: Relay) -> None:
        """Forget a connection that is lost."""
        if self._relays.get(relay.runtime) is relay:
            del self._relays[relay.runtime]
        for number, (asker, _) in list(self._asked.items()):
            if asker is relay:
                del self._asked[number]

    async def aclose(self) -> None:
        """Leave every runtime."""
        await asyncio.gather(*(relay.aclose() for relay in list(self._relays.values())))
