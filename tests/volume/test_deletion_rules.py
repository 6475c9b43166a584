"""What deletion may remove, rule by rule: :func:`leftovers` over listings that are made up."""

from __future__ import annotations

import pytest

from sessionfs_s3.format import TOMBSTONE_BYTES
from sessionfs_s3.store import Entry
from sessionfs_s3.volume import Head, VolumeOptions
from sessionfs_s3.volume.collection import StoredSession, plan
from sessionfs_s3.volume.deletion import leftovers
from sessionfs_s3.volume.state import State

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW_MS = 100 * DAY_MS
OPTIONS = VolumeOptions()
CLAIM_BYTES = TOMBSTONE_BYTES - 1
ORDINARY_BYTES = TOMBSTONE_BYTES + 1
TOMBSTONE = 50


def _entry(key: str, age_ms: int, size: int) -> Entry:
    return Entry(key, size, "", NOW_MS - age_ms)


def _fate(number: int, age_ms: int, size: int) -> str:
    """Return what becomes of commit *number* of that age and size: "gone", "spent" or "kept"."""
    tombstone = _entry("tombstone", 0, TOMBSTONE_BYTES)
    stored = StoredSession({number: _entry("c", age_ms, size), TOMBSTONE: tombstone})
    left = leftovers(stored, TOMBSTONE, stored.now_ms, OPTIONS)
    gone, spent = [entry.key for entry in left.gone], [entry.key for entry in left.spent]
    assert "tombstone" not in gone + spent
    assert len(gone) + len(spent) <= 1
    return "gone" if gone else "spent" if spent else "kept"


@pytest.mark.parametrize(
    ("number", "age_ms", "size", "fate"),
    [
        (20, HOUR_MS - 1, ORDINARY_BYTES, "spent"),
        (20, HOUR_MS, ORDINARY_BYTES, "gone"),
        (20, HOUR_MS, CLAIM_BYTES, "spent"),
        (20, 7 * DAY_MS - 1, CLAIM_BYTES, "spent"),
        (20, 7 * DAY_MS, CLAIM_BYTES, "gone"),
        (20, 7 * DAY_MS - 1, CLAIM_BYTES - 1, "spent"),
        (20, 7 * DAY_MS - 1, TOMBSTONE_BYTES, "spent"),
        (20, 7 * DAY_MS, TOMBSTONE_BYTES, "gone"),
        (20, 0, 0, "kept"),
        (20, 7 * DAY_MS - 1, 0, "kept"),
        (20, 7 * DAY_MS, 0, "gone"),
        (1, 7 * DAY_MS - 1, ORDINARY_BYTES, "spent"),
        (1, 7 * DAY_MS, ORDINARY_BYTES, "gone"),
        (TOMBSTONE - 1, 30 * DAY_MS, ORDINARY_BYTES, "spent"),
        (TOMBSTONE - 1, 30 * DAY_MS, CLAIM_BYTES, "spent"),
        (TOMBSTONE - 1, 7 * DAY_MS - 1, 0, "kept"),
        (TOMBSTONE - 1, 7 * DAY_MS, 0, "gone"),
        (TOMBSTONE + 1, 30 * DAY_MS, ORDINARY_BYTES, "kept"),
    ],
)
def test_each_slot_stays_as_long_as_somebody_may_come_to_it(number: int, age_ms: int, size: int, fate: str) -> None:
    assert _fate(number, age_ms, size) == fate


def test_ages_are_by_the_stores_own_clock() -> None:
    stored = StoredSession({20: _entry("c", 0, ORDINARY_BYTES), TOMBSTONE: _entry("t", 0, TOMBSTONE_BYTES)})
    assert [entry.key for entry in leftovers(stored, TOMBSTONE, stored.now_ms, OPTIONS).spent] == ["c"]
    later = leftovers(stored, TOMBSTONE, stored.now_ms + HOUR_MS, OPTIONS)
    assert [entry.key for entry in later.gone] == ["c"]


def test_snapshots_and_blobs_go_at_once_but_for_those_of_a_new_life() -> None:
    numbers = (1, TOMBSTONE - 1, TOMBSTONE, TOMBSTONE + 1)
    stored = StoredSession(
        {TOMBSTONE: _entry("t", 0, TOMBSTONE_BYTES)},
        {number: _entry(f"s{number}", 0, 1000) for number in numbers},
        {(number, bytes(16)): _entry(f"b{number}", 0, 1000) for number in numbers},
    )
    left = leftovers(stored, TOMBSTONE, stored.now_ms, OPTIONS)
    assert {entry.key for entry in left.gone} == {"s1", "s49", "b1", "b49", "b50"}
    assert not left.spent


def test_collection_removes_what_deletion_left_by_its_own_rules() -> None:
    """Below the tombstone any commit may be a claim: its slot, spent by now, stays for a week."""
    head = 80
    state = State(head=Head(head, TOMBSTONE + 1), fenced_from=TOMBSTONE, fences={TOMBSTONE + 1: 0})

    def gone(age_ms: int) -> set[str]:
        commits = {number: _entry(f"c{number}", age_ms, ORDINARY_BYTES) for number in range(45, head)}
        snapshots = {number: _entry(f"s{number}", age_ms, 1000) for number in (40, 60, 70)}
        blobs = {(number, bytes(16)): _entry(f"b{number}", age_ms, 1000) for number in (40, TOMBSTONE)}
        commits[head] = _entry("head", 0, ORDINARY_BYTES)
        return set(plan(StoredSession(commits, snapshots, blobs), state, set(), OPTIONS).keys)

    of_the_new_life = {f"c{number}" for number in range(TOMBSTONE + 2, 61)}
    assert gone(2 * HOUR_MS) == {"s40", "b40", "b50", *of_the_new_life}
    assert gone(8 * DAY_MS) == {"s40", "b40", "b50", *(f"c{number}" for number in range(45, 61))}
