"""A conversation to replay: the calls of a recorded session, with contents made to the recorded sizes.

``traces/session-60-turns.jsonl`` is a session of the Copilot runtime 1.0.102 as its file system provider saw it:
operations, paths and sizes, without contents. Contents are made here, seeded, from the runtime's own kinds of events
around text and code out of Python's standard library: they compress about as well as a conversation about code does. A
flush that creates a file holds it four times: in the events of the call, its start, its permission and its result.
Reads files; writes none.
"""

from __future__ import annotations

import json
import random
import sysconfig
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sessionfs_s3.copilot import SessionProvider

EVENTS_PATH: Final = "/session-state/events.jsonl"
_TRACE: Final = Path(__file__).parent.parent / "traces" / "session-60-turns.jsonl"
_PROSE: Final = ("pydoc_data/topics.py",)
_CODE: Final = ("argparse.py", "inspect.py", "tarfile.py", "typing.py", "zipfile.py", "subprocess.py", "ipaddress.py")
_TOOL_BYTES_MIN: Final = 9_000
"""Flushes from this size on hold a file's contents in four events; smaller ones hold words."""

_COPIES: Final = 4


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the runtime: what, on which path, with what."""

    op: str
    path: str = ""
    target: str = ""
    text: str = ""


@cache
def _library(names: tuple[str, ...]) -> str:
    root = Path(sysconfig.get_path("stdlib"))
    return "".join((root / name).read_text("utf-8") for name in names if (root / name).is_file())


class Words:
    """Makes contents of given sizes, from a seed."""

    def __init__(self, seed: int) -> None:
        """Draw from *seed*."""
        self._random = random.Random(seed)  # noqa: S311  # has to be repeatable, not secret
        self._clock_ms = 1_795_258_470_782

    def code(self, size: int) -> str:
        """Return *size* characters of source code."""
        return self._slice(_library(_CODE), size)

    def prose(self, size: int) -> str:
        """Return *size* characters of text."""
        return self._slice(_library(_PROSE) or _library(_CODE), size)

    def flush(self, size: int) -> str:
        """Return one flush of the runtime to its conversation log: whole events, *size* bytes in all, ASCII."""
        out: list[str] = []
        left = size
        while left > 0:
            is_tool = left > _TOOL_BYTES_MIN
            event = self._tool_events(min(left - 1500, 24_000)) if is_tool else self._turn_events(left)
            if len(event) > left or left - len(event) < 700:
                event = self._exactly(left)
            out.append(event)
            left -= len(event)
        return "".join(out)

    def _slice(self, text: str, size: int) -> str:
        parts: list[str] = []
        while size > 0:
            at = self._random.randrange(len(text))
            parts.append(text[at : at + size])
            size -= len(parts[-1])
        return "".join(parts)

    def _id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _event(self, kind: str, data: dict[str, object]) -> str:
        self._clock_ms += self._random.randrange(1, 400)
        stamp = f"2026-11-21T10:{self._clock_ms // 60_000 % 60:02}:{self._clock_ms / 1000 % 60:06.3f}Z"
        body = {"type": kind, "data": data, "id": self._id(), "timestamp": stamp, "parentId": self._id()}
        return json.dumps(body, separators=(",", ":")) + "\n"

    def _turn_events(self, size: int) -> str:
        """Return a turn of words: the user's message, what it used, the answer, its end."""
        text = max(80, min(size // 3, size - 2600))
        interaction = self._id()
        usage = {"inputTokens": self._random.randrange(90_000), "outputTokens": self._random.randrange(4_000)}
        said: dict[str, object] = {"messageId": self._id(), "content": self.prose(text), "interactionId": interaction}
        return "".join(
            (
                self._event("user.message", {"content": self.prose(text // 3), "interactionId": interaction}),
                self._event("assistant.turn_start", {"turnId": "0", "interactionId": interaction}),
                self._event("session.usage_record", {"usage": {**usage, "apiCallId": self._id()}, "turnId": "0"}),
                self._event("assistant.message", {**said, "toolRequests": [], "turnId": "0", "rte": False}),
                self._event("assistant.turn_end", {"turnId": "0"}),
            )
        )

    def _tool_events(self, size: int) -> str:
        """Return a tool call that creates a file: the call, its start, its permission, its result."""
        text = self.code(int(size / _COPIES * 0.85))
        path, call = f"/workspace/f{self._random.randrange(1000)}.py", f"call_{self._random.randrange(10**9)}"
        diff = f"\ndiff --git a{path} b{path}\ncreate file mode 100644\n" + "".join(
            f"+{line}\n" for line in text.splitlines()
        )
        arguments = {"path": path, "file_text": text}
        asked: dict[str, object] = {"toolCallId": call, "name": "create", "arguments": arguments, "type": "function"}
        return "".join(
            (
                self._event("assistant.message", {"messageId": self._id(), "content": "", "toolRequests": [asked]}),
                self._event("tool.execution_start", {"toolCallId": call, "toolName": "create", "arguments": arguments}),
                self._event("permission.requested", {"requestId": self._id(), "permissionRequest": {"diff": diff}}),
                self._event("tool.execution_complete", {"toolCallId": call, "result": {"detailedContent": diff}}),
            )
        )

    def _exactly(self, size: int) -> str:
        """Return one event of exactly *size* bytes, or that much of one where it is too small to be whole."""
        event = self._event("assistant.message", {"messageId": self._id(), "content": ""})
        content = self.prose(max(0, size - len(event))).replace("\\", "/").replace('"', "'").replace("\n", " ")
        content = content.encode("ascii", "replace").decode()
        return event.replace('"content":""', f'"content":"{content}"')[: size - 1].ljust(size - 1) + "\n"


def conversation(seed: int, turns: int, events_bytes: int | None = None) -> Iterator[Call]:
    """Return the calls that change something in the first *turns* turns, the recorded ones over and over.

    Args:
        seed: of the contents.
        turns: how many turns.
        events_bytes: what is appended to the conversation's log in all; the recorded sizes when None.
    """
    recorded = _recorded()
    create, cycle = recorded[:2], recorded[2:]
    chosen = [*create, *(cycle[n % len(cycle)] for n in range(turns - 1))]
    sizes = [int(call["chars"]) for turn in chosen for call in turn if call.get("path") == EVENTS_PATH]
    scale = 1.0 if events_bytes is None else events_bytes / sum(sizes)
    words = Words(seed)
    for turn in chosen:
        for call in turn:
            yield _call(call, words, scale)


def _call(call: dict[str, str | int], words: Words, scale: float) -> Call:
    path, size = str(call.get("path", "")), int(call.get("chars", 0))
    match call["op"]:
        case "appendFile":
            return Call("append", path, text=words.flush(round(size * scale)))
        case "writeFile":
            return Call("write", path, text=words.code(size) if path.endswith(".py") else words.prose(size))
        case "rename":
            return Call("rename", str(call["src"]), str(call["dest"]))
        case _:
            return Call("mkdir", path)


def _recorded() -> list[list[dict[str, str | int]]]:
    """Return the recorded calls that change files: those of the creation, then those of each turn.

    What belongs to disconnecting and resuming counts for the turn before.
    """
    parts: list[list[dict[str, str | int]]] = []
    for line in _TRACE.read_text("utf-8").splitlines():
        call = json.loads(line)
        mark = call.get("mark", "")
        if mark == "create" or mark.startswith("turn"):
            parts.append([])
        elif mark == "end":
            break
        elif not mark and call["op"] in ("appendFile", "writeFile", "rename", "mkdir"):
            parts[-1].append(call)
    return parts


async def replay(provider: SessionProvider, calls: Iterator[Call]) -> int:
    """Make *calls* one after the other, as the runtime does; return the bytes appended to the conversation's log."""
    appended = 0
    for call in calls:
        if call.op == "append":
            await provider.append_file(call.path, call.text, 0o600)
            appended += len(call.text.encode()) if call.path == EVENTS_PATH else 0
        elif call.op == "write":
            await provider.write_file(call.path, call.text)
        elif call.op == "rename":
            await provider.rename(call.path, call.target)
        else:
            await provider.mkdir(call.path, recursive=True)
    return appended
