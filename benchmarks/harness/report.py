"""The results: rows with what was aimed at and what was measured, as a Markdown table and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        question: the module that asked.
        what: what was measured, in words.
        value: the measured number; None where it could not be measured, the note says why.
        unit: its unit; "x" for a ratio.
        aim: the bound, in the same unit; None where nothing is promised and the row explains another.
        bound: on which side of the aim the value has to be.
        note: what a reader has to know beside it.
    """

    question: str
    what: str
    value: float | None
    unit: str
    aim: float | None = None
    bound: Literal["<=", ">=", "<", "=="] = "<="
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim was met, which is not known to be so without a value; None without an aim."""
        if self.aim is None:
            return None
        if self.value is None:
            return False
        match self.bound:
            case "<=":
                return self.value <= self.aim
            case ">=":
                return self.value >= self.aim
            case "<":
                return self.value < self.aim
            case "==":
                return self.value == self.aim


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines = ["| question | measure | aim | measured | met | note |", "| --- | --- | ---: | ---: | --- | --- |"]
    for row in rows:
        aim = "" if row.aim is None else f"{row.bound} {_shown(row.aim, row.unit)}"
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        lines.append(f"| {row.question} | {row.what} | {aim} | {_shown(row.value, row.unit)} | {met} | {row.note} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], about: Mapping[str, object]) -> str:
    """Return the rows, and what the run was like, as JSON."""
    return json.dumps({"about": dict(about), "rows": [{**asdict(row), "met": row.met} for row in rows]}, indent=1)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    number = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"
    return f"{number}{unit}" if unit in ("x", "%") else f"{number} {unit}".rstrip()
