"""A scripted language model on loopback: an OpenAI-compatible server that says what a test wrote down.

The runtime asks it with ``POST /v1/chat/completions``, streaming or not. What it answers depends only on the request,
never on how many came before: the newest user message that the script knows picks the turn, and the number of
assistant messages after it picks the reply within the turn. A retry therefore gets the same reply, a resumed runtime
continues the script, and the runtime's own requests (a summary, say) do not shift it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from copilot import ProviderConfig
from pydantic import BaseModel

MODEL_NAME: Final = "scripted"
_REQUEST_BYTES_MAX: Final = 256 * 1024 * 1024
_SSE_HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


@dataclass(frozen=True)
class Say:
    """The assistant says *text*; the turn ends."""

    text: str


@dataclass(frozen=True)
class Call:
    """The assistant calls the tool *name* with *arguments*; the turn goes on with the tool's result."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class Calls:
    """The assistant calls several tools in one reply."""

    calls: tuple[Call, ...]


class Stall:
    """The first half of *reply*, then nothing until :attr:`released` is set; a turn that is caught in the middle.

    Attributes:
        reached: set when the first half has been sent.
        released: set it to send the rest.
    """

    def __init__(self, reply: Say | Call | Calls) -> None:
        """Stall in the middle of *reply*."""
        self.reply = reply
        self.reached = asyncio.Event()
        self.released = asyncio.Event()


Reply = Say | Call | Calls | Stall


class _ImageUrl(BaseModel):
    url: str


class _Part(BaseModel):
    text: str | None = None
    image_url: _ImageUrl | None = None


class _Function(BaseModel):
    name: str
    arguments: str = ""


class _ToolCall(BaseModel):
    id: str = ""
    function: _Function


class ModelMessage(BaseModel):
    """One message of a request: who says it, what, and which tools it calls."""

    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None

    @property
    def text(self) -> str:
        """Everything in it that is text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""

    @property
    def images(self) -> list[str]:
        """The URLs of its images: ``data:image/png;base64,…``."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if part.image_url is not None]


class ModelRequest(BaseModel):
    """One request that the runtime made."""

    messages: list[ModelMessage]
    stream: bool = False

    @property
    def text(self) -> str:
        """All the conversation that it carries, without the system prompt: what was said, and tools' results."""
        return "\n".join(message.text for message in self.messages if message.role != "system")

    def results(self) -> list[str]:
        """Return the tools' results, oldest first."""
        return [message.text for message in self.messages if message.role == "tool"]


def provider_at(url: str) -> ProviderConfig:
    """Return the ``provider`` of a session that talks to the model at the base URL *url*; no account is needed."""
    return {"type": "openai", "base_url": url, "api_key": "none"}


class ScriptedModel:
    """The model's script, and the requests that came.

    Attributes:
        requests: every request so far, oldest first.
        url: the base URL for the runtime, once it is served.
    """

    def __init__(self, script: Mapping[str, Sequence[Reply]], *, otherwise: str = "I have nothing to add.") -> None:
        """Write the script.

        Args:
            script: from a part of a user message to the replies of its turn, one per request; where several keys fit,
                the longest does. A turn that outlasts its replies gets *otherwise*.
            otherwise: what it says to everything else, the runtime's own requests included.
        """
        self._script = dict(script)
        self._otherwise = Say(otherwise)
        self.requests: list[ModelRequest] = []
        self.url = ""

    @property
    def provider(self) -> ProviderConfig:
        """The ``provider`` of a session that talks to this model, once it is served."""
        return provider_at(self.url)

    def add(self, key: str, *replies: Reply) -> None:
        """Add a turn to the script, or replace it."""
        self._script[key] = replies

    def requests_in(self, key: str) -> list[ModelRequest]:
        """Return the requests of the turn that *key* of the script stands for, oldest first."""
        return [request for request in self.requests if self._position(request)[0] == key]

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[ScriptedModel]:
        """Listen on a free port of loopback until the end of the block; what still stalls is then released."""
        application = web.Application(client_max_size=_REQUEST_BYTES_MAX)
        application.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            yield self
        finally:
            for replies in self._script.values():
                for reply in replies:
                    if isinstance(reply, Stall):
                        reply.released.set()
            await runner.cleanup()

    def reply_to(self, request: ModelRequest) -> Reply:
        """Return what the script says to *request*; pure."""
        key, said = self._position(request)
        replies = self._script.get(key, ()) if key is not None else ()
        return replies[said] if said < len(replies) else self._otherwise

    def _position(self, request: ModelRequest) -> tuple[str | None, int]:
        """Return the newest user message's key in the script, and how much the assistant has said since."""
        said = 0
        for message in reversed(request.messages):
            if message.role == "assistant":
                said += 1
            elif message.role == "user":
                keys = [key for key in self._script if key in message.text]
                if keys:
                    return max(keys, key=len), said
        return None, said

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        request = ModelRequest.model_validate_json(await http.read())
        self.requests.append(request)
        reply = self.reply_to(request)
        stall = reply if isinstance(reply, Stall) else None
        chunks = _streamed(_plain(reply)) if request.stream else _whole(_plain(reply))
        response = web.StreamResponse(headers=_SSE_HEADERS if request.stream else {"Content-Type": "application/json"})
        try:
            await response.prepare(http)
            for index, chunk in enumerate(chunks):
                if stall is not None and index == 1:
                    stall.reached.set()
                    await stall.released.wait()
                await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            pass  # the runtime is gone: that is what a test kills it for
        return response


def _plain(reply: Reply) -> Say | Call | Calls:
    return reply.reply if isinstance(reply, Stall) else reply


def _message(reply: Say | Call | Calls) -> dict[str, object]:
    if isinstance(reply, Say):
        return {"role": "assistant", "content": reply.text}
    calls = (reply,) if isinstance(reply, Call) else reply.calls
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "index": index,
                "id": f"call_{uuid.uuid4().hex}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for index, call in enumerate(calls)
        ],
    }


def _finish(reply: Say | Call | Calls) -> str:
    return "stop" if isinstance(reply, Say) else "tool_calls"


def _whole(reply: Say | Call | Calls) -> list[bytes]:
    """Return the answer to a request that does not stream, in two halves."""
    body = json.dumps(
        {
            "id": "scripted",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL_NAME,
            "choices": [{"index": 0, "message": _message(reply), "finish_reason": _finish(reply)}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()
    half = len(body) // 2
    return [body[:half], body[half:]]


def _streamed(reply: Say | Call | Calls) -> list[bytes]:
    """Return the answer to a request that streams, as server-sent events."""
    deltas: list[dict[str, object]]
    if isinstance(reply, Say):
        half = len(reply.text) // 2
        deltas = [_message(Say(reply.text[:half])), {"content": reply.text[half:]}]
    else:
        deltas = [_message(Say("")), _message(reply)]
    return [*(_event(delta, None) for delta in deltas), _event({}, _finish(reply)), b"data: [DONE]\n\n"]


def _event(delta: Mapping[str, object], finish: str | None) -> bytes:
    chunk = {
        "id": "scripted",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL_NAME,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
