"""The simulation on the shipped engine, and on broken variants of it."""

from __future__ import annotations

import logging
import os

import pytest

from sessionfs_s3.testing.simulation import simulate
from tests.simulation.deletion_mutants import Break
from tests.simulation.mutants import FIRST_SEEDS, MUTANTS

SEEDS = int(os.environ.get("SESSIONFS_SIM_SEEDS", "2000"))
FIRST = int(os.environ.get("SESSIONFS_SIM_FIRST", "0"))
SHARES = 6
SEEDS_FOR_A_MUTANT = 1500


@pytest.fixture(autouse=True)
def quiet() -> None:
    """A failed snapshot is a warning; here they fail by the thousand."""
    logging.getLogger("sessionfs_s3").setLevel(logging.ERROR)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(SHARES))
def test_everything_holds(share: int) -> None:
    """A failure names its seed and prints the timeline: run it again with SESSIONFS_SIM_FIRST=seed and 1 seed."""
    reports = [simulate(seed) for seed in range(FIRST + share, FIRST + SEEDS, SHARES)]
    totals = {
        name: sum(getattr(report, name) for report in reports)
        for name in (
            "commits",
            "acknowledged",
            "transactions",
            "rolled_back",
            "fenced",
            "deaths",
            "suspensions",
            "blobs",
            "collected",
            "deletions",
        )
    }
    print(f"{len(reports)} seeds: {totals}")
    if len(reports) >= 100:
        assert min(totals.values()) > len(reports) // 10, "the worlds are too peaceful to show anything"


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(20):
        assert simulate(seed) == simulate(seed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_engine_is_caught(mutant: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    first = FIRST_SEEDS.get(mutant.__name__, 0)
    for seed in range(first, first + SEEDS_FOR_A_MUTANT):
        try:
            simulate(seed)
        except AssertionError as failure:  # what the simulation finds, or the engine itself
            print(str(failure).splitlines()[:1])
            return
    pytest.fail(f"{mutant.__name__} survives {SEEDS_FOR_A_MUTANT} seeds from {first} on: {mutant.__doc__}")
