"""Turns in which the agent uses its ``sql`` tool."""

from __future__ import annotations

from copilot import CopilotSession

from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.replica import ask

TRIES = 4


def sql(statement: str) -> Call:
    """The agent sends *statement*, or a script of several."""
    return Call("sql", {"description": "rows", "query": statement})


async def tell(session: CopilotSession, model: ScriptedModel, prompt: str, *statements: str) -> list[str]:
    """Hold a turn in which the agent sends *statements*, one call of the tool each; return what it was shown.

    On a busy machine the runtime sometimes begins a turn without its tools, and tells the model that there are none.
    Nothing was asked of the provider then, and the user tries again.
    """
    for number in range(TRIES):
        again = prompt if not number else f"{prompt} Try no. {number}."
        model.add(again, *map(sql, statements), Say("So it is."))
        assert await ask(session, again) == "So it is."
        shown = model.requests_in(again)[-1].results()[-len(statements) :]
        if not all(each.startswith("Tool 'sql' does not exist.") for each in shown):
            return shown
    raise AssertionError(f"the runtime has no tools, {TRIES} times in a row")
