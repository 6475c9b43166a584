"""What must be true of a session's history, whatever happened: pure, over what was asked and what is stored."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .turns import Ledger, Turn, known_as

Event = dict[str, Any]


AT_ONCE_S = 0.5
"""Runtime 1.0.102 sometimes writes events of the same few milliseconds in another order than their chain has, in one
append: ``tool.execution_complete`` before the ``external_tool.completed`` that is its parent."""


def problems_of_log(log: str) -> list[str]:
    """Return what is wrong with ``events.jsonl`` by itself: its lines, ids and chain."""
    problems: list[str] = []
    if log and not log.endswith("\n"):
        problems.append(f"the last line is cut: {log[-80:]!r}")
    events: list[Event] = []
    for number, line in enumerate(log.splitlines(), 1):
        try:
            events.append(json.loads(line))
        except ValueError:
            problems.append(f"line {number} is no JSON: {line[:80]!r}")
    places: dict[str | None, int] = {}
    for place, event in enumerate(events):
        if event["id"] in places:
            problems.append(f"line {place + 1}, {event['type']}: event {event['id']} stands there again")
        if (event["type"] == "session.start") != (place == 0):
            problems.append(f"line {place + 1} is {event['type']}")
        places[event["id"]] = place
    for place, event in enumerate(events):
        if place == 0 and event["parentId"] is None:
            continue
        before = places.get(event["parentId"])
        if before is None or _seconds(events[min(before, place) : max(before, place) + 1]) > AT_ONCE_S:
            told = "is not there" if before is None else f"is line {before + 1}"
            problems.append(f"line {place + 1}, {event['type']}: its parent {event['parentId']} {told}")
    return problems


def _seconds(events: Sequence[Event]) -> float:
    """Return how far apart in time *events* were made; 0 for an event and the one before it."""
    if len(events) <= 2:
        return 0.0
    times = [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events]
    return max(times) - min(times)


def problems_of_history(ledger: Ledger, events: Sequence[Event]) -> list[str]:
    """Return what is wrong with the turns in *events*: lost, repeated, out of order, or never asked for."""
    problems: list[str] = []
    asked = _positions(events, "user.message")
    answered = _positions(events, "assistant.message")
    known = {turn.prompt for turn in ledger.turns}
    problems += [f"nobody asked {prompt!r}" for prompt in asked if prompt not in known]
    for turn in ledger.turns:
        where = asked.get(turn.prompt, []), answered.get(turn.answer, [])
        told = f"turn {turn.name} is there {len(where[0])} times and answered {len(where[1])} times"
        if turn.acknowledged_s is not None and [len(each) for each in where] != [1, 1]:
            problems.append(f"{told}, and was acknowledged")
        elif max(len(each) for each in where) > 1 or len(where[1]) > len(where[0]):
            problems.append(told)
        elif turn.acknowledged_s is not None:
            apart = _SHARED_APART if ledger.shared else _APART
            problems += _problems_within(turn, events[where[0][0] : where[1][0]], apart)
    return problems + _problems_of_order(ledger.acknowledged, asked, answered)


def without_tools(events: Sequence[Event]) -> frozenset[str]:
    """Return the prompts of the turns to which the runtime offered no tool, as their history itself says.

    Runtime 1.0.102 holds a turn now and then without any tool, those of its own included, while it tries again, in the
    background and in vain where there is no network, to apply an organization's plugins (``session.warning``).
    """
    prompts: set[str] = set()
    prompt = ""
    for event in events:
        if event["type"] == "user.message":
            prompt = event["data"]["content"]
        elif event["type"] == "tool.execution_complete" and _NO_TOOL.fullmatch(_failure(event)):
            prompts.add(prompt)
    return frozenset(prompts)


def problems_of_files(
    ledger: Ledger, files: Mapping[str, str], rows: Sequence[str], without: frozenset[str] = frozenset()
) -> list[str]:
    """Return what is wrong with what the turns wrote: *files* by path, and the *rows* of their table.

    Nothing is asked of the turns whose prompts are in *without*: they had no tool.
    """
    problems: list[str] = []
    made = {turn.file: turn.name for turn in ledger.turns if turn.kind == "create"}
    problems += [f"{path} holds {text!r}" for path, text in files.items() if made.get(path) != text]
    times = Counter(rows)
    noted = {turn.name for turn in ledger.turns if turn.kind == "sql"}
    problems += [f"row {name} is there {n} times" for name, n in times.items() if n > 1 or name not in noted]
    for turn in ledger.acknowledged:
        if turn.prompt in without:
            continue
        if turn.kind == "create" and turn.file not in files:
            problems.append(f"{turn.file} is lost")
        if turn.kind == "sql" and turn.name not in times:
            problems.append(f"row {turn.name} is lost")
    return problems


def _positions(events: Sequence[Event], kind: str) -> dict[str, list[int]]:
    """Return where each text stands."""
    found: dict[str, list[int]] = {}
    for number, event in enumerate(events):
        if event["type"] == kind and event["data"]["content"]:
            found.setdefault(event["data"]["content"], []).append(number)
    return found


_APART = frozenset({"user.message", "session.resume", "session.start", "session.shutdown"})
_SHARED_APART = _APART - {"session.resume"}
"""A second client may come in the middle of a turn."""


def _problems_within(turn: Turn, events: Sequence[Event], apart: frozenset[str]) -> list[str]:
    """Check an answered turn, from its prompt to before its answer: nobody else's words, and a tool that worked."""
    if not events:
        return [f"turn {turn.name} is answered before it is asked"]
    problems = [f"turn {turn.name} is torn apart by {each['type']}" for each in events[1:] if each["type"] in apart]
    results = [each for each in events if each["type"] == "tool.execution_complete"]
    if without_tools(events):
        return problems
    if len(results) != (turn.kind != "say") or any(_failure(each) for each in results):
        problems.append(f"turn {turn.name}: its tool said {[_failure(each) for each in results]}")
    elif turn.kind == "lookup" and (said := results[0]["data"]["result"]["content"]) != known_as(turn.name):
        problems.append(f"turn {turn.name}: its tool said {said!r}")
    return problems


_NO_TOOL = re.compile("Tool '[a-z]+' does not exist\\.")


def _failure(completed: Event) -> str:
    """Return what a tool that failed said; "" when it did not."""
    data = completed["data"]
    return "" if data["success"] else str(data.get("error", {}).get("message", "it failed"))


def _problems_of_order(
    acknowledged: Sequence[Turn], asked: Mapping[str, list[int]], answered: Mapping[str, list[int]]
) -> list[str]:
    """Check that a turn which was acknowledged before another one was sent stands before it."""
    problems: list[str] = []
    placed = [turn for turn in acknowledged if turn.prompt in asked and turn.answer in answered]
    placed.sort(key=lambda turn: asked[turn.prompt][0])
    for number, later in enumerate(placed):
        # The latest to be sent of those that stand before it.
        for earlier in placed[:number]:
            assert later.acknowledged_s is not None
            if later.acknowledged_s < earlier.sent_s:
                problems.append(f"turn {earlier.name} stands before {later.name}, which had ended when it was sent")
    return problems
