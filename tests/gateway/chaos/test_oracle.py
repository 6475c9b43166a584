"""The oracle has to find what it is there for: each kind of loss, made on purpose in a history that is in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .oracle import Event, problems_of_files, problems_of_history, problems_of_log, without_tools
from .turns import Ledger, Turn, known_as

SAY = Turn("s-1", "say", 1.0, 2.0)
CREATE = Turn("s-2", "create", 3.0, 4.0)
LOOKUP = Turn("s-3", "lookup", 5.0)
HEARD = Turn("s-3", "lookup", 5.0, 5.5)
SQL = Turn("s-4", "sql", 6.0, 7.0)


def ledger(*turns: Turn) -> Ledger:
    return Ledger("s", False, list(turns) or [SAY, CREATE, LOOKUP, SQL])


def history(*turns: Turn) -> list[Event]:
    """A history of *turns*, all of them whole."""
    events: list[Event] = [made("session.start", {})]
    for turn in turns or (SAY, CREATE, LOOKUP, SQL):
        events.append(made("user.message", {"content": turn.prompt}))
        if turn.kind != "say":
            events.append(made("assistant.message", {"content": ""}))
            result = {"success": True, "result": {"content": known_as(turn.name)}}
            events.append(made("tool.execution_complete", result))
        events.append(made("assistant.message", {"content": turn.answer}))
    for number, event in enumerate(events):
        event["id"], event["parentId"] = str(number), str(number - 1) if number else None
        event["timestamp"] = f"2026-11-21T00:00:{number:02}.000Z"
    return events


def made(kind: str, data: dict[str, Any]) -> Event:
    return {"type": kind, "data": data}


def log_of(events: list[Event]) -> str:
    return "".join(f"{json.dumps(event)}\n" for event in events)


def test_what_is_in_order_has_no_problems() -> None:
    assert problems_of_log(log_of(history())) == []
    assert problems_of_history(ledger(), history()) == []
    # What was not acknowledged may be missing, or be there in part.
    assert problems_of_history(ledger(), history(SAY, CREATE, SQL)) == []
    assert problems_of_history(ledger(SAY, LOOKUP), history(SAY, LOOKUP)[:-1]) == []
    files = {CREATE.file: CREATE.name}
    assert problems_of_files(ledger(), files, [SQL.name]) == []


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda events: events[:5] + events[6:], "its parent 5 is not there"),
        (lambda events: [*events[:5], *events[6:], events[5]], "its parent 5 is line 15"),
        (lambda events: [*events, {**events[-1], "id": "99", "parentId": "3"}], "its parent 3 is line 4"),
        (lambda events: [*events, events[-1]], "stands there again"),
        (lambda events: [*events, {**events[0], "id": "99"}], "line 16 is session.start"),
        (lambda events: events[1:], "its parent 0 is not there"),
    ],
)
def test_a_log_that_is_spoiled(spoil: Callable[[list[Event]], list[Event]], found: str) -> None:
    assert any(found in each for each in problems_of_log(log_of(spoil(history()))))


def test_events_of_the_same_time_may_change_places() -> None:
    events = history()
    events[4], events[5] = events[5], events[4]
    assert len(problems_of_log(log_of(events))) == 2
    for event in events[3:7]:
        event["timestamp"] = events[3]["timestamp"]
    assert problems_of_log(log_of(events)) == []


def test_a_log_that_is_cut() -> None:
    assert "the last line is cut" in problems_of_log(log_of(history())[:-3])[0]


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (history(SAY, CREATE, LOOKUP), "turn s-4 is there 0 times"),
        (history(SAY, CREATE, SQL)[:-1], "turn s-4 is there 1 times and answered 0 times, and was acknowledged"),
        (history(SAY, CREATE, SQL, SQL), "turn s-4 is there 2 times"),
        (history(SAY, CREATE, SQL, LOOKUP, LOOKUP), "turn s-3 is there 2 times"),
        (history(CREATE, SAY, SQL), "turn s-2 stands before s-1, which had ended when it was sent"),
        (history(SAY, CREATE, SQL, Turn("s-9", "say", 8.0)), "nobody asked '[say s-9]'"),
        ([*history(SAY, CREATE)[:3], *reversed(history(SQL))], "turn s-4 is answered before it is asked"),
    ],
)
def test_turns_that_are_lost_or_repeated_or_moved(events: list[Event], found: str) -> None:
    assert any(found in each for each in problems_of_history(ledger(), events))


def test_a_tool_that_failed_or_said_something_else() -> None:
    events = history(HEARD, SQL)
    results = [each["data"] for each in events if each["type"] == "tool.execution_complete"]
    results[0]["result"]["content"] = "known: another"
    results[1]["success"] = False
    problems = problems_of_history(ledger(HEARD, SQL), events)
    assert problems == ["turn s-3: its tool said 'known: another'", "turn s-4: its tool said ['it failed']"]


def test_a_turn_without_any_tool_is_not_asked_for_what_it_could_not_do() -> None:
    events = history(CREATE, SQL)
    results = [each["data"] for each in events if each["type"] == "tool.execution_complete"]
    results[1].update(success=False, error={"message": "Tool 'sql' does not exist."})
    assert problems_of_history(ledger(CREATE, SQL), events) == []
    without = without_tools(events)
    assert without == {SQL.prompt}
    assert problems_of_files(ledger(CREATE, SQL), {}, [], without) == [f"{CREATE.file} is lost"]
    results[1].update(error={"message": "database is locked"})
    assert without_tools(events) == frozenset()


def test_a_turn_into_which_another_one_falls() -> None:
    events = history(SQL)
    events[2:2] = [made("session.resume", {})]
    torn = ["turn s-4 is torn apart by session.resume"]
    assert problems_of_history(ledger(SQL), events) == torn
    assert problems_of_history(Ledger("s", True, [SQL]), events) == []


@pytest.mark.parametrize(
    ("files", "rows", "found"),
    [
        ({}, [SQL.name], f"{CREATE.file} is lost"),
        ({CREATE.file: "s-"}, [SQL.name], f"{CREATE.file} holds 's-'"),
        ({CREATE.file: CREATE.name}, [], "row s-4 is lost"),
        ({CREATE.file: CREATE.name}, [SQL.name, SQL.name], "row s-4 is there 2 times"),
        ({CREATE.file: CREATE.name}, [SQL.name, "s-9"], "row s-9 is there 1 times"),
    ],
)
def test_what_turns_wrote_and_is_not_there(files: dict[str, str], rows: list[str], found: str) -> None:
    assert found in problems_of_files(ledger(), files, rows)
