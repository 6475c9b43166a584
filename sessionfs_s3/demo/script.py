"""What is said in the demo: the conversation, the model's part in it, and what must be there at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sessionfs_s3.testing.model import Call, Reply, Say, ScriptedModel, Stall

LIST_PATH: Final = "/workspace/list.txt"
LIST_TEXT: Final = "12 bolts\n34 nuts\n1 naïve café, with ☕ and 𝄞\n"
REPORT_PATH: Final = "/workspace/report.md"
REPORT_TEXT: Final = "# Report\n\nWritten in a turn that never ended.\n"
LATE_PATH: Final = "/workspace/late.txt"
LATE_TEXT: Final = "Written by B.\n"
GHOST_PATH: Final = "/workspace/ghost.txt"
GHOST_LINE: Final = '{"type":"ghost","data":"nobody must ever read this"}\n'
STOCK: Final = (("bolts", 12), ("nuts", 34))
STOCK_SQL: Final = "SELECT name, amount FROM stock ORDER BY name"
_FILL_SQL: Final = (
    "CREATE TABLE stock (name TEXT PRIMARY KEY, amount INTEGER NOT NULL); "
    "INSERT INTO stock (name, amount) VALUES ('bolts', 12), ('nuts', 34)"
)


@dataclass(frozen=True)
class Turn:
    """One turn: what the user says, and what the model answers, a tool call or words at a time."""

    title: str
    prompt: str
    replies: tuple[Reply, ...]

    @property
    def answer(self) -> str:
        """What the assistant says at the end."""
        last = self.replies[-1]
        last = last.reply if isinstance(last, Stall) else last
        assert isinstance(last, Say)
        return last.text


def first_turns() -> list[Turn]:
    """Return the turns that A holds to their end."""
    return [
        Turn("words", "Hello. Are you there?", (Say("I am here."),)),
        Turn(
            "create a file",
            "Write down the shopping list.",
            (Call("create", {"path": LIST_PATH, "file_text": LIST_TEXT}), Say("The list is written.")),
        ),
        Turn("view it", "Read the list to me.", (Call("view", {"path": LIST_PATH}), Say("Bolts, nuts, and a café."))),
        Turn(
            "fill a table",
            "Put the stock into a table.",
            (Call("sql", {"description": "the stock", "query": _FILL_SQL}), Say("Two rows are in.")),
        ),
        Turn("words again", "Thank you.", (Say("You are welcome."),)),
    ]


def unfinished_turn() -> Turn:
    """Return the turn in whose middle A's runtime is killed: a file is written, then the model falls silent."""
    create = Call("create", {"path": REPORT_PATH, "file_text": REPORT_TEXT})
    return Turn("never ends", "Write the report.", (create, Stall(Say("This is never said."))))


def later_turns() -> list[Turn]:
    """Return the turns that B holds."""
    look = Call("sql", {"description": "look it up", "query": STOCK_SQL})
    create = Call("create", {"path": LATE_PATH, "file_text": LATE_TEXT})
    return [
        Turn(
            "look at it all",
            "Where were we? Look everything up.",
            (Call("view", {"path": LIST_PATH}), Call("view", {"path": REPORT_PATH}), look, Say("It is all there.")),
        ),
        Turn("go on", "Good. Leave a note.", (create, Say("The note is written."))),
    ]


def model_of(turns: list[Turn]) -> ScriptedModel:
    """Return the model that plays its part in *turns*."""
    return ScriptedModel({turn.prompt: turn.replies for turn in turns})
