"""What the demo prints: lines with the time elapsed, checks that stop it when they fail, and a table of requests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from sessionfs_s3.store import RequestCounts, Verb


class DemoFailed(Exception):
    """Something that the demo set out to show is not so; the message says what."""


class Requests(BaseModel):
    """The requests of one step: how many of each verb, and the bytes of contents that they carried."""

    by_verb: dict[str, int]
    bytes_up: int
    bytes_down: int

    @classmethod
    def of(cls, counts: RequestCounts) -> Requests:
        """Return the sums of *counts*."""
        total = counts.tally()
        return cls(by_verb=counts.by_verb(), bytes_up=total.bytes_up, bytes_down=total.bytes_down)


@dataclass(frozen=True)
class _Step:
    who: str
    what: str
    requests: Requests


class Narrator:
    """Prints the story as it happens, and counts what was checked.

    Attributes:
        checks: how many checks have held.
    """

    def __init__(self) -> None:
        """Start the clock."""
        self._start_s = time.monotonic()
        self._steps: list[_Step] = []
        self.checks = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_s

    def say(self, line: str) -> None:
        """Print *line*."""
        print(f"[{self.elapsed_s:6.2f} s] {line}", flush=True)

    def check(self, holds: bool, what: str) -> None:
        """Print that *what* holds.

        Raises:
            DemoFailed: it does not.
        """
        if not holds:
            raise DemoFailed(f"not so: {what}")
        self.checks += 1
        self.say(f"  ok: {what}")

    def step(self, who: str, what: str, requests: Requests) -> None:
        """Remember what a step cost, for the table."""
        self._steps.append(_Step(who, what, requests))

    def table(self) -> None:
        """Print what every step cost in requests to the store."""
        used = {verb for step in self._steps for verb in step.requests.by_verb}
        verbs = [str(verb) for verb in Verb if verb.value in used]
        header = ["", "step", *verbs, "bytes up", "bytes down"]
        rows = [[s.who, s.what, *_counts(s.requests.by_verb, verbs), *_bytes(s.requests)] for s in self._steps]
        total = {verb: sum(step.requests.by_verb.get(verb, 0) for step in self._steps) for verb in verbs}
        up = sum(step.requests.bytes_up for step in self._steps)
        down = sum(step.requests.bytes_down for step in self._steps)
        rows.append(["", "all", *_counts(total, verbs), f"{up:,}", f"{down:,}"])
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        print("\nRequests to the store:")
        for row in [header, *rows]:
            left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
            print("  " + "  ".join(left + right).rstrip())
        print(flush=True)


def _counts(by_verb: Mapping[str, int], verbs: list[str]) -> list[str]:
    return [str(by_verb.get(verb) or "") for verb in verbs]


def _bytes(requests: Requests) -> list[str]:
    return [f"{requests.bytes_up:,}", f"{requests.bytes_down:,}"]
