"""What the clients ask for, what a model answers to that, and a record of what was asked and what was acknowledged.

A turn's name stands in its prompt, in its answer and in what its tool writes, so that each can be told from all others.
"""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from sessionfs_s3.testing.model import Call, ModelRequest, Reply, Say, ScriptedModel, Stall

Kind = Literal["say", "create", "sql", "lookup"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_PROMPT: Final = re.compile(r"\[(say|create|sql|lookup) ([a-z0-9-]+)\]")
_THINKS_S: Final = (0.02, 0.4)


@dataclass
class Turn:
    """One try at one turn; times by the event loop's clock, *acknowledged_s* is None unless the client saw its end."""

    name: str
    kind: Kind
    sent_s: float
    acknowledged_s: float | None = None

    @property
    def prompt(self) -> str:
        return f"[{self.kind} {self.name}]"

    @property
    def answer(self) -> str:
        return answer_to(self.name)

    @property
    def file(self) -> str:
        return f"/workspace/{self.name}.txt"


@dataclass
class Ledger:
    """Everything that was asked of one session, by one client or, if *shared*, by two."""

    session_id: str
    shared: bool
    turns: list[Turn] = field(default_factory=list[Turn])
    problems: list[str] = field(default_factory=list[str])

    @property
    def acknowledged(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.acknowledged_s is not None]


def answer_to(name: str) -> str:
    return f"Done: {name}."


def known_as(name: str) -> str:
    """What a client's own tool says of *name*."""
    return f"known: {name}"


class NamingModel(ScriptedModel):
    """Answers each prompt by its own name, after the tool that the prompt asks for, and takes its time."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__({})
        self._rng = rng

    def reply_to(self, request: ModelRequest) -> Reply:
        # A long run would keep every conversation as often as it was sent.
        self.requests.clear()
        said = 0
        for message in reversed(request.messages):
            if message.role == "assistant":
                said += 1
            elif message.role == "user" and (found := _PROMPT.search(message.text)):
                stall = Stall(_reply(found[1], found[2], said))
                asyncio.get_running_loop().call_later(self._rng.uniform(*_THINKS_S), stall.released.set)
                return stall
        return Say("I have nothing to add.")


def _reply(kind: str, name: str, said: int) -> Say | Call:
    done = Say(answer_to(name))
    if said:
        return done
    match kind:
        case "create":
            return Call("create", {"path": f"/workspace/{name}.txt", "file_text": name})
        case "sql":
            query = f"CREATE TABLE IF NOT EXISTS done (name TEXT); INSERT INTO done VALUES ('{name}')"
            return Call("sql", {"description": "notes it", "query": query})
        case "lookup":
            return Call("lookup", {"key": name})
        case _:
            return done
