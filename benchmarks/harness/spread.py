"""Medians with their spread, and the order in which two sides take turns. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some numbers, and the quartiles beside it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it with three digits: ``12.1 (11.8 to 12.9)``."""
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of *values*, of which there is at least one."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def orders(rounds: int) -> Iterator[tuple[int, int]]:
    """Yield which of two sides goes first and which second, *rounds* times: AB, BA, AB …, so that drift hits both."""
    for number in range(rounds):
        yield (0, 1) if number % 2 == 0 else (1, 0)
