"""Deletion against whoever comes late, or at any moment in between: nothing late comes to life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sessionfs_s3.errors import CommitUnknown, Fenced, SessionFsError, Unavailable
from sessionfs_s3.format import TOMBSTONE_BYTES, Kind, parse_log_name
from sessionfs_s3.store import UNCONDITIONAL, MemoryStore, Page
from sessionfs_s3.store.protocol import PAGE_ENTRIES_MAX, Store
from sessionfs_s3.testing.faults import Fate, Fault
from sessionfs_s3.volume import Volume
from sessionfs_s3.volume.cache import ContentCache
from sessionfs_s3.volume.deletion import Deleted
from sessionfs_s3.volume.environment import system_environment
from tests.volume.conftest import KEYS
from tests.volume.deleted import DAY_S, HOUR_S, SECRET, Clock, Counting, Place, shown_by
from tests.volume.stored import RecordingStore, blobs, numbers

Step = Callable[[Place], Coroutine[Any, Any, object]]


@pytest.fixture
async def new_place() -> AsyncIterator[Callable[[], Place]]:
    places: list[Place] = []

    def new() -> Place:
        clock = Clock()
        environment = replace(clock.of(system_environment()), cache=ContentCache())
        places.append(Place(RecordingStore(MemoryStore(clock_ms=clock.store_ms)), environment, clock))
        return places[-1]

    yield new
    for place in places:
        await place.aclose()


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


# Who comes late


@pytest.mark.parametrize("age_s", [0.0, 2 * HOUR_S, 3 * DAY_S])
async def test_an_owner_who_was_superseded_long_ago_still_meets_his_fence(place: Place, age_s: float) -> None:
    """His next slot is that of the claim after him, far below the tombstone."""
    late = await place.open()
    await late.write_file("/a", "x")
    owner = await place.open()
    for _ in range(20):
        await owner.append_file("/log", "x")
    place.clock.now_s += age_s
    await place.delete()
    place.store.forget()
    with pytest.raises(Fenced, match="deleted meanwhile"):
        await late.write_file("/a", "late")
    assert await place.show() == "empty"


@pytest.mark.parametrize("age_s", [0.0, 8 * DAY_S])
async def test_an_owner_whose_commit_is_under_way_is_fenced(place: Place, age_s: float) -> None:
    late = await place.open()
    await late.write_file("/a", "x")
    gate = asyncio.Event()
    put = place.store.inject(Fault("PUT", gate=gate))
    writing = asyncio.create_task(late.write_file("/a", "late"))
    await put.reached.wait()
    await place.open()
    place.clock.now_s += age_s / 2  # and the other half after the deletion
    await place.delete()
    place.clock.now_s += age_s / 2
    gate.set()
    with pytest.raises(Fenced):
        await writing
    assert await place.show() == "empty"


async def test_an_own_commit_that_was_stored_and_then_deleted_is_not_taken_for_stored(place: Place) -> None:
    """Its answer is lost, the session is taken over and deleted, and it is sent again."""
    late = await place.open()
    await late.write_file("/a", "x")
    place.store.inject(Fault("PUT", Fate.LOST_ANSWER))
    gate = asyncio.Event()
    again = place.store.inject(Fault("PUT", gate=gate))
    writing = asyncio.create_task(late.write_file("/a", "late"))
    await again.reached.wait()
    await place.delete()
    gate.set()
    with pytest.raises(Fenced, match="deleted meanwhile"):
        await writing


@pytest.mark.parametrize("age_s", [0.0, 2 * HOUR_S, 8 * DAY_S])
async def test_a_claimant_who_listed_before_claims_what_comes_after(place: Place, age_s: float) -> None:
    """He has listed head n; whatever has come into the slot after that, he must not get it."""
    owner = await place.fill()
    place.clock.now_s += age_s
    gate = asyncio.Event()
    claim = place.store.inject(Fault("PUT", gate=gate, key=".c"))
    opening = asyncio.create_task(place.open())
    await claim.reached.wait()
    await owner.append_file("/log", "one more")
    await place.delete()
    gate.set()
    volume = await opening
    assert volume.head.sequence == owner.head.sequence + 2, "the tombstone, and his claim"
    assert await shown_by(volume) == "empty"
    await volume.write_file("/a", "new")
    assert await (await place.open(read_only=True)).readdir("/") == ["a"]


async def test_a_claimant_who_is_later_than_that_claims_again(place: Place) -> None:
    owner = await place.fill()
    gate = asyncio.Event()
    claim = place.store.inject(Fault("PUT", gate=gate, key=".c"))
    opening = asyncio.create_task(place.open(patience=replace(place.session().options.patience, deadline_s=60.0)))
    await claim.reached.wait()
    await owner.append_file("/log", "one more")
    place.clock.now_s += 8 * DAY_S
    await place.delete()
    place.clock.now_s += 8 * DAY_S
    # Nothing keeps his slot any more: his claim is stored, and void.
    await place.store.inner.delete([KEYS.commit(owner.head.sequence)])
    gate.set()
    with pytest.raises(Unavailable):  # by this clock his minute is over, too
        await opening
    assert await place.show() == "empty"


async def test_a_first_commit_that_comes_late_is_fenced(place: Place) -> None:
    late = await place.open()
    await place.fill()
    place.clock.now_s += 100.0
    await place.delete()
    with pytest.raises(Fenced):
        await late.write_file("/a", "late")
    assert await place.show() == "empty"


async def test_a_session_that_is_about_to_begin_is_not_robbed_of_its_blobs(place: Place) -> None:
    """Its first commit is under way, its contents are uploaded: it fails, or it is whole."""
    late = await place.open()
    gate = asyncio.Event()
    commit = place.store.inject(Fault("PUT", gate=gate, key=".c"))
    writing = asyncio.create_task(late.write_file("/secret", SECRET * 6000))
    await commit.reached.wait()
    assert await blobs(place.store)
    assert (await place.delete()).existed
    gate.set()
    with pytest.raises(Fenced):
        await writing
    assert await place.sizes() == {"c1": TOMBSTONE_BYTES}
    assert await place.show() == "empty"


async def test_what_the_last_owner_stores_meanwhile_is_removed_too(place: Place) -> None:
    """A snapshot and blobs of his, stored after the first listing, go with the second."""
    owner = await place.fill()
    gate = asyncio.Event()
    snapshot = place.store.inject(Fault("PUT", gate=gate, key=".s"))
    while not snapshot.reached.is_set():
        await owner.append_file("/log", SECRET)
        await asyncio.sleep(0.001)
    removing = asyncio.Event()
    delete = place.store.inject(Fault("DELETE", gate=removing))
    deleting = asyncio.create_task(place.delete())
    await delete.reached.wait()
    gate.set()
    await snapshot.ended.wait()
    assert await numbers(place.store, Kind.SNAPSHOT)
    removing.set()
    assert (await deleting).unfinished is None
    assert set((await place.sizes()).values()) == {0, TOMBSTONE_BYTES}


async def test_an_owner_who_never_stops_is_left_to_the_next_deletion(place: Place) -> None:
    await place.fill()
    count = 0

    class Busy(Counting):
        async def delete(self, keys: Any) -> None:
            nonlocal count
            count += 1
            await super().delete(keys)
            await self.inner.put(f"{KEYS.blobs}{1:016x}-{count:032x}", b"more", condition=UNCONDITIONAL)

    deleted = await place.delete(Busy(place.store.inner))
    assert isinstance(deleted.unfinished, Unavailable)
    assert (await place.delete()).bytes_freed == 4
    assert (await place.delete()).existed is False


# At any moment


async def _requests(new_place: Callable[[], Place], step: Step, age_s: float) -> int:
    """Return how many requests *step* makes on a session of this age like the one that it will be raced with."""
    place = new_place()
    await place.fill()
    place.clock.now_s += age_s
    place.environment = replace(place.environment, cache=ContentCache())
    place.store.forget()
    await step(place)
    return len(place.store.requests)


@pytest.mark.parametrize("age_s", [0.0, 8 * DAY_S])
async def test_whoever_reads_while_it_is_deleted_sees_all_or_nothing(
    new_place: Callable[[], Place], age_s: float
) -> None:
    """The whole deletion takes place before each single request of a reader."""
    for at in range(await _requests(new_place, Place.show, age_s)):
        place = new_place()
        await place.fill()
        place.clock.now_s += age_s
        place.environment = replace(place.environment, cache=ContentCache())
        store = Counting(place.store.inner)
        store.at, store.act = at, place.delete
        assert await place.show(store) in ("whole", "empty"), at
        assert await place.delete() == Deleted(existed=False), "it has been deleted meanwhile"
        assert await place.show(store) == "empty"


@pytest.mark.parametrize("age_s", [0.0, 8 * DAY_S])
async def test_whoever_opens_while_it_is_deleted_has_what_is_there_afterwards(
    new_place: Callable[[], Place], age_s: float
) -> None:
    """The same with a claimant, who has an empty session then."""
    for at in range(await _requests(new_place, Place.open, age_s)):
        place = new_place()
        await place.fill()
        place.clock.now_s += age_s
        store = Counting(place.store.inner)
        store.at, store.act = at, place.delete
        volume = await place.open(store)
        await volume.write_file("/mine", "1")
        assert await volume.readdir("/") == ["mine"]
        assert await (await place.open(read_only=True)).readdir("/") == ["mine"]


@pytest.mark.parametrize("age_s", [0.0, 8 * DAY_S])
async def test_between_any_two_requests_of_a_deletion_it_is_whole_or_deleted(
    new_place: Callable[[], Place], age_s: float
) -> None:
    shown: list[str] = []
    for at in range(await _requests(new_place, Place.delete, age_s)):
        place = new_place()
        await place.fill()
        place.clock.now_s += age_s
        place.environment = replace(place.environment, cache=ContentCache())

        async def look(place: Place = place) -> None:
            shown.append(await place.show())

        store = Counting(place.store.inner)
        store.at, store.act = at, look
        await place.delete(store)
    assert shown[:2] == ["whole", "whole"], "before the listing, before the tombstone"
    assert set(shown[2:]) == {"empty"}


@pytest.mark.parametrize("fate", [Fate.LOST_REQUEST, Fate.LOST_ANSWER])
@pytest.mark.parametrize("age_s", [0.0, 8 * DAY_S])
async def test_a_deletion_that_is_cut_short_is_finished_by_the_next(
    new_place: Callable[[], Place], fate: Fate, age_s: float
) -> None:
    """From one request on nothing is answered any more, or the machine dies; then somebody looks, and deletes again."""
    for at in range(await _requests(new_place, Place.delete, age_s)):
        place = new_place()
        await place.fill()
        place.clock.now_s += age_s
        store = Counting(place.store.inner)
        store.at = at

        async def die(fate: Fate = fate, store: Counting = store) -> None:
            if fate is Fate.LOST_ANSWER:  # that one request is carried out, whichever it is
                store.faults += [Fault(verb, fate) for verb in ("LIST", "GET", "PUT", "DELETE")]
                store.at, store.act = len(store.requests) + 1, die_now
            else:
                raise asyncio.CancelledError

        async def die_now() -> None:
            raise asyncio.CancelledError

        store.act = die
        with pytest.raises(asyncio.CancelledError):
            await place.delete(store)
        place.environment = replace(place.environment, cache=ContentCache())
        shown = await place.show()
        assert shown == ("whole" if at < 1 or (at == 1 and fate is Fate.LOST_REQUEST) else "empty")
        rest = await place.delete()
        assert rest.unfinished is None
        assert await place.show() == "empty"
        assert sum((await place.sizes()).values()) == TOMBSTONE_BYTES
        new = await place.open()
        await new.write_file("/a", "new")
        assert await (await place.open(read_only=True)).readdir("/") == ["a"]


# A listing that takes its time


class TornStore(RecordingStore):
    """A store whose next listing of a log is torn: it shows these commits first, and the rest after *between*.

    It is not sorted, as S3's directory buckets are not, and it shows what the protocol promises: what was there all the
    time, and of the rest nothing.
    """

    between: Callable[[], Coroutine[Any, Any, object]] | None = None
    first: frozenset[int] = frozenset()

    @property
    def lists_sorted(self) -> bool:
        return False

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        before = await super().list(prefix, cursor=cursor, limit=limit)
        if self.between is None or prefix != KEYS.log:
            return before
        between, self.between = self.between, None
        front = [entry for entry in before.entries if _number(entry.key) in self.first]
        await between()
        after = await super().list(prefix, limit=limit)
        old = {entry.key for entry in before.entries} - {entry.key for entry in front}
        return Page((*front, *(entry for entry in after.entries if entry.key in old)), None)


class HaltingStore(RecordingStore):
    """A store that has deleted the commits above *upto*, and takes until *resumed* to delete the rest."""

    def __init__(self, inner: Store, upto: int) -> None:
        super().__init__(inner)
        self.halted, self.resumed = asyncio.Event(), asyncio.Event()
        self._upto = upto

    async def delete(self, keys: Sequence[str]) -> None:
        await super().delete([key for key in keys if _number(key) > self._upto])
        self.halted.set()
        await self.resumed.wait()
        await super().delete(keys)


def _number(key: str) -> int:
    """Return the number of the commit *key*, 0 for anything else."""
    name = parse_log_name(key.removeprefix(KEYS.log))
    return name.sequence if name is not None and name.kind is Kind.COMMIT else 0


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("shown_first", range(1, 7))
async def test_a_listing_that_began_before_does_not_pass_for_a_shorter_log(
    place: Place, shown_first: int, read_only: bool
) -> None:
    """All is so old that nothing has to be left behind, but for this one case."""
    owner = await place.open(snapshot_commits=1000)
    for number in range(6):
        await owner.append_file("/log", f"{number},")
    place.clock.now_s += 8 * DAY_S
    halting = HaltingStore(place.store.inner, shown_first)
    deleting: list[asyncio.Task[object]] = []

    async def delete() -> None:
        deleting.append(asyncio.create_task(place.delete(halting)))
        await halting.halted.wait()

    torn = TornStore(place.store.inner)
    torn.first = frozenset(range(1, shown_first + 1))
    torn.between = delete
    volume = await place.open(torn, read_only=read_only)
    assert await volume.readdir("/") == []
    assert volume.head.sequence >= 7
    if not read_only:
        await volume.write_file("/a", "new")
    halting.resumed.set()
    await deleting[0]
    assert await (await place.open(read_only=True)).readdir("/") == ([] if read_only else ["a"])
    with pytest.raises(SessionFsError):
        await owner.append_file("/log", "late")


async def test_a_commit_of_unknown_fate_stays_one(place: Place) -> None:
    """The store takes a commit and says nothing; the session is deleted; whoever asked must not be told either way."""
    owner = await place.open()
    await owner.write_file("/a", "x")
    place.store.inject(Fault("PUT", Fate.LOST_ANSWER))
    place.store.inject(Fault("PUT", Fate.LOST_REQUEST, times=10_000))
    with pytest.raises(CommitUnknown):
        await owner.write_file("/a", "y")
    place.store.faults.clear()
    await place.delete()
    assert await place.show() == "empty"
    volume: Volume = await place.open()
    assert await volume.readdir("/") == []
