"""What collection may remove, rule by rule: :func:`plan` over listings that are made up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pytest

from sessionfs_s3.fs import Blob
from sessionfs_s3.store import Entry
from sessionfs_s3.volume import Head, VolumeOptions
from sessionfs_s3.volume.collection import StoredSession, plan
from sessionfs_s3.volume.state import State

HOUR_S = 3600
DAY_S = 24 * HOUR_S
NOW_S = 100 * DAY_S
OPTIONS = VolumeOptions()
OLD_S = NOW_S - 2 * HOUR_S
ANCIENT_S = NOW_S - 8 * DAY_S


@dataclass
class _Listed:
    """A session as listed: when each object was stored, in seconds."""

    commits: dict[int, float] = field(default_factory=dict[int, float])
    snapshots: dict[int, float] = field(default_factory=dict[int, float])
    blobs: dict[Blob, float] = field(default_factory=dict[Blob, float])
    fences: dict[int, int] = field(default_factory=dict[int, int])
    fenced_from: int = 0
    known: dict[Blob, int] = field(default_factory=dict[Blob, int])
    attempted: set[Blob] = field(default_factory=set[Blob])
    epoch: int = 1

    def gone(self, *, retention_s: float = 0.0) -> set[str]:
        """Return what may go, as ``c5``, ``s5`` and ``b1``."""

        def entry(key: str, at_s: float) -> Entry:
            return Entry(key, 1, "", round(at_s * 1000))

        stored = StoredSession(
            {number: entry(f"c{number}", at_s) for number, at_s in self.commits.items()},
            {number: entry(f"s{number}", at_s) for number, at_s in self.snapshots.items()},
            {(blob.epoch, blob.id): entry(_name(blob), at_s) for blob, at_s in self.blobs.items()},
        )
        state = State(
            head=Head(max(self.commits), self.epoch),
            blobs=MappingProxyType(self.known),
            fences=MappingProxyType(self.fences),
            fenced_from=self.fenced_from,
        )
        return set(plan(stored, state, self.attempted, replace(OPTIONS, retention_s=retention_s)).keys)


def _blob(number: int, epoch: int = 1) -> Blob:
    return Blob(epoch, bytes([number]) * 16, 1000)


def _name(blob: Blob) -> str:
    return f"b{blob.id[0]}"


def _log(snapshots: dict[int, float], *, commits_s: float = OLD_S, head: int = 40) -> _Listed:
    """Return a log of *head* commits, of which the last is of now."""
    commits = dict.fromkeys(range(1, head + 1), commits_s)
    commits[head] = NOW_S
    return _Listed(commits, snapshots)


def _commits(last: int) -> set[str]:
    return {f"c{number}" for number in range(1, last + 1)}


def test_two_snapshots_are_kept_and_what_the_older_needs() -> None:
    assert _log({10: OLD_S, 20: OLD_S, 30: OLD_S}).gone() == {"s10"} | _commits(20)


@pytest.mark.parametrize("snapshots", [{}, {10: OLD_S}])
def test_with_less_than_two_snapshots_nothing_goes(snapshots: dict[int, float]) -> None:
    assert _log(snapshots).gone() == set()


@pytest.mark.parametrize(("age_s", "goes"), [(HOUR_S - 1, False), (HOUR_S, True), (HOUR_S + 1, True)])
def test_nothing_young_goes(age_s: float, goes: bool) -> None:
    listed = _log({10: OLD_S, 20: OLD_S, 30: OLD_S})
    listed.snapshots[10] = listed.commits[7] = NOW_S - age_s
    dead = _blob(1)
    listed.blobs, listed.known = {dead: NOW_S - age_s}, {dead: 15}
    expected = {"s10", "b1"} | _commits(20)
    assert listed.gone() == (expected if goes else expected - {"s10", "b1", "c7"})


@pytest.mark.parametrize(("age_s", "base"), [(HOUR_S - 1, 10), (HOUR_S, 20)])
def test_the_older_of_the_two_has_to_be_old_itself(age_s: float, base: int) -> None:
    """Whoever listed the session an hour ago may still be on his way to read from what was the newest then."""
    gone = _log({5: OLD_S, 10: OLD_S, 20: NOW_S - age_s, 30: NOW_S}).gone()
    assert gone == _commits(base) | {"s5"} | ({"s10"} if base == 20 else set())


def test_when_only_young_snapshots_are_kept_nothing_goes() -> None:
    assert _log({20: NOW_S - 60, 30: NOW_S}).gone() == set()


def test_all_ages_are_against_the_newest_object_not_a_clock() -> None:
    listed = _log({10: OLD_S, 20: OLD_S, 30: OLD_S})
    for times in (listed.commits, listed.snapshots):
        times.update({number: at_s - 50 * 365 * DAY_S for number, at_s in times.items()})
    assert listed.gone() == {"s10"} | _commits(20)


@pytest.mark.parametrize(("age_s", "goes"), [(7 * DAY_S - 1, False), (7 * DAY_S, True)])
def test_a_claim_is_kept_for_a_week(age_s: float, goes: bool) -> None:
    listed = _log({10: OLD_S, 20: OLD_S, 30: OLD_S})
    listed.fences = {1: 0, 8: 0}
    listed.commits[8] = listed.commits[9] = NOW_S - age_s
    listed.commits[1] = ANCIENT_S
    expected = {"s10"} | _commits(20)
    assert listed.gone() == (expected if goes else expected - {"c8"})


def test_where_claims_are_not_known_all_are_kept_like_one() -> None:
    listed = _log({10: OLD_S, 20: OLD_S, 30: OLD_S})
    listed.fenced_from = 15
    assert listed.gone() == {"s10", "c16", "c17", "c18", "c19", "c20"}
    listed.commits.update(dict.fromkeys(range(1, 12), ANCIENT_S))
    assert listed.gone() == {"s10"} | (_commits(20) - {"c12", "c13", "c14", "c15"})


@pytest.mark.parametrize(
    ("retention_s", "base"), [(0, 30), (HOUR_S, 30), (3 * HOUR_S, 20), (9 * DAY_S, 0), (7 * DAY_S, 10)]
)
def test_states_within_the_retention_window_stay(retention_s: float, base: int) -> None:
    listed = _log({10: ANCIENT_S, 20: NOW_S - 4 * HOUR_S, 30: OLD_S, 35: NOW_S - 60}, commits_s=ANCIENT_S)
    dead = {_blob(5): 5, _blob(15): 15, _blob(25): 25}
    listed.blobs, listed.known = dict.fromkeys(dead, ANCIENT_S), dead
    expected = _commits(base) | {f"s{number}" for number in (10, 20) if number < base}
    expected |= {_name(blob) for blob, died in dead.items() if died <= base}
    assert listed.gone(retention_s=retention_s) == expected


def test_a_snapshot_that_came_late_is_neither_kept_nor_counted() -> None:
    """Commit 26 is a claim whose writer saw snapshot 10: that of 25 came after it."""
    listed = _log({5: OLD_S, 10: OLD_S, 20: OLD_S, 25: OLD_S, 30: OLD_S})
    listed.fences = {26: 20}
    assert listed.gone() == {"s5", "s10"} | _commits(20), "30 and 20 are the two"
    listed.snapshots[35] = OLD_S
    assert listed.gone() == {"s5", "s10", "s20", "s25"} | (_commits(30) - {"c26"})


def test_a_snapshot_beyond_what_the_owner_knows_does_not_count() -> None:
    listed = _log({10: OLD_S, 20: OLD_S, 99: OLD_S})
    assert listed.gone() == _commits(10)


@pytest.mark.parametrize(
    ("epoch", "known", "attempted", "goes"),
    [(1, None, False, True), (2, None, False, True), (3, None, False, False), (2, None, True, False),
     (1, 0, False, False), (2, 0, True, False), (3, 0, False, False)],
)  # fmt: skip
def test_a_blob_that_nobody_knows_of_goes_unless_it_may_still_be_committed(
    epoch: int, known: int | None, attempted: bool, goes: bool
) -> None:
    listed = _log({})
    listed.epoch = 2
    blob = _blob(1, epoch)
    listed.blobs = {blob: OLD_S}
    listed.known = {} if known is None else {blob: known}
    listed.attempted = {blob} if attempted else set()
    assert listed.gone() == ({"b1"} if goes else set())


@pytest.mark.parametrize(("died", "goes"), [(0, False), (19, True), (20, True), (21, False), (30, False)])
def test_a_dead_blob_that_the_older_snapshot_needs_stays(died: int, goes: bool) -> None:
    listed = _log({20: OLD_S, 30: OLD_S})
    blob = _blob(1)
    listed.blobs, listed.known = {blob: OLD_S}, {blob: died}
    assert ("b1" in listed.gone()) == goes
    listed.attempted = {blob}
    assert "b1" not in listed.gone(), "the owner's own tree refers to it"


def test_what_is_gone_is_forgotten_and_nothing_else() -> None:
    commits = dict.fromkeys(range(15, 41), Entry("c", 1, "", NOW_S * 1000))
    snapshots = {20: Entry("s", 1, "", 0), 30: Entry("s", 1, "", 0)}
    here, away, alive = _blob(1), _blob(2), _blob(3)
    state = State(
        head=Head(40, 1),
        blobs=MappingProxyType({here: 25, away: 10, alive: 0}),
        fences=MappingProxyType({12: 0, 16: 10, 35: 30}),
    )
    stored = StoredSession(commits, snapshots, {(here.epoch, here.id): Entry("b", 1, "", 0)})
    found = plan(stored, state, set(), OPTIONS)
    assert found.blobs == {away}, "a living blob that is missing is no garbage, it is damage"
    assert found.fences == {12}
