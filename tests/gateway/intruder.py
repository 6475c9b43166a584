"""What somebody may try who wants another tenant's sessions: every method there is, with every kind of parameters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence

from sessionfs_s3.gateway.rules.methods import TREATMENTS, Treatment
from sessionfs_s3.testing.raw_client import Json, RawClient
from tests.gateway.wire import connected

LEGACY = ("session.sendAndWait", "session.getMessages", "session.destroy", "session.abort", "session.setForeground")
UNHEARD_OF = (
    "no.such",
    "session.noSuch",
    "sessions.noSuch",
    "sessionFs.readFile",
    "sessionFs.writeFile",
    "__proto__",
    "",
)
ONE_CONNECTION = 100
"""Requests on one connection: a runtime may leave some of them unanswered, and a gateway takes so many of a client."""


def methods(*, own_runtime: bool = False) -> list[str]:
    """Return every method; where the runtime is one's own, without those that are about the whole of it."""
    known = [each for each, treated in TREATMENTS.items() if not own_runtime or treated is not Treatment.PROCESS]
    return [*known, *(each for each in (*LEGACY, *UNHEARD_OF) if each not in TREATMENTS)]


def params_about(session_id: str) -> dict[str, object]:
    """Return parameters that fit many methods: wherever a session can be named, it is this one."""
    return {
        "sessionId": session_id,
        "sessionIds": [session_id],
        "excludeSessionIds": [],
        "prefix": session_id[:7],
        "taskId": session_id,
        "kind": "resume",
        "cursor": session_id,
        "olderThanDays": 0,
        "dryRun": True,
        "sessions": [{"sessionId": session_id}],
        "parentSessionId": session_id,
        "detachedFromSpawningParentSessionId": session_id,
        "inheritPlanBaseFromSessionId": session_id,
        "sourceSessionId": session_id,
        "targetSessionId": session_id,
        "requestId": session_id,
        "prompt": "Bravo turn.",
        "name": "bravo's",
        "message": "bravo's",
        "path": "/workspace",
        "query": "SELECT * FROM kept",
    }


def shapes(foreign: str) -> Iterator[object]:
    """Yield parameters of which none reaches anything."""
    yield params_about(foreign)
    yield {"sessionId": foreign}
    yield {"sessionId": foreign[:10], "prefix": foreign[:10]}
    yield {}
    yield {"sessionId": {"$ne": None}}
    yield [{"sessionId": foreign}]
    yield [foreign]
    yield {"sessionId": f"{foreign}\u0000"}
    yield {"__proto__": {"sessionId": foreign}, "constructor": {"sessionId": foreign}}


def odd_requests(mine: str, foreign: str) -> Iterator[bytes]:
    """Yield texts that two parsers may read differently, and ids that look like another."""
    for method in ("session.getMessages", "session.resume", "session.send", "session.getMetadata"):
        for first, second in ((mine, foreign), (foreign, mine)):
            yield (
                f'{{"jsonrpc":"2.0","id":"{method}-{first == mine}","method":"{method}",'
                f'"params":{{"sessionId":"{first}","sessionId":"{second}","prompt":"Bravo turn."}}}}'
            ).encode()
            yield (
                f'{{"jsonrpc":"2.0","id":"{method}-{first == mine}-2","method":"{method}",'
                f'"params":{{"sessionId":"{first}"}},"params":{{"sessionId":"{second}"}}}}'
            ).encode()
    lookalikes = (
        foreign.upper(),
        f"{foreign}/",
        f"./{foreign}",
        f"../acme/{foreign}",
        f"%2e%2e/{foreign}",
        f" {foreign}",
    )
    for number, each in enumerate((*lookalikes, foreign.replace("a", "а"), f"{foreign}\u200b", f"{foreign}\ud800")):  # noqa: RUF001
        params = json.dumps({"sessionId": each, "prompt": "x"})
        for method in ("session.resume", "session.getMessages", "session.getMetadata", "session.send"):
            yield f'{{"jsonrpc":"2.0","id":"odd-{number}-{method}","method":"{method}","params":{params}}}'.encode()


async def send_raw(client: RawClient, body: bytes) -> None:
    await client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


async def ask_all(port: int, token: str, calls: Iterable[tuple[str, object]], *, rest_s: float) -> list[Json]:
    """Make all *calls*, on as many connections as it takes, and return everything that came back.

    Done when each is answered, or when nothing has come for *rest_s* seconds.
    """
    waiting = list(calls)
    received: list[Json] = []
    for start in range(0, len(waiting), ONE_CONNECTION):
        async with connected(port, token=token) as client:
            some = waiting[start : start + ONE_CONNECTION]
            for number, (method, params) in enumerate(some):
                await client.send({"id": f"b{number}", "method": method, "params": params})
            await settled(client, len(some) + 1, rest_s)
            received += client.received
    return received


async def settled(client: RawClient, answers: int, rest_s: float) -> None:
    """Wait until so many answers have come, or nothing for *rest_s* seconds."""
    seen = -1
    while len(answers_of(client.received)) < answers and len(client.received) != seen and not client.ended:
        seen = len(client.received)
        for _ in range(20):
            await asyncio.sleep(rest_s / 20)
            if len(answers_of(client.received)) >= answers:
                return


def answers_of(received: Sequence[Json]) -> list[Json]:
    return [each for each in received if "method" not in each]
