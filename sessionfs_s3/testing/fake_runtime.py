"""An impostor of the Copilot runtime in the test's own event loop: what a gateway needs of its wire, and misdeeds.

It keeps the runtime's rules of one sticky provider slot, of who is attached to a session, and of whose files are asked
for when; a conversation with it is an echo that is stored through the provider. A test that sets
:attr:`FakeRuntime.misdeed` decides message by message what it does instead. Listens on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from uuid import uuid4

from sessionfs_s3.testing.raw_client import DEADLINE_S, Json, RpcError, framed

EVENTS: Final = "/session-state/events.jsonl"
_HEADER_BYTES_MAX: Final = 1 << 16
_FAILED: Final = -32603
_UNKNOWN: Final = -32601

Misdeed: TypeAlias = Callable[["Peer", Json], Awaitable[bool]]
"""Sees a message before the runtime does, and the connection that it came over; True: nothing else is to be done."""


class Peer:
    """One connection to the runtime.

    Attributes:
        reader: what comes in; not to be read while the runtime does.
        writer: what goes out.
        received: the methods of all that came in, and "" for each answer, oldest first.
        asked: how many requests were sent over it.
        answered: how many answers came, by the id of the request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak over *reader* and *writer*."""
        self.reader = reader
        self.writer = writer
        self.received: list[str] = []
        self.asked = 0
        self.answered: dict[object, int] = {}
        self.reading = asyncio.Event()
        self.reading.set()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}

    async def send_bytes(self, data: bytes) -> None:
        """Send *data* as it is; a connection that is lost takes nothing."""
        with contextlib.suppress(OSError):
            self.writer.write(data)
            await self.writer.drain()

    async def send(self, message: Mapping[str, object]) -> None:
        """Send *message* in a frame, with ``jsonrpc`` where it lacks it."""
        await self.send_bytes(framed({"jsonrpc": "2.0", **message}))

    def post(self, message: Mapping[str, object]) -> None:
        """Send a notification without waiting, as the runtime does: who does not read holds up nobody."""
        if not self.writer.is_closing():
            self.writer.write(framed({"jsonrpc": "2.0", **message}))

    async def begin(self, method: str, params: Mapping[str, object]) -> int:
        """Ask without waiting for the answer; return the request's id."""
        number = next(self._ids)
        self.asked += 1
        await self.send({"id": number, "method": method, "params": params})
        return number

    async def ask(self, method: str, params: Mapping[str, object], *, deadline_s: float = DEADLINE_S) -> Json:
        """Ask, and return the answer's ``result``. Raises RpcError, TimeoutError, or ConnectionError."""
        number = next(self._ids)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.asked += 1
        try:
            async with asyncio.timeout(deadline_s):
                await self.send({"id": number, "method": method, "params": params})
                answer = await waiting
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise RpcError(answer["error"]["code"], answer["error"]["message"])
        result: Json = answer["result"]
        return result

    def take(self, answer: Json) -> None:
        """Note an answer that came."""
        number = answer.get("id")
        self.answered[number] = self.answered.get(number, 0) + 1
        waiting = self._waiting.get(number) if isinstance(number, int) else None
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def drop(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()

    def end(self) -> None:
        """Wait for no answer any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the gateway closed the connection"))


@dataclass(slots=True)
class _Session:
    attached: set[Peer] = field(default_factory=set[Peer])
    turns: int = 0


class FakeRuntime:
    """One runtime.

    Attributes:
        port: where it listens.
        token: what ``connect`` has to bring; None: nothing.
        peers: who is connected.
        holder: whose the provider slot is.
        taken: whether the slot has been taken, as the runtime's is once and for all.
        sessions: what is open, by id.
        misdeed: what it does instead of what it should; None: nothing.
    """

    def __init__(self, *, token: str | None = None, misdeed: Misdeed | None = None) -> None:
        """Be a runtime that :func:`fake_runtime` starts."""
        self.port = 0
        self.token = token
        self.misdeed = misdeed
        self.peers: list[Peer] = []
        self.holder: Peer | None = None
        self.taken = False
        self.sessions: dict[str, _Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def has_lost(self, peer: Peer) -> bool:
        """Whether a connection is no more."""
        return peer not in self.peers

    def crash(self) -> None:
        """End every connection at once, and be another runtime, with nothing open and a slot that is free."""
        self.sessions.clear()
        self.holder, self.taken = None, False
        for peer in list(self.peers):
            peer.drop()

    def emit(self, session_id: str, kind: str, data: Mapping[str, object], *, to: Peer | None = None) -> None:
        """Send an event of *session_id* to who is attached to it, or to one connection, attached or not."""
        event = {"id": str(uuid4()), "type": kind, "data": data, "timestamp": "2026-01-01T00:00:00.000Z"}
        message = {"method": "session.event", "params": {"sessionId": session_id, "event": event}}
        session = self.sessions.get(session_id, _Session())
        for peer in [to] if to is not None else list(session.attached):
            peer.post(message)

    def broadcast(self, kind: str, session_id: str) -> None:
        """Tell every connection of a session's lifecycle, as the runtime does."""
        for peer in list(self.peers):
            peer.post({"method": "session.lifecycle", "params": {"type": kind, "sessionId": session_id}})

    async def file(self, operation: str, session_id: str, **params: object) -> Json:
        """Ask the provider. Raises as :meth:`Peer.ask`, and RpcError where there is none."""
        if self.holder is None:
            raise RpcError(_FAILED, "no session filesystem provider")
        return await self.holder.ask(f"sessionFs.{operation}", {"sessionId": session_id, **params})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: called by the server."""
        peer = Peer(reader, writer)
        self.peers.append(peer)
        lanes: dict[object, asyncio.Task[None]] = {}
        try:
            while True:
                await peer.reading.wait()
                header = await reader.readuntil(b"\r\n\r\n")
                message: Json = json.loads(await reader.readexactly(int(header.split(b":")[1])))
                peer.received.append(message.get("method", ""))
                if self.misdeed is not None and await self.misdeed(peer, message):
                    continue
                if "method" not in message:
                    peer.take(message)
                    continue
                # What concerns one session is done in order, and reading goes on meanwhile.
                lane = message.get("params", {}).get("sessionId")
                lanes[lane] = self.start(self._after(lanes.get(lane), self._answer(peer, message)))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.peers.remove(peer)
            peer.end()
            peer.drop()
            if self.holder is peer:
                self.holder = None
            self.start(self._left(peer))

    async def aclose(self) -> None:
        """End everything."""
        for peer in list(self.peers):
            peer.drop()
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do *work* in the background; what is not done when the runtime ends is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _after(self, before: asyncio.Task[None] | None, work: Coroutine[None, None, None]) -> None:
        if before is not None:
            await asyncio.wait([before])
        await work

    async def _answer(self, peer: Peer, message: Json) -> None:
        try:
            result = await self._do(peer, message["method"], message.get("params", {}))
        except RpcError as error:
            answer: Json = {"error": {"code": error.code, "message": error.message}}
        except (TimeoutError, ConnectionError) as error:
            answer = {"error": {"code": _FAILED, "message": f"the provider did not answer: {error}"}}
        else:
            answer = {"result": result}
        if "id" in message:
            await peer.send({"id": message["id"], **answer})

    async def _do(self, peer: Peer, method: str, params: Json) -> object:
        name = params.get("sessionId", "")
        match method:
            case "connect":
                if self.token is not None and params.get("token") != self.token:
                    raise RpcError(-32002, "Authentication failed")
                return {"ok": True, "protocolVersion": 3, "version": "0.0.0-fake", "taskKinds": []}
            case "sessionFs.setProvider":
                if self.taken:
                    raise RpcError(_FAILED, "Another client is already the session filesystem provider.")
                self.holder, self.taken = peer, True
                return {"success": True}
            case "session.create" | "session.resume":
                return await self._open(peer, method, name)
            case "sessions.close":
                self.sessions.pop(name, None)
                return {}
            case "session.detach" | "session.destroy":
                await self._detach(peer, name)
                return {"success": True}
            case _ if method.startswith("session.") and name in self.sessions:
                return await self._in_session(method, name, params)
            case _ if method.startswith("session."):
                raise RpcError(_FAILED, f"Request {method} failed with message: Session not found: {name}")
            case _:
                raise RpcError(_UNKNOWN, f"Unhandled method {method}")

    async def _open(self, peer: Peer, method: str, name: str) -> Json:
        if name not in self.sessions:
            stored = await self.file("readFile", name, path=EVENTS)
            if method == "session.resume" and "error" in stored:
                raise RpcError(_FAILED, f"Request {method} failed with message: Session not found: {name}")
            turns = stored["content"].count("\n") if "error" not in stored else 0
            self.sessions[name] = _Session(turns=turns)
            await self.file("mkdir", name, path="/session-state/files", recursive=True)
        self.sessions[name].attached.add(peer)
        self.broadcast("session.created", name)
        return {"sessionId": name, "workspacePath": None}

    async def _in_session(self, method: str, name: str, params: Json) -> object:
        session = self.sessions[name]
        if method == "session.send":
            session.turns += 1
            line = json.dumps({"turn": session.turns, "prompt": params.get("prompt")}) + "\n"
            await self.file("appendFile", name, path=EVENTS, content=line)
            self.emit(name, "assistant.message", {"content": f"{session.turns}: {params.get('prompt')}"})
            self.emit(name, "session.idle", {})
            return {"messageId": str(uuid4())}
        if method == "session.getMessages":
            stored = await self.file("readFile", name, path=EVENTS)
            return {"events": [json.loads(line) for line in stored.get("content", "").splitlines()]}
        return {"echo": method}

    async def _detach(self, peer: Peer, name: str) -> None:
        session = self.sessions.get(name)
        if session is None or peer not in session.attached:
            return
        session.attached.discard(peer)
        if not session.attached:
            del self.sessions[name]
            # What a runtime writes when it drops a session; it waits for nothing then.
            with contextlib.suppress(RpcError, TimeoutError, ConnectionError):
                await self.file("exists", name, path=EVENTS)

    async def _left(self, peer: Peer) -> None:
        for name, session in list(self.sessions.items()):
            if peer in session.attached:
                await self._detach(peer, name)


@asynccontextmanager
async def fake_runtime(
    *, token: str | None = None, misdeed: Misdeed | None = None, port: int = 0
) -> AsyncGenerator[FakeRuntime]:
    """Start an impostor on loopback; everything of it is gone at the end.

    Args:
        token: what ``connect`` has to bring; None: nothing.
        misdeed: what it does instead of what it should.
        port: where it listens; 0: on any port that is free.
    """
    runtime = FakeRuntime(token=token, misdeed=misdeed)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        runtime.start(runtime.serve(reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", port, limit=_HEADER_BYTES_MAX)
    runtime.port = server.sockets[0].getsockname()[1]
    try:
        yield runtime
    finally:
        server.close()
        await runtime.aclose()
