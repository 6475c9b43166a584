"""What happened in a run: who wrote what and was told what, who saw what, and a timeline for people. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.testing.simulation.statements import Call, Shown
from sessionfs_s3.volume import Durability

KEYS: Final = SessionKeys.of("simulated", "session")


class Log(Enum):
    """Where records go; what is said of appends holds for both, and between them."""

    FILE = "/session-state/events.jsonl"
    DATABASE = "the table log"


@dataclass(slots=True)
class Append:
    """One record, appended to a log: what a replica knows of it.

    Attributes:
        record: unique in the run.
        life: who appends it.
        order: how many that life has begun before.
        durability: when it is acknowledged.
        log: where it goes.
        began: when, as a number that counts what happens.
        started_s: when, in seconds of virtual time.
        call: the SQL that appends it and does more besides; None for a file.
        ended: when it was acknowledged, counted as *began*; None while it is not.
        acknowledged_s: when it was acknowledged, in seconds of virtual time.
        refused: whether it was told, or has to be, that nothing of it is stored.
    """

    record: str
    life: str
    order: int
    durability: Durability
    log: Log
    began: int
    started_s: float
    call: Call | None = None
    ended: int | None = None
    acknowledged_s: float | None = None
    refused: bool = False

    @property
    def is_promised(self) -> bool:
        """Whether somebody was told that it is stored."""
        return self.durability is Durability.STORED and self.ended is not None


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody read of a log: everything in it.

    Attributes:
        who: the life, or the reader.
        log: which log.
        began: when the look began, counted as :attr:`Append.began`.
        started_s: when the load began that it looked at, in seconds of virtual time.
        ended_s: when the look was over, in seconds of virtual time.
        records: what was in the log.
        shown: what else the database showed in the same transaction; None where there was none, and for a file.
    """

    who: str
    log: Log
    began: int
    started_s: float
    ended_s: float
    records: tuple[str, ...]
    shown: Shown | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """A volume that was told that it is fenced: whose, by which writer it had been opened, in which epoch."""

    life: str
    writer: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that was acknowledged.

    Attributes:
        who: by whom.
        began: when it began, counted as :attr:`Append.began`.
        ended_s: when it was acknowledged, in seconds of virtual time.
    """

    who: str
    began: int
    ended_s: float


@dataclass(slots=True)
class History:
    """What happened, for the oracle and for people."""

    appends: list[Append] = field(default_factory=list[Append])
    sights: list[Sight] = field(default_factory=list[Sight])
    broken: list[str] = field(default_factory=list[str])
    timeline: list[str] = field(default_factory=list[str])
    fences: list[Fence] = field(default_factory=list[Fence])
    deletions: list[Deletion] = field(default_factory=list[Deletion])
    deaths: int = 0
    suspensions: int = 0
    opened: int = 0
    rolled_back: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def now(self) -> int:
        """Return a number for what happens now, greater than any before: many things happen at one virtual time."""
        return next(self._numbers)
